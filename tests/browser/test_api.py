"""The named endpoint for programs, through the real client."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from canvas.masks import Mask
from canvas.painting import Painting


def test_a_program_renders_a_painting(fake: Any) -> None:
    gradio_client = pytest.importorskip("gradio_client")
    client = gradio_client.Client(fake.url, verbose=False)
    plain = client.predict(Painting(seed=3).to_json(), api_name="/render")
    painted = client.predict(Painting(seed=3).paint("castle", Mask.disc(0.5, 0.5, 0.2)).to_json(), api_name="/render")
    with Image.open(plain) as before, Image.open(painted) as after:
        assert before.size == after.size == (256, 256)
        assert before.getpixel((8, 8)) == after.getpixel((8, 8))
        assert before.getpixel((128, 128)) != after.getpixel((128, 128))


def test_a_program_is_told_what_is_wrong(fake: Any) -> None:
    gradio_client = pytest.importorskip("gradio_client")
    client = gradio_client.Client(fake.url, verbose=False)
    wrong = Painting().paint("castel", Mask.disc(0.5, 0.5, 0.2))
    with pytest.raises(gradio_client.exceptions.AppError, match="castle"):
        client.predict(wrong.to_json(), api_name="/render")
    with pytest.raises(gradio_client.exceptions.AppError):
        client.predict("not a painting", api_name="/render")
