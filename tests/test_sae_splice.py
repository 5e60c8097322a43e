"""What splicing leaves alone, what it changes, and the measures of it, on a real U-Net in small."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import BLOCKS, CHANNELS, build_pipeline, build_sae

from sae import SAE, FeaturebrushError, SAEConfig, block_module, block_names, record
from sae.splice import Losses, PictureChange, picture_change, reconstruct, replacing, splice_losses, spliced
from sae.ssim import ssim


@pytest.fixture(scope="module")
def unet() -> Any:
    return build_pipeline().unet.eval()


def call(unet: Any, seed: int = 0, n: int = 2) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    x, text = torch.randn(n, 4, 16, 16, generator=g), torch.randn(n, 3, 16, generator=g)
    with torch.no_grad():
        return unet(x, 5, text).sample


def hooks(unet: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in unet.modules())


def perfect_sae(block: str, site: str = "update") -> SAE:
    """Two features for each channel, one for its positive and one for its negative part: it reconstructs exactly."""
    both = torch.cat([torch.eye(CHANNELS), -torch.eye(CHANNELS)])
    tensors = {"W_enc": both, "b_enc": torch.zeros(2 * CHANNELS), "W_dec": both, "b_dec": torch.zeros(CHANNELS)}
    cfg = SAEConfig(CHANNELS, 2 * CHANNELS, 8, block, site)  # pyright: ignore[reportArgumentType]
    return SAE(cfg, {**tensors, "threshold": torch.tensor(0.0)})


@pytest.mark.parametrize("site", ["update", "output"])
def test_what_is_given_back_as_it_was_changes_no_bit(unet: Any, site: Any) -> None:
    before = call(unet)
    for block in block_names(unet):
        with replacing(unet, block, lambda u: u.clone(), site):
            assert torch.equal(call(unet), before)
    assert hooks(unet) == 0


@pytest.mark.parametrize("site", ["update", "output"])
def test_the_block_does_what_the_function_says(unet: Any, site: Any) -> None:
    seen = {}

    def fn(u: torch.Tensor) -> torch.Tensor:
        seen["u"] = u
        return 2 * u + 1

    with record(unet, ["down.1.0"], site) as plain:
        call(unet)
    # Hooks run in the order in which they were added: the recording sees what was put in place.
    with replacing(unet, "down.1.0", fn, site), record(unet, ["down.1.0"], site) as changed:
        call(unet)
    torch.testing.assert_close(seen["u"], plain["down.1.0"][0], rtol=0, atol=0)
    torch.testing.assert_close(changed["down.1.0"][0], 2 * plain["down.1.0"][0] + 1, rtol=1e-4, atol=1e-5)


def test_every_kind_of_output_keeps_its_kind(unet: Any) -> None:
    block = block_module(unet, "down.1.0")
    h, text = torch.randn(1, CHANNELS, 8, 8), torch.randn(1, 3, 16)
    with torch.no_grad(), replacing(unet, "down.1.0", torch.zeros_like):
        as_object = block(h, encoder_hidden_states=text)
        as_tuple = block(hidden_states=h, encoder_hidden_states=text, return_dict=False)
    assert type(as_object).__name__ == "Transformer2DModelOutput" and isinstance(as_tuple, tuple)
    torch.testing.assert_close(as_object.sample, h, rtol=0, atol=1e-5)
    torch.testing.assert_close(as_tuple[0], as_object.sample)


def test_nothing_is_left_behind(unet: Any) -> None:
    before = call(unet)
    with pytest.raises(ZeroDivisionError), replacing(unet, "mid.0", torch.zeros_like):
        assert not torch.equal(call(unet), before)
        _ = 1 / 0
    assert hooks(unet) == 0 and torch.equal(call(unet), before)
    with pytest.raises(FeaturebrushError, match="expected"), replacing(unet, "mid.0", lambda u: u[:1]):
        call(unet)
    for block, site in (("mid.7", "update"), ("mid.0", "input")):
        wrong: Any = site
        with pytest.raises(FeaturebrushError), replacing(unet, block, torch.zeros_like, wrong):
            pass
    with pytest.raises(FeaturebrushError, match="tied to no block"), spliced(unet, perfect_sae("")):
        pass
    assert hooks(unet) == 0


@pytest.mark.parametrize("chunk", [2**23, 100])
def test_reconstructions_are_the_saes_in_any_portions(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae.metrics.CHUNK_CODES", chunk)
    s = build_sae("down.1.0", seed=0)
    u = torch.randn(2, CHANNELS, 3, 3).permute(0, 2, 3, 1)
    torch.testing.assert_close(reconstruct(s, u), s(u))


def squares(unet: Any) -> Any:
    """A loss of which the model is at its best as it is: the squared distance from what it says unspliced."""
    best = {seed: call(unet, seed) for seed in range(3)}
    return lambda seed: (call(unet, seed) - best[seed]).square().mean((1, 2, 3))


@pytest.mark.parametrize("site", ["update", "output"])
def test_a_perfect_dictionary_recovers_all_and_zero_nothing(unet: Any, site: str) -> None:
    mean = torch.zeros(CHANNELS)
    losses = splice_losses(unet, perfect_sae("down.1.0", site), range(3), squares(unet), mean)
    assert losses.examples == 6 and losses.plain == 0 and losses.zero > 0
    # The mean given is 0: then both ablations are one.
    assert losses.mean == pytest.approx(losses.zero)
    assert losses.recovered_from_zero == pytest.approx(1, abs=1e-6)
    silent = SAE(perfect_sae("down.1.0", site).cfg, {**perfect_sae("").tensors(), "threshold": torch.tensor(1e9)})
    losses = splice_losses(unet, silent, range(3), squares(unet), mean + 0.1)
    assert losses.spliced == pytest.approx(losses.zero) and losses.recovered_from_zero == pytest.approx(0, abs=1e-6)
    assert losses.mean != pytest.approx(losses.zero) and losses.recovered_from_mean is not None


def test_loss_recovered_is_its_formula() -> None:
    losses = Losses(plain=1.0, spliced=1.5, zero=3.0, mean=2.0, examples=1)
    assert losses.recovered_from_zero == pytest.approx(0.75) and losses.recovered_from_mean == pytest.approx(0.5)
    assert Losses(1.0, 1.0, 1.0, 0.5, 1).recovered_from_zero is None
    assert Losses(1.0, 1.0, 1.0, 0.5, 1).recovered_from_mean is None


def test_what_has_no_loss_is_refused(unet: Any) -> None:
    s, mean = perfect_sae("down.1.0"), torch.zeros(CHANNELS)
    with pytest.raises(FeaturebrushError, match="at least one"):
        splice_losses(unet, s, [], squares(unet), mean)
    with pytest.raises(FeaturebrushError, match="mean"):
        splice_losses(unet, s, range(1), squares(unet), mean[:3])
    with pytest.raises(FeaturebrushError, match="not finite"):
        splice_losses(unet, s, range(1), lambda _: torch.tensor([math.nan]), mean)
    assert hooks(unet) == 0


def test_pictures_change_with_the_dictionary_and_not_without(unet: Any) -> None:
    def render(seed: int) -> torch.Tensor:
        return call(unet, seed)[:, :3].sigmoid()

    exact = picture_change(unet, perfect_sae(BLOCKS[0]), range(2), render)
    assert exact.pictures == 4 and exact.mse == pytest.approx(0, abs=1e-10) and exact.ssim == pytest.approx(1)
    coarse = picture_change(unet, build_sae(BLOCKS[0], seed=0), range(2), render)
    assert coarse.mse > exact.mse and coarse.ssim < exact.ssim
    with pytest.raises(FeaturebrushError, match="at least one"):
        picture_change(unet, perfect_sae(BLOCKS[0]), [], render)
    assert isinstance(coarse, PictureChange)


def slow_ssim(a: torch.Tensor, b: torch.Tensor) -> float:
    """Window by window, of one channel [h, w]."""
    offsets = range(-5, 6)
    weights = {(i, j): math.exp(-(i * i + j * j) / (2 * 1.5**2)) for i in offsets for j in offsets}
    total = sum(weights.values())
    values = []
    for y in range(5, a.shape[0] - 5):
        for x in range(5, a.shape[1] - 5):
            window = [(w / total, float(a[y + i, x + j]), float(b[y + i, x + j])) for (i, j), w in weights.items()]
            ma, mb = sum(w * p for w, p, _ in window), sum(w * q for w, _, q in window)
            va, vb = sum(w * (p - ma) ** 2 for w, p, _ in window), sum(w * (q - mb) ** 2 for w, _, q in window)
            both = sum(w * (p - ma) * (q - mb) for w, p, q in window)
            values.append((2 * ma * mb + 1e-4) * (2 * both + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    return sum(values) / len(values)


def test_ssim_is_its_definition() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 2, 13, 12, generator=g), torch.rand(2, 2, 13, 12, generator=g)
    b = 0.7 * a + 0.3 * b
    slow = [sum(slow_ssim(a[i, c], b[i, c]) for c in range(2)) / 2 for i in range(2)]
    assert ssim(a, b).tolist() == pytest.approx(slow)


def test_ssim_is_scikit_images() -> None:
    """The value is what scikit-image 0.26 says of the same two pictures."""
    y, x = torch.meshgrid(torch.arange(24), torch.arange(20), indexing="ij")
    a = ((3 * x + 5 * y) % 32).double() / 31
    b = (0.8 * a + 0.1 * ((x // 4) % 2).double()).clamp(0, 1)
    assert ssim(a[None, None], b[None, None]).item() == pytest.approx(0.9559196296434144, abs=1e-12)


@given(p=st.floats(0, 1), q=st.floats(0, 1))
def test_ssim_of_even_pictures_compares_their_brightness(p: float, q: float) -> None:
    a, b = torch.full((1, 3, 11, 11), p), torch.full((1, 3, 11, 11), q)
    assert ssim(a, b).item() == pytest.approx((2 * p * q + 1e-4) / (p * p + q * q + 1e-4), abs=1e-5)


def test_ssim_is_symmetric_and_one_for_equals_only() -> None:
    a = torch.rand(1, 3, 20, 16, generator=torch.Generator().manual_seed(0))
    assert ssim(a, a).item() == pytest.approx(1)
    assert ssim(a, 1 - a).item() == pytest.approx(ssim(1 - a, a).item()) and ssim(a, 1 - a).item() < 0
    for shape in ((1, 3, 20, 15), (1, 3, 10, 16)):
        with pytest.raises(FeaturebrushError, match="11×11"):
            ssim(torch.rand(shape), torch.rand(1, 3, 20, 16) if shape[2] > 10 else torch.rand(shape))
