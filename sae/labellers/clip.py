"""Labels from a CLIP model: of given texts, the one that a feature's pictures resemble more than other pictures do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from sae.errors import FeaturebrushError, unknown
from sae.labellers.detection import Evidence, Picture, image_of

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the pixels that CLIP was trained on, by channel."""


class ClipLabeller:
    """Chooses among ``candidates`` by the similarity of pictures and texts (Radford et al., arXiv 2103.00020).

    Parameters: ``model`` is a transformers ``CLIPModel`` and ``tokenizer`` its tokenizer, both loaded by the caller;
    nothing is fetched. ``template`` makes a text of a candidate.
    """

    name = "clip"

    def __init__(
        self,
        model: Any,
        tokenizer: Callable[..., Any],
        candidates: Sequence[str],
        template: str = "a picture of {}",
        batch: int = 32,
    ):
        self.candidates = tuple(dict.fromkeys(candidates))
        if len(self.candidates) < 2:
            raise FeaturebrushError(f"give two or more candidates to choose from, not {len(self.candidates)}")
        self._model, self._batch = model.eval(), batch
        texts = tokenizer(
            [template.format(name) for name in self.candidates], padding=True, truncation=True, return_tensors="pt"
        )
        with torch.no_grad():
            found = model.get_text_features(
                input_ids=texts["input_ids"].to(model.device), attention_mask=texts["attention_mask"].to(model.device)
            )
        self._texts = F.normalize(_pooled(found), dim=1)

    def label(self, evidence: Evidence) -> str | None:
        """The candidate to which the crops where the feature fires are closest, less how close other pictures are."""
        if not evidence.top:
            return None
        here = self._contrast(firing.crop() for firing in evidence.top).mean(0)
        if evidence.rest:
            here = here - self._contrast(image_of(picture) for picture in evidence.rest).mean(0)
        return self.candidates[int(here.argmax())]

    def detects(self, label: str, pictures: Sequence[Picture]) -> list[bool]:
        """The half of the pictures that are closest to the label, compared with how close they are to all of them."""
        if label not in self.candidates:
            raise unknown("label", label, self.candidates)
        closeness = self._contrast(image_of(picture) for picture in pictures)[:, self.candidates.index(label)]
        upper = set(closeness.argsort(descending=True, stable=True)[: len(pictures) // 2].tolist())
        return [i in upper for i in range(len(pictures))]

    @torch.no_grad()
    def _contrast(self, images: Iterable[Image.Image]) -> Tensor:
        """Cosine of each image with each candidate, less its mean over the candidates: ``[n, C]`` on the CPU."""
        side = self._model.config.vision_config.image_size
        pixels = torch.stack([_pixels(image, side) for image in images])
        parts = pixels.split(self._batch)
        found = [_pooled(self._model.get_image_features(pixel_values=part.to(self._model.device))) for part in parts]
        cosines = F.normalize(torch.cat(found), dim=1) @ self._texts.T
        return (cosines - cosines.mean(1, keepdim=True)).float().cpu()


def _pooled(output: Any) -> Tensor:
    """Projected features ``[n, d]``: transformers 5 wraps them."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _pixels(image: Image.Image, side: int) -> Tensor:
    """The whole picture at CLIP's size, not cropped to its middle: ``[3, side, side]``."""
    small = np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    pixels = torch.from_numpy(small).permute(2, 0, 1)
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]
