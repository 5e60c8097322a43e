"""``python -m sae harvest``: what a model's blocks do, into shards."""

from __future__ import annotations

import argparse
import math
import re
from decimal import Decimal
from pathlib import Path
from typing import get_args

import torch
from tqdm import tqdm

from sae.devices import chosen
from sae.errors import FeaturebrushError
from sae.harvest import HarvestConfig, harvest, manifest_for, vectors_per_image
from sae.manifest import DType
from sae.model import Site
from sae.pipelines import load_pipeline, only_errors
from sae.shards import ShardWriter
from sae.sources import SOURCES, open_source

_FACTORS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """An interrupted harvest goes on where it stopped when the same command is given again."""
    scenes = " or ".join(map(repr, SOURCES))
    parser.add_argument(
        "--model", required=True, help="folder of a diffusers pipeline (Stable Diffusion, SDXL), or hub id"
    )
    parser.add_argument(
        "--block", required=True, action="append", metavar="NAME", help="as in down.1.0; may be repeated"
    )
    parser.add_argument(
        "--prompts", required=True, metavar="FILE", help=f"a prompt on each line, or {scenes}: noised pictures instead"
    )
    parser.add_argument("--vectors", required=True, metavar="N", help="of each block, as in 200k or 5M")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where to write shards and manifest")
    parser.add_argument(
        "--steps", type=int, default=8, help="of the sampler, whose noise levels scenes get (default: 8)"
    )
    parser.add_argument(
        "--levels", metavar="STEPS", help="which to record, as in 0,2,4-7; 0 is the noisiest (default: all)"
    )
    parser.add_argument("--guidance", type=float, default=1.0, help="above 1, both halves are recorded (default: 1)")
    parser.add_argument("--size", type=int, help="height and width of the pictures (default: the model's own)")
    parser.add_argument("--seed", type=int, default=0, help="of image 0; image i has seed + i (default: 0)")
    parser.add_argument("--site", choices=get_args(Site), default="update", help="what to record (default: update)")
    parser.add_argument("--share", type=float, default=1.0, help="share of the positions to keep (default: 1)")
    parser.add_argument("--dtype", choices=get_args(DType), default="float16", help="of the stored vectors")
    parser.add_argument("--batch", type=int, default=8, help="pictures at a time (default: 8)")
    parser.add_argument(
        "--images-per-shard", type=int, metavar="N", help="by default, what makes shards of about 128 MB"
    )
    parser.add_argument("--device", help="where to compute (default: cuda if it is there, else cpu)")
    parser.add_argument("--download", action="store_true", help="let a model that is not here come from the hub")


def run(options: argparse.Namespace) -> None:
    """Harvest as asked. On a GPU the model computes in the dtype of the vectors, on a CPU in float32."""
    cfg = HarvestConfig(
        blocks=tuple(options.block),
        steps=options.steps,
        levels=None if options.levels is None else level_numbers(options.levels),
        guidance=options.guidance,
        size=options.size,
        seed=options.seed,
        site=options.site,
        share=options.share,
        batch=options.batch,
    )
    wanted = whole_number(options.vectors)
    source, prompts = open_source(options.prompts)
    if prompts in SOURCES and cfg.guidance != 1:
        raise FeaturebrushError(f"scenes are seen without guidance: leave out --guidance {cfg.guidance:g}")
    device = chosen(options.device)
    half = options.dtype == "float16" and device.type != "cpu"
    only_errors()
    pipeline = load_pipeline(options.model, device, torch.float16 if half else torch.float32, options.download)

    manifest = manifest_for(pipeline, source, cfg, options.model, prompts, options.dtype, options.images_per_shard)
    each = vectors_per_image(pipeline, source, cfg, manifest.blocks)
    images = math.ceil(wanted / each)
    writer = ShardWriter(options.out, manifest)
    there = min(writer.count, images * each)
    with tqdm(total=images * each, initial=there, unit="vector", unit_scale=True, dynamic_ncols=True) as bar:
        harvest(writer, pipeline, source, cfg, images, bar.update)
    print(f"{writer.count:,} vectors of {', '.join(manifest.blocks)} in {options.out}")


def whole_number(text: str) -> int:
    """A number of at least 1, as in ``1000``, ``200k``, ``1.5M`` or ``2G``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMgG]?)", text.strip())
    number = Decimal(match[1]) * _FACTORS[match[2].upper()] if match else Decimal(0)
    if number < 1 or number != int(number):
        raise FeaturebrushError(f"{text!r} is no number of at least 1: write 1000, 200k, 1.5M or 2G")
    return int(number)


def level_numbers(text: str) -> tuple[int, ...]:
    """The steps that ``text`` names, ascending: ``0,2,4-7`` is 0, 2, 4, 5, 6 and 7."""
    levels: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last or last > 10_000:
            raise FeaturebrushError(f"{text!r} names no steps: write numbers and ranges from 0, as in 0,2,4-7")
        levels.update(range(first, last + 1))
    return tuple(sorted(levels))
