"""Naming blocks, recording what they do, and mixing it, on a real U-Net in small."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st

from sae import FeaturebrushError, block_module, block_names, record, shuffled


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
    ).eval()


def call(unet: UNet2DConditionModel, seed: int = 0, n: int = 2) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    x, text = torch.randn(n, 4, 8, 8, generator=g), torch.randn(n, 3, 8, generator=g)
    with torch.no_grad():
        return unet(x, 5, text).sample


def hooks(unet: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in unet.modules())


def test_names_resolve_to_the_modules(unet: UNet2DConditionModel) -> None:
    assert block_names(unet) == ("down.1.0", "mid.0", "up.0.0", "up.0.1")
    assert block_module(unet, "down.1.0") is unet.get_submodule("down_blocks.1.attentions.0")
    assert block_module(unet, "mid.0") is unet.get_submodule("mid_block.attentions.0")
    assert block_module(unet, "up.0.1") is unet.get_submodule("up_blocks.0.attentions.1")


@pytest.mark.parametrize("name", ["down.0.0", "down.1.1", "mid", "down_blocks.1.attentions.0", "", "up.9.9"])
def test_unknown_names_get_known_ones(unet: UNet2DConditionModel, name: str) -> None:
    with pytest.raises(FeaturebrushError, match=r"down\.1\.0|mid\.0|up\.0\.1"):
        block_module(unet, name)


def test_the_update_is_output_minus_input(unet: UNet2DConditionModel) -> None:
    seen = {}

    def keep(_module: object, args: tuple, output: tuple) -> None:
        seen["h"], seen["o"] = args[0], output[0]

    handle = block_module(unet, "up.0.1").register_forward_hook(keep)
    try:
        with record(unet, ["up.0.1"]) as updates, record(unet, ["up.0.1"], "output") as outputs:
            call(unet)
    finally:
        handle.remove()
    assert updates["up.0.1"][0].shape == (2, 4, 4, 16)
    assert torch.equal(updates["up.0.1"][0], (seen["o"] - seen["h"]).permute(0, 2, 3, 1))
    assert torch.equal(outputs["up.0.1"][0], seen["o"].permute(0, 2, 3, 1))


def test_recording_changes_nothing_and_leaves_nothing(unet: UNet2DConditionModel) -> None:
    before = call(unet)
    with record(unet, block_names(unet)) as updates:
        assert torch.equal(call(unet), before)
        call(unet, seed=1)
    assert hooks(unet) == 0 and torch.equal(call(unet), before)
    assert [len(calls) for calls in updates.values()] == [2, 2, 2, 2]


def test_an_exception_leaves_nothing_either(unet: UNet2DConditionModel) -> None:
    with pytest.raises(RuntimeError, match="stop"), record(unet, ["mid.0"]):
        raise RuntimeError("stop")
    with pytest.raises(RuntimeError), record(unet, ["mid.0"]), torch.no_grad():
        unet(torch.zeros(1, 3, 8, 8), 5, torch.zeros(1, 3, 8))
    for blocks, site in ((["mid.0", "mid.7"], "update"), (["mid.0"], "input")):
        with pytest.raises(FeaturebrushError), record(unet, blocks, site):  # type: ignore[arg-type]
            pass
    assert hooks(unet) == 0


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), max_size=8),
    batch=st.integers(1, 9),
    extra=st.integers(0, 20),
    seed=st.integers(0, 9),
)
def test_shuffling_loses_and_invents_nothing(sizes: list[int], batch: int, extra: int, seed: int) -> None:
    numbers = iter(range(10_000))
    chunks = [torch.tensor([[float(next(numbers))] for _ in range(n)]).reshape(n, 1) for n in sizes]
    got = list(shuffled(chunks, batch, batch + extra, seed))
    assert sorted(torch.cat([*got, torch.zeros(0, 1)]).flatten().tolist()) == list(map(float, range(sum(sizes))))
    assert all(len(rows) == batch for rows in got[:-1])
    again = list(shuffled(chunks, batch, batch + extra, seed))
    assert all(torch.equal(a, b) for a, b in zip(got, again, strict=True))


def test_shuffling_mixes_and_keeps_shape() -> None:
    rows = torch.cat(list(shuffled([torch.arange(400.0).reshape(2, 10, 10, 2)], 32, 100)))
    assert rows.shape == (200, 2) and torch.equal(rows[:, 0] + 1, rows[:, 1])
    assert (rows[1:, 0] < rows[:-1, 0]).float().mean() > 0.3
