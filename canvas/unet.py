"""A U-Net taken step by step: the forward pass of ``UNet2DConditionModel`` as a list of stages.

Each stage is a call of one of the model's own modules, in the model's own order (diffusers 0.42,
``unet_2d_condition.py`` and ``unet_2d_blocks.py``), so that a pass gives the model's result to the last bit, can be
paused behind any block, and gone on with from there as often as one likes. Nothing is hooked and nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sae.activations import block_module, block_names
from sae.errors import FeaturebrushError, unknown

BLOCKS = ("CrossAttnDownBlock2D", "DownBlock2D", "UNetMidBlock2DCrossAttn", "CrossAttnUpBlock2D", "UpBlock2D")
"""The kinds of blocks of the U-Nets of SD 1.x and 2.x, SDXL and their like."""

Edit = Callable[[Tensor, Tensor], Tensor]
"""What a block's output becomes, from its input and its output ``[B, d, H, W]``."""


@dataclass(frozen=True)
class Conditions:
    """What every stage of a pass is told."""

    time: Tensor
    """the embedding of the time, and of whatever else is added to it: [B, e]"""
    text: Tensor | None
    """[B, tokens, d]"""


@dataclass(frozen=True)
class Place:
    """Where a pass stands: ``number`` stages are done, but for what is made of the last one's output."""

    number: int
    entered: Tensor
    """what went into the last stage"""
    sample: Tensor
    """what came out of it, unedited"""
    skips: tuple[Tensor, ...]
    """what waits for the way up, without the last stage's output"""


@dataclass(frozen=True)
class _Stage:
    call: Callable[[Tensor, Conditions, tuple[Tensor, ...]], Tensor]
    """from what went before, the conditions and the skips that wait"""
    block: str = ""
    """the name of the block that it is"""
    pushes: bool = False
    """its output also waits for the way up"""
    pops: bool = False
    """it takes the last of what waits"""


class Walk:
    """The stages of one U-Net.

    Raises `FeaturebrushError` for a U-Net of other kinds of blocks than `BLOCKS`, or with FreeU switched on.
    """

    def __init__(self, unet: Any):
        parts = [*unet.down_blocks, *([] if unet.mid_block is None else [unet.mid_block]), *unet.up_blocks]
        for part in parts:
            if type(part).__name__ not in BLOCKS:
                raise FeaturebrushError(
                    f"the U-Net has a {type(part).__name__}; painting is known for {', '.join(BLOCKS)}"
                )
            if getattr(part, "b1", None):
                raise FeaturebrushError("FreeU is switched on; call the pipeline's disable_freeu() before painting")
        self.unet = unet
        self._stages = list(_stages(unet))
        self._behind = {stage.block: i + 1 for i, stage in enumerate(self._stages) if stage.block}

    def conditions(
        self, sample: Tensor, t: Tensor | int, text: Tensor, added: Mapping[str, Tensor] | None = None,
        timestep_cond: Tensor | None = None,
    ) -> Conditions:  # fmt: skip
        """The conditions of a pass over ``sample`` at time ``t``; ``added`` is the ``added_cond_kwargs`` of SDXL."""
        unet = self.unet
        told: Any = dict(added) if added is not None else None
        time = unet.time_embedding(unet.get_time_embed(sample=sample, timestep=t), timestep_cond)
        more = unet.get_aug_embed(emb=time, encoder_hidden_states=text, added_cond_kwargs=told)
        time = time + more if more is not None else time
        if unet.time_embed_act is not None:
            time = unet.time_embed_act(time)
        return Conditions(time, unet.process_encoder_hidden_states(encoder_hidden_states=text, added_cond_kwargs=told))

    def start(self, sample: Tensor) -> Place:
        """Before the first stage."""
        if self.unet.config.center_input_sample:
            sample = 2 * sample - 1.0
        return Place(0, sample, sample, ())

    def until(self, block: str, place: Place, conditions: Conditions) -> Place:
        """Go on to behind ``block``, whose output is not yet edited; raises for a block that is not there."""
        if block not in self._behind:
            raise unknown("block", block, self._behind)
        return self._go(place, conditions, self._behind[block], {})

    def finish(self, place: Place, conditions: Conditions, edits: Mapping[str, Edit]) -> Tensor:
        """The U-Net's result from ``place`` on, with the outputs of blocks edited (also of the one just behind)."""
        for block in edits:
            if block not in self._behind:
                raise unknown("block", block, self._behind)
        return self._go(place, conditions, len(self._stages), edits).sample

    def order(self, block: str) -> int:
        """Blocks with a lower number come earlier."""
        return self._behind[block]

    def _go(self, place: Place, conditions: Conditions, stop: int, edits: Mapping[str, Edit]) -> Place:
        entered, sample, skips = place.entered, place.sample, place.skips
        for number in range(place.number, stop):
            if number:
                last = self._stages[number - 1]
                if last.block in edits:
                    sample = edits[last.block](entered, sample)
                if last.pushes:
                    skips = (*skips, sample)
            stage = self._stages[number]
            entered, sample = sample, stage.call(sample, conditions, skips)
            if stage.pops:
                skips = skips[:-1]
        return Place(stop, entered, sample, skips)


def _stages(unet: Any) -> Iterator[_Stage]:
    names = {block_module(unet, name): name for name in block_names(unet)}

    def resnet(module: nn.Module, pushes: bool = False) -> _Stage:
        return _Stage(lambda x, c, _: module(x, c.time), pushes=pushes)

    def joined(module: nn.Module) -> _Stage:
        return _Stage(lambda x, c, skips: module(torch.cat([x, skips[-1]], dim=1), c.time), pops=True)

    def attention(module: nn.Module, pushes: bool = False) -> _Stage:
        return _Stage(
            lambda x, c, _: module(x, encoder_hidden_states=c.text, return_dict=False)[0],
            names[module],
            pushes,
        )

    def plain(module: nn.Module, pushes: bool = False) -> _Stage:
        return _Stage(lambda x, _c, _s: module(x), pushes=pushes)

    yield plain(unet.conv_in, pushes=True)
    for part in unet.down_blocks:
        attentions = list(getattr(part, "attentions", []))
        for i, module in enumerate(part.resnets):
            yield resnet(module, pushes=not attentions)
            if attentions:
                yield attention(attentions[i], pushes=True)
        samplers = list(part.downsamplers or [])
        for i, module in enumerate(samplers):
            yield plain(module, pushes=i == len(samplers) - 1)
    if unet.mid_block is not None:
        yield resnet(unet.mid_block.resnets[0])
        for module, following in zip(unet.mid_block.attentions, unet.mid_block.resnets[1:], strict=True):
            yield attention(module)
            yield resnet(following)
    for part in unet.up_blocks:
        attentions = list(getattr(part, "attentions", []))
        for i, module in enumerate(part.resnets):
            yield joined(module)
            if attentions:
                yield attention(attentions[i])
        for module in part.upsamplers or []:
            yield _Stage(_upsampling(module, 2**unet.num_upsamplers))
    if unet.conv_norm_out:
        yield plain(unet.conv_norm_out)
        yield plain(unet.conv_act)
    yield plain(unet.conv_out)


def _upsampling(module: nn.Module, factor: int) -> Callable[[Tensor, Conditions, tuple[Tensor, ...]], Tensor]:
    """To twice the size; or to the size of what waits, where the picture's is not a multiple of ``factor``."""

    def call(x: Tensor, _conditions: Conditions, skips: tuple[Tensor, ...]) -> Tensor:
        uneven = any(side % factor for side in skips[0].shape[-2:])
        return module(x, skips[-1].shape[2:] if uneven else None)

    return call
