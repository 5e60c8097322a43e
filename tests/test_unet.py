"""The walk through a U-Net is the U-Net: to the last bit, paused anywhere, edited anywhere, and it leaves no trace."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from canvas.unet import Remembered, Walk
from sae.activations import block_module, block_names
from sae.errors import FeaturebrushError

SHAPE = {"in_channels": 4, "out_channels": 4, "norm_num_groups": 8, "sample_size": 16}
CROSS_DOWN, DOWN, CROSS_UP, UP = "CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"

SD1 = {
    "block_out_channels": (16, 32, 32),
    "down_block_types": (CROSS_DOWN, CROSS_DOWN, DOWN),
    "up_block_types": (UP, CROSS_UP, CROSS_UP),
    "layers_per_block": 2,
    "cross_attention_dim": 16,
    "attention_head_dim": 8,
}
SD2 = SD1 | {"attention_head_dim": (1, 2, 2), "use_linear_projection": True}
SDXL = {
    "block_out_channels": (16, 32, 32),
    "down_block_types": (DOWN, CROSS_DOWN, CROSS_DOWN),
    "up_block_types": (CROSS_UP, CROSS_UP, UP),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 3),
    "cross_attention_dim": 16,
    "attention_head_dim": (1, 2, 4),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 16,
}
NO_MIDDLE = SD1 | {"mid_block_type": None, "time_embedding_act_fn": "silu", "center_input_sample": True}
LCM = SD1 | {"time_cond_proj_dim": 12}
KINDS = {"sd1": SD1, "sd2": SD2, "sdxl": SDXL, "no middle": NO_MIDDLE, "lcm": LCM}


@pytest.fixture(scope="module", params=KINDS)
def unet(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return UNet2DConditionModel(**SHAPE, **KINDS[request.param]).eval()


def told(unet: Any, batch: int, size: tuple[int, int]) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(2)
    call: dict[str, Any] = {
        "sample": torch.randn(batch, 4, *size, generator=generator),
        "timestep": torch.tensor(321),
        "encoder_hidden_states": torch.randn(batch, 7, 16, generator=generator),
        "timestep_cond": None,
        "added_cond_kwargs": None,
    }
    if unet.config.addition_embed_type:
        call["added_cond_kwargs"] = {
            "text_embeds": torch.randn(batch, 16, generator=generator),
            "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]]).repeat(batch, 1),
        }
    if unet.config.time_cond_proj_dim:
        call["timestep_cond"] = torch.randn(batch, 12, generator=generator)
    return call


def begun(walk: Walk, call: dict[str, Any]):
    conditions = walk.conditions(
        call["sample"],
        call["timestep"],
        call["encoder_hidden_states"],
        call["added_cond_kwargs"],
        call["timestep_cond"],
    )
    return walk.start(call["sample"]), conditions


def edit(h: torch.Tensor, o: torch.Tensor) -> torch.Tensor:
    return o + 0.5 * (o - h) + 0.1


@torch.no_grad()
def hooked(unet: Any, call: dict[str, Any], blocks: tuple[str, ...]) -> torch.Tensor:
    """The same edit by hooks on the model's own call."""
    with ExitStack() as stack:
        for block in blocks:
            handle = block_module(unet, block).register_forward_hook(
                lambda _m, args, _k, output: (edit(args[0], output[0]),), with_kwargs=True
            )
            stack.callback(handle.remove)
        return unet(**call, return_dict=False)[0]


@pytest.mark.parametrize("size", [(16, 16), (8, 24), (10, 14)])
@pytest.mark.parametrize("batch", [1, 2])
@torch.no_grad()
def test_a_walk_is_the_models_own_call(unet, batch, size) -> None:
    call = told(unet, batch, size)
    walk = Walk(unet)
    found = walk.finish(*begun(walk, call), {})
    assert torch.equal(found, unet(**call, return_dict=False)[0])


@torch.no_grad()
def test_a_walk_paused_at_any_block_ends_the_same(unet) -> None:
    call = told(unet, 2, (16, 16))
    walk = Walk(unet)
    whole = unet(**call, return_dict=False)[0]
    start, conditions = begun(walk, call)
    for block in block_names(unet):
        place = walk.until(block, start, conditions)
        for _ in range(2):
            assert torch.equal(walk.finish(place, conditions, {}), whole), block
    place = start
    for block in block_names(unet):
        place = walk.until(block, place, conditions)
    assert torch.equal(walk.finish(place, conditions, {}), whole), "from pause to pause"


@torch.no_grad()
def test_an_edit_is_what_a_hook_would_do(unet) -> None:
    call = told(unet, 2, (16, 16))
    walk = Walk(unet)
    start, conditions = begun(walk, call)
    names = block_names(unet)
    for block in names:
        expected = hooked(unet, call, (block,))
        place = walk.until(block, start, conditions)
        assert torch.equal(walk.finish(place, conditions, {block: edit}), expected), block
        assert torch.equal(walk.finish(start, conditions, {block: edit}), expected), block
    place = walk.until(names[0], start, conditions)
    assert torch.equal(walk.finish(place, conditions, dict.fromkeys(names, edit)), hooked(unet, call, names))


@torch.no_grad()
def test_nothing_before_a_pause_is_computed_again(unet) -> None:
    call = told(unet, 1, (16, 16))
    walk = Walk(unet)
    start, conditions = begun(walk, call)
    block = block_names(unet)[1]
    place = walk.until(block, start, conditions)
    calls: list[str] = []
    with ExitStack() as stack:
        for name, module in unet.named_modules():
            if name.startswith(("conv_in", "down_blocks.0.resnets", "time_embedding")) and not list(module.children()):
                stack.callback(module.register_forward_hook(lambda *_, n=name: calls.append(n)).remove)
        walk.finish(place, conditions, {block: edit})
        assert calls == []
        walk.until(block, start, conditions)
        assert calls


@torch.no_grad()
def test_keys_and_values_of_a_text_are_computed_once_and_the_model_knows_nothing_of_it(unet) -> None:
    call = told(unet, 1, (16, 16))
    before = {name: type(module) for name, module in unet.named_modules()}
    walk = Walk(unet)
    assert {name: type(module) for name, module in unet.named_modules()} == before
    start, conditions = begun(walk, call)
    projections = [part for span in walk._spans for part in span.modules() if isinstance(part, Remembered)]
    assert len(projections) == 2 * sum(isinstance(part, BasicTransformerBlock) for part in unet.modules())
    weights = {tensor.data_ptr() for tensor in unet.parameters()}
    assert all(tensor.data_ptr() in weights for span in walk._spans for tensor in span.parameters()), "shared"
    counted: list[nn.Module] = []
    with ExitStack() as stack:
        for part in projections:
            stack.callback(part.projection.register_forward_hook(lambda m, *_: counted.append(m)).remove)
        first = walk.finish(start, conditions, {})
        assert len(counted) == len(projections)
        assert torch.equal(walk.finish(start, conditions, {}), first) and len(counted) == len(projections)
        other = call | {"encoder_hidden_states": call["encoder_hidden_states"] + 1}
        start, changed = begun(walk, other)
        assert torch.equal(walk.finish(start, changed, {}), unet(**other, return_dict=False)[0])
        assert torch.equal(walk.finish(start, conditions, {}), first), "and the first is still known"
        assert len(counted) == 2 * len(projections)


def test_the_least_recent_text_is_forgotten() -> None:
    projection = nn.Linear(3, 2)
    remembered, texts = Remembered(projection, most=2), [torch.randn(1, 4, 3) for _ in range(3)]
    with torch.no_grad():
        found = [remembered(text) for text in (*texts, texts[1], texts[0])]
    assert found[3] is found[1] and found[4] is not found[0] and torch.equal(found[4], found[0])


def test_order_is_that_of_computing(unet) -> None:
    walk = Walk(unet)
    places = [walk.order(name) for name in block_names(unet)]
    assert places == sorted(set(places))


def test_an_unknown_block_is_refused_with_those_there_are(unet) -> None:
    walk = Walk(unet)
    start, conditions = begun(walk, told(unet, 1, (16, 16)))
    for refused in (
        lambda: walk.until("down.1.9", start, conditions),
        lambda: walk.finish(start, conditions, {"up.9.0": edit}),
    ):
        with pytest.raises(FeaturebrushError, match="unknown block '(down.1.9|up.9.0)': did you mean"):
            refused()


def test_other_kinds_of_unets_are_refused() -> None:
    other = SD1 | {
        "down_block_types": ("AttnDownBlock2D", CROSS_DOWN, DOWN),
        "up_block_types": (UP, CROSS_UP, "AttnUpBlock2D"),
    }
    with pytest.raises(FeaturebrushError, match="AttnDownBlock2D; painting is known for CrossAttnDownBlock2D"):
        Walk(UNet2DConditionModel(**SHAPE, **other))
    unet = UNet2DConditionModel(**SHAPE, **SD1)
    unet.enable_freeu(0.9, 0.2, 1.2, 1.4)
    with pytest.raises(FeaturebrushError, match="disable_freeu"):
        Walk(unet)
    unet.disable_freeu()
    Walk(unet)
