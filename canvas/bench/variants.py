"""Other ways to make our own stroke, to find out what makes one work: methods as in `canvas.bench.methods`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from canvas.bench.cases import Case
from canvas.bench.methods import Bench, Method
from canvas.masks import Mask
from canvas.painting import Brush, Painting
from canvas.steering import BlockEdits, Edit
from sae import SAE

E = TypeVar("E", bound=BlockEdits)


class NormKept(BlockEdits):
    """Edits that turn the activation of a place and leave its length, as some steering methods do."""

    def delta(self, h: Tensor, o: Tensor, step: int, n_steps: int) -> Tensor:
        edited = o + super().delta(h, o, step, n_steps)
        return edited * (o.norm(dim=1, keepdim=True) / edited.norm(dim=1, keepdim=True).clamp_min(1e-6)) - o


class Recorded(BlockEdits):
    """Edits that note how much longer they make the activations under their masks."""

    def __init__(self, sae: SAE, edits: Sequence[Edit], vectors: Sequence[Tensor]):
        super().__init__(sae, edits, vectors)
        self.ratios: list[float] = []

    def delta(self, h: Tensor, o: Tensor, step: int, n_steps: int) -> Tensor:
        delta = super().delta(h, o, step, n_steps)
        covered = np.max([edit.mask.coverage(*o.shape[-2:]) for edit in self.edits], axis=0)
        under = torch.from_numpy(covered > 0.5).to(o.device)
        if under.any():
            after, before = (x.norm(dim=1)[:, under] for x in (o + delta, o))
            self.ratios.append((after / before.clamp_min(1e-6)).mean().item())
        return delta


def norm_ratio(bench: Bench, case: Case) -> float:
    """Length of the edited activation over that of the unedited one, mean over the region and the steps; 1 where
    nothing is edited."""
    plan = bench.painter.plan(bench.painted(case))
    recorded = {block: _of_class(Recorded, edits) for block, edits in plan.edits.items()}
    bench.painter.engine.render(replace(plan, edits=recorded))
    ratios = [ratio for edits in recorded.values() for ratio in edits.ratios]
    return float(np.mean(ratios)) if ratios else 1.0


def _of_class(kind: type[E], edits: BlockEdits) -> E:
    return kind(edits.sae, edits.edits, edits.vectors)


def _layer(**changes: object) -> Method:
    def method(bench: Bench, case: Case) -> Image.Image:
        return bench.painter.render(_changed(bench.painted(case), **changes))

    return method


def _changed(painting: Painting, **changes: object) -> Painting:
    return replace(painting, layers=tuple(replace(layer, **changes) for layer in painting.layers))


def feathered(bench: Bench, case: Case) -> Image.Image:
    """With an edge that fades over two cells."""
    soft = gaussian_filter(case.mask.coverage(64, 64), 64 / 16)
    return bench.painter.render(_changed(bench.painted(case), mask=Mask.from_array(np.clip(soft, 0, 1))))


def norm_kept(bench: Bench, case: Case) -> Image.Image:
    """The activations turned, not lengthened."""
    plan = bench.painter.plan(bench.painted(case))
    return bench.painter.engine.render(
        replace(plan, edits={block: _of_class(NormKept, edits) for block, edits in plan.edits.items()})
    )


def and_later_blocks(bench: Bench, case: Case) -> Image.Image:
    """With the feature that is labelled as the concept painted at every later block that has one, at its mean."""
    painter, painting = bench.painter, bench.painted(case)
    for block in painter.blocks:
        found = [f for f in painter.features(block) if f.label == case.concept]
        if block != painter.concept(case.concept).block and found:
            best = max(found, key=lambda f: f.score)
            painting = painting.paint(Brush.feature(block, best.index), case.mask, case.strength)
    return painter.render(painting)


def unkept(bench: Bench, case: Case) -> Image.Image:
    """What lies beyond reach is free to change."""
    return bench.painter.render(replace(bench.painted(case), keep=False))


def _steps(first: float, last: float) -> Method:
    return _layer(steps=(first, last))


VARIANTS: dict[str, Method] = {
    "first half of the steps": _steps(0.0, 0.5),
    "second half of the steps": _steps(0.5, 1.0),
    "all but the last quarter": _steps(0.0, 0.75),
    "mode replace": _layer(mode="replace"),
    "edge feathered": feathered,
    "length kept": norm_kept,
    "later blocks too": and_later_blocks,
    "outside not kept": unkept,
}
