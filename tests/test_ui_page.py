"""The page's Python side: what goes to the browser, and what the browser's requests come back with."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from canvas.masks import Mask
from canvas.painting import Painting
from canvas.ui import page
from tests.browser.fake import FakePainter

SCRIPTS = sorted((Path(page.__file__).parent / "js").glob("*.js"))


@pytest.fixture
def desk() -> Any:
    painter = FakePainter(seconds=0)
    return page._Desk(painter, page.opening(painter))


def decoded(url: str) -> Image.Image:
    return Image.open(io.BytesIO(b64decode(url.partition(",")[2])))


def request(painting: Painting | str, number: int = 1) -> dict[str, Any]:
    text = painting if isinstance(painting, str) else painting.to_json()
    return {"session": "s", "number": number, "painting": text}


def test_the_template_is_complete_and_safe_for_gradio() -> None:
    template = page.template()
    assert "[[" not in template
    assert not re.search(r"\$\{|\{\{|`|\\|<script", template), "Gradio reads it as a Handlebars and a JS template"


def test_every_text_is_used_and_every_text_used_exists() -> None:
    sources = "".join(path.read_text() for path in SCRIPTS)
    used = set(re.findall(r"TEXT\.(\w+)", sources)) | set(
        re.findall(r"\[\[(\w+)\]\]", (page.HERE / "page.html").read_text())
    )
    used |= set(re.findall(r"""TEXT\[["'](\w+)["']\]""", Path(page.__file__).read_text()))
    used |= set(re.findall(r"""["'](\w+)["']""", sources)) & set(page.TEXT)
    made = ("status_", "keys_", "layer_mode_", "layer_do_")  # names that are put together
    used |= {key for key in page.TEXT if key.startswith(made)}
    assert used == set(page.TEXT)


def test_every_script_is_joined_and_short() -> None:
    assert {path.stem for path in SCRIPTS} == set(page.SCRIPTS)
    for path in SCRIPTS:
        assert len(path.read_text().splitlines()) <= 400, path.name


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_joined_script_is_javascript(tmp_path: Path) -> None:
    file = tmp_path / "page.js"
    file.write_text(f"(function (element, server) {{\n{page.script()}\n}});")
    subprocess.run(["node", "--check", str(file)], check=True)


def test_the_page_names_no_other_machine() -> None:
    source = page.template() + page.script() + page.style()
    assert not re.search(r"https?://|//cdn|@import", source)


def test_start_brings_the_palette_and_a_picture(desk: Any) -> None:
    answer = desk.start({"session": "s", "painting": None})
    assert [concept["name"] for concept in answer["concepts"]][:3] == ["day", "sunset", "night"]
    assert decoded(answer["icons"]).width == page.ICON * page.ICONS_A_ROW
    icons = [concept["icon"] for concept in answer["concepts"]]
    assert icons.count(None) == 1 and len(set(icons)) == len(icons)
    assert decoded(answer["image"]).size == (256, 256)
    assert Painting.from_json(answer["painting"]).layers == () and not answer["restored"]


def test_start_brings_a_kept_painting_back_or_says_why_not(desk: Any) -> None:
    kept = Painting(seed=5).paint("castle", Mask.disc(0.5, 0.5, 0.2))
    answer = desk.start(request(kept))
    assert answer["restored"] and Painting.from_json(answer["painting"]) == kept
    answer = desk.start(request(Painting().paint("zeppelin", Mask.full())))
    assert not answer["restored"] and "zeppelin" in answer["lost"] and "image" in answer


def test_a_frame_is_the_paintings_picture(desk: Any) -> None:
    answer = desk.frame(request(Painting().paint("castle", Mask.full()), number=12))
    assert answer["number"] == 12 and answer["ms"] >= 0
    assert decoded(answer["image"]).size == (256, 256)


def test_a_draft_begins_from_what_its_own_session_saw_last(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Painting] = []

    def draft(painting: Painting, settled: Painting, share: float) -> Image.Image:
        asked.append(settled)
        return Image.new("RGB", (256, 256), "red")

    monkeypatch.setattr(desk._painter, "draft", draft)
    seen, painted = Painting(seed=8), Painting(seed=8).paint("castle", Mask.disc(0.5, 0.5, 0.2))
    desk.frame({**request(painted), "draft": True})
    assert asked == [], "nothing was seen before"
    desk.frame(request(seen))
    hurried = desk.frame({**request(painted.with_layer(0, strength=2.0)), "draft": True})
    assert asked == [seen] and decoded(hurried["image"]).getpixel((9, 9))[0] > 200
    whole = desk.frame(request(painted.with_layer(0, strength=2.0)))
    assert whole["image"] != hurried["image"]
    desk.frame({**request(painted), "draft": True, "session": "another"})
    assert len(asked) == 1


def test_it_says_how_many_others_are_ahead(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk._studio, "ahead", lambda session: {"s": 3}[session])
    assert desk.queue({"session": "s"}) == {"ahead": 3}


@pytest.mark.parametrize(
    ("painting", "words"),
    [
        ("{}", "featurebrush"),
        ("not json", "JSON"),
        (Painting().paint("castel", Mask.full()).to_json(), "castle"),
        (Painting(prompt="fail").to_json(), "cannot be painted"),
        (Painting(prompt="crash").to_json(), page.TEXT["error_unexpected"]),
    ],
)
def test_errors_come_back_in_words(desk: Any, painting: str, words: str) -> None:
    answer = desk.frame(request(painting, number=3))
    assert words in answer["error"] and answer["number"] == 3 and "image" not in answer


@pytest.mark.parametrize("broken", [{}, {"session": "s"}, None, [1, 2], "text"])
def test_a_request_that_is_none_is_refused(desk: Any, broken: Any) -> None:
    for answer in (desk.frame(broken), desk.png(broken)):
        assert answer["error"] == page.TEXT["error_request"]


def test_the_png_is_exact_and_carries_the_painting(desk: Any) -> None:
    painting = Painting(seed=2).paint("moon", Mask.disc(0.5, 0.5, 0.2))
    image = decoded(desk.png(request(painting))["image"])
    assert image.format == "PNG"
    assert image.tobytes() == FakePainter(seconds=0).render(painting).tobytes()
    assert Painting.from_json(image.info["featurebrush"]) == painting


def test_groups_come_in_the_models_order() -> None:
    class Shuffled(FakePainter):
        concepts = tuple(reversed(FakePainter.concepts))

    groups = list(dict.fromkeys(concept["group"] for concept in page.palette(Shuffled())["concepts"]))
    assert groups == list(FakePainter.groups)


def test_the_blocks_have_one_endpoint_for_programs() -> None:
    painter = FakePainter(seconds=0)
    blocks = page.build(painter, page.opening(painter))
    assert list(blocks.get_api_info()["named_endpoints"]) == ["/render"]
