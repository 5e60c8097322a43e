"""Pictures without a stroke: do they show what their captions name, and how far are they from drawn ones."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tqdm import tqdm

from canvas.bench.reader import SIDE, Reader, Reading
from canvas.bench.scores import frechet
from canvas.models import UNDISTILLED
from canvas.painter import Painter
from canvas.painting import Painting
from sae.errors import FeaturebrushError

Render = Callable[[str, int], Image.Image]
"""A picture of a prompt and a seed."""
CAPTIONS, SCENES = "captions.json", "scenes.safetensors"
FOUND = 24 / SIDE**2
"""A picture shows a concept if the reader claims this share of it for the concept: a bird in the distance."""
SEED = 900_000
"""Of the first picture."""


@dataclass(frozen=True)
class HeldOut:
    """Scenes that trained nothing: what is said of them, and the reader's features of their pictures."""

    captions: tuple[tuple[str, tuple[str, ...]], ...]
    """texts, and the concepts that each names"""
    drawn: NDArray[np.float32]
    """[n, d], of the scenes as they are drawn"""
    decoded: NDArray[np.float32]
    """[n, d], of the same as the autoencoder gives them back"""

    @classmethod
    def load(cls, folder: Path) -> HeldOut:
        """From the folder that ``python -m canvas.storybook train reader`` wrote."""
        missing = [name for name in (CAPTIONS, SCENES) if not (folder / name).is_file()]
        if missing:
            raise FeaturebrushError(f"{folder} holds no held-out scenes: missing {', '.join(missing)}")
        try:
            said = json.loads((folder / CAPTIONS).read_text(encoding="utf-8"))
            features = load_file(folder / SCENES)
            captions = tuple((str(one["text"]), tuple(map(str, one["concepts"]))) for one in said)
            return cls(captions, features["drawn"].astype(np.float32), features["decoded"].astype(np.float32))
        except (ValueError, KeyError, TypeError, SafetensorError, OSError) as error:
            raise FeaturebrushError(f"the held-out scenes in {folder} cannot be read: {error}") from error


def shows(reading: Reading, concept: str) -> bool:
    """Whether the reader finds the concept anywhere in the picture."""
    return bool(reading.of(concept).mean() >= FOUND)


def read_all(render: Render, reader: Reader, prompts: Sequence[str], seed: int = SEED) -> list[Reading]:
    """What the reader sees in one picture for each prompt, seeds in order from ``seed``."""
    return [
        reader.read(render(prompt, seed + i)) for i, prompt in enumerate(tqdm(prompts, desc="pictures", mininterval=5))
    ]


def painter_render(painter: Painter) -> Render:
    """Unpainted pictures as the painter makes them, at its own steps."""
    plain = Painting(model=painter.model)
    return lambda prompt, seed: painter.render(replace(plain, prompt=prompt, seed=seed))


def undistilled_render(painter: Painter, steps: int, guidance: float) -> Render:
    """Pictures as the U-Net before distillation makes them, which lies in the model's folder ``undistilled``."""
    folder = None if painter.folder is None else painter.folder / UNDISTILLED
    if folder is None or not folder.is_dir():
        raise FeaturebrushError(f"{painter.model!r} has no U-Net from before distillation to compare with")
    parts: dict[str, Any] = dict(painter.pipeline.components)
    slow: Any = UNet2DConditionModel.from_pretrained(folder)
    parts["unet"] = slow.to(painter.pipeline.device).eval()
    parts["scheduler"] = copy.deepcopy(parts["scheduler"])
    kind: Any = type(painter.pipeline)
    # its components say that there is no safety checker; without this it warns of that
    pipe = kind(**parts, **({"requires_safety_checker": False} if "safety_checker" in parts else {}))
    pipe.set_progress_bar_config(disable=True)
    size = painter.defaults.size

    def render(prompt: str, seed: int) -> Image.Image:
        noise = torch.Generator("cpu").manual_seed(seed)
        shape = {"height": size, "width": size}
        return pipe(prompt, num_inference_steps=steps, guidance_scale=guidance, generator=noise, **shape).images[0]

    return render


def following(readings: Sequence[Reading], captions: Sequence[tuple[str, tuple[str, ...]]]) -> dict[str, Any]:
    """How many of the named concepts are found, in all and by concept, beside the share by chance.

    By chance: the same concepts, looked for in the picture of another caption that does not name them.
    """
    asked, came, luck, tries = Counter[str](), Counter[str](), 0, 0
    for i, (reading, (_, concepts)) in enumerate(zip(readings, captions, strict=True)):
        for concept in concepts:
            asked[concept] += 1
            came[concept] += shows(reading, concept)
            after = (j % len(captions) for j in range(i + 1, i + len(captions)))
            other = next((j for j in after if concept not in captions[j][1]), None)
            if other is not None:
                tries += 1
                luck += shows(readings[other], concept)
    return {
        "named": asked.total(),
        "found": round(came.total() / max(1, asked.total()), 4),
        "by_chance": round(luck / max(1, tries), 4),
        "concepts": {name: [came[name], n] for name, n in asked.most_common()},
    }


def distance(readings: Sequence[Reading], drawn: NDArray[np.float32]) -> float:
    """Fréchet distance of the pictures' features from those of drawn scenes."""
    return round(frechet(np.stack([reading.features for reading in readings]), drawn), 4)


def report(renders: Mapping[str, Render], reader: Reader, held_out: HeldOut, count: int) -> dict[str, Any]:
    """Prompt following and Fréchet distance of ``count`` captions, by every way of making pictures.

    The floor is the distance of as many scenes, coded and decoded, from the others as they are drawn.
    """
    captions = [held_out.captions[i % len(held_out.captions)] for i in range(count)]
    prompts = [text for text, _ in captions]
    drawn = held_out.drawn[len(held_out.drawn) // 2 :]
    floor = held_out.decoded[: min(count, len(held_out.decoded) // 2)]
    facts: dict[str, Any] = {"pictures": count, "floor": round(frechet(floor, drawn), 4)}
    for name, render in renders.items():
        readings = read_all(render, reader, prompts)
        facts[name] = {"frechet": distance(readings, drawn), "following": following(readings, captions)}
    return facts
