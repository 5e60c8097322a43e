"""The reader in use: which concepts every pixel of a picture shows. It is trained by ``canvas.storybook.reader``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sae.errors import FeaturebrushError, unknown

SIDE = 128
"""Side of the masks that it gives, in pixels, for pictures of 256."""
PATCH = 4
"""Pixels of a side of a patch of the picture that is one position of the network."""
WEIGHTS, FACTS = "reader.safetensors", "reader.json"


class ReaderNet(nn.Module):
    """Pictures [n, 3, 256, 256] in −1..1 to logits [n, concepts, 128, 128]."""

    def __init__(self, concepts: int, widths: Sequence[int]) -> None:
        super().__init__()
        depth = len(widths)
        self.net = UNet2DModel(
            sample_size=2 * SIDE // PATCH,
            in_channels=3 * PATCH**2,
            out_channels=concepts * (PATCH // 2) ** 2,
            block_out_channels=tuple(widths),
            layers_per_block=1,
            down_block_types=("DownBlock2D",) * (depth - 1) + ("AttnDownBlock2D",),
            up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * (depth - 1),
            norm_num_groups=16,
        )

    def forward(self, pictures: Tensor) -> Tensor:
        patches = F.pixel_unshuffle(pictures, PATCH)
        return F.pixel_shuffle(self.net(patches, 0, return_dict=False)[0], PATCH // 2)


@dataclass(frozen=True)
class Reading:
    """What one picture shows."""

    concepts: tuple[str, ...]
    chances: NDArray[np.float32]
    """[C, 128, 128], 0..1"""
    claimed: NDArray[np.bool_]
    """[C, 128, 128]: where the chance is above the concept's threshold"""
    features: NDArray[np.float32]
    """[d]: the network's middle, averaged over positions"""

    def of(self, concept: str) -> NDArray[np.bool_]:
        """Where the concept is: [128, 128]."""
        return self.claimed[self._index(concept)]

    def chance(self, concept: str) -> NDArray[np.float32]:
        return self.chances[self._index(concept)]

    def _index(self, concept: str) -> int:
        if concept not in self.concepts:
            raise unknown("concept", concept, self.concepts)
        return self.concepts.index(concept)


class Reader:
    """Reads pictures of 256×256."""

    def __init__(self, net: ReaderNet, concepts: Sequence[str], thresholds: Sequence[float]) -> None:
        self.net = net.eval()
        self.concepts = tuple(concepts)
        self.thresholds = np.asarray(thresholds, np.float32)[:, None, None]

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "cpu") -> Reader:
        """From the folder that ``python -m canvas.storybook train reader`` wrote."""
        missing = [name for name in (WEIGHTS, FACTS) if not (folder / name).is_file()]
        if missing:
            raise FeaturebrushError(f"{folder} holds no reader: missing {', '.join(missing)}")
        try:
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            concepts = [str(name) for name in facts["concepts"]]
            net = ReaderNet(len(concepts), facts["config"]["widths"])
            net.load_state_dict({k: v.float() for k, v in load_file(folder / WEIGHTS).items()})
            thresholds = [float(facts["thresholds"][name]) for name in concepts]
        except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError, OSError) as error:
            raise FeaturebrushError(f"the reader in {folder} cannot be read: {error}") from error
        return cls(net.to(device), concepts, thresholds)

    def read(self, picture: Image.Image) -> Reading:
        """What ``picture`` shows, which is brought to RGB and 256×256 first."""
        side = 2 * SIDE
        pixels = np.asarray(picture.convert("RGB").resize((side, side), Image.Resampling.BOX), np.float32)
        device = next(self.net.parameters()).device
        given = torch.from_numpy(pixels).to(device).permute(2, 0, 1)[None] / 127.5 - 1
        seen: list[Tensor] = []
        assert self.net.net.mid_block is not None

        def keep(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> None:
            seen.append(output)

        handle = self.net.net.mid_block.register_forward_hook(keep)
        try:
            with torch.inference_mode():
                chances = self.net(given).sigmoid()[0].cpu().numpy()
        finally:
            handle.remove()
        return Reading(self.concepts, chances, chances >= self.thresholds, seen[0].mean((2, 3))[0].cpu().numpy())
