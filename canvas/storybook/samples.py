"""What the model makes of fixed prompts: never selected, the seed is the prompt's place in the list."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from canvas.storybook import export
from canvas.storybook.sheet import contact_sheet

PROMPTS = (
    "", "a castle", "a red sailboat on the sea at sunset", "two sheep in a meadow, watercolour", "a lighthouse at night under the stars", "a cactus in the desert", "a rainbow over a lake", "snowy mountains, paper-cut",
    "night", "a windmill by a river", "hot-air balloon", "a full moon over the sea, ink", "palm trees on the beach by day", "a waterfall", "a house with lit windows in the snow", "a blue car on the road",
    "sunset", "three pines below snowy mountains", "a campfire in the desert at night, glowing", "red flowers in a meadow, watercolour", "a bridge over a river", "an orange fish leaping in a lake", "a cow in a field", "street lamps at dusk, paper-cut",
)  # fmt: skip


def draw(pipe, prompts: tuple[str, ...], steps: int, guidance: float) -> list[Image.Image]:  # noqa: ANN001 - a diffusers pipeline
    pictures = []
    for start in range(0, len(prompts), 8):
        part = list(prompts[start : start + 8])
        noise = [torch.Generator("cpu").manual_seed(start + i) for i in range(len(part))]
        pictures += pipe(
            part, num_inference_steps=steps, guidance_scale=guidance, generator=noise, height=256, width=256
        ).images
    return pictures


def sample_sheet(
    run: Path, steps: int | None = None, guidance: float | None = None, distilled: bool = True
) -> Image.Image:
    pipe, _ = export.pipeline(run, distilled)
    pictures = draw(pipe, PROMPTS, steps or export.STEPS, guidance if guidance is not None else export.GUIDANCE)
    return contact_sheet(pictures, [f"{p or '(no words)'}" for p in PROMPTS], 8)
