"""The embedded model's dictionaries: SAEs of its blocks, labels from the world's masks, concepts."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from canvas.concepts import fitted
from canvas.storybook import export, icons, scenes
from canvas.storybook.contrast import Differences
from canvas.storybook.generator import COMPOSITION, own_directions, trained
from canvas.storybook.vocabulary import CONCEPTS, GROUPS, INDEX, SYNONYMS
from sae import SAE, load
from sae.atlas import Atlas
from sae.atlas_cli import make_atlas
from sae.bench import EvalConfig, in_model
from sae.denoising import Denoiser, grid_masks, look
from sae.gallery import GalleryConfig, deviation
from sae.harvest import HarvestConfig, harvest, manifest_for, vectors_per_image
from sae.labels import FeatureLabels, label_features
from sae.metrics import feature_stats
from sae.pipelines import Pipeline, load_pipeline, only_errors
from sae.report import Report
from sae.shards import ShardReader, ShardWriter
from sae.train import Progress, TrainConfig, train

LATE = "up.0.2"
"""The last block, for styles."""
BLOCKS = (COMPOSITION, "mid.0", "up.0.1", LATE)
CONCEPTS_FILE = "concepts.part.json"
TRAIN_SEED, LABEL_SEED, ATLAS_SEED = 20_000_000, 21_000_000, 22_000_000


@dataclass(frozen=True)
class DictionaryConfig:
    n_features: int = 512
    k: int = 15
    steps: int = 4000
    """of training, for each block"""
    dead_after: int = 60_000
    aux_weight: float = 1 / 8
    """sooner and heavier than `TrainConfig`'s: a tenth of the dead features was left, of as good a dictionary"""
    scenes: int = 800
    """scenes to harvest for training, each at all of the sampler's noise levels"""
    share: float = 0.5
    """share of the positions kept for training"""
    label_scenes: int = 600
    """other scenes, for statistics, labels and concepts; every second one scores what the others chose"""
    concept_features: int = 12
    atlas: GalleryConfig = field(default_factory=lambda: GalleryConfig(first=ATLAS_SEED, steps=export.STEPS))
    effects: bool = True
    """whether the atlas shows what features do"""
    measured: EvalConfig = field(
        default_factory=lambda: EvalConfig(count=800, steps=export.STEPS, guidance=export.GUIDANCE)
    )


def concept_entry(
    concept: str, block: str, sae: SAE, difference: Tensor, size: int, length: float, score: float
) -> dict[str, object]:
    """The concept as the at most ``size`` features that come closest to ``difference`` [d], what its presence makes.

    Weights are in units of the features' means; at strength 1 they add a vector of ``length``.
    """
    features, weights = fitted(sae, difference, size, length)
    group = next(name for name, names in GROUPS.items() if concept in names)
    return {
        "name": concept,
        "group": group,
        "synonyms": list(SYNONYMS.get(concept, ())),
        "block": block,
        "features": features,
        "weights": weights,
        "score": round(score, 4),
        "icon": INDEX[concept],
    }


def make(folder: Path, run: Path, device: str, command: str, cfg: DictionaryConfig | None = None) -> None:
    """Harvest, train, label, measure; write ``sae/<block>/``, ``concepts.json``, icons and ``featurebrush.json``.

    All of it lies in ``run`` until it is whole: a killed run goes on where it stopped, and the model folder never holds
    new dictionaries with old concepts.
    """
    cfg = cfg or DictionaryConfig()
    only_errors()
    pipe = load_pipeline(folder, device)
    place = run / f"dictionary-{_digest(folder, cfg)}"
    reader = _harvested(pipe, place, cfg)
    missing = [block for block in BLOCKS if not (place / "done" / block / CONCEPTS_FILE).is_file()]
    known = _known(pipe, missing, cfg) if missing else {}
    for block in missing:
        sae = _train(reader, block, cfg, place / f"{block}.pt", device).to("cpu")
        strokes = trained_strokes(run) if block == COMPOSITION else None
        _write(place / "done" / block, pipe, sae, known.pop(block), reader.count, command, cfg, strokes)
    entries: list[dict[str, object]] = []
    shutil.rmtree(folder / "sae", ignore_errors=True)
    for block in BLOCKS:
        done = place / "done" / block
        entries += json.loads((done / CONCEPTS_FILE).read_text())
        shutil.copytree(done, folder / "sae" / block, ignore=shutil.ignore_patterns(CONCEPTS_FILE))
    entries.sort(key=lambda entry: INDEX[str(entry["name"])])
    (folder / "concepts.json").write_text(json.dumps({"concepts": entries}, indent=1) + "\n")
    write_settings(folder)
    icons.write_icons(folder)
    shutil.rmtree(place)


class Strokes(NamedTuple):
    """What the model was painted with while it was trained."""

    differences: Differences
    """that concepts make"""
    length: float
    """of a stroke of strength 1"""
    apart: bool = False
    """whether it was painted with these differences set apart from each other"""

    def of(self, concept: str) -> Tensor:
        """What the concept is painted with, of any length: [d]."""
        known = self.differences.all()
        return (own_directions(known) if self.apart else known)[INDEX[concept]]


def trained_strokes(run: Path) -> Strokes | None:
    """Those of the generator in ``run``, which its student was painted with too; None if there is no generator.

    The student's own differences are weaker guides: half of its few steps are so noisy that they say little of places.
    """
    if not (run / "generator.pt").exists():
        return None
    palette = trained(run)[0]["palette"]
    return Strokes(palette.differences, float(palette.square.sqrt()), apart=True)


def _write(
    out: Path,
    pipe: Pipeline,
    sae: SAE,
    known: _Known,
    vectors: int,
    command: str,
    cfg: DictionaryConfig,
    strokes: Strokes | None = None,
) -> None:
    """One block's folder; its concepts come last, and say that all is there."""
    sae = sae.with_statistics(*feature_stats(sae, [known.anywhere])[:3])
    labels = label_features(sae, known.clear, CONCEPTS)
    sae.save(out, half=True)
    sae = load(out)  # what is measured is what is shipped
    Atlas.of(sae, labels).save(out)
    # where training has painted, as it has painted; else as far as the updates deviate
    strokes = strokes or Strokes(known.differences, deviation([known.anywhere]))
    made = _concepts(sae, strokes, labels, cfg)
    # more digits than a float16 holds would say nothing
    differences = {c: [float(f"{v:.4g}") for v in strokes.differences.of(c).tolist()] for c in made}
    (out / "differences.json").write_text(json.dumps(differences, separators=(",", ":")) + "\n")
    make_atlas(sae, pipe, scenes, cfg.atlas, cfg.effects).save(out)
    report = in_model(sae, pipe, scenes, cfg.measured)
    report.write(out)
    figures = {"vectors": vectors, **_figures(report)}
    figures["stroke_length"] = round(strokes.length, 4)
    figures["concept_cosine_with_strokes"] = {c: _cosine(sae, e, strokes) for c, e in made.items()}
    export.write_provenance(out, command, 0, figures)
    (out / CONCEPTS_FILE).write_text(json.dumps(list(made.values())))


def _digest(folder: Path, cfg: DictionaryConfig) -> str:
    """Of the U-Net's weights and the settings: what was begun with others is not taken up."""
    weights = (folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    return hashlib.sha256(weights + repr(cfg).encode()).hexdigest()[:12]


def _harvested(pipe: Pipeline, place: Path, cfg: DictionaryConfig) -> ShardReader:
    asked = HarvestConfig(blocks=BLOCKS, steps=export.STEPS, seed=TRAIN_SEED, share=cfg.share)
    manifest = manifest_for(pipe, scenes, asked, "storybook", "world")
    writer = ShardWriter(place, manifest)
    total = cfg.scenes * vectors_per_image(pipe, scenes, asked, manifest.blocks)
    with tqdm(total=total, initial=writer.count, unit="vector", unit_scale=True, mininterval=5) as bar:
        harvest(writer, pipe, scenes, asked, cfg.scenes, bar.update)
    return ShardReader(place)


def _train(reader: ShardReader, block: str, cfg: DictionaryConfig, checkpoint: Path, device: str) -> SAE:
    config = TrainConfig(
        n_features=cfg.n_features,
        k=cfg.k,
        block=block,
        steps=cfg.steps,
        dead_after=cfg.dead_after,
        aux_weight=cfg.aux_weight,
        device=device,
    )

    def batches(start: int) -> Iterator[Tensor]:
        return reader.batches(block, config.batch, config.seed, start=start)

    with tqdm(total=cfg.steps, desc=f"sae {block}", mininterval=5) as bar:

        def show(p: Progress) -> None:
            bar.update(p.step - bar.n)
            bar.set_postfix(loss=f"{p.loss:.4f}", dead=p.dead, l0=f"{p.l0:.1f}")

        return train(batches, config, show, checkpoint)


class _Known(NamedTuple):
    """Updates of one block on scenes of which the truth is known, none of them seen in training."""

    anywhere: Tensor
    """at noise levels of all kinds [n, 16, 16, d]"""
    differences: Differences
    """that concepts make there"""
    clear: list[tuple[Tensor, Tensor]]
    """updates at the less noisy half of the levels, where it is settled what stands where, and masks"""


def _known(pipe: Pipeline, blocks: Sequence[str], cfg: DictionaryConfig) -> dict[str, _Known]:
    """Every scene at two levels, one of each half."""
    half = export.STEPS // 2
    anywhere: dict[str, list[Tensor]] = {block: [] for block in blocks}
    clear: dict[str, list[tuple[Tensor, Tensor]]] = {block: [] for block in blocks}
    differences: dict[str, Differences] = {}
    numbers = range(LABEL_SEED, LABEL_SEED + cfg.label_scenes)
    looks = look(Denoiser(pipe, export.STEPS), scenes, numbers, 8, blocks, lambda i: [i % half, half + i % half])
    for seen in tqdm(looks, desc="known scenes", total=2 * -(-cfg.label_scenes // 8), mininterval=5):
        for block, found in seen.activations.items():
            updates = found.cpu()
            masks = grid_masks(seen.scenes.masks, *updates.shape[1:3])
            differences.setdefault(block, Differences(updates.shape[-1])).add(updates, masks)
            anywhere[block].append(updates)
            if seen.level >= half:
                clear[block].append((updates, masks))
    return {block: _Known(torch.cat(anywhere[block]), differences[block], clear[block]) for block in blocks}


def _concepts(sae: SAE, strokes: Strokes, labels: FeatureLabels, cfg: DictionaryConfig) -> dict[str, dict[str, object]]:
    """The concepts that are painted at this block: styles late, things early, none between; those that were seen."""
    score = {b.concept: b.score for b in labels.best}
    block, size, styles = sae.cfg.block, cfg.concept_features, GROUPS["style"]
    names = {COMPOSITION: [c for c in CONCEPTS if c not in styles], LATE: styles}.get(block, ())
    made = {c: concept_entry(c, block, sae, strokes.of(c), size, strokes.length, score.get(c, 0.0)) for c in names}
    return {c: entry for c, entry in made.items() if entry["features"]}


def _cosine(sae: SAE, entry: dict[str, object], strokes: Strokes) -> float:
    """Of what the concept adds with the stroke that it was fitted to."""
    features = torch.tensor(entry["features"])
    vector = (torch.tensor(entry["weights"]) * sae.mean[features]) @ sae.W_dec[features]
    return round(F.cosine_similarity(vector.double(), strokes.of(str(entry["name"])), dim=0).item(), 3)


def _figures(report: Report) -> dict[str, object]:
    """The single numbers, rounded, and each concept's best single feature and best few."""
    found: dict[str, object] = {n: round(v, 5) if isinstance(v, float) else v for n, v in report.numbers().items()}
    rows = report.table.rows if report.table else ()
    found["best_feature_f1"] = {row.concept: round(row.f1, 3) for row in rows}
    found["concept_average_precision"] = {row.concept: round(row.average_precision or 0.0, 3) for row in rows}
    return found


def write_settings(folder: Path) -> None:
    settings = {
        "defaults": {"steps": export.STEPS, "guidance": export.GUIDANCE, "size": 256},
        "blocks": list(BLOCKS),
        "groups": list(GROUPS),
    }
    (folder / "featurebrush.json").write_text(json.dumps(settings, indent=2) + "\n")
