"""The painting: everything that determines a picture, as one immutable, comparable, serialisable value."""

from __future__ import annotations

import dataclasses
import json
import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, SupportsIndex, cast, get_args

from canvas.masks import Mask
from sae.errors import FeaturebrushError, unknown

FORMAT_VERSION = 1
"""The version that ``Painting.to_json`` writes under ``"featurebrush"``, and the newest that ``from_json`` reads."""

Mode = Literal["add", "replace", "erase", "scale"]
MODES: tuple[Mode, ...] = get_args(Mode)

MAX_SEED = 2**63 - 1
MAX_STEPS = 250
MAX_GUIDANCE = 100.0
MAX_STRENGTH = 1000.0
MAX_LAYERS = 256
MAX_TEXT = 4000
MAX_FEATURES = 4096


@dataclass(frozen=True, slots=True)
class Brush:
    """What a layer paints with: a concept by its name, or weighted features of one block.

    Make one by ``Brush.concept``, ``Brush.feature`` or ``Brush.mix``. Whether the model knows the concept, block or
    feature is checked by ``Painter.check``: a brush is a value and knows no model.
    """

    name: str | None = None
    """The concept's name, or None for a brush of features."""
    block: str | None = None
    """The features' block, such as "down.1.0"; None for a concept."""
    features: tuple[tuple[int, float], ...] = ()
    """(index, weight) pairs by rising index; empty for a concept."""

    def __post_init__(self) -> None:
        if self.name is not None:
            if self.block is not None or self.features:
                raise FeaturebrushError("a brush is a concept or features of a block, not both")
            _set(self, "name", _text("a brush's concept", self.name, 200))
            if not str(self.name).strip():
                raise FeaturebrushError("a brush's concept needs a name, not ''")
            return
        block = _text("a brush's block", self.block, 100)
        pairs: dict[int, float] = {}
        for index, weight in self.features:
            index = _integer("a feature index", index, 0, 2**31 - 1)
            if index in pairs:
                raise FeaturebrushError(f"feature {index} appears twice in one brush")
            pairs[index] = _real(f"the weight of feature {index}", weight, -MAX_STRENGTH, MAX_STRENGTH)
        if not 1 <= len(pairs) <= MAX_FEATURES:
            raise FeaturebrushError(f"a brush mixes 1 to {MAX_FEATURES} features, not {len(pairs)}")
        _set(self, "block", block)
        _set(self, "features", tuple(sorted(pairs.items())))

    @classmethod
    def concept(cls, name: str) -> Brush:
        """The concept called ``name`` (its features and weights are the model's)."""
        return cls(name=_text("a brush's concept", name, 200))

    @classmethod
    def feature(cls, block: str, index: int) -> Brush:
        """One feature of the SAE at ``block``, at its own mean activation."""
        return cls(block=block, features=((index, 1.0),))

    @classmethod
    def mix(cls, block: str, features: Mapping[int, float]) -> Brush:
        """Features of ``block`` by index, each with its weight (1.0 = its mean activation)."""
        if not isinstance(features, Mapping):
            raise FeaturebrushError(f"Brush.mix takes {{index: weight}}, not {_shown(features)}")
        return cls(block=block, features=tuple(features.items()))

    @property
    def label(self) -> str:
        """A short text for lists: the concept's name, or the block with its features."""
        if self.name is not None:
            return self.name
        shown = "+".join(str(index) for index, _ in self.features[:4])
        return f"{self.block}:{shown}{'+…' if len(self.features) > 4 else ''}"

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: ``{"concept"}``, ``{"block", "feature"}`` or ``{"block", "features"}``."""
        if self.name is not None:
            return {"concept": self.name}
        if len(self.features) == 1 and self.features[0][1] == 1.0:
            return {"block": self.block, "feature": self.features[0][0]}
        return {"block": self.block, "features": {str(index): weight for index, weight in self.features}}

    @classmethod
    def from_dict(cls, value: object) -> Brush:
        """The inverse of ``to_dict``."""
        if isinstance(value, dict):
            if set(value) == {"concept"}:
                return cls.concept(value["concept"])
            if set(value) == {"block", "feature"}:
                return cls.feature(value["block"], value["feature"])
            if set(value) == {"block", "features"} and isinstance(value["features"], dict):
                return cls.mix(value["block"], {_index_key(key): w for key, w in value["features"].items()})
        accepted = '{"concept"}, {"block", "feature"} or {"block", "features": {"index": weight}}'
        raise FeaturebrushError(f"a brush in JSON is {accepted}, not {_shown(value)}")


@dataclass(frozen=True, slots=True)
class Layer:
    """One stroke or shape of a painting: a brush, where it paints, and how strongly.

    Raises ``FeaturebrushError`` for an unknown mode, a strength that is not a finite number, and the like.
    """

    brush: Brush
    """What it paints with; a string is taken as a concept's name."""
    mask: Mask
    """Where it paints."""
    strength: float = 1.0
    """add and replace: times the features' mean activation; scale: the factor; erase ignores it. -1000..1000."""
    mode: Mode = "add"
    """"add" puts the brush on top, "replace" puts it in place of the block's update, "scale" multiplies what is there
    of the brush's features by ``strength``, "erase" removes it."""
    steps: tuple[float, float] = (0.0, 1.0)
    """The part of the sampling schedule during which it acts: step i of n where ``steps[0] <= i / n < steps[1]``."""
    visible: bool = True
    """Whether it takes part in the picture."""
    locked: bool = False
    """Whether an editor should refuse to change it; rendering does not care."""
    name: str = ""
    """What the user calls it, up to 200 characters; rendering does not care."""

    def __post_init__(self) -> None:
        if isinstance(self.brush, str):
            _set(self, "brush", Brush.concept(self.brush))
        if not isinstance(self.brush, Brush):
            raise FeaturebrushError(f"a layer's brush is a Brush or a concept's name, not {_shown(self.brush)}")
        if not isinstance(self.mask, Mask):
            kind = type(self.mask).__name__
            raise FeaturebrushError(f"a layer's mask is a Mask, not {kind}; see Mask.from_array and Mask.from_image")
        if self.mode not in MODES:
            raise unknown("mode", self.mode, MODES)
        _set(self, "strength", _real("strength", self.strength, -MAX_STRENGTH, MAX_STRENGTH))
        _set(self, "steps", _step_range(self.steps))
        for field in ("visible", "locked"):
            if not isinstance(getattr(self, field), bool):
                raise FeaturebrushError(f"{field} is true or false, not {_shown(getattr(self, field))}")
        _text("a layer's name", self.name, 200)

    @property
    def has_effect(self) -> bool:
        """Whether it can change a picture: visible, something under the mask, and not the neutral strength."""
        if not self.visible or self.mask.is_empty:
            return False
        neutral = {"add": 0.0, "scale": 1.0}.get(self.mode)
        return self.strength != neutral

    def is_active(self, step: int, n_steps: int) -> bool:
        """Whether it acts at sampling step ``step`` (from 0) of ``n_steps``."""
        return self.steps[0] <= step / n_steps < self.steps[1]

    def replace(self, **changes: Any) -> Layer:
        """This layer with other values in the named fields."""
        return _replaced(self, changes)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, with every field."""
        return {
            "name": self.name,
            "brush": self.brush.to_dict(),
            "mask": self.mask.to_dict(),
            "strength": self.strength,
            "mode": self.mode,
            "steps": list(self.steps),
            "visible": self.visible,
            "locked": self.locked,
        }

    @classmethod
    def from_dict(cls, value: object) -> Layer:
        """The inverse of ``to_dict``; ``brush`` and ``mask`` are required, the other fields have their defaults."""
        fields = _fields_of(cls, "a layer", value, required=("brush", "mask"))
        fields["brush"] = Brush.from_dict(fields["brush"])
        fields["mask"] = Mask.from_dict(fields["mask"])
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Painting:
    """The whole document: model, prompt, seed, schedule and layers. Two equal paintings give the same picture.

    ``steps`` and ``guidance`` may be None, which means the model's default. Every method returns a new painting.
    Raises ``FeaturebrushError`` for values out of their range.
    """

    model: str = "storybook"
    prompt: str = ""
    """Up to 4000 characters; the text encoder reads as much of it as it can."""
    seed: int = 0
    """0..2**63-1: the seed of ``torch.Generator("cpu")``."""
    steps: int | None = None
    """1..250 sampling steps."""
    guidance: float | None = None
    """0..100; up to 1 means no classifier-free guidance."""
    keep: bool = True
    """Whether the picture stays, beyond about two cells around the strokes, what it is without them. False lets strokes
    be felt everywhere: a moon may bring the night with it."""
    subtract: bool = False
    """Whether, under guidance, what layers add on the conditional half is taken away on the unconditional one, as
    published for SDXL (Surkov et al., 2410.22366): stronger strokes. Without guidance there is no such half."""
    layers: tuple[Layer, ...] = ()
    """From the bottom to the top; at most 256."""

    def __post_init__(self) -> None:
        if not _text("model", self.model, 500):
            raise FeaturebrushError("a painting's model needs a name, not ''")
        _text("prompt", self.prompt, MAX_TEXT)
        _set(self, "seed", _integer("seed", self.seed, 0, MAX_SEED))
        if self.steps is not None:
            _set(self, "steps", _integer("steps", self.steps, 1, MAX_STEPS))
        if self.guidance is not None:
            _set(self, "guidance", _real("guidance", self.guidance, 0.0, MAX_GUIDANCE))
        for name in ("keep", "subtract"):
            if not isinstance(getattr(self, name), bool):
                raise FeaturebrushError(f"{name} is true or false, not {_shown(getattr(self, name))}")
        if isinstance(self.layers, (str, bytes)) or not isinstance(self.layers, Iterable):
            raise FeaturebrushError(f"layers is a sequence of Layer, not {_shown(self.layers)}")
        layers = tuple(self.layers)
        for layer in layers:
            if not isinstance(layer, Layer):
                raise FeaturebrushError(f"layers holds Layer values, not {_shown(layer)}")
        if len(layers) > MAX_LAYERS:
            raise FeaturebrushError(f"a painting holds at most {MAX_LAYERS} layers, not {len(layers)}")
        _set(self, "layers", layers)

    def paint(
        self, brush: Brush | str, mask: Mask, strength: float = 1.0, mode: Mode = "add", **layer_fields: Any
    ) -> Painting:
        """This painting with one more layer on top.

        Parameters: ``brush`` is a ``Brush`` or a concept's name; ``layer_fields`` are further fields of ``Layer``.
        """
        fields = {"brush": brush, "mask": mask, "strength": strength, "mode": mode, **layer_fields}
        _known_fields(Layer, fields)
        return self.replace(layers=(*self.layers, Layer(**fields)))

    def with_layer(self, i: int, **changes: Any) -> Painting:
        """With other values in fields of layer ``i`` (from 0; negative counts from the top)."""
        i = self._layer_index(i)
        return self.replace(layers=(*self.layers[:i], self.layers[i].replace(**changes), *self.layers[i + 1 :]))

    def without_layer(self, i: int) -> Painting:
        """Without layer ``i``."""
        i = self._layer_index(i)
        return self.replace(layers=self.layers[:i] + self.layers[i + 1 :])

    def moved_layer(self, i: int, j: int) -> Painting:
        """With layer ``i`` taken out and put back so that it stands at position ``j``."""
        i, j = self._layer_index(i), self._layer_index(j)
        rest = self.layers[:i] + self.layers[i + 1 :]
        return self.replace(layers=(*rest[:j], self.layers[i], *rest[j:]))

    def duplicated_layer(self, i: int) -> Painting:
        """With a copy of layer ``i`` right above it, unlocked."""
        i = self._layer_index(i)
        return self.replace(layers=(*self.layers[: i + 1], self.layers[i].replace(locked=False), *self.layers[i + 1 :]))

    def merged_layer(self, i: int) -> Painting:
        """With layer ``i`` and the one below it as one, which has the lower one's name and covers what either does.

        Raises ``FeaturebrushError`` unless both have the same brush, mode, strength, steps and visibility.
        """
        i = self._layer_index(i)
        if i == 0:
            raise FeaturebrushError("there is no layer below layer 0 to merge with")
        below, layer = self.layers[i - 1 : i + 1]
        for field in ("brush", "mode", "strength", "steps", "visible"):
            one, other = getattr(below, field), getattr(layer, field)
            if one != other:
                raise FeaturebrushError(f"layers {i - 1} and {i} cannot be merged: their {field} is {one} and {other}")
        return self.with_layer(i - 1, mask=below.mask | layer.mask).without_layer(i)

    def replace(self, **fields: Any) -> Painting:
        """With other values in the named fields."""
        return _replaced(self, fields)

    def to_json(self, indent: int | None = None) -> str:
        """The painting as versioned JSON text that ``from_json`` reads back to an equal painting."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["layers"] = [layer.to_dict() for layer in self.layers]
        return json.dumps({"featurebrush": FORMAT_VERSION, **fields}, ensure_ascii=False, indent=indent)

    @classmethod
    def from_json(cls, text: str) -> Painting:
        """The painting that ``to_json`` wrote. Raises only ``FeaturebrushError``, whatever the text is."""
        if not isinstance(text, str):
            raise FeaturebrushError(f"a painting is read from JSON text, not from {type(text).__name__}")
        try:
            document = json.loads(text, object_pairs_hook=_without_duplicates)
        except FeaturebrushError:
            raise
        except RecursionError:
            raise FeaturebrushError("this is not a painting: its JSON is nested too deeply") from None
        except ValueError as error:
            raise FeaturebrushError(f"this is not a painting: malformed JSON ({error})") from error
        if not isinstance(document, dict) or "featurebrush" not in document:
            raise FeaturebrushError('this is not a painting: an object with "featurebrush": 1 is expected')
        version = document.pop("featurebrush")
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise FeaturebrushError(f'"featurebrush" is a format version from 1, not {_shown(version)}')
        if version > FORMAT_VERSION:
            raise FeaturebrushError(
                f"this painting has format version {version}, newer than this Featurebrush, which reads up to "
                f"{FORMAT_VERSION}: update Featurebrush to open it"
            )
        fields = _fields_of(cls, "a painting", document)
        layers = fields.get("layers", [])
        if not isinstance(layers, list):
            raise FeaturebrushError(f'"layers" is a list, not {_shown(layers)}')
        if len(layers) > MAX_LAYERS:
            raise FeaturebrushError(f"a painting holds at most {MAX_LAYERS} layers, not {len(layers)}")
        return cls(**{**fields, "layers": tuple(_numbered(i, layer) for i, layer in enumerate(layers))})

    def _layer_index(self, i: int) -> int:
        n = len(self.layers)
        if n == 0:
            raise FeaturebrushError(f"there is no layer {_shown(i)}: the painting has no layers")
        return _integer("a layer's position", i, -n, n - 1) % n


def _numbered(i: int, value: object) -> Layer:
    try:
        return Layer.from_dict(value)
    except FeaturebrushError as error:
        raise FeaturebrushError(f"layer {i}: {error}") from error


def _set(instance: object, field: str, value: object) -> None:
    object.__setattr__(instance, field, value)


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return type(value).__name__
    return text if len(text) <= 80 else text[:77] + "..."


def _text(name: str, value: object, longest: int) -> str:
    if not isinstance(value, str):
        raise FeaturebrushError(f"{name} is text, not {_shown(value)}")
    if len(value) > longest:
        raise FeaturebrushError(f"{name} has at most {longest} characters, not {len(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise FeaturebrushError(f"{name} holds half a character (a lone surrogate): {_shown(value)}") from None
    return value


def _integer(name: str, value: object, low: int, high: int) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(cast(SupportsIndex, value))
    except TypeError:
        raise FeaturebrushError(f"{name} is a whole number in {low}..{high}, not {_shown(value)}") from None
    if not low <= number <= high:
        raise FeaturebrushError(f"{name} must be in {low}..{high}; received {_shown(number)}")
    return number


def _real(name: str, value: object, low: float, high: float) -> float:
    try:
        if isinstance(value, (bool, str, bytes)):
            raise TypeError
        number = float(cast(float, value))
    except (TypeError, ValueError, OverflowError):
        raise FeaturebrushError(f"{name} is a number in {low:g}..{high:g}, not {_shown(value)}") from None
    if not math.isfinite(number) or not low <= number <= high:
        raise FeaturebrushError(f"{name} must be a finite number in {low:g}..{high:g}; received {number!r}")
    return number


def _step_range(value: object) -> tuple[float, float]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise FeaturebrushError(f"steps is a pair (from, to) of fractions of the schedule, not {_shown(value)}")
    start, end = (_real("each end of steps", part, 0.0, 1.0) for part in value)
    if start >= end:
        raise FeaturebrushError(
            f"steps runs from a smaller to a larger fraction in 0..1; received ({start:g}, {end:g})"
        )
    return start, end


def _index_key(key: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) <= 10 and key == str(int(key))):
        raise FeaturebrushError(f"features are keyed by their index, a whole number, not {_shown(key)}")
    return int(key)


def _known_fields(kind: type, given: Iterable[str]) -> None:
    names = [field.name for field in dataclasses.fields(kind)]
    for name in given:
        if name not in names:
            raise unknown(f"{kind.__name__.lower()} field", name, names)


def _replaced(instance: Any, changes: Mapping[str, Any]) -> Any:
    _known_fields(type(instance), changes)
    return dataclasses.replace(instance, **changes)


def _fields_of(kind: type, noun: str, value: object, required: tuple[str, ...] = ()) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FeaturebrushError(f"{noun} in JSON is an object, not {_shown(value)}")
    _known_fields(kind, value)
    for name in required:
        if name not in value:
            raise FeaturebrushError(f'{noun} in JSON needs "{name}"')
    return dict(value)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise FeaturebrushError(f"the JSON names a field twice, among {_shown([key for key, _ in pairs])}")
    return found
