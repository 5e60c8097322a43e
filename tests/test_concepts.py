"""Brushes out of directions: the few features that come closest, and directions set apart from each other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import build_sae
from torch.nn import functional as F

from canvas.concepts import fitted, set_apart

SAE = build_sae("down.1.0", seed=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999))
def test_more_features_come_at_least_as_close(seed):
    wanted = F.normalize(torch.randn(SAE.cfg.d_in, generator=torch.Generator().manual_seed(seed)), dim=0)
    alike = []
    for size in (1, 3, 8):
        features, weights = fitted(SAE, wanted, size, 5.0)
        assert len(features) == len(set(features)) <= size and min(weights) > 0
        vector = (torch.tensor(weights) * SAE.mean[features]) @ SAE.W_dec[features]
        assert vector.norm().item() == pytest.approx(5, rel=1e-2)
        alike.append(F.cosine_similarity(vector, wanted, dim=0).item())
    assert alike[0] <= alike[1] + 1e-4 <= alike[2] + 2e-4


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.integers(0, 10**6))
def test_directions_come_nearer_to_right_angles_and_stay_nearest_to_themselves(n, seed):
    source = torch.Generator().manual_seed(seed)
    common = 2 * torch.randn(24, generator=source, dtype=torch.float64)
    before = F.normalize(common + torch.randn(n, 24, generator=source, dtype=torch.float64), dim=1)
    worst = [(before @ before.T - torch.eye(n)).abs().max().item()]
    for softness in (10.0, 0.1, 1e-4):
        found = set_apart(before, softness)
        assert torch.allclose(found.norm(dim=1), torch.ones(n, dtype=torch.float64))
        assert torch.equal((found @ before.T).argmax(1), torch.arange(n))
        worst.append((found @ found.T - torch.eye(n)).abs().max().item())
    assert worst[0] >= worst[1] >= worst[2] >= worst[3] and worst[3] < 0.05


def test_directions_at_right_angles_stay():
    rows = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0][:5]
    for softness in (1.0, 1e-3):
        assert torch.allclose(set_apart(rows, softness), rows)
