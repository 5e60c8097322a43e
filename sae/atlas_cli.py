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
from sae.atlas_table import MOST_ICONS, BuiltAtlas, build_atlas, icon_sheet
from sae.denoising import Denoiser
from sae.effects import effect_icons
from sae.errors import FeaturebrushError
from sae.evaluation import add_model, add_pictures, config_in, given_model, given_sae
from sae.files import write_atomically
from sae.gallery import GalleryConfig, deviation, gallery
from sae.metrics import feature_stats
from sae.model import SAE
from sae.pipelines import Pipeline
from sae.sources import Source, open_source

EFFECTS_FILE = "effects.webp"
"""48×48 icons, 128 a row, two for each feature: painted over everything, and over a disc; black for dead ones."""
EFFECT_STEPS = 4
EFFECT_LENGTH = 2.0
"""In root mean square deviations of what the block does: without guidance, one is hardly seen."""


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
) -> MadeAtlas:
    """Look at the pictures of ``source`` (see `sae.gallery`) and, with ``effects``, paint every living feature."""
    if effects and 2 * sae.cfg.n_features > MOST_ICONS:
        raise FeaturebrushError(
            f"{sae.cfg.n_features} features are more than the {MOST_ICONS // 2} of one sheet: leave out the effects"
        )
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
    sheet = _effects(sae, pipeline, cfg, EFFECT_LENGTH * deviation(some)) if effects else None
    return MadeAtlas(built, sheet)


def _effects(sae: SAE, pipeline: Pipeline, cfg: GalleryConfig, length: float) -> Image.Image:
    # as many steps as the model itself, if it takes fewer
    steps = min(EFFECT_STEPS, cfg.steps)
    live = (sae.density > 0).nonzero().squeeze(1)
    with tqdm(total=2 * len(live), desc=f"effects {sae.cfg.block}", unit="picture", mininterval=5) as bar:
        found = effect_icons(Denoiser(pipeline, steps, cfg.size), sae, live.tolist(), length, progress=bar.update)
    icons = torch.zeros(sae.cfg.n_features, *found.shape[1:], dtype=torch.uint8)
    icons[live.cpu()] = found
    return icon_sheet(icons.flatten(0, 1))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """An SAE, the model around it, and pictures to look at."""
    add_model(parser)
    add_pictures(parser, 600)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: FOLDER)")
    parser.add_argument("--no-effects", action="store_true", help="do not paint the features")


def run(options: argparse.Namespace) -> None:
    """Make the atlas and write it beside the SAE, which is written in our own format if it had no statistics yet."""
    out = options.out or options.folder
    sae = given_sae(options, options.folder)
    measured = bool((sae.density > 0).any())
    if not measured and out.resolve() == options.folder.resolve():
        raise FeaturebrushError(
            f"the SAE in {options.folder} has no statistics yet: give --out DIR, where it is written with them"
        )
    source, _ = open_source(options.prompts)
    cfg = config_in(GalleryConfig, options)
    out.mkdir(parents=True, exist_ok=True)
    if not measured:
        sae.save(out)  # says at once if it cannot be written
    pipeline = given_model(options)
    if not measured:
        seen = gallery(Denoiser(pipeline, cfg.steps, cfg.size), source, sae, cfg)
        sae = sae.with_statistics(*feature_stats(sae, (shown.activations for shown in seen))[:3])
        sae.save(out)
    made = make_atlas(sae, pipeline, source, cfg, effects=not options.no_effects)
    if not measured or not (out / ATLAS_FILE).is_file():
        Atlas.of(sae).save(out)
    made.save(out)
    table = made.built.table
    positional = sum(table[i].is_positional for i in range(len(table)))
    print(f"{len(table)} features from {table.images} pictures, {positional} of them positional: {out}")
