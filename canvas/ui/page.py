"""The Gradio page: one canvas of our own in a ``gr.HTML``, and an API endpoint for programs.

The page's look and behaviour are in ``page.html``, ``css/*.css``, ``js/*.js`` and ``text.json`` beside this file.
What a person paints travels as a painting's JSON through server functions, which answer in a third of a queued event's
time; the model stands behind a ``Studio``, which renders only the newest painting of each session.
"""

from __future__ import annotations

import base64
import html
import io
import json
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import gradio as gr
from PIL import Image

from canvas import files
from canvas.gallery import Example
from canvas.painting import Painting
from canvas.registry import Defaults
from canvas.ui import atlas
from canvas.ui.session import Studio
from sae.errors import FeaturebrushError

log = logging.getLogger("featurebrush.ui")

HERE = Path(__file__).parent
SCRIPTS = (
    *(
        "values",
        "store",
        "net",
        "overlay",
        "raster",
        "frame",
        "view",
        "stage",
        "masks",
        "shelf",
        "palette",
        "hand",
        "atlas",
        "mapview",
        "map",
    ),
    *("inspect", "layers", "settings", "aside", "snapshots", "compare", "variations", "files", "keys", "main"),
)
"""The files of ``js/`` in the order in which they are joined to one function body."""
STYLES = ("page", "atlas", "layers", "snapshots", "files", "tools")
"""The files of ``css/`` in their order."""
ICON = 96
ICONS_A_ROW = 8
HURRY = 80
"""Milliseconds that a draft may take: as many steps as fit, going by how long the last whole picture took."""
MOST_STEPS = 50
"""As many steps as the page offers, where the model allows more."""
SESSIONS = 1024
"""Of how many people's last pictures it is known what they are."""
TEXT: dict[str, str] = json.loads((HERE / "text.json").read_text(encoding="utf-8"))


class PainterLike(atlas.AtlasLike, Protocol):
    """What the page needs of a ``canvas.painter.Painter``."""

    @property
    def model(self) -> str: ...

    @property
    def groups(self) -> tuple[str, ...]: ...

    @property
    def concepts(self) -> tuple[Any, ...]: ...

    @property
    def examples(self) -> tuple[Example, ...]: ...

    @property
    def defaults(self) -> Defaults: ...

    @property
    def most_steps(self) -> int: ...

    def grid(self, block: str) -> tuple[int, int]: ...

    def render(self, painting: Painting) -> Image.Image: ...

    def draft(self, painting: Painting, settled: Painting, share: float = ...) -> Image.Image: ...

    def check(self, painting: Painting) -> None: ...

    def icon(self, concept_name: str) -> Image.Image: ...

    def inspect(self, painting: Painting, x: float, y: float) -> Any: ...


@dataclass(frozen=True)
class Opening:
    """What the page shows before anything is painted."""

    painting: Painting
    """The first picture."""
    strength: float = 1.0
    """The brush's strength at the start."""
    size: float = 0.16
    """The brush's diameter at the start, as a fraction of the picture's width."""


def build(painter: PainterLike, opening: Opening) -> gr.Blocks:
    """The page for ``painter``; show it with ``launch``."""
    desk = _Desk(painter, opening)
    with gr.Blocks(title=TEXT["title"], fill_width=True, fill_height=True, analytics_enabled=False) as page:
        gr.HTML(
            html_template=template(),
            js_on_load=script(),
            head=f"<style>{style()}</style>",
            server_functions=desk.functions(),
            apply_default_css=False,
            elem_id="featurebrush",
        )
        source = gr.Textbox(visible=False, label="painting")
        result = gr.Image(visible=False, label="picture", type="pil", format="png")
        gr.Button(visible=False).click(desk.render, source, result, api_name="render")
    return page


def opening(painter: PainterLike) -> Opening:
    """The first picture of ``painter``'s model: its own suggestion if it has one, else its plain picture."""
    return Opening(Painting(model=painter.model, prompt=TEXT["opening_prompt"], seed=9))


def launch(page: gr.Blocks, **options: Any) -> Any:
    """Serve ``page``; ``options`` go to ``gr.Blocks.launch``."""
    fonts = ("ui-sans-serif", "system-ui", "sans-serif")
    theme = gr.themes.Base(font=fonts, font_mono=("ui-monospace", "monospace")).set(
        body_background_fill="#f1f1ee", body_background_fill_dark="#131315"
    )
    return page.launch(
        theme=theme, footer_links=[], favicon_path=HERE / "favicon.svg", ssr_mode=False, show_error=True, **options
    )


class _Wanted(NamedTuple):
    """A picture to make: of a painting, or a draft of it from what its session saw last."""

    painting: Painting
    settled: Painting | None = None
    share: float = 1.0
    """Of the sampling's steps."""


class _Desk:
    """The functions that the browser calls. Each takes and returns JSON; errors come back as words."""

    def __init__(self, painter: PainterLike, opening: Opening) -> None:
        self._painter = painter
        self._opening = opening
        self._studio = Studio(self._made)
        self._settled: OrderedDict[str, Painting] = OrderedDict()
        self._settling = threading.Lock()
        self._whole = 0.0  # milliseconds that the last picture took that was no draft
        # looks go by a thread of their own: a picture in the making must not be thrown out by who moves the mouse
        self._looks = Studio(lambda look: atlas.seen(painter.inspect(*look)), remember=256)
        self._palette = {**palette(painter), **limits(painter)}

    def functions(self) -> list[Callable[[dict[str, Any]], dict[str, Any] | Awaitable[dict[str, Any]]]]:
        """What the browser calls, as plain functions: Gradio marks them with an attribute, not for methods."""

        def start(request: dict[str, Any]) -> dict[str, Any]:
            return self.start(request)

        def frame(request: dict[str, Any]) -> dict[str, Any]:
            return self.frame(request)

        async def queue(request: dict[str, Any]) -> dict[str, Any]:
            return self.queue(request)  # async, as Gradio's threads may all be taken by those who wait

        def png(request: dict[str, Any]) -> dict[str, Any]:
            return self.png(request)

        def features(request: dict[str, Any]) -> dict[str, Any]:
            return self.features(request)

        def inspect(request: dict[str, Any]) -> dict[str, Any]:
            return self.inspect(request)

        def read(request: dict[str, Any]) -> dict[str, Any]:
            return self.read(request)

        def share(request: dict[str, Any]) -> dict[str, Any]:
            return self.share(request)

        def gallery(request: dict[str, Any]) -> dict[str, Any]:
            return self.gallery(request)

        return [start, frame, queue, png, features, inspect, read, share, gallery]

    def start(self, request: dict[str, Any]) -> dict[str, Any]:
        """``{session, painting?}``: the palette, and the first frame of the saved painting or of the opening one."""
        answer = {**self._palette, "strength": self._opening.strength, "size": self._opening.size}
        saved = request.get("painting") if isinstance(request, dict) else None
        if saved:
            frame = self.frame(request)
            if "image" in frame:
                return {**answer, **frame, "painting": saved, "restored": True}
            answer["lost"] = frame.get("error", "")
        opening = self._opening.painting.to_json()
        return {**answer, **self.frame({**request, "painting": opening}), "painting": opening, "restored": False}

    def frame(self, request: dict[str, Any]) -> dict[str, Any]:
        """``{session, number, painting, draft?}``: its picture, or ``dropped`` where a newer painting took its place.

        With ``draft`` it may be a quick one, between this session's last picture and what is to come.
        """

        def answer() -> dict[str, Any]:
            session, painting = str(request["session"]), self._painting(request["painting"])
            number = request.get("number", 0)
            settled = self._settled.get(session) if request.get("draft") else None
            share = 1.0 if settled is None else round(min(1.0, HURRY / max(HURRY, self._whole)), 1)
            frame = self._studio.frame(session, _Wanted(painting, settled, share))
            if frame is None:
                return {"number": number, "dropped": True}
            if settled is None:
                self._settle(session, painting)
                self._whole = frame.ms or self._whole
            return {"number": number, "image": data_url(frame.image), "ms": round(frame.ms)}

        return _in_words(answer, {"number": request.get("number", 0) if isinstance(request, dict) else 0})

    def queue(self, request: dict[str, Any]) -> dict[str, Any]:
        """``{session}``: how many others' pictures are made before its own."""
        return _in_words(lambda: {"ahead": self._studio.ahead(str(request["session"]))}, {})

    def png(self, request: dict[str, Any]) -> dict[str, Any]:
        """``{painting}``: its picture without loss, with the painting itself in the PNG's ``featurebrush`` text."""

        def answer() -> dict[str, Any]:
            painting = self._painting(request["painting"])
            image = self._studio.always(_Wanted(painting)).image
            return {"image": _url("image/png", files.to_png(painting, image))}

        return _in_words(answer, {})

    def read(self, request: dict[str, Any]) -> dict[str, Any]:
        """``{file}``: a JSON or PNG file in base64, or ``{link}``: the painting that it carries, as JSON."""

        def answer() -> dict[str, Any]:
            if "link" in request:
                painting = files.from_link(request["link"])
            else:
                painting = files.from_bytes(base64.b64decode(request["file"]))
            self._painter.check(painting)
            return {"painting": painting.to_json()}

        return _in_words(answer, {})

    def share(self, request: dict[str, Any]) -> dict[str, Any]:
        """``{painting, page}``: a ``link`` to it at that address, or why there is none, and Python ``code``."""

        def answer() -> dict[str, Any]:
            painting = self._painting(request["painting"])
            found = {"code": files.to_code(painting)}
            try:
                return {**found, "link": files.to_link(painting, request["page"])}
            except FeaturebrushError as error:
                return {**found, "no_link": str(error)}

        return _in_words(answer, {})

    def gallery(self, request: dict[str, Any]) -> dict[str, Any]:
        """``{}``: the example paintings, each with its name and a picture."""

        def answer() -> dict[str, Any]:
            examples = [
                {"name": example.name, "painting": example.painting.to_json(), "image": data_url(example.thumbnail)}
                for example in self._painter.examples
            ]
            return {"examples": examples}

        return _in_words(answer, {})

    def features(self, request: dict[str, Any]) -> dict[str, Any]:
        """``{}``: every feature of every block; ``{block}``: the icons of one. See `canvas.ui.atlas`."""

        def answer() -> dict[str, Any]:
            block = request.get("block")
            return atlas.atlas(self._painter) if block is None else atlas.icons(self._painter, block)

        return _in_words(answer, {})

    def inspect(self, request: dict[str, Any]) -> dict[str, Any]:
        """``{session, painting, x, y}``: the strongest features there, or ``dropped`` for a newer place's sake."""

        def answer() -> dict[str, Any]:
            look = (self._painting(request["painting"]), request["x"], request["y"])
            frame = self._looks.frame(str(request["session"]), look)
            return {"dropped": True} if frame is None else frame.image

        return _in_words(answer, {})

    def render(self, painting: str) -> Image.Image:
        """The API's ``/render``: a painting's JSON to its picture."""
        try:
            return self._studio.always(_Wanted(self._painting(painting))).image
        except FeaturebrushError as error:
            raise gr.Error(str(error), print_exception=False) from error

    def _made(self, wanted: _Wanted) -> Image.Image:
        painting, settled, share = wanted
        return self._painter.render(painting) if settled is None else self._painter.draft(painting, settled, share)

    def _settle(self, session: str, painting: Painting) -> None:
        """Remember what ``session`` sees, for drafts to begin from; of the last sessions only."""
        with self._settling:
            self._settled[session] = painting
            self._settled.move_to_end(session)
            while len(self._settled) > SESSIONS:
                self._settled.popitem(last=False)

    def _painting(self, text: str) -> Painting:
        painting = Painting.from_json(text)
        self._painter.check(painting)
        return painting


def _in_words(work: Callable[[], dict[str, Any]], rest: dict[str, Any]) -> dict[str, Any]:
    """The boundary: what ``work`` answers, or ``rest`` with the error in words."""
    try:
        return work()
    except FeaturebrushError as error:
        return {**rest, "error": str(error)}
    except (AttributeError, KeyError, TypeError):
        log.exception("not a request of this page")
        return {**rest, "error": TEXT["error_request"]}
    except Exception:
        log.exception("rendering failed")
        return {**rest, "error": TEXT["error_unexpected"]}


def palette(painter: PainterLike) -> dict[str, Any]:
    """What the browser needs to draw the palette: concepts in order, and their icons as one sprite sheet."""
    concepts, icons = [], []
    order = {group: place for place, group in enumerate(painter.groups)}
    for concept in sorted(painter.concepts, key=lambda concept: order.get(concept.group, len(order))):
        entry = {"name": concept.name, "group": concept.group or TEXT["group_other"], "icon": None}
        entry["synonyms"] = list(concept.synonyms)
        entry |= {"block": concept.block, "score": round(concept.score, 3), "weak": concept.weak}
        try:
            icons.append(painter.icon(concept.name).convert("RGB").resize((ICON, ICON)))
            entry["icon"] = len(icons) - 1
        except (FeaturebrushError, OSError) as error:
            log.warning("no icon for %r: %s", concept.name, error)
        concepts.append(entry)
    return {"concepts": concepts, "icons": data_url(sprites(icons)) if icons else "", "icons_a_row": ICONS_A_ROW}


def limits(painter: PainterLike) -> dict[str, Any]:
    """What the browser needs to know of the model: its defaults, how many steps to offer, and its blocks' grids."""
    steps, guidance = painter.defaults.steps, painter.defaults.guidance
    most = max(steps, min(painter.most_steps, MOST_STEPS))
    return {
        "limits": {"steps": steps, "guidance": guidance, "most_steps": most},
        "grids": {block: list(painter.grid(block)) for block in painter.blocks},
    }


def sprites(icons: Iterable[Image.Image]) -> Image.Image:
    """Icons side by side, ``ICONS_A_ROW`` a row."""
    icons = list(icons)
    rows = -(-len(icons) // ICONS_A_ROW)
    sheet = Image.new("RGB", (ICON * ICONS_A_ROW, ICON * rows))
    for i, icon in enumerate(icons):
        sheet.paste(icon, (i % ICONS_A_ROW * ICON, i // ICONS_A_ROW * ICON))
    return sheet


def data_url(image: Image.Image, kind: str = "JPEG", **options: Any) -> str:
    """``image`` as a ``data:`` URL; JPEG at a quality at which nobody sees it, being the fastest to write and read."""
    file = io.BytesIO()
    if kind == "JPEG":
        options = {"quality": 95, "subsampling": 0, **options}
    image.save(file, kind, **options)
    return _url(f"image/{kind.lower()}", file.getvalue())


def _url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def template() -> str:
    """``page.html`` with its ``[[key]]`` filled in from ``text.json``."""
    source = (HERE / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\[\[(\w+)\]\]", lambda key: html.escape(TEXT[key[1]]), source)


def style() -> str:
    """The page's style sheets, joined."""
    return "\n".join((HERE / "css" / f"{name}.css").read_text(encoding="utf-8") for name in STYLES)


def script() -> str:
    """The page's scripts as one function body; Gradio runs it with ``element`` and ``server`` in scope."""
    parts = [(HERE / "js" / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    return "\n".join(['"use strict";', f"const TEXT = {json.dumps(TEXT)};", *parts])
