"""What a latent shows: the reader that says, while a student is distilled, whether its strokes bring what they should.

As ControlNet++ does (arXiv 2404.07987), the student's own pictures are read, and the reader's gradient goes back into
it. This reader is the generator's way down to the composition block with the head that alignment gave it (arXiv
2410.06940), trained further. It reads latents under a little noise, which leaves gradients little to trick it with. It
has nothing in common with the reader that measures (`canvas.bench.reader`), which sees pixels, and other scenes.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from canvas.storybook import generator, training
from canvas.storybook.muon import Muon
from canvas.storybook.strokes import THINGS
from canvas.unet import Walk
from sae.errors import FeaturebrushError


@dataclass(frozen=True)
class FeedbackConfig:
    batch: int = 24
    learning_rate: float = 1e-3
    noisiest: int = 400
    """of the 1000 times, the last at which it reads"""
    decay: float = 0.99


class LatentReader(nn.Module):
    """Latents [n, 8, 32, 32] to logits of what their cells show, [n, C, 16, 16]."""

    signal: Tensor
    words: Tensor

    def __init__(self, unet: UNet2DConditionModel, head: nn.Module, words: Tensor, noisiest: int) -> None:
        """Copies of both; ``words`` [1, tokens, d] is what the text encoder makes of nothing."""
        super().__init__()
        self.unet, self.head = copy.deepcopy(unet), copy.deepcopy(head)
        self.noisiest = noisiest
        self.register_buffer("words", words, persistent=False)
        self.register_buffer("signal", generator.build_scheduler().alphas_cumprod, persistent=False)

    @classmethod
    def of(cls, modules: nn.ModuleDict, empty: Tensor, cfg: FeedbackConfig) -> LatentReader:
        with torch.no_grad():
            words = modules["encoder"](empty[None]).last_hidden_state
        return cls(modules["unet"], modules["head"], words, cfg.noisiest)

    def forward(self, latents: Tensor) -> Tensor:
        """Read under noise of times drawn evenly up to the noisiest."""
        n, device = len(latents), latents.device
        t = torch.randint(self.noisiest, (n,), device=device)
        a = self.signal[t].view(-1, 1, 1, 1)
        noisy = a.sqrt() * latents + (1 - a).sqrt() * torch.randn_like(latents)
        walk = Walk(self.unet, [generator.COMPOSITION], compile=lambda span: span)
        told = walk.conditions(noisy, t, self.words.expand(n, -1, -1))
        place = walk.until(generator.COMPOSITION, walk.start(noisy), told)
        return self.head(place.sample - place.entered)


def response(strength: Tensor) -> Tensor:
    """The chance with which a stroke's concept should be read, by the stroke's strength: 0 to nearly 1, ever rising."""
    return 1 - torch.exp(-1.2 * strength)


def unanswered(logits: Tensor, strokes: Tensor) -> Tensor:
    """How far what is read under ``strokes`` [n, C, 16, 16] is from what they ask for: cross-entropy in nats, above
    the least that there can be, mean over strokes; 0 where there is none.

    Things are asked for on the half of a stroke's cells that shows them best, whatever else on all of them.
    """
    found = []
    things = THINGS.tolist()
    for i, c in (strokes.amax((2, 3)) > 0).nonzero().tolist():
        under = strokes[i, c] > 0
        read = logits[i, c][under]
        if things[c]:
            read = read.topk((len(read) + 1) // 2).values
        wanted = response(strokes[i, c].max()).expand_as(read)
        least = F.binary_cross_entropy(wanted, wanted)
        found.append(F.binary_cross_entropy_with_logits(read, wanted) - least)
    return torch.stack(found).mean() if found else logits.new_zeros(())


def train(folder: Path, minutes: float, cfg: FeedbackConfig | None = None, device: str | None = None) -> None:
    """Train it on the scenes and collages in ``folder``, from the checkpoint ``feedback.pt`` if there is one."""
    cfg = cfg or FeedbackConfig()
    device = device or training.best_device()
    torch.manual_seed(0)
    modules, tokenizer, shape = generator.trained(folder)
    stream = generator.Stream(folder, tokenizer, shape, cfg.batch)
    reader = LatentReader.of(modules, torch.from_numpy(stream.empty), cfg).to(device).train()
    dtype = training.best_dtype(device)
    used = [reader.unet.conv_in, reader.unet.time_embedding, *reader.unet.down_blocks[:2]]
    inner, rest = generator.sorted_parameters(nn.ModuleList([*used, reader.head]))
    steppers = [
        Muon(inner, cfg.learning_rate, dtype=dtype),
        torch.optim.Adam(rest, cfg.learning_rate, betas=(0.9, 0.98)),
    ]

    def losses(step: int) -> dict[str, Tensor]:
        batch = stream.batch(step)
        read = reader(batch.latents.to(device))
        return {"loss": F.binary_cross_entropy_with_logits(read, batch.cells.to(device).float())}

    training.fit(
        reader, [(stepper, cfg.learning_rate) for stepper in steppers], losses, minutes,
        checkpoint=folder / "feedback.pt", device=device, batch=cfg.batch, dtype=dtype, decay=cfg.decay,
        config=asdict(cfg), log=folder / "feedback.jsonl",
    )  # fmt: skip


def trained(folder: Path, modules: nn.ModuleDict, empty: Tensor) -> LatentReader:
    """The reader with the averaged weights of the checkpoint in ``folder``, for use.

    Raises `FeaturebrushError` if there is none.
    """
    state = training.load(folder / "feedback.pt", "cpu")
    if state is None:
        raise FeaturebrushError(f"{folder} has no feedback.pt: run the stage feedback before the stage distil")
    reader = LatentReader.of(modules, empty, FeedbackConfig(**state["config"]))
    reader.load_state_dict(state["average"]["weights"])
    return reader.eval().requires_grad_(False)
