"""Contact sheets: pictures in a grid on warm paper, each with a line or two of text below it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

PAPER, TEXT = (250, 246, 238), (74, 68, 82)


def contact_sheet(
    pictures: Sequence[Image.Image], texts: Sequence[str], columns: int, side: int = 256, gap: int = 18, lines: int = 2
) -> Image.Image:
    """Lay pictures out in rows of ``columns``; texts are wrapped to the pictures' width and cut after ``lines``."""
    font = ImageFont.load_default(size=13)
    below = 8 + 17 * lines
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * (side + gap) + gap, rows * (side + below + gap) + gap), PAPER)
    draw = ImageDraw.Draw(page)
    for i, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        x, y = gap + (i % columns) * (side + gap), gap + (i // columns) * (side + below + gap)
        page.paste(picture.resize((side, side), Image.Resampling.LANCZOS) if picture.width != side else picture, (x, y))
        for n, line in enumerate(textwrap.wrap(text, max(8, side * 10 // 66), max_lines=lines, placeholder=" …")):
            draw.text((x, y + side + 6 + 17 * n), line, fill=TEXT, font=font)
    return page
