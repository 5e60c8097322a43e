"""The few features whose weighted sum comes closest to something: matching pursuit with weights of one sign."""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls


def greedy_weights(gram: np.ndarray, target: np.ndarray, size: int) -> np.ndarray:
    """Weights ``w [K]`` ≥ 0, at most ``size`` above 0, that make ``wᵀ G w − 2 wᵀ t`` small: least squares, greedily.

    Parameters: inner products (or covariances) ``gram [K, K]`` of the candidates among themselves, and ``target [K]``
    of the candidates with what they are to explain. Each round adds the candidate whose correlation with the rest is
    greatest and fits all weights again (non-negative orthogonal matching pursuit: Bruckstein, Elad & Zibulevsky, IEEE
    Trans. Inf. Theory 54, 2008); a candidate whose weight falls to 0 is dropped.
    """
    weights = np.zeros(len(target))
    length = np.sqrt(np.maximum(np.diag(gram), 0))
    usable = length > 1e-9 * max(length.max(initial=0.0), 1e-30)
    start = np.where(usable, target / np.where(usable, length, 1), 0).max(initial=0.0)
    for _ in range(size):
        rest = target - gram @ weights
        gain = np.where(usable & (weights == 0), rest / np.where(usable, length, 1), 0)
        best = int(gain.argmax())
        if gain[best] <= 1e-7 * start:
            break
        members = np.append(np.flatnonzero(weights > 0), best)
        weights[:] = 0
        weights[members] = nonnegative_weights(gram[np.ix_(members, members)], target[members])
    return weights


def nonnegative_weights(gram: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The ``w [n]`` ≥ 0 for which ``wᵀ G w − 2 wᵀ t`` is least, ``gram [n, n]`` positive semidefinite.

    scipy's non-negative least squares on a root of ``gram``, whose eigenvalues of rounding's size count as 0.
    """
    values, axes = np.linalg.eigh(gram)
    kept = values > 1e-10 * max(values.max(initial=0.0), 1e-30)
    root = np.sqrt(values[kept])[:, None] * axes[:, kept].T
    return nnls(root, (axes[:, kept].T @ target) / np.sqrt(values[kept]))[0]
