"""Labels from a vision-language model behind any OpenAI-compatible endpoint, local or not.

Nothing is sent before `VlmLabeller.label` or `VlmLabeller.detects` is called, and then only to the endpoint given.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from PIL import Image

from sae.errors import FeaturebrushError
from sae.labellers.detection import Evidence, Picture, image_of

URL, KEY, MODEL = "FEATUREBRUSH_VLM_URL", "FEATUREBRUSH_VLM_KEY", "FEATUREBRUSH_VLM_MODEL"
SIDE = 256
"""Longest side of a picture that is sent."""
SHOWN = 6
"""Pictures of each kind, at most, that a label is made from."""
LONGEST_LABEL = 80
"""Letters."""

ASK_LABEL = (
    "A feature inside an image generator is active in the first {here} pictures, which are cut out around the place "
    "where it is most active, and not in the last {others}. What do the first have in common that the last lack? "
    "Answer with a noun phrase of one to five words and nothing else."
)
ASK_DETECTION = (
    "Here are {count} pictures, numbered from 1 in the order given. About half of them show this: {label}. "
    "Answer with a JSON list of the numbers of those that do, as in [2, 5], and nothing else."
)


class _NoRedirects(HTTPRedirectHandler):
    """A redirect would carry the key to another place: it is an error instead."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, as what, and how long to wait."""

    url: str
    """As in ``http://localhost:8000/v1``; ``/chat/completions`` is added."""
    model: str
    key: str = field(default="", repr=False)
    """Sent as a bearer token if it is not empty."""
    timeout: float = 60.0
    """Seconds for each try."""
    pause: float = 1.0
    """Seconds before the second try."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise FeaturebrushError(f"{self.url!r} is no address: write one as in 'http://localhost:8000/v1'")
        if not self.model:
            raise FeaturebrushError("the endpoint needs the name of a model")
        if not self.timeout > 0 or not self.pause >= 0:
            raise FeaturebrushError(f"timeout {self.timeout} must be above 0, and pause {self.pause} 0 or more")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Endpoint:
        """From the variables `URL`, `MODEL` and, where one is needed, `KEY`; says which are missing."""
        missing = [name for name in (URL, MODEL) if not environment.get(name)]
        if missing:
            raise FeaturebrushError(f"no vision-language model is set up: set {' and '.join(missing)} (and {KEY})")
        return cls(environment[URL], environment[MODEL], environment.get(KEY, ""))

    def ask(self, text: str, images: Sequence[Image.Image]) -> str:
        """The model's answer to a question about pictures.

        Tried once more after a timeout, a broken connection, or an answer of 429 or 5xx; then a `FeaturebrushError`
        says what went wrong.
        """
        content = [{"type": "text", "text": text}, *({"type": "image_url", "image_url": _sent(i)} for i in images)]
        body = {"model": self.model, "messages": [{"role": "user", "content": content}], "temperature": 0}
        data = json.dumps(body).encode()
        try:
            answer = self._post(data)
        except _Again:
            time.sleep(self.pause)
            try:
                answer = self._post(data)
            except _Again as error:
                raise FeaturebrushError(f"{self._place} does not answer, asked twice: {error}") from error
        try:
            said = json.loads(answer)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError) as error:
            raise FeaturebrushError(f"{self._place} gave no chat completion: {_first(answer)}") from error
        if not isinstance(said, str) or not said.strip():
            raise FeaturebrushError(f"{self._place} gave an empty answer: {_first(answer)}")
        return said.strip()

    @property
    def _place(self) -> str:
        """The endpoint's name without what its address may hold of secrets."""
        parts = urlsplit(self.url)
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)

    def _post(self, data: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = Request(self.url.rstrip("/") + "/chat/completions", data, headers, method="POST")
        try:
            with build_opener(_NoRedirects).open(request, timeout=self.timeout) as response:
                return response.read()
        except HTTPError as error:
            with error:
                reason = _first(error.read(2000))
            if error.code == 429 or error.code >= 500:
                raise _Again(f"{error.code} {reason}") from error
            raise FeaturebrushError(f"{self._place} refused with {error.code}: {reason}") from error
        except (URLError, HTTPException, OSError) as error:
            raise _Again(str(getattr(error, "reason", error)) or type(error).__name__) from error


class _Again(Exception):
    """It may work if it is tried again."""


def _first(answer: bytes) -> str:
    return " ".join(answer.decode("utf-8", "replace").split())[:200] or "nothing"


def _sent(image: Image.Image) -> dict[str, str]:
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "PNG")
    return {"url": "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()}


class VlmLabeller:
    """Asks a vision-language model what the pictures of a feature have in common, and which others show it."""

    name = "vlm"

    def __init__(self, endpoint: Endpoint):
        self.endpoint = endpoint

    def label(self, evidence: Evidence) -> str | None:
        """What the model calls what the top crops have in common; None without any."""
        here = [firing.crop() for firing in evidence.top[:SHOWN]]
        others = [image_of(picture) for picture in evidence.rest[:SHOWN]]
        if not here:
            return None
        said = self.endpoint.ask(ASK_LABEL.format(here=len(here), others=len(others)), [*here, *others])
        return said.splitlines()[0].strip(" .\"'`*")[:LONGEST_LABEL].strip().lower() or None

    def detects(self, label: str, pictures: Sequence[Picture]) -> list[bool]:
        """Which pictures the model says show it."""
        images = [image_of(picture) for picture in pictures]
        said = self.endpoint.ask(ASK_DETECTION.format(count=len(images), label=label), images)
        found = re.search(r"\[[\d\s,]*\]", said)
        if found is None:
            raise FeaturebrushError(f"the model was asked for a list of numbers and said {_first(said.encode())!r}")
        numbers = {int(number) for number in re.findall(r"\d+", found[0])}
        return [i + 1 in numbers for i in range(len(images))]
