"""Paintings outside of the program: files, links, and code that paints them again."""

from __future__ import annotations

import base64
import binascii
import io
import zlib
from pathlib import Path
from typing import cast

from PIL import Image, PngImagePlugin
from PIL.PngImagePlugin import PngImageFile, PngInfo

from canvas.painting import Painting
from sae.errors import FeaturebrushError

CHUNK = "featurebrush"
"""The keyword of the PNG's text chunk that holds the painting's JSON."""
LINK = "#painting="
"""What stands in a link before the painting."""
LINK_LIMIT = 16_000
"""Characters of a link's painting: what browsers and most places to paste a link into still take."""
MAX_JSON = 2**23
"""Bytes of a painting's JSON, unpacked: more than 256 layers ever need."""
PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, MAX_JSON)  # Pillow's own is 1 MiB
_PNG = b"\x89PNG\r\n\x1a\n"


def to_png(painting: Painting, image: Image.Image) -> bytes:
    """``image`` as a PNG that ``from_bytes`` reads ``painting`` from."""
    info = PngInfo()
    info.add_text(CHUNK, painting.to_json(), zip=True)
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=info)
    return file.getvalue()


def from_bytes(data: bytes) -> Painting:
    """The painting of a file: JSON, or a PNG that carries one. Raises only ``FeaturebrushError``."""
    if data.startswith(_PNG):
        return Painting.from_json(_png_text(data))
    if len(data) > MAX_JSON:
        raise FeaturebrushError(f"a painting's JSON has at most {MAX_JSON} bytes, not {len(data)}")
    try:
        return Painting.from_json(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise FeaturebrushError("this is no painting: a JSON file or a PNG saved by Featurebrush is expected") from None


def _png_text(data: bytes) -> str:
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            text = cast(PngImageFile, image).text.get(CHUNK)  # behind the pixels too, where other programs put it
    except (OSError, ValueError, SyntaxError, zlib.error, Image.DecompressionBombError) as error:
        raise FeaturebrushError("this PNG cannot be read: it is damaged or too large") from error
    if not isinstance(text, str):
        raise FeaturebrushError("this PNG carries no painting: only one that Featurebrush saved does")
    return text


def load(path: str | Path) -> Painting:
    """The painting in a ``.json`` or ``.png`` file. Raises ``FeaturebrushError`` if there is none."""
    try:
        return from_bytes(Path(path).read_bytes())
    except OSError as error:
        raise FeaturebrushError(f"{path} cannot be read: {error.strerror or error}") from error


def save(painting: Painting, path: str | Path, image: Image.Image | None = None) -> None:
    """Write ``painting`` to a ``.json`` file; or, with its ``image``, to a ``.png`` that opens as a painting again."""
    path = Path(path)
    if path.suffix.lower() == ".png" and image is None:
        raise FeaturebrushError(f"{path.name} needs the picture too: save(painting, path, painter.render(painting))")
    if path.suffix.lower() not in (".png", ".json"):
        raise FeaturebrushError(f"a painting is saved as .json or .png, not as {path.name!r}")
    data = to_png(painting, image) if path.suffix.lower() == ".png" and image else painting.to_json().encode()
    path.write_bytes(data)


def to_link(painting: Painting, page: str = "") -> str:
    """A link that opens ``painting``: ``page`` and a fragment, which browsers do not send to servers.

    Raises ``FeaturebrushError`` if it would be longer than ``LINK_LIMIT``.
    """
    packed = base64.urlsafe_b64encode(zlib.compress(painting.to_json().encode(), 9)).decode("ascii").rstrip("=")
    if len(packed) > LINK_LIMIT:
        raise FeaturebrushError(
            f"this painting is too large for a link ({len(packed)} characters of at most {LINK_LIMIT}): send its file"
        )
    return f"{page.split('#')[0]}{LINK}{packed}"


def from_link(link: str) -> Painting:
    """The painting that a link carries. Raises only ``FeaturebrushError``."""
    _, found, packed = link.partition(LINK)
    if not found:
        raise FeaturebrushError(f"this link carries no painting: {LINK!r} is not in it")
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(packed + "=" * (-len(packed) % 4), b"-_", validate=True), MAX_JSON)
        whole = unpacker.eof
        text = data.decode()
    except (binascii.Error, zlib.error, ValueError) as error:
        raise FeaturebrushError(f"this link's painting cannot be unpacked: {error}") from error
    if not whole:
        raise FeaturebrushError("this link's painting is not whole: the end of the link is missing")
    return Painting.from_json(text)


def to_code(painting: Painting) -> str:
    """Python that paints ``painting`` again."""
    lines = [
        "from canvas import Brush, Mask, Painter, Painting",
        "",
        f"painter = Painter.load({painting.model!r})",
    ]
    names = ("model", "prompt", "seed", "steps", "guidance", "keep", "subtract")
    settings = {name: getattr(painting, name) for name in names}
    usual = Painting()
    said = ", ".join(f"{name}={value!r}" for name, value in settings.items() if value != getattr(usual, name))
    lines.append(f"painting = Painting({said})")
    for layer in painting.layers:
        mask = layer.mask.to_dict()
        brush = layer.brush
        if brush.name is not None:
            what = repr(brush.name)
        elif len(brush.features) == 1 and brush.features[0][1] == 1.0:
            what = f"Brush.feature({brush.block!r}, {brush.features[0][0]})"
        else:
            what = f"Brush.mix({brush.block!r}, {dict(brush.features)!r})"
        fields = {
            name: getattr(layer, name) for name in ("strength", "mode", "steps", "visible", "locked", "name")
        }  # fmt: skip
        plain = {"strength": 1.0, "mode": "add", "steps": (0.0, 1.0), "visible": True, "locked": False, "name": ""}
        more = "".join(f", {name}={value!r}" for name, value in fields.items() if value != plain[name])
        lines.append(f'mask = Mask.from_dict({{"size": {mask["size"]}, "deflate": "{mask["deflate"]}"}})')
        lines.append(f"painting = painting.paint({what}, mask{more})")
    lines += ["", 'painter.render(painting).save("painting.png")', ""]
    return "\n".join(lines)
