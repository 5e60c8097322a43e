"""Labellers: each says what it should on evidence whose meaning is known, and all are scored alike."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_sae_metrics import identity_sae
from tiny import BLOCKS, build_sae, build_tokenizer

from canvas.concepts import read_features
from sae import Atlas, FeaturebrushError
from sae.atlas_table import build_atlas
from sae.labellers.clip import ClipLabeller
from sae.labellers.detection import (
    Evidence,
    Firing,
    Labelled,
    Picture,
    Trial,
    best_labels,
    detection_score,
    evidence_of,
    label_with,
    trial_of,
)
from sae.labellers.masks import MaskLabeller
from sae.labellers.prompts import PromptLabeller, log_odds_z, ranked_terms, terms
from sae.labellers.user import USER_FILE, read_user_labels, write_user_label
from sae.labellers.vlm import Endpoint, VlmLabeller
from sae.labels import FeatureLabels

RED, GREEN = (220, 10, 10), (10, 200, 10)
HEAT = np.zeros((4, 4), dtype=np.uint8)


def picture(number: int, color: tuple[int, int, int] | None = None, prompt: str = "", *concepts: str) -> Picture:
    image = None if color is None else Image.new("RGB", (32, 32), color)
    return Picture(number, image, prompt, frozenset(concepts))


def evidence(top: Sequence[Picture], rest: Sequence[Picture], feature: int = 0) -> Evidence:
    return Evidence(feature, tuple(Firing(one, HEAT) for one in top), tuple(rest))


# ---------------------------------------------------------------- evidence, trials, the score


def world(n: int = 40) -> tuple[torch.Tensor, list[Picture]]:
    """Feature 0 fires in red pictures of a castle, feature 1 everywhere, feature 2 nowhere."""
    u = torch.full((n, 4, 4, 3), -1.0)
    pictures = []
    for i in range(n):
        if i % 4 == 0:
            u[i, 1, 2, 0] = 1 + i / n
        u[i, 0, 0, 1] = 1
        prompt = "a castle on a hill" if i % 4 == 0 else "boats on the sea"
        pictures.append(picture(i, RED if i % 4 == 0 else GREEN, prompt, "castle" if i % 4 == 0 else "boat"))
    return u, pictures


def test_evidence_is_the_examples_and_the_silent_pictures() -> None:
    u, pictures = world()
    built = build_atlas(identity_sae(3), [(u, None)], examples=3, keep_peaks=True)
    found = evidence_of(built.table, 0, pictures, built.examples.all_peaks, rest=10)
    assert [firing.picture.number for firing in found.top] == [36, 32, 28]
    assert len(found.rest) == len({p.number for p in found.rest}) == 10
    assert all(p.number % 4 for p in found.rest)
    again = evidence_of(built.table, 0, pictures, built.examples.all_peaks, rest=10)
    assert [p.number for p in again.rest] == [p.number for p in found.rest]
    assert evidence_of(built.table, 2, pictures, built.examples.all_peaks).top == ()
    with pytest.raises(FeaturebrushError, match="do not fit"):
        evidence_of(built.table, 0, pictures[:-1], built.examples.all_peaks)


@given(n=st.integers(1, 30), each=st.integers(1, 6), seed=st.integers(0, 999))
def test_trials_are_half_and_half(n: int, each: int, seed: int) -> None:
    peaks = (torch.rand(n, 2, generator=torch.Generator().manual_seed(seed)) - 0.5).relu()
    pictures = [picture(i) for i in range(n)]
    trial = trial_of(1, pictures, peaks, each)
    firing = int((peaks[:, 1] > 0).sum())
    half = min(each, firing, n - firing)
    if half == 0:
        assert trial is None
        return
    assert trial is not None and len(trial.pictures) == 2 * half == len({p.number for p in trial.pictures})
    assert sum(trial.fires) == half
    for one, fires in zip(trial.pictures, trial.fires, strict=True):
        assert fires == bool(peaks[one.number, 1] > 0)
    strongest = int(peaks[:, 1].argmax())
    assert strongest in {p.number for p, fires in zip(trial.pictures, trial.fires, strict=True) if fires}


class Says:
    """A labeller that answers what it was told to."""

    name = "says"

    def __init__(self, label: str | None, answers: Sequence[bool]):
        self._label, self._answers = label, answers

    def label(self, evidence: Evidence) -> str | None:
        return self._label

    def detects(self, label: str, pictures: Sequence[Picture]) -> Sequence[bool]:
        return self._answers[: len(pictures)]


def test_the_score_is_the_balanced_accuracy() -> None:
    fires = (True, True, True, True, False, False)
    trial = Trial(0, tuple(picture(i) for i in range(6)), fires)
    for answers, score in (
        (fires, 1.0),
        ([not f for f in fires], 0.0),
        ([True] * 6, 0.5),
        ([False] * 6, 0.5),
        ([True, True, True, False, True, False], (3 / 4 + 1 / 2) / 2),
    ):
        assert detection_score(Says("x", answers), "x", trial) == pytest.approx(score)
    with pytest.raises(FeaturebrushError, match="5 pictures of 6"):
        detection_score(Says("x", [True] * 5), "x", trial)


def test_labels_are_scored_on_the_features_own_trial() -> None:
    one, nothing = evidence([picture(0)], []), evidence([], [], feature=1)
    trial = Trial(0, (picture(1), picture(2)), (True, False))
    found = label_with(Says("castle", [True, False]), [one, nothing], [trial, None])
    assert found == (Labelled(0, "castle", 1.0, "says"), Labelled(1, None, None, "says"))
    assert label_with(Says(None, []), [one], [trial])[0].score is None
    assert label_with(Says("castle", []), [one], [None])[0] == Labelled(0, "castle", None, "says")
    with pytest.raises(FeaturebrushError, match="feature 0 was given for feature 1"):
        label_with(Says("x", []), [nothing], [trial])


def test_the_best_label_of_several_labellers_goes_into_the_atlas() -> None:
    labelled = [
        Labelled(0, "castle", 0.9, "masks"),
        Labelled(0, "tower", 0.9, "vlm"),
        Labelled(1, "sea", None, "prompts"),
        Labelled(1, "boat", 0.6, "clip"),
        Labelled(2, None, None, "clip"),
    ]
    best = best_labels(labelled, 4)
    assert best == FeatureLabels(("castle", "boat", None, None), (0.9, 0.6, 0.0, 0.0), ())
    assert Atlas.of(identity_sae(4), best)[1].label == "boat"
    with pytest.raises(FeaturebrushError, match="0 to 0"):
        best_labels(labelled, 1)


def test_crops_are_around_the_peak_and_inside() -> None:
    image = Image.new("RGB", (40, 20), GREEN)
    image.paste(RED, (20, 0, 40, 10))
    heat = np.zeros((4, 4), dtype=np.uint8)
    heat[0, 3] = 255
    crop = Firing(Picture(0, image), heat).crop()
    assert crop.size == (20, 10) and crop.getcolors() == [(200, RED)]
    with pytest.raises(FeaturebrushError, match="no image"):
        Firing(picture(7), heat).crop()


# ---------------------------------------------------------------- the labellers


def test_masks_say_what_is_known() -> None:
    u, pictures = world()
    labeller = MaskLabeller(FeatureLabels(("castle", "boat", None), (0.9, 0.1, 0.0), ()))
    built = build_atlas(identity_sae(3), [(u, None)], keep_peaks=True)
    peaks = built.examples.all_peaks
    evidences = [evidence_of(built.table, f, pictures, peaks) for f in range(3)]
    found = label_with(labeller, evidences, [trial_of(f, pictures, peaks) for f in range(3)])
    assert [(one.label, one.score) for one in found] == [("castle", 1.0), ("boat", None), (None, None)]


def test_terms_are_words_and_runs_of_words() -> None:
    assert terms("A Hot-air balloon, over the sea") == {"hot-air", "balloon", "sea", "hot-air balloon"}
    assert "king's castle" in terms("the king’s castle") and terms("of the") == set() == terms("")


def test_prompts_say_what_sets_them_apart() -> None:
    here = ["a castle at night", "the old castle on a hill at night", "castle", "a castle by the sea", ""]
    elsewhere = ["a boat on the sea", "a house on a hill", "boats", "a tree", "a hill at night", "sheep", "a road"]
    assert ranked_terms(here, elsewhere)[0][0] == "castle"
    balloons = ["a hot-air balloon", "two hot-air balloons", "one red hot-air balloon"]
    assert ranked_terms(balloons, elsewhere)[0][0] == "hot-air"
    always = ["hot-air balloon"] * 3
    assert ranked_terms(always, elsewhere)[0][0] == "hot-air balloon", "of equal terms the longest"
    assert ranked_terms(["a hill", "a hill"], ["a hill"] * 5) == []
    assert ranked_terms([], elsewhere) == []


def test_the_prompt_labeller_labels_and_detects() -> None:
    labeller = PromptLabeller()
    top = [
        picture(i, None, f"a lighthouse {when}") for i, when in enumerate(("at dusk", "by day", "at dusk", "at night"))
    ]
    rest = [picture(i, None, "a meadow at dusk") for i in range(20)]
    assert labeller.label(evidence(top, rest)) == "lighthouse"
    shown = [picture(0, None, "The LIGHTHOUSE."), picture(1, None, "a light house"), picture(2)]
    assert labeller.detects("lighthouse", shown) == [True, False, False]
    assert labeller.label(evidence([picture(0)], rest)) is None


@given(n=st.integers(1, 50), m=st.integers(1, 50), data=st.data())
def test_z_is_finite_and_changes_its_sign_with_the_sides(n: int, m: int, data: st.DataObject) -> None:
    a, b = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    z = log_odds_z(a, n, b, m)
    assert np.isfinite(z)
    assert z == pytest.approx(-log_odds_z(b, m, a, n))


@pytest.fixture(scope="module")
def clip() -> tuple[Any, Any]:
    from transformers import CLIPConfig, CLIPModel

    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(tokenizer), "max_position_embeddings": 16, "eos_token_id": len(tokenizer) - 1}
    text |= {"bos_token_id": len(tokenizer) - 2, "pad_token_id": len(tokenizer) - 1}
    vision = {**sizes, "image_size": 24, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    return model.eval(), tokenizer


def test_clip_follows_the_similarities(clip: tuple[Any, Any]) -> None:
    model, tokenizer = clip
    candidates = ["castle", "sea", "a b c"]
    labeller = ClipLabeller(model, tokenizer, candidates, template="{}", batch=2)
    g = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (6, 24, 24, 3), generator=g, dtype=torch.uint8).numpy()
    pictures = [Picture(i, Image.fromarray(pixels)) for i, pixels in enumerate(noise)]

    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    pixels = (torch.from_numpy(noise).float() / 255 - torch.tensor(mean)) / torch.tensor(deviation)
    texts = tokenizer(candidates, padding=True, return_tensors="pt")
    with torch.no_grad():
        out = model(texts["input_ids"], pixels.permute(0, 3, 1, 2), texts["attention_mask"])
        cosines = out.logits_per_image / model.logit_scale.exp()
    contrast = cosines - cosines.mean(1, keepdim=True)
    order = contrast[:, 1].argsort(descending=True)[:3].tolist()
    assert labeller.detects("sea", pictures) == [i in order for i in range(6)]

    class Whole(Firing):
        def crop(self) -> Image.Image:
            assert self.picture.image is not None
            return self.picture.image

    found = Evidence(0, tuple(Whole(one, HEAT) for one in pictures[:2]), tuple(pictures[2:]))
    expected = (contrast[:2].mean(0) - contrast[2:].mean(0)).argmax()
    assert labeller.label(found) == candidates[int(expected)]
    assert labeller.label(evidence([], pictures)) is None


def test_clip_refuses_what_it_cannot_do(clip: tuple[Any, Any]) -> None:
    with pytest.raises(FeaturebrushError, match="two or more"):
        ClipLabeller(*clip, ["castle", "castle"])
    labeller = ClipLabeller(*clip, ["castle", "sea"])
    with pytest.raises(FeaturebrushError, match="did you mean 'castle'"):
        labeller.detects("castel", [picture(0, RED)])
    with pytest.raises(FeaturebrushError, match="no image"):
        labeller.detects("castle", [picture(0)])


# ---------------------------------------------------------------- the vision-language model


class Server(ThreadingHTTPServer):
    """Answers like a vision-language model that sees which pictures are red; or as ``script`` says, in turn."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.script: list[tuple[int, bytes | float]] = []
        """Status and body; or, with a number as body, seconds of silence."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        self.server.keys.append(self.headers["Authorization"])
        assert self.path == "/v1/chat/completions"
        status, answer = self.server.script.pop(0) if self.server.script else (200, completion(seen(body)))
        if isinstance(answer, float):
            time.sleep(answer)
            return
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_args: Any) -> None:
        pass


def completion(text: str) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


def seen(body: dict[str, Any]) -> str:
    text, *images = body["messages"][0]["content"]
    if text["text"].startswith("A feature"):
        return '"Red square."\nBecause they are red.'
    red = []
    for i, part in enumerate(images):
        head, data = part["image_url"]["url"].split(",")
        assert head == "data:image/png;base64"
        r, g, _ = np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).mean((0, 1))
        red += [i + 1] * bool(r > g)
    return f"They are {red}, I think."


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def endpoint(server: Server, **options: Any) -> Endpoint:
    return Endpoint(server.url, "tiny-vlm", **{"pause": 0.0, "timeout": 5.0, **options})


def test_a_vision_language_model_labels_and_detects(server: Server) -> None:
    u, pictures = world()
    built = build_atlas(identity_sae(3), [(u, None)], examples=8, keep_peaks=True)
    peaks = built.examples.all_peaks
    labeller = VlmLabeller(endpoint(server, key="secret"))
    assert not server.asked, "nothing is sent before it is asked for"
    found = label_with(labeller, [evidence_of(built.table, 0, pictures, peaks)], [trial_of(0, pictures, peaks)])
    assert found == (Labelled(0, "red square", 1.0, "vlm"),)
    assert len(server.asked) == 2 and server.keys == ["Bearer secret"] * 2
    labelling, detecting = (body["messages"][0]["content"] for body in server.asked)
    assert server.asked[0]["model"] == "tiny-vlm" and len(labelling) == 1 + 6 + 6 and len(detecting) == 1 + 10
    assert "first 6 pictures" in labelling[0]["text"] and "red square" in detecting[0]["text"]


def test_pictures_are_sent_small_and_keys_only_where_there_are_some(server: Server) -> None:
    big = Picture(0, Image.new("RGBA", (1024, 512), RED))
    assert VlmLabeller(endpoint(server)).detects("red", [big]) == [True]
    data = server.asked[0]["messages"][0]["content"][1]["image_url"]["url"].split(",")[1]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (256, 128)
    assert server.keys == [None] and "secret" not in repr(endpoint(server, key="secret"))
    assert VlmLabeller(endpoint(server)).label(evidence([], [])) is None


@pytest.mark.parametrize("trouble", [(500, b"busy"), (429, b"slow down"), (200, 1.5)])
def test_trouble_that_passes_is_waited_out_once(server: Server, trouble: tuple[int, bytes | float]) -> None:
    server.script = [trouble, (200, completion("castle"))]
    assert endpoint(server, timeout=0.5).ask("what?", []) == "castle"
    assert len(server.asked) == 2
    server.script = [trouble, trouble]
    with pytest.raises(FeaturebrushError, match="127.0.0.1:.* does not answer, asked twice"):
        endpoint(server, timeout=0.5).ask("what?", [])
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((401, b'{"error": "bad key"}'), "refused with 401.*bad key"),
        ((404, b""), "refused with 404: nothing"),
        ((302, b""), "refused with 302"),
        ((200, b"<html>"), "no chat completion: <html>"),
        ((200, b'{"choices": []}'), "no chat completion"),
        ((200, b'{"choices": [{"message": {"content": null}}]}'), "empty answer"),
    ],
)
def test_answers_that_are_none_are_said_at_once(server: Server, answer: tuple[int, bytes], says: str) -> None:
    server.script = [answer]
    with pytest.raises(FeaturebrushError, match=says) as raised:
        endpoint(server, key="secret").ask("what?", [])
    assert "secret" not in str(raised.value) and len(server.asked) == 1


def test_an_answer_without_numbers_is_an_error(server: Server) -> None:
    server.script = [(200, completion("all of them"))]
    with pytest.raises(FeaturebrushError, match="'all of them'"):
        VlmLabeller(endpoint(server)).detects("red", [picture(0, RED)])
    server.script = [(200, completion("[]"))]
    assert VlmLabeller(endpoint(server)).detects("red", [picture(0, RED)]) == [False]


def test_an_endpoint_is_set_up_by_the_environment() -> None:
    names = {"FEATUREBRUSH_VLM_URL": "https://example.test/v1/", "FEATUREBRUSH_VLM_MODEL": "m"}
    assert Endpoint.from_environment(names) == Endpoint("https://example.test/v1/", "m")
    assert Endpoint.from_environment({**names, "FEATUREBRUSH_VLM_KEY": "k"}).key == "k"
    with pytest.raises(FeaturebrushError, match="FEATUREBRUSH_VLM_MODEL"):
        Endpoint.from_environment({"FEATUREBRUSH_VLM_URL": "http://x"})
    for url in ("localhost:8000", "file:///etc/passwd", ""):
        with pytest.raises(FeaturebrushError, match="http://localhost:8000/v1"):
            Endpoint(url, "m")
    with pytest.raises(FeaturebrushError, match="timeout"):
        Endpoint("http://x", "m", timeout=0)


# ---------------------------------------------------------------- a user's labels


def test_a_users_labels_go_before_the_others_and_stay_apart(tmp_path: Path) -> None:
    s = build_sae(BLOCKS[0], seed=0)
    Atlas.of(s, FeatureLabels(("sea",) * 48, (0.5,) * 48, ())).save(tmp_path)
    before = (tmp_path / "atlas.json").read_bytes()
    assert read_user_labels(tmp_path, 48) == {}
    write_user_label(tmp_path, 48, 7, "  my\n castle ")
    assert write_user_label(tmp_path, 48, 3, "gate") == read_user_labels(tmp_path, 48) == {3: "gate", 7: "my castle"}
    features = read_features(tmp_path, BLOCKS[0], s)
    assert [features[i].label for i in (3, 7, 8)] == ["gate", "my castle", "sea"]
    assert (features[7].score, features[8].score) == (1.0, 0.5)
    atlas = Atlas.load(tmp_path).with_user_labels(read_user_labels(tmp_path, 48))
    assert atlas[7].by_user and not atlas[8].by_user and atlas.labelled("gate")[0].index == 3
    with pytest.raises(FeaturebrushError, match="without them"):
        atlas.save(tmp_path)
    assert (tmp_path / "atlas.json").read_bytes() == before
    assert write_user_label(tmp_path, 48, 7, None) == {3: "gate"}
    assert read_features(tmp_path, BLOCKS[0], s)[7].label == "sea"


def test_wrong_user_labels_are_refused(tmp_path: Path) -> None:
    for feature, label in ((48, "x"), (-1, "x"), (True, "x"), (1, " "), (1, "x" * 201), (1, 5)):
        wrong: Any = label
        with pytest.raises(FeaturebrushError):
            write_user_label(tmp_path, 48, feature, wrong)
    assert not (tmp_path / USER_FILE).exists()
    head = {"format": "featurebrush-user-labels", "version": 1}
    for data in (
        {"version": 2},
        {"labels": []},
        {"labels": {"48": "x"}},
        {"labels": {"-1": "x"}},
        {"labels": {"1": 5}},
    ):
        (tmp_path / USER_FILE).write_text(json.dumps({**head, **data}))
        with pytest.raises(FeaturebrushError, match=USER_FILE if "1" not in data.get("labels", {}) else "label is"):
            read_user_labels(tmp_path, 48)
    with pytest.raises(FeaturebrushError, match="no feature 50"):
        Atlas.of(identity_sae(4)).with_user_labels({50: "x"})
