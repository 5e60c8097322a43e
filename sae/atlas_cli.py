"""``python -m sae atlas``: examples, neighbours, map and icons of every feature of an SAE, written beside it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from sae.atlas import ATLAS_FILE, Atlas
from sae.atlas_table import BuiltAtlas, build_atlas, icon_sheet
from sae.denoising import Denoiser
from sae.effects import effect_icons
from sae.errors import FeaturebrushError
from sae.evaluation import add_model, config_in, model_of
from sae.files import write_atomically
from sae.formats import load
from sae.gallery import GalleryConfig, deviation, gallery
from sae.metrics import feature_stats
from sae.model import SAE
from sae.pipelines import Pipeline, load_pipeline
from sae.sources import SOURCES, Source, open_source

EFFECTS_FILE = "effects.webp"
"""48×48 icons, 128 a row, two for each feature: painted over everything, and over a disc; black for dead ones."""
EFFECT_STEPS = 4


@dataclass(frozen=True, eq=False)
class MadeAtlas:
    """An atlas, and what its features do."""

    built: BuiltAtlas
    effects: Image.Image | None

    def save(self, folder: str | Path) -> None:
        """Write ``atlas.safetensors``, ``atlas.webp`` and, if there is one, ``effects.webp`` into ``folder``."""
        self.built.save(folder)
        sheet = self.effects
        if sheet is not None:
            write_atomically(Path(folder) / EFFECTS_FILE, lambda path: sheet.save(path, "WEBP", quality=80, method=4))


def make_atlas(
    sae: SAE,
    pipeline: Pipeline,
    source: Source,
    cfg: GalleryConfig,
    effects: bool = True,
    effect_steps: int = EFFECT_STEPS,
) -> MadeAtlas:
    """Look at the pictures of ``source`` (see `sae.gallery`) and, with ``effects``, paint every living feature."""
    denoiser = Denoiser(pipeline, cfg.steps, cfg.size)
    some: list[Tensor] = []

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        with tqdm(total=cfg.count, desc=f"atlas {sae.cfg.block}", unit="picture", mininterval=5) as bar:
            for shown in gallery(denoiser, source, sae, cfg):
                if len(some) < 16:
                    some.append(shown.activations)
                yield shown.activations, shown.images
                bar.update(len(shown.captions))

    built = build_atlas(sae, batches())
    sheet = _effects(sae, pipeline, cfg, deviation(some), effect_steps) if effects else None
    return MadeAtlas(built, sheet)


def _effects(sae: SAE, pipeline: Pipeline, cfg: GalleryConfig, length: float, steps: int) -> Image.Image:
    live = (sae.density > 0).nonzero().squeeze(1)
    with tqdm(total=2 * len(live), desc=f"effects {sae.cfg.block}", unit="picture", mininterval=5) as bar:
        found = effect_icons(Denoiser(pipeline, steps, cfg.size), sae, live.tolist(), length, progress=bar.update)
    icons = torch.zeros(sae.cfg.n_features, *found.shape[1:], dtype=torch.uint8)
    icons[live.cpu()] = found
    return icon_sheet(icons.flatten(0, 1))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """An SAE, the model around it, and pictures to look at."""
    add_model(parser)
    add_pictures(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: FOLDER)")
    parser.add_argument("--no-effects", action="store_true", help="do not paint the features")


def add_pictures(parser: argparse.ArgumentParser) -> None:
    """The options that say which pictures to look at."""
    scenes = " or ".join(map(repr, SOURCES))
    parser.add_argument(
        "--prompts", default="world", metavar="FILE", help=f"a prompt on each line, or {scenes} (default: 'world')"
    )
    parser.add_argument(
        "--first", type=int, metavar="N", help="number of the first scene, or seed of the first picture"
    )
    parser.add_argument("--count", type=int, metavar="N", help="how many pictures (default: 600)")


def run(options: argparse.Namespace) -> None:
    """Make the atlas and write it beside the SAE, which is written in our own format if it had no statistics yet."""
    out = options.out or options.folder
    sae = load(options.folder, options.device, options.block)
    measured = bool((sae.density > 0).any())
    if not measured and out.resolve() == options.folder.resolve():
        raise FeaturebrushError(
            f"the SAE in {options.folder} has no statistics yet: give --out DIR, where it is written with them"
        )
    model = options.model or model_of(options.folder)
    source, _ = open_source(options.prompts)
    cfg = config_in(model, GalleryConfig, options, ("first", "count", "steps"))
    pipeline = load_pipeline(model, options.device)
    if not measured:
        seen = gallery(Denoiser(pipeline, cfg.steps, cfg.size), source, sae, cfg)
        sae = sae.with_statistics(*feature_stats(sae, (shown.activations for shown in seen))[:3])
        sae.save(out)
    made = make_atlas(sae, pipeline, source, cfg, effects=not options.no_effects)
    if not (out / ATLAS_FILE).is_file():
        Atlas.of(sae).save(out)
    made.save(out)
    table = made.built.table
    positional = sum(table[i].is_positional for i in range(len(table)))
    print(f"{len(table)} features from {table.images} pictures, {positional} of them positional: {out}")
