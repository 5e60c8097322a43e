"""Activations of a U-Net's blocks: naming the blocks, recording them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

import torch
from torch import Tensor, nn

from sae.errors import FeaturebrushError, unknown
from sae.model import Site


def _blocks(unet: nn.Module) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {}

    def add(prefix: str, owner: object) -> None:
        # Blocks without cross-attention have no `attentions`; a missing mid block is None.
        for j, module in enumerate(getattr(owner, "attentions", None) or ()):
            if isinstance(module, nn.Module):
                found[f"{prefix}.{j}"] = module

    for i, owner in enumerate(getattr(unet, "down_blocks", None) or ()):
        add(f"down.{i}", owner)
    add("mid", getattr(unet, "mid_block", None))
    for i, owner in enumerate(getattr(unet, "up_blocks", None) or ()):
        add(f"up.{i}", owner)
    return found


def block_names(unet: nn.Module) -> tuple[str, ...]:
    """The names of the transformer blocks of a diffusers U-Net, in the order in which it computes them.

    ``down.i.j`` is ``down_blocks.i.attentions.j``, ``mid.j`` is ``mid_block.attentions.j`` and ``up.i.j`` is
    ``up_blocks.i.attentions.j``.
    """
    return tuple(_blocks(unet))


def block_module(unet: nn.Module, name: str) -> nn.Module:
    """The module (a ``Transformer2DModel``) of the block ``name``, as in ``down.1.0``.

    Raises `FeaturebrushError`, with the nearest names, if the U-Net has no such block.
    """
    blocks = _blocks(unet)
    if name not in blocks:
        raise unknown("block", name, blocks)
    return blocks[name]


def block_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The input ``h [B, C, H, W]`` of a call of a block, given by position or by name."""
    return args[0] if args else kwargs["hidden_states"]


def block_output(output: Any) -> Tensor:
    """The output ``o [B, C, H, W]`` of a block: a tensor, the first of a tuple, or the field ``sample``."""
    if isinstance(output, Tensor):
        return output
    return output[0] if isinstance(output, tuple) else output.sample


@contextmanager
def record(unet: nn.Module, blocks: Iterable[str], site: Site = "update") -> Iterator[dict[str, list[Tensor]]]:
    """While open, collect what the blocks do at every call of ``unet``.

    Yields a dict: block name -> one tensor ``[B, H, W, d]`` (float32, on the U-Net's device, detached) for each call so
    far: the update (output − input) or, with ``site="output"``, the output. On leaving, also by an exception, the
    hooks are gone and the U-Net is as it was; the dict stays. A hook that was there before and alters a block's
    output is seen: its output is recorded.

    Raises `FeaturebrushError` for an unknown block or site, before anything is hooked.
    """
    if site not in get_args(Site):
        raise unknown("site", site, get_args(Site))
    modules = {name: block_module(unet, name) for name in blocks}
    recorded: dict[str, list[Tensor]] = {name: [] for name in modules}

    def hook_for(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            with torch.no_grad():
                value = block_output(output).detach().float()
                if site == "update":
                    value = value - block_input(args, kwargs).detach().float()
                recorded[name].append(value.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format))

        return hook

    handles = []
    try:
        for name, module in modules.items():
            handles.append(module.register_forward_hook(hook_for(name), with_kwargs=True))
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def shuffled(chunks: Iterable[Tensor], batch: int, capacity: int, seed: int = 0) -> Iterator[Tensor]:
    """Training batches ``[batch, d]`` in random order from a stream of activations ``[..., d]``.

    Every vector comes out once; the last batch may be smaller. At most ``capacity`` vectors, and one chunk, wait in
    the buffer; each time it is full, it is mixed and half of it leaves.
    """
    if batch < 1 or capacity < batch:
        raise FeaturebrushError(f"batch {batch} must be at least 1, and capacity {capacity} at least batch")
    generator = torch.Generator().manual_seed(seed)
    waiting: list[Tensor] = []
    count = 0

    def mixed() -> Tensor:
        rows = torch.cat(waiting)
        return rows[torch.randperm(len(rows), generator=generator).to(rows.device)]

    for chunk in chunks:
        rows = chunk.reshape(-1, chunk.shape[-1])
        # A chunk may be larger than the buffer: take it in portions.
        for portion in rows.split(capacity):
            waiting.append(portion)
            count += len(portion)
            if count < capacity:
                continue
            pool = mixed()
            leave = max(batch, count - capacity // 2) // batch * batch
            yield from pool[:leave].split(batch)
            waiting = [pool[leave:].clone()]
            count -= leave
    if count:
        yield from mixed().split(batch)
