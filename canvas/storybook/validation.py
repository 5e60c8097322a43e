"""How well the generator denoises scenes that it was not trained on, and how much of it distillation kept."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny

from canvas.storybook import data, distil, generator, text
from canvas.storybook.captions import caption
from canvas.storybook.world import draw_scene

SEEDS = 34_000_000
"""First seed of the scenes."""


@torch.no_grad()
def validate(run: Path, scenes: int = 256, batch: int = 32, device: str = "cpu") -> dict[str, float]:
    """Weighted squared errors of the averaged weights in ``run`` on held-out scenes, without strokes.

    ``all`` places, ``things``: the cells of small things, and the ``rest``. Scenes, noise levels and noise are the same
    in every call, so that two models can be compared.
    """
    unet, encoder, tokenizer, figures = generator.averaged(run)
    unet, encoder = unet.to(device), encoder.to(device)
    vae = AutoencoderTiny.from_pretrained(run / "vae").to(device).eval()
    cfg = generator.config_of(figures["config"])
    with ProcessPoolExecutor() as pool:
        drawn = list(pool.map(data.draw, range(SEEDS, SEEDS + scenes), chunksize=16))
    captions = [one.captions[0] for one in drawn]
    ids = tokenizer(captions, padding="max_length", truncation=True, max_length=text.LENGTH, return_tensors="pt")
    signal = generator.build_scheduler().alphas_cumprod
    source = torch.Generator().manual_seed(0)
    errors, smalls = [], []
    for start in range(0, scenes, batch):
        part = slice(start, start + batch)
        latents = torch.from_numpy(data.encode(vae, np.stack([one.image for one in drawn[part]]), device)).float()
        n = len(latents)
        t = ((torch.arange(n) + torch.rand(n, generator=source)) / n * len(signal)).long()
        a = signal[t].view(-1, 1, 1, 1)
        noisy = a.sqrt() * latents + (1 - a).sqrt() * torch.randn(latents.shape, generator=source)
        words = encoder(ids["input_ids"][part].to(device)).last_hidden_state
        found = unet(noisy.to(device), t.to(device), encoder_hidden_states=words, return_dict=False)[0].cpu()
        weight = (a / (1 - a)).clamp(cfg.snr_floor, cfg.snr_ceiling)
        errors.append((weight * (found - latents).square()).mean(1, keepdim=True))
        cells = torch.from_numpy(np.stack([one.coverage for one in drawn[part]])) >= data.COVERED * 255
        small = generator.small_things(cells).float()
        smalls.append(F.interpolate(small, size=latents.shape[-2:]) > 0)
    error, small = torch.cat(errors), torch.cat(smalls)
    parts = {"all": error, "things": error[small], "rest": error[~small]}
    return {name: round(values.mean().item(), 5) for name, values in parts.items()}


@torch.no_grad()
def fidelity(student: Any, teacher: Any, pictures: int = 48) -> dict[str, float]:
    """How close pictures come to those that the undistilled pipeline makes of the same captions and noise: PSNR in dB.

    The reference takes as many steps as the student's teacher did, with its guidance. ``student``: the student's own
    steps, without guidance; ``teacher``: the teacher with as few steps, and ``teacher_unguided``, without guidance.
    """
    captions = [caption(draw_scene(SEEDS + i), Random(i)) for i in range(pictures)]
    cfg = distil.DistilConfig()

    def drawn(pipe: Any, steps: int, guidance: float) -> np.ndarray:
        found = []
        for start in range(0, pictures, 8):
            said = captions[start : start + 8]
            noise = [torch.Generator("cpu").manual_seed(SEEDS + start + i) for i in range(len(said))]
            found.append(
                pipe(
                    said, num_inference_steps=steps, guidance_scale=guidance, generator=noise, output_type="np",
                    height=256, width=256,
                ).images
            )  # fmt: skip
        return np.concatenate(found)

    wanted = drawn(teacher, distil.STEPS * cfg.substeps, cfg.guidance)
    tried = {
        "student": drawn(student, distil.STEPS, 1.0),
        "teacher": drawn(teacher, distil.STEPS, cfg.guidance),
        "teacher_unguided": drawn(teacher, distil.STEPS, 1.0),
    }
    return {name: round(float(-10 * np.log10(np.square(got - wanted).mean())), 2) for name, got in tried.items()}
