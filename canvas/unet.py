"""A U-Net taken step by step: the forward pass of ``UNet2DConditionModel`` as a list of stages.

Each stage is a call of one of the model's own modules, in the model's own order (diffusers 0.42,
``unet_2d_condition.py`` and ``unet_2d_blocks.py``), so that a pass gives the model's result to the last bit, can be
paused behind any block, and gone on with from there as often as one likes. Nothing is hooked and nothing is changed.
What cross-attention makes of the text, its keys and values, is the same in every pass with the same text: it is kept.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn

from canvas.compiled import Compile
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
    """Where a pass stands: ``number`` spans are done, but for what is made of the last one's output."""

    number: int
    entered: Tensor
    """what went into the last span's last stage"""
    sample: Tensor
    """what came out of it, unedited"""
    skips: tuple[Tensor, ...]
    """what waits for the way up, without the last stage's output"""


@dataclass(frozen=True)
class _Stage:
    module: nn.Module
    kind: Literal["plain", "resnet", "joined", "attention", "upsampler"]
    """what the module is called with: the sample alone; with the time; joined with the last of what waits, and with the
    time; with the text; with the size to reach"""
    block: str = ""
    """the name of the block that it is"""
    pushes: bool = False
    """its output also waits for the way up"""


class Remembered(nn.Module):
    """A projection of texts [B, tokens, d] that is computed once for each, for the ``most`` recent ones.

    A text is known by its identity: an equal tensor is another one. Not for graphs that outlive a call.
    """

    def __init__(self, projection: nn.Module, most: int = 4):
        super().__init__()
        self.projection, self.most = projection, most
        self._known: OrderedDict[int, tuple[Tensor, Tensor]] = OrderedDict()

    def forward(self, text: Tensor) -> Tensor:
        if id(text) not in self._known:
            self._known[id(text)] = (text, self.projection(text))  # held, so that no other text gets its id
            while len(self._known) > self.most:
                self._known.popitem(last=False)
        self._known.move_to_end(id(text))
        return self._known[id(text)][1]


def remembering(module: nn.Module) -> nn.Module:
    """A twin of ``module`` on the same weights whose cross-attention remembers its keys and values."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    twin = copy.deepcopy(module, shared)
    for part in twin.modules():
        if isinstance(part, BasicTransformerBlock) and part.attn2 is not None and part.attn2.is_cross_attention:
            attention: Any = part.attn2
            attention.to_k, attention.to_v = Remembered(attention.to_k), Remembered(attention.to_v)
    return twin


class Span(nn.Module):
    """Stages that are always taken together: up to a block, or to the end.

    A function of tensors alone, so that it can be compiled: see `canvas.compiled`.
    """

    def __init__(self, stages: Sequence[_Stage]):
        super().__init__()
        self.stages = tuple(stages)
        self.held = nn.ModuleList(stage.module for stage in stages)
        self.block = stages[-1].block
        self.pushes = stages[-1].pushes
        waiting = least = 0
        for stage in stages[:-1]:
            least = min(least, waiting - (stage.kind in ("joined", "upsampler")))
            waiting += stage.pushes - (stage.kind == "joined")
        self.takes = -min(least, waiting - (stages[-1].kind in ("joined", "upsampler")))
        """How many of what waits it is given."""

    def forward(self, sample: Tensor, time: Tensor, text: Tensor | None, *skips: Tensor) -> tuple[Tensor, ...]:
        """What goes into the last stage, what comes out of it, and what waits then, of what was given or came up."""
        waits, entered = list(skips), sample
        for stage in self.stages:
            entered, module = sample, stage.module
            match stage.kind:
                case "plain":
                    sample = module(sample)
                case "resnet":
                    sample = module(sample, time)
                case "joined":
                    sample = module(torch.cat([sample, waits.pop()], dim=1), time)
                case "attention":
                    sample = module(sample, encoder_hidden_states=text, return_dict=False)[0]
                case "upsampler":
                    sample = module(sample, waits[-1].shape[2:])
            if stage.pushes and stage is not self.stages[-1]:
                waits.append(sample)
        return entered, sample, *waits


class Walk:
    """The stages of one U-Net, paused at blocks.

    Parameters: ``blocks`` are those at which it can be paused and edited (None: all); ``compile`` makes of the spans
    between them functions that are faster. Raises `FeaturebrushError` for a U-Net of other kinds of blocks than
    `BLOCKS`, with FreeU switched on, or without one of ``blocks``.
    """

    def __init__(self, unet: Any, blocks: Collection[str] | None = None, compile: Compile | None = None):
        parts = [*unet.down_blocks, *([] if unet.mid_block is None else [unet.mid_block]), *unet.up_blocks]
        for part in parts:
            if type(part).__name__ not in BLOCKS:
                raise FeaturebrushError(
                    f"the U-Net has a {type(part).__name__}; painting is known for {', '.join(BLOCKS)}"
                )
            if getattr(part, "b1", None):
                raise FeaturebrushError("FreeU is switched on; call the pipeline's disable_freeu() before painting")
        self.unet = unet
        names = block_names(unet)
        for block in blocks or ():
            if block not in names:
                raise unknown("block", block, names)
        stages = _stages(unet) if compile else map(_remembering, _stages(unet))
        self._spans = list(_spans(stages, names if blocks is None else blocks))
        self._calls = [compile(span) if compile else span for span in self._spans]
        self._behind = {span.block: i + 1 for i, span in enumerate(self._spans) if span.block}

    @property
    def blocks(self) -> tuple[str, ...]:
        """Where it can be paused, in the order of the pass."""
        return tuple(self._behind)

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
        return self._go(place, conditions, len(self._spans), edits).sample

    def order(self, block: str) -> int:
        """Blocks with a lower number come earlier."""
        return self._behind[block]

    def _go(self, place: Place, conditions: Conditions, stop: int, edits: Mapping[str, Edit]) -> Place:
        entered, sample, skips = place.entered, place.sample, place.skips
        for number in range(place.number, stop):
            if number:
                last = self._spans[number - 1]
                if last.block in edits:
                    sample = edits[last.block](entered, sample)
                if last.pushes:
                    skips = (*skips, sample)
            keep = len(skips) - self._spans[number].takes
            entered, sample, *waits = self._calls[number](sample, conditions.time, conditions.text, *skips[keep:])
            skips = (*skips[:keep], *waits)
        return Place(stop, entered, sample, skips)


def grid_of(unet: Any, block: str, height: int, width: int) -> tuple[int, int]:
    """The rows and columns of the activations at ``block`` (``down.2.1``) for latents of that height and width.

    Each down block but the last halves them, rounding up, and each up block doubles them again.
    """
    way, number = block.split(".")[:2]
    last = len(unet.config.block_out_channels) - 1
    level = {"down": int(number), "mid": last, "up": last - int(number)}[way]
    return -(-height // 2**level), -(-width // 2**level)


def _remembering(stage: _Stage) -> _Stage:
    return replace(stage, module=remembering(stage.module)) if stage.kind == "attention" else stage


def _spans(stages: Iterable[_Stage], blocks: Collection[str]) -> Iterator[Span]:
    together: list[_Stage] = []
    for stage in stages:
        together.append(stage)
        if stage.block in blocks:
            yield Span(together)
            together = []
    yield Span(together)  # never empty: a U-Net ends with a convolution


def _stages(unet: Any) -> Iterator[_Stage]:
    names = {block_module(unet, name): name for name in block_names(unet)}
    yield _Stage(unet.conv_in, "plain", pushes=True)
    for part in unet.down_blocks:
        attentions = list(getattr(part, "attentions", []))
        for i, module in enumerate(part.resnets):
            yield _Stage(module, "resnet", pushes=not attentions)
            if attentions:
                yield _Stage(attentions[i], "attention", names[attentions[i]], pushes=True)
        samplers = list(part.downsamplers or [])
        for i, module in enumerate(samplers):
            yield _Stage(module, "plain", pushes=i == len(samplers) - 1)
    if unet.mid_block is not None:
        yield _Stage(unet.mid_block.resnets[0], "resnet")
        for module, following in zip(unet.mid_block.attentions, unet.mid_block.resnets[1:], strict=True):
            yield _Stage(module, "attention", names[module])
            yield _Stage(following, "resnet")
    for part in unet.up_blocks:
        attentions = list(getattr(part, "attentions", []))
        for i, module in enumerate(part.resnets):
            yield _Stage(module, "joined")
            if attentions:
                yield _Stage(attentions[i], "attention", names[attentions[i]])
        for module in part.upsamplers or []:
            yield _Stage(module, "upsampler")
    if unet.conv_norm_out:
        yield _Stage(unet.conv_norm_out, "plain")
        yield _Stage(unet.conv_act, "plain")
    yield _Stage(unet.conv_out, "plain")
