"""The Painter: the one object that users hold."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

import torch
from PIL import Image
from torch import Tensor

from canvas import compiled, gallery, models
from canvas.concepts import Concept, ConceptNames, Feature, read_features
from canvas.engine import Engine, Plan, Recent
from canvas.feature_map import FeatureMap, read_feature_map
from canvas.gallery import Example
from canvas.inspection import Inspection, SeenFeature
from canvas.masks import Mask
from canvas.painting import Brush, Painting
from canvas.steering import BlockEdits, Edit, FeatureSet, brush_vector
from canvas.unet import grid_of
from sae.errors import FeaturebrushError, unknown

T = TypeVar("T")

_ICON_SIZE = 96
_ICONS_A_ROW = 8


class Painter:
    """Makes pictures of paintings with one model.

    ``painter = Painter.load(); painter.render(Painting(seed=7).paint("castle", Mask.disc(0.3, 0.6, 0.15)))``

    It may be used from several threads; renderings wait for each other.
    """

    def __init__(self, model: models.Model, backend: str = "torch"):
        self._model = model
        self._names = ConceptNames(model.concepts)
        self._vectors: Recent[FeatureSet, Tensor] = Recent(256)
        self._features: dict[str, tuple[Feature, ...]] = {}
        self._maps: dict[str, FeatureMap] = {}
        self._inspections: Recent[Painting, Inspection] = Recent(4)
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        compiling = compiled.backend(backend, model.pipeline.device)
        self.engine = Engine(model.pipeline, blocks=tuple(model.saes), compile=compiling, sketcher=model.sketcher)
        """The sampler; ``engine.forget()`` is needed after the pipeline's weights were changed from outside."""

    @classmethod
    def load(
        cls,
        model: str | Path = "storybook",
        device: str | torch.device | None = None,
        saes: str | Path | Mapping[str, str | Path] | None = None,
        download: bool = False,
        backend: str = "torch",
    ) -> Painter:
        """A painter with the model of that name, in a local folder, or of that id on the Hugging Face hub.

        Parameters: ``device`` as torch names it; None means CUDA if it is there, else the CPU. ``saes``: the folders of
        the SAEs to paint with, by block, or one folder that holds them; None: those known for the model. The network is
        touched with ``download`` only. ``backend``: *torch*, with which pictures are the diffusers pipeline's to the
        last bit; *openvino* or *inductor*, faster on a CPU and on CUDA, up to rounding; or *auto* (see
        `canvas.compiled`). Raises ``FeaturebrushError`` for an unknown model and for whatever is missing.

        ``Painter.load("sdxl-turbo", download=True)``
        """
        return cls(models.load(model, device, saes, download), backend)

    @property
    def model(self) -> str:
        """The model's name, as a painting's ``model`` must say it."""
        return self._model.name

    @property
    def pipeline(self) -> models.Pipeline:
        """The diffusers pipeline beneath."""
        return self._model.pipeline

    @property
    def defaults(self) -> models.Defaults:
        """The steps and guidance that a painting's None stands for, and the size of the pictures in pixels.

        See ``guidance`` for paintings without a prompt and layers.
        """
        return self._model.defaults

    @property
    def most_steps(self) -> int:
        """As many sampling steps as a painting can ask for."""
        return int(self._model.pipeline.scheduler.config.num_train_timesteps)

    def grid(self, block: str) -> tuple[int, int]:
        """The rows and columns of the activations at ``block`` for a picture of the model's size."""
        self._sae(block)
        side = self.defaults.size // self.pipeline.vae_scale_factor
        return grid_of(self.pipeline.unet, block, side, side)

    @property
    def blocks(self) -> tuple[str, ...]:
        """The blocks that can be painted at, those with an SAE."""
        return tuple(self._model.saes)

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of the concepts in the order in which to show them."""
        return self._model.groups

    @property
    def concepts(self) -> tuple[Concept, ...]:
        """Everything that can be painted by its name."""
        return self._model.concepts

    def concept(self, name: str) -> Concept:
        """The concept of that name or synonym; raises ``FeaturebrushError`` with the nearest names if there is none."""
        return self._names.find(name)

    def features(self, block: str) -> tuple[Feature, ...]:
        """Every feature of the SAE at ``block``, in order."""
        sae = self._sae(block)
        if block not in self._features:
            self._features[block] = read_features(self._model.sae_folders[block], block, sae)
        return self._features[block]

    def feature_map(self, block: str) -> FeatureMap:
        """Where the features of ``block`` stand on its map, and their icons."""
        sae = self._sae(block)
        if block not in self._maps:
            self._maps[block] = read_feature_map(self._model.sae_folders[block], sae.cfg.n_features)
        return self._maps[block]

    @property
    def examples(self) -> tuple[Example, ...]:
        """The example paintings that come with the model."""
        return self._examples

    @cached_property
    def _examples(self) -> tuple[Example, ...]:
        return () if self._model.folder is None else gallery.read(self._model.folder)

    @property
    def folder(self) -> Path | None:
        """Where the model lies, if it has a folder of its own."""
        return self._model.folder

    def sae(self, block: str) -> models.SAE:
        """The dictionary of a block; raises ``FeaturebrushError`` if the model has none there."""
        return self._sae(block)

    def sae_folder(self, block: str) -> Path:
        """Where the dictionary of a block lies, with its atlas and what was measured of it."""
        self._sae(block)
        return self._model.sae_folders[block]

    def icon(self, concept_name: str) -> Image.Image:
        """The 96×96 RGB icon of a concept; raises ``FeaturebrushError`` if it has none."""
        concept = self.concept(concept_name)
        if concept.icon is None:
            raise FeaturebrushError(f"the concept {concept.name!r} has no icon")
        row, column = divmod(concept.icon, _ICONS_A_ROW)
        left, top = column * _ICON_SIZE, row * _ICON_SIZE
        sheet = self._icons
        if left + _ICON_SIZE > sheet.width or top + _ICON_SIZE > sheet.height:
            raise FeaturebrushError(f"{models.ICONS} has no icon {concept.icon}, which {concept.name!r} names")
        return sheet.crop((left, top, left + _ICON_SIZE, top + _ICON_SIZE))

    @cached_property
    def _icons(self) -> Image.Image:
        if self._model.folder is None:
            raise FeaturebrushError(f"{self.model!r} has no icons")
        path = self._model.folder / models.ICONS
        try:
            with Image.open(path) as sheet:
                return sheet.convert("RGB")
        except OSError as error:
            raise FeaturebrushError(f"{path} cannot be read as an image: {error}") from error

    def check(self, painting: Painting) -> None:
        """Raise ``FeaturebrushError`` if this model cannot paint ``painting``.

        That is: another model, a concept, block or feature that it does not have (in hidden layers too), or more
        sampling steps than it was trained for.
        """
        self._resolved(painting)

    def render(self, painting: Painting, should_stop: Callable[[], bool] | None = None) -> Image.Image:
        """The picture of ``painting``, RGB, of the model's size. Equal paintings give equal pictures.

        With the backend *torch* a painting without layers that have an effect gives, bit for bit, the picture of
        ``StableDiffusionPipeline`` with the same prompt and steps, the guidance that ``guidance`` says, and
        ``generator=torch.Generator("cpu").manual_seed(seed)``.

        ``should_stop`` is asked between steps; once it says True, ``canvas.engine.Cancelled`` is raised. Raises
        ``FeaturebrushError`` where ``check`` does.
        """
        return self.engine.render(self.plan(painting), should_stop)

    def draft(self, painting: Painting, settled: Painting, share: float = 0.5) -> Image.Image:
        """A quick picture of ``painting`` while a stroke is under way; ``settled`` is what was rendered before it.

        It takes a ``share`` (0..1) of the steps, at least one, and shows them within reach of the layers that the two
        do not share; the rest is the picture of ``settled``. Where they differ in more than layers, or ``share`` leaves
        no step out, all steps are taken. A small decoder draws it, if the model has one beside its own.
        """
        return self.engine.draft(self.plan(painting), self.plan(settled), share)

    def warm_up(self) -> None:
        """Render with the model's defaults, unpainted and painted, so that nobody waits for what happens only once."""
        bare = Painting(model=self.model)
        if self.blocks:
            painted = bare.paint(Brush.feature(self.blocks[0], 0), Mask.full())
            self.render(painted)
            self.render(bare)
            self.draft(painted, bare)
        self.render(bare)

    def inspect(self, painting: Painting, x: float, y: float, most: int = 6) -> dict[str, tuple[SeenFeature, ...]]:
        """The features that are strongest at a place of the picture of ``painting``, by block, the strongest first.

        Parameters: ``x`` and ``y`` are fractions 0..1 of the width and height; ``most`` is how many of each block. The
        picture is sampled once, to three quarters of its way; other places of it then cost nothing.

        ``painter.inspect(painting, 0.3, 0.6)["down.1.0"][0].label``
        """
        with self._looking:
            inspection = self._inspections.get(painting, lambda: self._inspected(painting))

        def seen(block: str, index: int, activation: float) -> SeenFeature:
            label = self.features(block)[index].label
            return SeenFeature(block, index, label, activation, inspection.heatmap(block, index))

        found = inspection.at(x, y, most)
        return {block: tuple(seen(block, *feature) for feature in found[block]) for block in found}

    def _inspected(self, painting: Painting) -> Inspection:
        with torch.inference_mode():
            return Inspection(self._model.saes, self.engine.updates(self.plan(painting)))

    def plan(self, painting: Painting) -> Plan:
        """What the engine is told to do for ``painting``."""
        resolved = self._resolved(painting)
        by_block: dict[str, list[Edit]] = {}
        for layer, features in zip(painting.layers, resolved, strict=True):
            if layer.has_effect:
                by_block.setdefault(features.block, []).append(Edit.of(layer, features))
        return Plan(
            prompt=painting.prompt,
            seed=painting.seed,
            steps=self.defaults.steps if painting.steps is None else painting.steps,
            guidance=self.guidance(painting),
            size=self.defaults.size,
            edits={block: self._block_edits(block, edits) for block, edits in by_block.items()},
            keep=painting.keep,
            subtract=painting.subtract,
        )

    def guidance(self, painting: Painting) -> float:
        """The guidance scale that ``painting`` is rendered with: its own; or else the model's, where it has an effect.

        Without a prompt and without layers both halves of the guided batch are the same, and guidance would only
        double the work: then it is 1. With layers it strengthens them, for they act on the conditional half only.
        """
        if painting.guidance is not None:
            return painting.guidance
        steers = painting.prompt or any(layer.has_effect for layer in painting.layers)
        return self.defaults.guidance if steers else 1.0

    def stream(self, paintings: Iterable[Painting]) -> Iterator[Image.Image]:
        """Pictures of paintings that come faster than they can be rendered: the newest wins.

        ``paintings`` is read in a thread of its own. Whenever a picture is done, the next one is that of the newest
        painting by then; those between are dropped, the last one never is. An error of the source is raised again
        here, after the picture of the last painting before it. Closing the iterator early lets the source go: it is
        closed as soon as it yields again.
        """
        newest = _Newest(paintings)
        try:
            for painting in newest:
                yield self.render(painting)
        finally:
            newest.close()

    def _block_edits(self, block: str, edits: list[Edit]) -> BlockEdits:
        sae = self._model.saes[block]
        with self._lock:
            vectors = [self._vectors.get(edit.features, lambda e=edit: brush_vector(sae, e.features)) for edit in edits]
        return BlockEdits(sae, edits, vectors)

    def _resolved(self, painting: Painting) -> list[FeatureSet]:
        """The features of every layer's brush, in order."""
        if not isinstance(painting, Painting):
            raise FeaturebrushError(f"a Painting is expected, not {type(painting).__name__}")
        if painting.model != self.model:
            raise FeaturebrushError(f"this painting is for the model {painting.model!r}; {self.model!r} is loaded")
        if painting.steps is not None and painting.steps > self.most_steps:
            raise FeaturebrushError(
                f"steps must be in 1..{self.most_steps} for {self.model!r}; received {painting.steps}"
            )
        return [self._feature_set(layer.brush) for layer in painting.layers]

    def _feature_set(self, brush: Brush) -> FeatureSet:
        if brush.name is not None:
            concept = self.concept(brush.name)
            return FeatureSet(concept.block, concept.features, concept.weights)
        block = str(brush.block)
        n_features = self._sae(block).cfg.n_features
        for index, _ in brush.features:
            if index >= n_features:
                raise FeaturebrushError(f"unknown feature {index} of {block}: its features are 0..{n_features - 1}")
        return FeatureSet(block, *zip(*brush.features, strict=True))

    def _sae(self, block: str) -> models.SAE:
        if block not in self._model.saes:
            raise unknown("block", block, self.blocks)
        return self._model.saes[block]


class _Newest(Generic[T]):
    """Iterates over the newest values of a source that is read in a thread; skipped values are dropped."""

    def __init__(self, source: Iterable[T]):
        self._source = source
        self._changed = threading.Condition()
        self._waiting: list[T] = []
        self._error: BaseException | None = None
        self._ended = False
        self._closed = False
        threading.Thread(target=self._read, name="newest-painting", daemon=True).start()

    def close(self) -> None:
        """Read no further than to the source's next value, then close the source."""
        with self._changed:
            self._closed = True

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    if self._error is not None:
                        raise self._error
                    return
                value = self._waiting.pop()
            yield value

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            iterator = iter(self._source)
            for value in iterator:
                with self._changed:
                    if self._closed:
                        break
                    self._waiting[:] = [value]
                    self._changed.notify_all()
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
        except BaseException as raised:
            error = raised
        with self._changed:
            self._error, self._ended = error, True
            self._changed.notify_all()
