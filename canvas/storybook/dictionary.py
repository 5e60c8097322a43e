"""The embedded model's dictionary: SAEs of its blocks, labels from the world's masks, concepts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from scipy.optimize import nnls
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from canvas.storybook import export, icons
from canvas.storybook.captions import caption
from canvas.storybook.contrast import Differences
from canvas.storybook.data import on_grid
from canvas.storybook.generator import COMPOSITION
from canvas.storybook.vocabulary import CONCEPTS, GROUPS, INDEX, SYNONYMS
from canvas.storybook.world import draw_scene
from sae import SAE
from sae.activations import record
from sae.atlas import Atlas
from sae.labels import label_features
from sae.metrics import evaluate, feature_stats
from sae.train import TrainConfig, train

LATE = "up.0.2"
"""The block for colour and style, the last one."""
TRAIN_SEED, LABEL_SEED = 20_000_000, 21_000_000


@dataclass(frozen=True)
class DictionaryConfig:
    n_features: int = 768
    k: int = 12
    scenes: int = 600
    """scenes to harvest for training; each is seen at ``levels`` noise levels"""
    levels: int = 4
    label_scenes: int = 400
    """other scenes, for statistics, labels and concepts; every second one scores what the others chose"""
    concept_features: int = 8


@dataclass(frozen=True)
class Seen:
    """Updates of the blocks in a batch of noisy scenes, and the truth about them."""

    updates: dict[str, Tensor]
    """block -> [n, 16, 16, d]"""
    masks: Tensor
    """bool [n, 16, 16, concepts]"""
    levels: Tensor
    """index of the noise level in the sampler's schedule, 0 the noisiest: int [n]"""


def observe(
    pipe: StableDiffusionPipeline, seeds: range, levels: int, device: str, only_clear: bool = False, batch: int = 8
) -> Iterator[Seen]:
    """Draw scenes, encode them, add noise of the sampler's own levels, and record what the blocks do.

    Half of the scenes come with a caption, half with the empty one. ``only_clear`` takes the less noisy half of the
    levels.
    """
    pipe.scheduler.set_timesteps(export.STEPS)
    schedule = pipe.scheduler.timesteps.to(device)
    noise = torch.Generator("cpu").manual_seed(seeds.start)
    rng = Random(seeds.start)
    for start in tqdm(range(seeds.start, seeds.stop, batch), desc="observe", unit="batch", mininterval=5):
        scenes = [draw_scene(seed) for seed in range(start, min(start + batch, seeds.stop))]
        pixels = (
            torch.from_numpy(np.stack([s.image for s in scenes])).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        )
        masks = torch.from_numpy(np.stack([on_grid(s.masks) for s in scenes])).permute(0, 2, 3, 1)
        words = [caption(s, rng) if rng.random() < 0.5 else "" for s in scenes]
        with torch.no_grad():
            latents = pipe.vae.encode(pixels).latents * pipe.vae.config.scaling_factor
            ids = pipe.tokenizer(words, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(device)
            text = pipe.text_encoder(ids).last_hidden_state
            for _ in range(levels):
                low = len(schedule) // 2 if only_clear else 0
                picks = torch.randint(low, len(schedule), (len(scenes),), generator=noise)
                t = schedule[picks.to(device)]
                noisy = pipe.scheduler.add_noise(latents, torch.randn(latents.shape, generator=noise).to(device), t)
                with record(pipe.unet, (COMPOSITION, LATE)) as recorded:
                    pipe.unet(noisy, t, encoder_hidden_states=text)
                yield Seen({block: calls[0].cpu() for block, calls in recorded.items()}, masks, picks)


def closest_features(sae: SAE, direction: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """At most ``size`` live features [n] and amounts [n] ≥ 0 of their directions whose sum is closest to ``direction``.

    Orthogonal matching pursuit (Pati, Rezaiifar & Krishnaprasad, 1993) with non-negative least squares at each step.
    """
    wanted = F.normalize(direction.double().cpu(), dim=0)
    directions = sae.W_dec.double().cpu()
    open_to = (sae.density > 0).cpu()
    chosen: list[int] = []
    amounts = np.zeros(0)
    for _ in range(size):
        left = wanted - torch.from_numpy(amounts) @ directions[chosen]
        fit = (directions @ left).masked_fill(~open_to, -torch.inf)
        best = int(fit.argmax())
        if fit[best] <= 1e-6:
            break
        chosen.append(best)
        open_to[best] = False
        amounts, _ = nnls(directions[chosen].T.numpy(), wanted.numpy())
    used = [i for i, amount in enumerate(amounts) if amount > 1e-6]
    return torch.tensor([chosen[i] for i in used], dtype=torch.long), torch.from_numpy(amounts[used])


def concept_entry(
    concept: str, block: str, sae: SAE, difference: Tensor, size: int, length: float, score: float
) -> dict[str, object]:
    """The concept as the at most ``size`` features that come closest to ``difference`` [d], what its presence makes.

    Weights are in units of the features' means; at strength 1 they add a vector of ``length``.
    """
    features, amounts = closest_features(sae, difference, size)
    vector = amounts @ sae.W_dec.double().cpu()[features]
    weights = length / vector.norm().clamp_min(1e-12) * amounts / sae.mean.double().cpu()[features].clamp_min(1e-6)
    group = next(name for name, names in GROUPS.items() if concept in names)
    return {
        "name": concept,
        "group": group,
        "synonyms": list(SYNONYMS.get(concept, ())),
        "block": block,
        "features": features.tolist(),
        "weights": [round(w, 4) for w in weights.tolist()],
        "score": round(score, 4),
        "icon": INDEX[concept],
    }


def make(folder: Path, minutes: float, device: str, command: str, cfg: DictionaryConfig | None = None) -> None:
    """Harvest, train, label; write ``sae/<block>/``, ``concepts.json``, ``icons.webp`` and ``featurebrush.json``."""
    cfg = cfg or DictionaryConfig()
    pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True)
    pipe.to(device)
    seen = list(observe(pipe, range(TRAIN_SEED, TRAIN_SEED + cfg.scenes), cfg.levels, device))
    vectors = {block: torch.cat([s.updates[block] for s in seen]).flatten(0, 2) for block in (COMPOSITION, LATE)}
    del seen
    held_out = list(observe(pipe, range(LABEL_SEED, LABEL_SEED + cfg.label_scenes), 2, device))
    clear = [
        s
        for s in observe(
            pipe, range(LABEL_SEED + 10**5, LABEL_SEED + 10**5 + cfg.label_scenes), 1, device, only_clear=True
        )
    ]
    concepts: dict[str, dict[str, object]] = {}
    for block, rows in vectors.items():
        sae, metrics = _train(block, rows, minutes, device, cfg)
        samples = torch.cat([s.updates[block] for s in held_out])
        sae = sae.with_statistics(*feature_stats(sae, [samples.flatten(0, 2)])[:3])
        labels = label_features(sae, [(s.updates[block], s.masks) for s in clear], CONCEPTS)
        raw = Differences(sae.cfg.d_in)
        for s in held_out:
            raw.add(s.updates[block], s.masks)
        cosines = {}
        # as long as the strokes that the generator was trained with: see generator.Palette
        length = float(samples.flatten(0, 2).var(0).sum().sqrt())
        found = evaluate(sae, samples.flatten(0, 2)[::7])
        metrics |= {
            name: round(float(getattr(found, name)), 5)
            for name in found._fields
            if isinstance(getattr(found, name), float)
        }
        best = {b.concept: b.score for b in labels.best}
        metrics["best_feature_f1"] = {name: round(score, 3) for name, score in best.items()}
        for concept in CONCEPTS:
            if (block == LATE) == (concept in GROUPS["style"]):
                score = best.get(concept, 0.0)
                entry = concept_entry(concept, block, sae, raw.of(concept), cfg.concept_features, length, score)
                concepts[concept] = entry
                features = torch.tensor(entry["features"])
                vector = (torch.tensor(entry["weights"]) * sae.mean[features]) @ sae.W_dec[features]
                cosines[concept] = round(torch.cosine_similarity(vector.double(), raw.of(concept), dim=0).item(), 3)
        metrics["concept_cosine_with_mean_difference"] = cosines
        out = folder / "sae" / block
        sae.save(out, half=True)
        Atlas.of(sae, labels).save(out)
        vectors = {name: [float(f"{v:.4g}") for v in raw.of(name).tolist()] for name in cosines}
        (out / "differences.json").write_text(json.dumps(vectors, separators=(",", ":")) + "\n")
        export.write_provenance(out, command, 0, metrics)
    (folder / "concepts.json").write_text(json.dumps({"concepts": [concepts[c] for c in CONCEPTS]}, indent=1) + "\n")
    write_settings(folder)
    icons.write_icons(folder)


def write_settings(folder: Path) -> None:
    settings = {
        "defaults": {"steps": export.STEPS, "guidance": export.GUIDANCE, "size": 256},
        "blocks": [COMPOSITION, LATE],
        "groups": list(GROUPS),
    }
    (folder / "featurebrush.json").write_text(json.dumps(settings, indent=2) + "\n")


def _train(
    block: str, rows: Tensor, minutes: float, device: str, cfg: DictionaryConfig
) -> tuple[SAE, dict[str, object]]:
    started = time.monotonic()
    # what a budget allows, from a short trial
    trial = TrainConfig(n_features=cfg.n_features, k=cfg.k, block=block, steps=30, device=device)
    train(rows.to(device), trial)
    rate = 30 / (time.monotonic() - started)
    steps = max(300, int(minutes * 60 * rate))
    config = TrainConfig(n_features=cfg.n_features, k=cfg.k, block=block, steps=steps, device=device)
    with tqdm(total=steps, desc=f"sae {block}", mininterval=5) as bar:

        def show(p) -> None:  # noqa: ANN001 - sae.train.Progress
            bar.update(p.step - bar.n)
            bar.set_postfix(loss=f"{p.loss:.4f}", dead=p.dead, l0=f"{p.l0:.1f}")

        sae = train(rows.to(device), config, show)
    return sae.to("cpu"), {"vectors": len(rows), "steps": steps, "minutes": round((time.monotonic() - started) / 60, 2)}
