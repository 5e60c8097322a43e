"""Recording what a model's blocks do, while it samples or on noised pictures: to shards, or straight into training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from sae.activations import record, shuffled
from sae.denoising import Denoiser, look
from sae.errors import FeaturebrushError, unknown
from sae.manifest import BlockShape, DType, Manifest, one_grid
from sae.model import Site
from sae.pipelines import (
    Pipeline,
    default_size,
    is_guided,
    schedule,
    scheduler_digest,
)
from sae.shards import POOL, ShardWriter, seeded
from sae.sources import Scenes, Source

CONDITIONAL, UNCONDITIONAL = 0, 1
"""The two branches; without guidance there is only the first."""

SHARD_BYTES = 2**27
"""How large a shard becomes if the number of its images is not given."""
LAST_IMAGE = 2**31 - 1
"""Images are numbered in int32."""


@dataclass(frozen=True)
class HarvestConfig:
    """What to record, and how the pictures are made. Refuses illegal values with `FeaturebrushError`.

    Image i of a harvest is sampled from prompt i (in turn) with the seed ``seed + i``, or is scene ``seed + i``, so two
    harvests with seeds further apart than their images have none in common.
    """

    blocks: tuple[str, ...]
    """By name, as in ``down.1.0``."""
    steps: int = 8
    """Of the sampler; for scenes, the schedule whose noise levels they get."""
    levels: tuple[int, ...] | None = None
    """Which of the steps to record, ascending; 0 is the noisiest. None records all."""
    guidance: float = 1.0
    """Above 1, sampling records an unconditional and a conditional half. Scenes are seen without guidance."""
    size: int | None = None
    """Height and width of the pictures in pixels; the model's own if None. Scenes of another size are resized."""
    seed: int = 0
    site: Site = "update"
    """The blocks' updates (output − input), or their outputs."""
    share: float = 1.0
    """Share of the positions of each picture that is kept where vectors are taken, above 0, chosen at random."""
    batch: int = 8
    """Pictures at a time."""

    def __post_init__(self) -> None:
        if not self.blocks or len(set(self.blocks)) < len(self.blocks):
            raise FeaturebrushError(f"give one or more different blocks, not {list(self.blocks)}")
        for name, least in {"steps": 1, "seed": 0, "batch": 1}.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise FeaturebrushError(f"{name} must be a whole number of at least {least}, not {value!r}")
        if self.levels is not None:
            ascending = all(a < b for a, b in zip((-1, *self.levels), self.levels, strict=False))
            if not self.levels or not ascending:
                raise FeaturebrushError(f"levels must be steps in ascending order, from 0, not {self.levels!r}")
        if not 0 <= self.guidance < float("inf"):
            raise FeaturebrushError(f"guidance must be 0 or more, not {self.guidance!r}")
        if self.size is not None and (type(self.size) is not int or self.size < 8 or self.size % 8):
            raise FeaturebrushError(f"size must be a multiple of 8 pixels, not {self.size!r}")
        if self.site not in get_args(Site):
            raise unknown("site", self.site, get_args(Site))
        if not 0 < self.share <= 1:
            raise FeaturebrushError(f"share must be above 0 and at most 1, not {self.share!r}")


class Rows(NamedTuple):
    """Vectors and where each was."""

    vectors: dict[str, Tensor]
    """Block -> ``[m, d]`` float32."""
    at: Tensor
    """``[m, 5]`` int32: (image, step, y, x, branch)."""


@dataclass(frozen=True)
class Observed:
    """What the blocks did in n calls, counting each picture of a batch as one."""

    activations: dict[str, Tensor]
    """Block -> ``[n, H, W, d]`` float32."""
    origin: Tensor
    """``[n, 3]`` int32: (image, step, branch)."""

    def rows(self, share: float = 1.0, seed: int = 0) -> Rows:
        """The vectors of all positions, or of a share of them that depends on the seed and the origin alone."""
        shapes = {name: BlockShape(v.shape[3], (v.shape[1], v.shape[2])) for name, v in self.activations.items()}
        h, w = one_grid(shapes)
        count = kept_positions(h * w, share)
        if count == h * w:
            kept = torch.arange(h * w).expand(len(self.origin), -1)
            vectors = {name: value.flatten(0, 2) for name, value in self.activations.items()}
        else:
            chosen = [
                torch.randperm(h * w, generator=seeded("positions", seed, *origin))[:count].sort().values
                for origin in self.origin.tolist()
            ]
            kept = torch.stack(chosen)
            vectors = {
                name: value.flatten(1, 2).take_along_dim(kept[:, :, None].to(value.device), dim=1).flatten(0, 1)
                for name, value in self.activations.items()
            }
        image, step, branch = (column.expand(-1, count) for column in self.origin.split(1, dim=1))
        place = kept.int()
        at = torch.stack([image, step, place // w, place % w, branch], dim=-1)
        return Rows(vectors, at.flatten(0, 1))


def kept_positions(positions: int, share: float) -> int:
    """How many of ``positions`` a share of them is: at least one."""
    return max(1, round(share * positions))


def observed(
    pipeline: Pipeline, source: Source, cfg: HarvestConfig, images: range, device: str | torch.device = "cpu"
) -> Iterator[Observed]:
    """Make the pictures numbered ``images`` and yield what the blocks did, ``cfg.batch`` pictures at a time.

    From prompts by sampling (`sampled`), from scenes by adding noise (`noised`). ``device`` is where the activations
    are put. Any range of images gives what it would give as a part of a larger one. No gradients are kept.
    """
    if isinstance(source, Sequence):
        return sampled(pipeline, source, cfg, images, device)
    return noised(pipeline, source, cfg, images, device)


def sampled(
    pipeline: Pipeline, prompts: Sequence[str], cfg: HarvestConfig, images: range, device: str | torch.device = "cpu"
) -> Iterator[Observed]:
    """Run the pipeline itself, up to the last step that is recorded, and yield each batch's steps together."""
    if isinstance(prompts, str) or not prompts:
        raise FeaturebrushError(f"prompts must be a list of one or more, not {prompts!r}")
    levels = _levels(schedule(pipeline, cfg.steps), cfg)
    for first in range(images.start, images.stop, cfg.batch):
        batch = range(first, min(first + cfg.batch, images.stop))
        yield _sample(pipeline, [prompts[i % len(prompts)] for i in batch], cfg, batch, levels, device)


def _sample(
    pipeline: Pipeline,
    prompts: list[str],
    cfg: HarvestConfig,
    images: range,
    levels: tuple[int, ...],
    device: str | torch.device,
) -> Observed:
    size = cfg.size or default_size(pipeline)
    halves = (UNCONDITIONAL, CONDITIONAL) if is_guided(pipeline, cfg.guidance) else (CONDITIONAL,)
    kept: dict[str, list[Tensor]] = {name: [] for name in cfg.blocks}
    call: Any = pipeline
    with record(call.unet, cfg.blocks, cfg.site) as recorded:

        def after_step(running: Any, step: int, _timestep: Any, _values: Any) -> dict[str, Any]:
            for name, calls in recorded.items():
                value = calls.pop()
                if step in levels:
                    kept[name].append(value.to(device))
            # The pipeline leaves out the steps that are left; its next call begins anew.
            running._interrupt = step >= levels[-1]
            return {}

        call(
            prompt=prompts,
            height=size,
            width=size,
            num_inference_steps=cfg.steps,
            guidance_scale=cfg.guidance,
            generator=[torch.Generator("cpu").manual_seed(cfg.seed + i) for i in images],
            output_type="latent",
            callback_on_step_end=after_step,
            callback_on_step_end_tensor_inputs=[],
        )
    origin = [(image, step, branch) for step in levels for branch in halves for image in images]
    return Observed({name: torch.cat(calls) for name, calls in kept.items()}, torch.tensor(origin, dtype=torch.int32))


def noised(
    pipeline: Pipeline, scenes: Scenes, cfg: HarvestConfig, images: range, device: str | torch.device = "cpu"
) -> Iterator[Observed]:
    """Add noise of the sampler's own levels to scenes, run the U-Net once for each, and yield each batch and level."""
    denoiser = Denoiser(pipeline, cfg.steps, cfg.size)
    levels = _levels(schedule(pipeline, cfg.steps), cfg)
    numbers = range(cfg.seed + images.start, cfg.seed + images.stop)
    for seen in look(denoiser, scenes, numbers, cfg.batch, cfg.blocks, lambda _: levels, cfg.site):
        count = len(seen.scenes.captions)
        origin = [(seen.first - cfg.seed + i, seen.level, CONDITIONAL) for i in range(count)]
        activations = {name: value.to(device) for name, value in seen.activations.items()}
        yield Observed(activations, torch.tensor(origin, dtype=torch.int32))


def _levels(scheduler: Any, cfg: HarvestConfig) -> tuple[int, ...]:
    """The steps to record, of those that the sampler has: some schedulers make more calls than ``cfg.steps``."""
    count = len(scheduler.timesteps)
    if cfg.levels is None:
        return tuple(range(count))
    if cfg.levels[-1] >= count:
        raise FeaturebrushError(f"there is no level {cfg.levels[-1]}: {cfg.steps} steps have the levels 0..{count - 1}")
    return cfg.levels


def block_shapes(pipeline: Pipeline, cfg: HarvestConfig) -> dict[str, BlockShape]:
    """Width and grid of each of ``cfg.blocks``, by a call of the U-Net on one picture.

    Raises `FeaturebrushError` for an unknown block, or blocks of different grids, which cannot share shards.
    """
    trial = replace(cfg, levels=(0,), guidance=1.0, batch=1)
    seen = next(sampled(pipeline, [""], trial, range(1)))
    shapes = {name: BlockShape(v.shape[3], (v.shape[1], v.shape[2])) for name, v in seen.activations.items()}
    one_grid(shapes)
    return shapes


def vectors_per_image(pipeline: Pipeline, source: Source, cfg: HarvestConfig, shapes: Mapping[str, BlockShape]) -> int:
    """How many vectors of each block one picture gives."""
    h, w = one_grid(shapes)
    branches = 2 if isinstance(source, Sequence) and is_guided(pipeline, cfg.guidance) else 1
    return kept_positions(h * w, cfg.share) * len(_levels(schedule(pipeline, cfg.steps), cfg)) * branches


def manifest_for(
    pipeline: Pipeline,
    source: Source,
    cfg: HarvestConfig,
    model: str,
    prompts: str,
    dtype: DType = "float16",
    images_per_shard: int | None = None,
) -> Manifest:
    """The manifest of a harvest of ``source``; ``model`` and ``prompts`` are what to call the two.

    Shards are of about `SHARD_BYTES` if the number of images in each is not given.
    """
    shapes = block_shapes(pipeline, cfg)
    if images_per_shard is None:
        size = {"float16": 2, "float32": 4}[dtype] * sum(shape.width for shape in shapes.values())
        images_per_shard = max(1, SHARD_BYTES // (size * vectors_per_image(pipeline, source, cfg, shapes)))
    return Manifest(
        model=model,
        blocks=shapes,
        site=cfg.site,
        dtype=dtype,
        scheduler=scheduler_digest(pipeline.scheduler),
        steps=cfg.steps,
        levels=_levels(schedule(pipeline, cfg.steps), cfg),
        guidance=cfg.guidance,
        size=cfg.size or default_size(pipeline),
        prompts=prompts,
        seed=cfg.seed,
        share=cfg.share,
        images_per_shard=images_per_shard,
    )


def harvest(
    writer: ShardWriter,
    pipeline: Pipeline,
    source: Source,
    cfg: HarvestConfig,
    images: int,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Write what the shards of the first ``images`` images lack; ``progress`` is told of each new lot of vectors.

    Batches of pictures do not reach across shards, so a shard is the same whether or not those before it were written
    in the same run.
    """
    dtype = {"float16": torch.float16, "float32": torch.float32}[writer.manifest.dtype]
    for part in writer.missing(images):
        vectors: dict[str, list[Tensor]] = {name: [] for name in cfg.blocks}
        at: list[Tensor] = []
        for seen in observed(pipeline, source, cfg, part):
            rows = seen.rows(cfg.share, cfg.seed)
            for name, value in rows.vectors.items():
                vectors[name].append(value.to(dtype))
            at.append(rows.at)
            if progress is not None:
                progress(len(rows.at))
        writer.write(part, {name: torch.cat(values) for name, values in vectors.items()}, torch.cat(at))


def vectors(
    pipeline: Pipeline,
    source: Source,
    cfg: HarvestConfig,
    block: str,
    batch: int,
    images: int = LAST_IMAGE,
    capacity: int = POOL,
    device: str | torch.device = "cpu",
) -> Iterator[Tensor]:
    """Training batches ``[batch, d]`` of one block while the pictures are made; nothing is written, nothing is kept.

    Endless for all purposes unless ``images`` says where to stop. At most ``capacity`` vectors wait to be mixed (see
    `sae.activations.shuffled`), on ``device``.
    """
    alone = replace(cfg, blocks=(block,))
    seen = observed(pipeline, source, alone, range(images), device)
    return shuffled((one.rows(cfg.share, cfg.seed).vectors[block] for one in seen), batch, capacity, cfg.seed)
