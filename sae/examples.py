"""Where features are most active: the top pictures of each, with heatmaps and icons, in one pass over any number."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sae import metrics
from sae.errors import FeaturebrushError
from sae.model import SAE
from sae.neighbours import NONE, CoActivity

HEATMAP = 16
"""Side of a heatmap."""
ICON = 48
"""Side of an icon in pixels."""
ICON_SHARE = 0.5
"""Side of what an icon shows, as a share of the picture's."""


class Examples:
    """Collects the top pictures of every feature, and how much of each feature's activity its position explains.

    For F features and E examples memory is about F·(280·E + 9000) bytes, 107 MB for 10,000 features and 6 examples, and
    2·F bytes for each picture if its peaks are kept.
    """

    def __init__(self, sae: SAE, examples: int = 6, keep_peaks: bool = False):
        """``keep_peaks`` keeps the highest code of each feature in each picture, which labellers want."""
        if examples < 1:
            raise FeaturebrushError(f"examples must be at least 1, not {examples}")
        f = sae.cfg.n_features
        self.sae = sae
        self.images = 0
        """Pictures seen so far; a picture's number is its place among them."""
        self.grid = (0, 0)
        """Height and width of the block's grid."""
        self.together = CoActivity(f)
        self.peaks = torch.zeros(examples, f)
        """``[E, F]``: highest codes, highest first; 0 where there is no example."""
        self.image = torch.full((examples, f), NONE)
        """``[E, F]``: in which picture; `NONE` where there is no example."""
        self.place = torch.zeros(examples, f, dtype=torch.int64)
        """``[E, F]``: at which position of the grid, row by row."""
        self.heatmaps = torch.zeros(examples, f, HEATMAP, HEATMAP, dtype=torch.uint8)
        """The codes over the picture, 255 at their highest."""
        self.icons = torch.zeros(f, 3, ICON, ICON, dtype=torch.uint8)
        """Cut from the first example around its peak; black where there was no picture."""
        self.has_icon = torch.zeros(f, dtype=torch.bool)
        self._all_peaks: list[Tensor] | None = [] if keep_peaks else None
        self._sum = torch.zeros(f, HEATMAP * HEATMAP, dtype=torch.float64)
        self._squares = torch.zeros(f, dtype=torch.float64)

    @torch.no_grad()
    def add(self, activations: Tensor, pictures: Tensor | None = None) -> None:
        """Look at the next pictures: ``activations [B, H, W, d]`` and, for icons, ``pictures [B, 3, h, w]``, −1..1."""
        grid = tuple(activations.shape[1:3])
        if activations.dim() != 4 or (self.images and grid != self.grid):
            raise FeaturebrushError(
                f"activations have the shape {list(activations.shape)}: expected [B, H, W, d], H and W always the same"
            )
        if pictures is not None and (pictures.dim() != 4 or pictures.shape[:2] != (len(activations), 3)):
            raise FeaturebrushError(
                f"pictures have the shape {list(pictures.shape)}: expected [{len(activations)}, 3, h, w]"
            )
        self.grid = (grid[0], grid[1])
        step = max(1, metrics.CHUNK_CODES // (grid[0] * grid[1] * self.sae.cfg.n_features))
        for start in range(0, len(activations), step):
            part = slice(start, start + step)
            rows = activations[part].to(self.sae.W_enc.device, torch.float32)
            self._add(self.sae.encode(rows).cpu(), None if pictures is None else pictures[part].cpu())

    @property
    def all_peaks(self) -> Tensor:
        """``[N, F]`` float16: the highest code of each feature in each picture, if they were to be kept."""
        if not self._all_peaks:
            raise FeaturebrushError("the peaks were not kept: give keep_peaks=True, and at least one picture")
        return torch.cat(self._all_peaks)

    def positional(self) -> Tensor:
        """Share ``[F]``, 0..1, of the variance of each feature's codes that its position in the picture explains.

        The variance of the mean map over its positions, by the variance over all positions and pictures (the
        correlation ratio η²), both on the grid of the heatmaps; 0 for a feature that does not vary.
        """
        cells = HEATMAP * HEATMAP
        maps = self._sum / max(1, self.images)
        overall = self._squares / max(1, self.images * cells) - maps.mean(1).square()
        between = maps.var(1, correction=0)
        return torch.where(overall > 1e-12 * self._squares, between / overall, 0).clamp(0, 1).float()

    def _add(self, codes: Tensor, pictures: Tensor | None) -> None:
        """``codes [B, H, W, F]``"""
        n = len(codes)
        self.together.add(codes.flatten(0, 2))
        maps = F.adaptive_avg_pool2d(codes.permute(0, 3, 1, 2), (HEATMAP, HEATMAP))
        self._sum += maps.flatten(2).sum(0).double()
        self._squares += maps.double().square().sum((0, 2, 3))
        highest, place = codes.flatten(1, 2).max(1)
        if self._all_peaks is not None:
            self._all_peaks.append(highest.half())

        kept = len(self.peaks)
        self.peaks, origin = torch.cat([self.peaks, highest]).topk(kept, dim=0)
        new = origin >= kept
        numbers = torch.arange(self.images, self.images + n)[:, None].expand(-1, highest.shape[1])
        self.image = torch.cat([self.image, numbers]).gather(0, origin)
        self.place = torch.cat([self.place, place]).gather(0, origin)
        none = self.peaks <= 0
        self.image[none], self.place[none] = NONE, 0
        old = origin.clamp(max=kept - 1)[:, :, None, None].expand_as(self.heatmaps)
        self.heatmaps = self.heatmaps.gather(0, old)
        rank, feature = new.nonzero(as_tuple=True)
        chosen = maps[origin[rank, feature] - kept, feature]
        top = chosen.amax((1, 2), keepdim=True).clamp(min=1e-30)
        self.heatmaps[rank, feature] = (255 * chosen / top).round().to(torch.uint8)
        first = (new[0] & (self.peaks[0] > 0)).nonzero().squeeze(1)
        self.has_icon[first] = pictures is not None
        if pictures is not None and len(first):
            self._cut(pictures, first, origin[0, first] - kept)
        self.images += n

    def _cut(self, pictures: Tensor, features: Tensor, of: Tensor) -> None:
        """Make the icons of ``features [n]`` from the pictures numbered ``of [n]``."""
        side = round(ICON / ICON_SHARE)
        small = F.interpolate(pictures.float(), (side, side), mode="bilinear", antialias=True)
        pixels = ((small.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        row, column = self.place[0, features] // self.grid[1], self.place[0, features] % self.grid[1]
        top = ((row + 0.5) / self.grid[0] * side - ICON / 2).round().long().clamp(0, side - ICON)
        left = ((column + 0.5) / self.grid[1] * side - ICON / 2).round().long().clamp(0, side - ICON)
        windows = pixels.unfold(2, ICON, 1).unfold(3, ICON, 1)
        self.icons[features] = windows[of, :, top, left]
