from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from canvas import Brush, FeaturebrushError, Layer, Mask, Painting
from canvas.painting import MODES

DISC = Mask.disc(0.3, 0.6, 0.15)

unicode_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
numbers = st.floats(-1000, 1000)
brushes = st.one_of(
    unicode_text.filter(str.strip).map(Brush.concept),
    st.builds(Brush.feature, st.sampled_from(["down.1.0", "up.0.2"]), st.integers(0, 5000)),
    st.builds(Brush.mix, st.just("mid.0"), st.dictionaries(st.integers(0, 99), numbers, min_size=1, max_size=5)),
)
layers = st.builds(
    Layer,
    brush=brushes,
    mask=st.sampled_from([DISC, Mask.empty(), Mask.full(), Mask.rect(0.1, 0.2, 0.7, 0.3)]),
    strength=numbers,
    mode=st.sampled_from(MODES),
    steps=st.tuples(st.floats(0, 0.5), st.floats(0.51, 1)),
    visible=st.booleans(),
    locked=st.booleans(),
    name=unicode_text,
)
paintings = st.builds(
    Painting,
    model=st.just("storybook"),
    prompt=unicode_text,
    seed=st.integers(0, 2**63 - 1),
    steps=st.none() | st.integers(1, 250),
    guidance=st.none() | st.floats(0, 100),
    keep=st.booleans(),
    layers=st.lists(layers, max_size=4).map(tuple),
)


def test_the_example_of_the_documentation() -> None:
    painting = Painting(prompt="", seed=7)
    painting = painting.paint("castle", Mask.disc(x=0.3, y=0.6, r=0.15), strength=1.0, mode="add")
    painting = painting.paint(Brush.feature("down.1.0", 123), Mask.rect(0.5, 0.5, 0.9, 0.8))
    assert [layer.brush.label for layer in painting.layers] == ["castle", "down.1.0:123"]
    document = json.loads(painting.to_json())
    settings = ["model", "prompt", "seed", "steps", "guidance", "keep", "subtract"]
    assert list(document) == ["featurebrush", *settings, "layers"]
    assert document["featurebrush"] == 1
    assert document["layers"][0]["brush"] == {"concept": "castle"}
    assert document["layers"][1]["brush"] == {"block": "down.1.0", "feature": 123}
    assert list(document["layers"][0]) == [
        "name", "brush", "mask", "strength", "mode", "steps", "visible", "locked"
    ]  # fmt: skip


@given(paintings)
def test_json_round_trips(painting: Painting) -> None:
    again = Painting.from_json(painting.to_json())
    assert again == painting
    assert hash(again) == hash(painting)
    assert again.to_json() == painting.to_json()


@given(paintings, layers, st.data())
def test_editing_layers(painting: Painting, layer: Layer, data: st.DataObject) -> None:
    more = painting.paint(**{f: getattr(layer, f) for f in Layer.__dataclass_fields__})
    n = len(more.layers)
    assert more.layers == (*painting.layers, layer)
    assert more.without_layer(-1) == painting
    i, j = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))
    assert more.moved_layer(i, j).layers[j] == more.layers[i]
    assert more.moved_layer(i, j).moved_layer(j, i) == more
    assert more.with_layer(i, name="x").with_layer(i, name=more.layers[i].name) == more


def test_a_painting_is_a_value() -> None:
    assert Painting(seed=np.int64(7), guidance=np.float32(1)) == Painting(seed=7, guidance=1)  # pyright: ignore
    assert len({Painting(), Painting(), Painting(seed=1)}) == 2
    with pytest.raises(AttributeError):
        Painting().seed = 2  # pyright: ignore[reportAttributeAccessIssue]


def test_equal_brushes_have_one_form() -> None:
    assert Brush.mix("mid.0", {3: 1.0}) == Brush.feature("mid.0", 3)
    assert Brush.mix("mid.0", {3: 1, 1: 2}) == Brush.mix("mid.0", {1: 2.0, 3: 1.0})
    assert Brush.mix("mid.0", {12: 0.7, 40: 0.3}).to_dict() == {"block": "mid.0", "features": {"12": 0.7, "40": 0.3}}


def test_which_layers_have_an_effect() -> None:
    layer = Layer(Brush.concept("castle"), DISC)
    assert layer.has_effect
    for changes in ({"visible": False}, {"mask": Mask.empty()}, {"strength": 0.0}, {"mode": "scale"}):
        assert not layer.replace(**changes).has_effect
    assert layer.replace(mode="replace", strength=0.0).has_effect
    assert layer.replace(mode="erase", strength=1.0).has_effect


def test_a_range_of_steps_is_half_open_and_the_full_one_covers_all() -> None:
    layer = Layer(Brush.concept("castle"), DISC)
    assert all(layer.is_active(i, n) for n in (1, 2, 3, 7) for i in range(n))
    early, late = layer.replace(steps=(0.0, 0.5)), layer.replace(steps=(0.5, 1.0))
    assert [early.is_active(i, 4) for i in range(4)] == [True, True, False, False]
    assert all(early.is_active(i, n) != late.is_active(i, n) for n in (1, 2, 3, 7) for i in range(n))


WRONG: list[tuple[Any, str]] = [
    (lambda: Painting(seed=-1), r"seed must be in 0\.\.9223372036854775807; received -1"),
    (lambda: Painting(seed=2**63), "seed"),
    (lambda: Painting(seed=True), "seed .*True"),
    (lambda: Painting(seed=1.5), "seed .*1.5"),  # pyright: ignore[reportArgumentType]
    (lambda: Painting(steps=0), r"steps must be in 1\.\.250; received 0"),
    (lambda: Painting(guidance=math.nan), "guidance .*nan"),
    (lambda: Painting(guidance=-1), "guidance .*-1"),
    (lambda: Painting(keep=1), "keep .*1"),  # pyright: ignore
    (lambda: Painting(prompt=None), "prompt is text, not None"),  # pyright: ignore[reportArgumentType]
    (lambda: Painting(prompt="\ud800"), "surrogate"),
    (lambda: Painting(prompt="x" * 5000), "4000 characters, not 5000"),
    (lambda: Painting(model=""), "model"),
    (lambda: Painting(layers=(1,)), "not 1"),  # pyright: ignore[reportArgumentType]
    (lambda: Painting(layers=5), "not 5"),  # pyright: ignore[reportArgumentType]
    (lambda: Painting().paint("castle", DISC, strength=math.nan), "strength .*nan"),
    (lambda: Painting().paint("castle", DISC, strength=math.inf), "strength .*inf"),
    (lambda: Painting().paint("castle", DISC, strength="much"), "'much'"),  # pyright: ignore[reportArgumentType]
    (lambda: Painting().paint("castle", DISC, mode="ad"), "unknown mode 'ad': did you mean 'add'"),  # pyright: ignore
    (lambda: Painting().paint("castle", np.zeros((4, 4))), "Mask.from_array"),  # pyright: ignore[reportArgumentType]
    (lambda: Painting().paint("castle", DISC, steps=(0.5, 0.5)), r"\(0.5, 0.5\)"),
    (lambda: Painting().paint("castle", DISC, steps=(0.5, 1.5)), "1.5"),
    (lambda: Painting().paint("castle", DISC, steps=0.5), "pair"),
    (lambda: Painting().paint("castle", DISC, visible=1), "visible .*1"),
    (lambda: Painting().paint("castle", DISC, strenth=1), "unknown layer field 'strenth': did you mean 'strength'"),
    (lambda: Painting().paint(7, DISC), "Brush or a concept's name, not 7"),  # pyright: ignore[reportArgumentType]
    (lambda: Painting().paint("", DISC), "name"),
    (lambda: Painting().with_layer(0, name="x"), "no layers"),
    (lambda: Painting().paint("castle", DISC).without_layer(1), r"-1\.\.0; received 1"),
    (lambda: Painting().replace(sed=1), "unknown painting field 'sed': did you mean 'seed'"),
    (lambda: Brush.feature("down.1.0", -1), "feature index .*-1"),
    (lambda: Brush.mix("down.1.0", {}), "1 to 4096 features, not 0"),
    (lambda: Brush.mix("down.1.0", [1]), "index: weight"),  # pyright: ignore[reportArgumentType]
    (lambda: Brush.mix("down.1.0", {1: math.nan}), "weight of feature 1 .*nan"),
    (lambda: Brush(name="castle", block="mid.0"), "not both"),
]


@pytest.mark.parametrize(("make", "says"), WRONG)
def test_wrong_values_are_refused(make: Any, says: str) -> None:
    with pytest.raises(FeaturebrushError, match=says):
        make()


def with_layer(**changes: Any) -> dict[str, Any]:
    document = json.loads(Painting().paint("castle", DISC).to_json())
    document["layers"][0].update(changes)
    return document


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("", "malformed"),
        ("{", "malformed"),
        ("[" * 100_000, "malformed|nested"),
        ("null", '"featurebrush": 1'),
        ("{}", '"featurebrush": 1'),
        ({"featurebrush": 2}, "version 2, newer"),
        ({"featurebrush": "1"}, "'1'"),
        ({"featurebrush": True}, "True"),
        ({"featurebrush": 1, "sead": 3}, "unknown painting field 'sead': did you mean 'seed'"),
        ({"featurebrush": 1, "seed": 1.0}, "seed .*1.0"),
        ({"featurebrush": 1, "seed": None}, "seed .*None"),
        ({"featurebrush": 1, "layers": {}}, "list"),
        ({"featurebrush": 1, "layers": [3]}, "layer 0: .*3"),
        ('{"featurebrush": 1, "seed": 1, "seed": 2}', "twice"),
        ('{"featurebrush": 1, "guidance": NaN}', "nan"),
        ('{"featurebrush": 1, "guidance": 1e999}', "inf"),
        ('{"featurebrush": 1, "seed": ' + "9" * 5000 + "}", "malformed|seed"),
        (with_layer(brush={"concept": "castle", "block": "mid.0"}), "a brush in JSON"),
        (with_layer(brush={"concept": 3}), "layer 0: .*3"),
        (with_layer(brush={"block": "mid.0", "features": {"one": 1}}), "'one'"),
        (with_layer(brush={"block": "mid.0", "features": {"1": 1, "01": 1}}), "'01'"),
        (with_layer(mask=None), "mask in JSON"),
        (with_layer(mask={"size": [128, 128], "deflate": "!"}), "unpacked"),
        (with_layer(mask={"size": [128, 128], "deflate": "AAAA"}), "unpacked"),
        (with_layer(mode="paint"), "unknown mode 'paint'"),
        (with_layer(mode=[]), "unknown mode"),
        (with_layer(strength=None), "strength"),
        (with_layer(steps=[0, 2]), "2"),
        (with_layer(colour="red"), "unknown layer field 'colour'"),
    ],
)
def test_wrong_json_is_refused(document: Any, says: str) -> None:
    text = document if isinstance(document, str) else json.dumps(document)
    with pytest.raises(FeaturebrushError, match=says):
        Painting.from_json(text)


def test_fields_left_out_of_json_have_their_defaults() -> None:
    assert Painting.from_json('{"featurebrush": 1}') == Painting()
    short = {"featurebrush": 1, "layers": [{"brush": {"concept": "castle"}, "mask": DISC.to_dict()}]}
    assert Painting.from_json(json.dumps(short)) == Painting().paint("castle", DISC)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        found += places(value, (*path, key))
    return found


@given(st.data())
def test_mangled_json_raises_only_our_error(data: st.DataObject) -> None:
    base = Painting(seed=3).paint("castle", DISC).paint(Brush.mix("mid.0", {1: 0.5, 2: 1.0}), DISC, mode="erase")
    document = json.loads(base.to_json())
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from([place for place in places(document) if place]))
        owner = document
        for key in path:
            owner = owner[key]
        if data.draw(st.booleans()) and isinstance(owner, dict):
            owner[data.draw(st.text(max_size=8))] = owner.pop(last)
        else:
            owner[last] = data.draw(json_values)
    text = json.dumps(document)
    start = data.draw(st.integers(0, len(text)))
    text = data.draw(
        st.sampled_from([text, text[:start], text[:start] + data.draw(st.text(max_size=4)) + text[start:]])
    )
    try:
        painting = Painting.from_json(text)
    except FeaturebrushError:
        return
    assert Painting.from_json(painting.to_json()) == painting


@given(st.one_of(st.text(), json_values.map(json.dumps), st.binary()))
def test_any_text_raises_only_our_error(text: Any) -> None:
    with pytest.raises(FeaturebrushError):
        Painting.from_json(text)


def test_values_need_no_torch() -> None:
    code = "import sys, canvas; canvas.Painting().to_json(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(st.lists(st.sampled_from(["castle", "moon"]), min_size=1, max_size=5), st.data())
def test_a_duplicated_layer_merges_to_what_was_there(brushes: list[str], data: st.DataObject) -> None:
    painting = Painting(layers=tuple(Layer(brush, Mask.disc(0.2 * k, 0.5, 0.1)) for k, brush in enumerate(brushes)))
    i = data.draw(st.integers(0, len(brushes) - 1))
    twice = painting.duplicated_layer(i)
    assert len(twice.layers) == len(brushes) + 1 and twice.layers[i] == twice.layers[i + 1]
    assert twice.without_layer(i + 1) == painting == twice.merged_layer(i + 1)


def test_merged_layers_cover_what_either_did() -> None:
    one, other = Mask.disc(0.3, 0.5, 0.1), Mask.disc(0.7, 0.5, 0.1)
    painting = Painting().paint("castle", one, name="mine").paint("castle", other)
    (layer,) = painting.merged_layer(1).layers
    assert layer.mask == one | other and layer.name == "mine"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"strength": 2.0}, "strength"),
        ({"mode": "erase"}, "mode"),
        ({"brush": "moon"}, "brush"),
        ({"visible": False}, "visible"),
    ],
)
def test_layers_that_do_not_do_the_same_are_not_merged(changes: dict[str, object], word: str) -> None:
    painting = Painting().paint("castle", Mask.full()).paint("castle", Mask.full())
    with pytest.raises(FeaturebrushError, match=word):
        painting.with_layer(1, **changes).merged_layer(1)
    with pytest.raises(FeaturebrushError, match="below"):
        painting.merged_layer(0)


def test_a_copy_of_a_locked_layer_is_not_locked() -> None:
    painting = Painting().paint("castle", Mask.full(), locked=True).duplicated_layer(0)
    assert [layer.locked for layer in painting.layers] == [True, False]
