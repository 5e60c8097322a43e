"""Measuring a dictionary inside its model, on scenes whose content is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import load_file, save_file
from torch import Tensor

from sae.concept_metrics import concept_table
from sae.denoising import Denoiser, Noised, clear_level, grid_masks, look
from sae.errors import FeaturebrushError
from sae.gallery import GalleryConfig, gallery
from sae.metrics import Measures, density_histogram, feature_stats
from sae.model import SAE
from sae.pipelines import Pipeline
from sae.report import Report
from sae.sources import Scenes, Source
from sae.splice import Losses, PictureChange, picture_change, splice_losses


@dataclass(frozen=True)
class EvalConfig:
    """On what to measure inside the model. Refuses illegal values with `FeaturebrushError`."""

    source: str = "world"
    """What to call the scenes or prompts."""
    first: int = 23_000_000
    """Number of the first scene, past what training and labelling the embedded model use; of prompts' pictures, the
    seed of the first."""
    count: int = 400
    """Scenes, or prompts' pictures, for the activations' measures and the concepts."""
    steps: int = 8
    """Of the sampler, whose noise levels are used."""
    guidance: float = 1.0
    """Of the pictures; everything else is measured without guidance."""
    size: int | None = None
    """Height and width in pixels; the model's own if None."""
    per_scene: int = 2
    """Noise levels at which each scene is seen; batch after batch they go round through all of them."""
    loss_scenes: int = 64
    """Scenes, the first ones, for the loss recovered."""
    pictures: int = 16
    """Pictures sampled with and without the SAE, with the captions of the first scenes."""
    batch: int = 8

    def __post_init__(self) -> None:
        least = {"first": 0, "count": 2, "steps": 1, "per_scene": 1, "loss_scenes": 1, "pictures": 1, "batch": 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if type(value) is not int or value < bound:
                raise FeaturebrushError(f"{name} must be a whole number of at least {bound}, not {value!r}")
        if type(self.guidance) not in (int, float) or not 0 <= self.guidance < float("inf"):
            raise FeaturebrushError(f"guidance must be a number of 0 or more, not {self.guidance!r}")
        if self.size is not None and (type(self.size) is not int or self.size < 8 or self.size % 8):
            raise FeaturebrushError(f"size must be a multiple of 8 pixels, not {self.size!r}")


def in_model(sae: SAE, pipeline: Pipeline, source: Source, cfg: EvalConfig) -> Report:
    """All the measures, inside the model, on scenes that are known, or on prompts those that need no truth.

    The activations' measures are taken at all of the sampler's noise levels, the concepts at the less noisy half of
    them, where it is settled what stands where; every second scene scores what the others chose. With prompts the
    activations are those of sampling at that half, and there are neither losses nor concepts.
    """
    if isinstance(source, Sequence):
        return _on_prompts(sae, pipeline, source, cfg)
    return _on_scenes(sae, pipeline, source, cfg)


def _on_prompts(sae: SAE, pipeline: Pipeline, prompts: Sequence[str], cfg: EvalConfig) -> Report:
    denoiser, measures = Denoiser(pipeline, cfg.steps, cfg.size), Measures(sae)
    seen = gallery(denoiser, prompts, sae, GalleryConfig(cfg.first, cfg.count, cfg.steps, cfg.size, cfg.batch))

    def measured() -> Iterator[Tensor]:
        for shown in seen:
            measures.add(shown.activations)
            yield shown.activations

    density = feature_stats(sae, measured()).density
    said = [prompts[i % len(prompts)] for i in range(cfg.pictures)]
    cases = [(said[i : i + cfg.batch], i) for i in range(0, len(said), cfg.batch)]
    return Report(
        sae.cfg,
        measures.result(),
        tuple(measures.channels().tolist()),
        density_histogram(density),
        pictures=_pictures(denoiser, sae, cases, cfg.guidance),
        measured_on=asdict(cfg),
    )


def _pictures(
    denoiser: Denoiser, sae: SAE, cases: Sequence[tuple[Sequence[str], int]], guidance: float
) -> PictureChange:
    """Sampled pictures with and without the SAE; each case is captions and the seed of the first."""

    def render(case: tuple[Sequence[str], int]) -> Tensor:
        said, first = case
        return denoiser.render(said, range(first, first + len(said)), guidance)

    return picture_change(denoiser.unet, sae, cases, render)


def _on_scenes(sae: SAE, pipeline: Pipeline, scenes: Scenes, cfg: EvalConfig) -> Report:
    bench = _Bench(sae, Denoiser(pipeline, cfg.steps, cfg.size), scenes, cfg)
    measures = Measures(sae)
    table = None
    with TemporaryDirectory(prefix="featurebrush-eval-") as place:
        clear = Kept(Path(place))
        sae = sae.with_statistics(*feature_stats(sae, bench.harvested(measures, clear))[:3])
        if scenes.concepts:
            table = concept_table(sae, clear, scenes.concepts)
    return Report(
        sae.cfg,
        measures.result(),
        tuple(measures.channels().tolist()),
        density_histogram(sae.density),
        losses=bench.losses(measures.mean),
        pictures=bench.pictures(),
        table=table,
        measured_on=asdict(cfg),
    )


@dataclass(frozen=True)
class _Bench:
    """An SAE in its model, and scenes to show it."""

    sae: SAE
    denoiser: Denoiser
    scenes: Scenes
    cfg: EvalConfig

    def harvested(self, measures: Measures, clear: Kept) -> Iterator[Tensor]:
        """Yield the activations of each batch and level, measured; put those for the concepts into ``clear``."""
        cfg, block = self.cfg, self.sae.cfg.block
        numbers = range(cfg.first, cfg.first + cfg.count)

        def levels(number: int) -> list[int]:
            return [*self._levels(number), clear_level(self.denoiser.levels, number)]

        looks = look(self.denoiser, self.scenes, numbers, cfg.batch, [block], levels, self.sae.cfg.site)
        for place, seen in zip(cycle(range(cfg.per_scene + 1)), looks, strict=False):
            found = seen.activations[block]
            if place < cfg.per_scene:
                measures.add(found)
                yield found
            elif self.scenes.concepts:
                clear.add(found, grid_masks(seen.scenes.masks, found.shape[1], found.shape[2]))

    def losses(self, mean: Tensor) -> Losses:
        """The denoising loss with the SAE, nothing, or the mean ``[d]`` in the place of what the block does."""
        denoiser = self.denoiser
        return splice_losses(denoiser.unet, self.sae, self._noised(), denoiser.loss, mean)

    def pictures(self) -> PictureChange:
        """Sampled pictures with and without the SAE, with the captions of the first scenes."""
        cfg, denoiser = self.cfg, self.denoiser
        batches = self.scenes.batches(cfg.first, cfg.pictures, cfg.batch)
        cases = [(batch.captions, i * cfg.batch) for i, batch in enumerate(batches)]
        return _pictures(denoiser, self.sae, cases, cfg.guidance)

    def _levels(self, number: int) -> list[int]:
        """The noise levels at which batch ``number`` is seen."""
        per_scene = self.cfg.per_scene
        return [level % self.denoiser.levels for level in range(number * per_scene, (number + 1) * per_scene)]

    def _noised(self) -> Iterator[Noised]:
        first = self.cfg.first
        for number, batch in enumerate(self.scenes.batches(first, self.cfg.loss_scenes, self.cfg.batch)):
            prepared = self.denoiser.prepare(batch, first)
            first += len(batch.captions)
            for level in self._levels(number):
                yield self.denoiser.noised(prepared, level)


class Kept:
    """Activations and masks kept on disk, so that they can be gone through several times in the memory of a batch."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._count = 0

    def add(self, activations: Tensor, masks: Tensor) -> None:
        """Keep a batch ``[B, H, W, d]`` and ``[B, H, W, C]``."""
        tensors = {"activations": activations.cpu().contiguous(), "masks": masks.cpu().contiguous()}
        save_file(tensors, self._folder / f"{self._count}.safetensors")
        self._count += 1

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for number in range(self._count):
            tensors = load_file(self._folder / f"{number}.safetensors")
            yield tensors["activations"], tensors["masks"]
