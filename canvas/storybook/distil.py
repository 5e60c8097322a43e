"""Few steps without guidance: a copy of the generator learns to do in one step what the generator does in two.

Progressive distillation (Salimans and Ho, arXiv 2202.00512) of a guided sampler (Meng et al., arXiv 2210.03142), at the
shipped number of steps only. Teacher and student are painted on with the same strokes, so what guidance does for a
stroke is learnt as well: with a caption the teacher is guided everywhere, and in any case within reach of the strokes,
the more so the stronger they are. A stroke that is longer than any that the teacher was trained under is to do what the
longest of these does.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from canvas.storybook import generator, training
from canvas.storybook.muon import Muon
from canvas.storybook.strokes import StrokeConfig
from sae.activations import block_module, block_output

STEPS = 4
"""of the student's sampler, and of the shipped one"""


@dataclass(frozen=True)
class DistilConfig:
    batch: int = 8
    learning_rate: float = 8e-4
    guidance: float = 2.5
    """towards the caption"""
    emphasis: float = 4.5
    """guidance towards strokes of strength ``whole`` and more, within their reach; in proportion for weaker ones"""
    whole: float = 1.5
    longest: float = StrokeConfig.strongest
    """strength of the longest stroke that the teacher knows; it is shown none longer, whatever the student is shown"""
    substeps: int = 2
    """steps of the teacher for one of the student's"""
    things: float = 3.0
    """weight of the loss on the cells of small things and of what was pasted, against 1 elsewhere"""
    decay: float = 0.995
    strokes: StrokeConfig = field(default_factory=lambda: StrokeConfig(share=0.5, weakest=0.25, strongest=4.0))
    """how the student is painted on; the generator's own is for its training"""


class Levels(NamedTuple):
    """The student's steps, and the teacher's between."""

    times: Tensor
    """the first step of the teacher within each of the student's, then the others: int64 [steps, substeps]"""
    signal: Tensor
    """ᾱ at each of them, and after the last: float32 [steps, substeps + 1]"""


def levels(steps: int, substeps: int) -> Levels:
    scheduler = generator.build_scheduler()
    scheduler.set_timesteps(steps * substeps)
    times = scheduler.timesteps
    signal = torch.cat([scheduler.alphas_cumprod[times], scheduler.final_alpha_cumprod[None]])
    fine = times.view(steps, substeps)
    ends = signal[substeps::substeps][:, None]
    return Levels(fine, torch.cat([signal[:-1].view(steps, substeps), ends], 1))


def step(sample: Tensor, clean: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """DDIM (arXiv 2010.02502) without noise: from ᾱ ``here`` to ``there`` [n, 1, 1, 1], the clean latent predicted."""
    noise = (sample - here.sqrt() * clean) / (1 - here).sqrt()
    return there.sqrt() * clean + (1 - there).sqrt() * noise


def clean_between(before: Tensor, after: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """The clean latent that takes ``step`` from ``before`` to ``after`` (2202.00512, appendix G)."""
    ratio = ((1 - there) / (1 - here)).sqrt()
    return (after - ratio * before) / (there.sqrt() - ratio * here.sqrt())


@contextmanager
def painted(unet: UNet2DConditionModel, strokes: Tensor) -> Iterator[None]:
    """``strokes`` [n, d, 16, 16] are added to the composition block's output."""

    def paint(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> tuple[Tensor]:
        return (block_output(output) + strokes,)

    handle = block_module(unet, generator.COMPOSITION).register_forward_hook(paint)
    try:
        yield
    finally:
        handle.remove()


def near(strokes: Tensor, size: int) -> Tensor:
    """How strongly, at most 1, strokes [n, C, 16, 16] may be felt: [n, 1, size, size], as far as
    `canvas.steering.reach` says."""
    covered = F.interpolate(strokes.amax(1, keepdim=True).clamp(max=1), size=(size, size))
    cell = max(1, size // 16)
    grown = F.max_pool2d(covered, 2 * cell + 1, 1, cell)
    return F.avg_pool2d(grown, 2 * cell + 1, 1, cell, count_include_pad=False)


class Distillation(nn.Module):
    """The loss of a student on batches of scenes; the teacher is a run's generator."""

    def __init__(self, teacher: nn.ModuleDict, student: UNet2DConditionModel, empty: Tensor, cfg: DistilConfig) -> None:
        super().__init__()
        self.teacher, self.student, self.cfg = teacher, student, cfg
        self.levels = levels(STEPS, cfg.substeps)
        self.register_buffer("empty", empty)

    def forward(self, batch: generator.Batch) -> Tensor:
        """Mean squared error of the clean latents, weighted by noise level and by what they show."""
        n, device = len(batch.latents), batch.latents.device
        which = torch.randperm(n, device=device) % STEPS
        times = self.levels.times.to(device)[which]
        signal = self.levels.signal.to(device)[which][..., None, None, None]
        noise = torch.randn_like(batch.latents)
        noisy = signal[:, 0].sqrt() * batch.latents + (1 - signal[:, 0]).sqrt() * noise
        with torch.no_grad():
            words = self.teacher["encoder"](batch.ids).last_hidden_state
            laid = torch.cat([batch.strokes, batch.strokes.clamp(max=self.cfg.longest)])
            strokes, known = self.teacher["palette"].paint(laid).chunk(2)
            target = self._guided(noisy, times, signal, words, known, batch)
        with painted(self.student, strokes):
            found = self.student(noisy, times[:, 0], encoder_hidden_states=words, return_dict=False)[0]
        weight = (signal[:, 0] / (1 - signal[:, 0])).clamp(1, 6)
        weight = weight * generator.emphasis(batch, self.cfg.things, noisy.shape[-1])
        return (weight * (found.float() - target).square()).mean()

    def _guided(
        self, noisy: Tensor, times: Tensor, signal: Tensor, words: Tensor, strokes: Tensor, batch: generator.Batch
    ) -> Tensor:
        """The clean latents that take one step where the teacher comes to in several."""
        nothing = self.teacher["encoder"](self.empty[None]).last_hidden_state.expand_as(words)
        said = (batch.ids != self.empty).any(1)[:, None, None, None]
        felt = near(batch.strokes / self.cfg.whole, noisy.shape[-1])
        scale = torch.maximum(self.cfg.emphasis * felt, self.cfg.guidance * said.float())
        told, laid = torch.cat([nothing, words]), torch.cat([torch.zeros_like(strokes), strokes])
        sample = noisy
        with painted(self.teacher["unet"], laid):
            for i in range(times.shape[1]):
                both = self.teacher["unet"](
                    torch.cat([sample] * 2), torch.cat([times[:, i]] * 2), encoder_hidden_states=told, return_dict=False
                )[0].float()
                plain, full = both.chunk(2)
                sample = step(sample, plain + scale * (full - plain), signal[:, i], signal[:, i + 1])
        return clean_between(noisy, sample, signal[:, 0], signal[:, -1])


def train(folder: Path, minutes: float, cfg: DistilConfig | None = None, device: str | None = None) -> None:
    """Distil the generator in ``folder`` for a budget, from the checkpoint ``distilled.pt`` if there is one."""
    cfg = cfg or DistilConfig()
    device = device or training.best_device()
    torch.manual_seed(0)
    teacher, tokenizer, shape = generator.trained(folder)
    teacher = teacher.to(device).eval().requires_grad_(False)
    student = copy.deepcopy(teacher["unet"]).train().requires_grad_(True)
    dtype = training.best_dtype(device)
    stream = generator.Stream(folder, tokenizer, replace(shape, strokes=cfg.strokes), cfg.batch)
    distillation = Distillation(teacher, student, torch.from_numpy(stream.empty), cfg).to(device)
    inner, rest = generator.sorted_parameters(student)
    steppers = [
        Muon(inner, cfg.learning_rate, dtype=dtype),
        torch.optim.Adam(rest, cfg.learning_rate, betas=(0.9, 0.98)),
    ]

    def losses(number: int) -> dict[str, Tensor]:
        return {"loss": distillation(generator.Batch(*(x.to(device) for x in stream.batch(number))))}

    training.fit(
        student, [(stepper, cfg.learning_rate) for stepper in steppers], losses, minutes,
        checkpoint=folder / "distilled.pt", device=device, batch=cfg.batch, dtype=dtype, decay=cfg.decay,
        config=asdict(cfg), log=folder / "distilled.jsonl",
    )  # fmt: skip


def averaged(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The student's averaged weights and how far it had come, or None if nothing was distilled."""
    state = training.load(folder / "distilled.pt", "cpu")
    if state is None:
        return None
    figures = {"steps": state["step"], "samples": state["samples"], "minutes": round(state["elapsed"] / 60, 1)}
    return state["average"]["weights"], figures | {"config": state["config"]}
