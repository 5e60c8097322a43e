from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import nn

from canvas import Brush, Mask, Painter, Painting
from canvas.compiled import OpenVino, backend
from sae.errors import FeaturebrushError

DISC = Mask.disc(0.4, 0.6, 0.3)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def compiled(model_folder) -> Painter:
    return Painter.load(model_folder, "cpu", backend="openvino")


def far(one, other) -> float:
    """The largest difference of two pictures, of 255."""
    return np.abs(np.asarray(one, float) - np.asarray(other, float)).max()


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("layers", [(), ("castle",), ("wave",), ("castle", "wave")])
def test_openvino_paints_what_torch_does(painter, compiled, guidance, layers) -> None:
    painting = Painting(prompt="a castle", seed=7, steps=3, guidance=guidance)
    for name in layers:
        painting = painting.paint(name, DISC, 2.0)
    expected = painter.render(painting)
    assert far(compiled.render(painting), expected) <= 12
    assert far(painter.render(painting.replace(seed=8)), expected) > 50, "else the bound says nothing"


def test_nothing_of_it_falls_back(compiled, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        compiled.engine.forget()
        compiled.warm_up()
    assert not caplog.records


def test_a_prefix_is_replayed_there_too(compiled) -> None:
    first, second = (Painting(seed=5, steps=3).paint("wave", mask, 2.0) for mask in (DISC, ~DISC))
    compiled.render(first)
    replayed = compiled.engine.latents(compiled.plan(second))
    compiled.engine.forget()
    assert torch.equal(replayed, compiled.engine.latents(compiled.plan(second)))


def test_a_layer_without_effect_changes_nothing(compiled) -> None:
    bare = Painting(seed=5, steps=2, guidance=1.0)
    hidden = bare.paint(Brush.feature("up.0.1", 3), Mask.empty())
    assert compiled.render(bare).tobytes() == compiled.render(hidden).tobytes()


def test_every_shape_is_compiled_for_itself() -> None:
    layer = nn.Conv2d(3, 5, 3, padding=1)

    class Twice(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return layer(x), 2 * x

    made = OpenVino(Twice())
    kept = []
    with torch.inference_mode():
        for shape in ((1, 3, 8, 8), (2, 3, 8, 8), (1, 3, 8, 8)):
            x = torch.randn(shape)
            kept.append((made(x), (layer(x), 2 * x)))
    for found, expected in kept:
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=0.03, rtol=0.03)


def test_what_openvino_cannot_compile_goes_on_without_it(caplog) -> None:
    class Stubborn(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            if torch.jit.is_tracing():
                raise RuntimeError("I am not to be traced")
            return (x + 1,)

    made = OpenVino(Stubborn())
    for _ in range(2):
        assert torch.equal(made(torch.zeros(2))[0], torch.ones(2))
    assert caplog.text.count("I am not to be traced") == 1


def test_backends_that_cannot_be_are_refused(model_folder, monkeypatch) -> None:
    with pytest.raises(FeaturebrushError, match="openvimo.*openvino"):
        Painter.load(model_folder, "cpu", backend="openvimo")
    with pytest.raises(FeaturebrushError, match="for the CPU, not for 'cuda'"):
        backend("openvino", CUDA)
    with pytest.raises(FeaturebrushError, match="for CUDA, not for 'cpu'"):
        backend("inductor", CPU)
    assert backend("auto", CPU) is OpenVino and backend("auto", CUDA) is None and backend("torch", CPU) is None
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert backend("auto", CPU) is None
    with pytest.raises(FeaturebrushError, match="pip install openvino"):
        backend("openvino", CPU)
