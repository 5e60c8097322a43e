"""Sparse codes of a batch, and the two products of an SAE in training at the cost of the active features only.

With 16 of 1024 features active, the dense products of the decoder and of both weight gradients spend 98% of their
work on zeros. What stays dense is one product, the encoder's forward pass, which has to see every feature.
"""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Support:
    """Which features are active where: the places of the n nonzero codes among ``[B, F]``, row by row."""

    rows: Tensor
    """``[n]`` int64, ascending: the position of each."""
    cols: Tensor
    """``[n]`` int64: the feature of each."""
    row_starts: Tensor
    """``[B + 1]`` int64: where the entries of each row begin, and the end."""
    by_feature: Tensor
    """``[n]`` int64: the order that sorts the entries by feature, and by row within a feature."""
    feature_starts: Tensor
    """``[F + 1]`` int64: where the entries of each feature begin in that order, and the end."""
    fired: Tensor
    """``[F]`` int64: in how many positions each feature is active."""

    @classmethod
    def of(cls, flat: Tensor, n_rows: int, n_features: int) -> Support:
        """From ``flat [n]``, the ascending positions in the row-major ``[B, F]`` array."""
        rows = torch.div(flat, n_features, rounding_mode="floor")
        cols = flat - rows * n_features
        fired = torch.bincount(cols, minlength=n_features)
        return cls(
            rows=rows,
            cols=cols,
            row_starts=_starts(torch.bincount(rows, minlength=n_rows)),
            by_feature=_stable_order(cols, n_features),
            feature_starts=_starts(fired),
            fired=fired,
        )

    def within(self, ends: tuple[int, ...]) -> Support:
        """The same entries in finer bags: one for each row and each part of the features, ``[B · G]``.

        ``ends`` are the ascending ends of the G parts; bag ``row · G + g`` holds the row's features of part g.
        """
        parts = len(ends)
        edges = torch.tensor(ends[:-1], device=self.cols.device)
        bags = self.rows * parts + torch.bucketize(self.cols, edges, right=True)
        starts = _starts(torch.bincount(bags, minlength=(len(self.row_starts) - 1) * parts))
        return replace(self, rows=bags, row_starts=starts)


def _starts(counts: Tensor) -> Tensor:
    return F.pad(counts.cumsum(0), (1, 0))


def _stable_order(keys: Tensor, n: int) -> Tensor:
    if keys.device.type != "cpu" or n > 2**16:
        return torch.argsort(keys, stable=True)
    # numpy sorts 16-bit keys by radix: 7 times as fast as torch's sort.
    return torch.from_numpy(np.argsort(keys.numpy().astype(np.uint16), kind="stable"))


def positions_where(mask: Tensor) -> Tensor:
    """The ascending flat positions ``[n]`` at which the contiguous bool array ``mask`` is true."""
    if mask.device.type != "cpu":
        return mask.flatten().nonzero().squeeze(1)
    # numpy skips runs of false; torch's nonzero takes 5 times as long on masks as empty as these.
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def largest_positive(a: Tensor, n_keep: int, guess: float = 0.0) -> tuple[Tensor, float]:
    """The flat ascending positions of the ``n_keep`` largest elements of ``a`` that are above 0, and the smallest kept.

    Fewer if fewer are above 0; ties at the edge are all kept. Exact: no sort of all of ``a`` is needed because
    elements below a lower bound are put aside first. ``guess`` says where the smallest kept one may lie (the last
    batch's value): 0.85 of it is the bound, and if too few lie above it, 0 is.
    """
    flat = a.flatten()
    for bound in (0.85 * guess, 0.0):
        candidates = positions_where(flat > bound)
        if len(candidates) >= n_keep or bound <= 0:
            break
    if len(candidates) == 0:
        return candidates, 0.0
    values = flat[candidates]
    if len(candidates) <= n_keep:
        return candidates, values.min().item()
    smallest = values.kthvalue(len(values) - n_keep + 1).values
    return candidates[values >= smallest], smallest.item()


def largest_per_row(a: Tensor, k: int) -> Tensor:
    """The flat ascending positions of the k largest elements of each row of ``a [B, F]``, those above 0 only."""
    n_rows, width = a.shape
    if a.device.type == "cpu" and 0 < k < width:
        least = torch.from_numpy(_kth_largest(a.detach().numpy(), k)).clamp(min=torch.finfo(a.dtype).tiny)
        kept = positions_where(a >= least.unsqueeze(1))
        if len(kept) <= n_rows * k:  # more only where elements are equal
            return kept
    cols = a.topk(min(k, width), dim=1, sorted=False).indices.sort(dim=1).values
    flat = (cols + torch.arange(n_rows, device=a.device).unsqueeze(1) * width).flatten()
    return flat[a.flatten()[flat] > 0]


def _kth_largest(a: np.ndarray, k: int) -> np.ndarray:
    """The kth largest element of each row: ``[B]``. numpy's vectorised partition takes a third of torch's topk."""
    place = a.shape[1] - k
    parts = [part for part in np.array_split(a, torch.get_num_threads()) if len(part)]
    with ThreadPoolExecutor(len(parts)) as pool:
        return np.concatenate(list(pool.map(lambda part: np.partition(part, place, axis=1)[:, place], parts)))


def _weighted_sums(table: Tensor, index: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """For each group g, the sum over its entries i of ``weights[i] · table[index[i]]``: ``[groups, d]``."""
    return F.embedding_bag(index, table, starts, mode="sum", per_sample_weights=weights, include_last_offset=True)


def _dots(left: Tensor, right: Tensor, support: Support) -> Tensor:
    """``left[row] · right[col]`` of every entry: ``[n]``."""
    if left.is_cuda or torch.backends.mkl.is_available():
        shape = (left.shape[0], right.shape[0])
        zeros = left.new_zeros(len(support.cols))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            zeros = torch.sparse_csr_tensor(support.row_starts, support.cols, zeros, shape, check_invariants=False)
        return torch.sparse.sampled_addmm(zeros, left, right.T).values()
    return (left @ right.T).flatten()[support.rows * right.shape[0] + support.cols]


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, x: Tensor, W_enc: Tensor, b_enc: Tensor, b_dec: Tensor, s: Support) -> Tensor:
        ctx.save_for_backward(x, W_enc, b_dec)
        ctx.support = s
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, W_enc, b_dec = ctx.saved_tensors
        s: Support = ctx.support
        grad = grads[0][s.by_feature]
        rows = s.rows[s.by_feature]
        # A column of ones beside x gives the bias's gradient in the same pass, in a fixed order of summation.
        padded = torch.cat([x - b_dec, x.new_ones(len(x), 1)], dim=1)
        sums = _weighted_sums(padded, rows, s.feature_starts, grad)
        grad_b = sums[:, -1].contiguous()
        return None, None, sums[:, :-1].contiguous(), grad_b, -(grad_b @ W_enc), None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, W_dec: Tensor, s: Support) -> Tensor:
        ctx.save_for_backward(values, W_dec)
        ctx.support = s
        return _weighted_sums(W_dec, s.cols, s.row_starts, values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        values, W_dec = ctx.saved_tensors
        s: Support = ctx.support
        grad = grads[0].contiguous()
        grad_W = _weighted_sums(grad, s.rows[s.by_feature], s.feature_starts, values[s.by_feature])
        return _dots(grad, W_dec, s), grad_W, None


def encode_at(
    a: Tensor, x: Tensor, W_enc: Tensor, b_enc: Tensor, b_dec: Tensor, flat: Tensor
) -> tuple[Tensor, Support]:
    """The codes ``[n]`` at the flat positions ``flat [n]`` of ``a = (x − b_dec) W_encᵀ + b_enc``, ``[B, F]``.

    ``a`` is given, computed without gradients; the codes carry gradients to ``W_enc [F, d]``, ``b_enc [F]`` and
    ``b_dec [d]`` (none to ``x [B, d]``). Also gives the support, which `decode` wants.
    """
    support = Support.of(flat, *a.shape)
    return _Encode.apply(a.flatten()[flat], x, W_enc, b_enc, b_dec, support), support


def decode(values: Tensor, W_dec: Tensor, support: Support) -> Tensor:
    """``z W_dec``, ``[B, d]``, of sparse codes ``values [n]``; gradients to the values and to ``W_dec [F, d]``."""
    return _Decode.apply(values, W_dec, support)
