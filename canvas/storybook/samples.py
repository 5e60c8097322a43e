"""What the model makes of fixed prompts: never selected, the seed is the prompt's place in the list."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from canvas.contact import contact_sheet
from canvas.storybook import export

PROMPTS = (
    "", "a castle", "a red sailboat on the sea at sunset", "two sheep in a meadow, watercolour", "a lighthouse at night under the stars", "a cactus in the desert", "a rainbow over a lake", "snowy mountains, paper-cut",
    "night", "a windmill by a river", "hot-air balloon", "a full moon over the sea, ink", "palm trees on the beach by day", "a waterfall", "a house with lit windows in the snow", "a blue car on the road",
    "sunset", "three pines below snowy mountains", "a campfire in the desert at night, glowing", "red flowers in a meadow, watercolour", "a bridge over a river", "an orange fish leaping in a lake", "a cow in a field", "street lamps at dusk, paper-cut",
    "a house on a hill by day", "a boat on a lake, watercolour", "the sun over the desert", "rain on a meadow", "snowfall at night", "a castle on a hill at sunset", "fog over rolling hills", "a wheat field, ink",
    "a tree by a lake", "clouds over the sea", "a bird above the beach", "mountains at night, glowing", "a red car on a road by day", "a moon over snowy mountains", "a palm on an island at sunset", "a waterfall in the hills, ink",
    "two balloons in the sky", "a lighthouse on the beach by day", "a campfire in a meadow", "a pine in the snow", "a windmill in a wheat field at sunset", "sheep on a hill", "a river through a meadow", "a house by the sea, paper-cut",
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
