"""Training: what it finds, that it is exact, and that it repeats."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from sae import SAE, FeaturebrushError, Progress, TrainConfig
from sae.metrics import evaluate
from sae.processes import Alone
from sae.rules import initial, losses
from sae.sparse import decode, encode_at, largest_per_row, largest_positive
from sae.train import geometric_median, train, train_many

D, N_TRUE, ACTIVE = 24, 32, 2


def sparse_data(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors ``[n, D]`` made of about `ACTIVE` of `N_TRUE` known directions each, off centre; and the directions."""
    directions = F.normalize(torch.randn(N_TRUE, D, generator=torch.Generator().manual_seed(99)), dim=1)
    g = torch.Generator().manual_seed(seed)
    active = torch.rand(n, N_TRUE, generator=g) < ACTIVE / N_TRUE
    return (active * (0.5 + torch.rand(n, N_TRUE, generator=g))) @ directions * 7 + 2, directions


CFG = TrainConfig(n_features=40, k=2, steps=400, batch=512, lr=1e-2, block="mid.0", dead_after=20_000)


@pytest.fixture(scope="module")
def trained() -> SAE:
    return train(sparse_data(30_000)[0], CFG)


def test_it_recovers_the_dictionary(trained: SAE) -> None:
    held_out, directions = sparse_data(4000, seed=1)
    found = (directions @ trained.W_dec.T).amax(1)
    assert found.mean() > 0.9
    measured = evaluate(trained, held_out)
    assert measured.variance_unexplained < 0.15
    assert measured.l0 == pytest.approx(CFG.k, rel=0.15)
    assert trained.cfg.block == "mid.0" and trained.cfg.site == "update" and trained.cfg.k == 2


def test_the_decoder_has_unit_rows(trained: SAE) -> None:
    torch.testing.assert_close(trained.W_dec.norm(dim=1), torch.ones(40), rtol=0, atol=1e-5)


def test_the_threshold_stands_in_for_the_batch_wide_choice(trained: SAE) -> None:
    x, _ = sparse_data(4096, seed=2)
    a = (x - trained.b_dec) @ trained.W_enc.T + trained.b_enc
    kept, smallest = largest_positive(a, len(x) * CFG.k)
    by_batch = torch.zeros_like(a).flatten()
    by_batch[kept] = a.flatten()[kept]
    by_threshold = trained.encode(x)
    assert trained.threshold.item() == pytest.approx(smallest, rel=0.15)
    assert ((by_batch.view_as(a) > 0) == (by_threshold > 0)).float().mean() > 0.99


def test_statistics_come_with_it(trained: SAE) -> None:
    z = trained.encode(sparse_data(8000, seed=3)[0])
    density = (z > 0).float().mean(0)
    used = density > 0.02
    torch.testing.assert_close(trained.density[used], density[used], rtol=0.25, atol=0.005)
    torch.testing.assert_close(trained.mean[used], (z.sum(0) / (z > 0).sum(0))[used], rtol=0.1, atol=0.1)


def test_it_repeats_and_leaves_the_global_random_state_alone() -> None:
    x = sparse_data(2000)[0]
    cfg = TrainConfig(n_features=16, k=2, steps=12, batch=256, seed=5)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = train(x, cfg)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = train(x, cfg), train(x, TrainConfig(n_features=16, k=2, steps=12, batch=256, seed=6))
    assert all(torch.equal(value, again.tensors()[name]) for name, value in first.tensors().items())
    assert not torch.equal(first.W_enc, other.W_enc)


def test_scaling_the_data_scales_the_codes() -> None:
    x = sparse_data(2000)[0]
    cfg = TrainConfig(n_features=16, k=2, steps=12, batch=256)
    # A power of two, so that not even rounding differs.
    small, big = train(x, cfg), train(64 * x, cfg)
    torch.testing.assert_close(big.W_dec, small.W_dec)
    torch.testing.assert_close(big.encode(64 * x), 64 * small.encode(x))
    torch.testing.assert_close(big(64 * x), 64 * small(x))


def test_batches_may_come_from_anywhere_and_end_early() -> None:
    reports: list[Progress] = []
    x = sparse_data(1000)[0]
    cfg = TrainConfig(n_features=16, k=2, steps=50, report_every=2)
    train(iter([x[:300].double(), x[300:400], x[400:]]), cfg, reports.append)
    assert [(r.step, r.vectors) for r in reports] == [(2, 400)]
    assert reports[0].vectors_per_second > 0 and reports[0].l0 == pytest.approx(2, abs=0.1)


def test_aux_k_wakes_the_dead_features_that_are_needed() -> None:
    """A high learning rate kills more features than are to spare; AuxK brings back those that have something to say."""
    x, directions = sparse_data(4000)
    held_out = sparse_data(2000, seed=1)[0]
    dead, missed, unexplained = {}, {}, {}
    for weight in (0.0, 1 / 32):
        reports: list[Progress] = []
        cfg = TrainConfig(
            n_features=48, k=2, steps=200, batch=512, lr=5e-2, dead_after=4000, aux_weight=weight, report_every=50
        )
        sae = train(x, cfg, reports.append)
        assert (max(r.aux_loss for r in reports) > 0) == (weight > 0)
        dead[weight] = reports[-1].dead
        missed[weight] = int(((directions @ sae.W_dec.T).amax(1) < 0.9).sum())
        unexplained[weight] = evaluate(sae, held_out).variance_unexplained
    assert missed[1 / 32] <= missed[0.0] - 2
    assert dead[1 / 32] <= dead[0.0] - 2
    assert unexplained[1 / 32] < 0.7 * unexplained[0.0]


def test_aux_k_gives_gradients_to_dead_features_only() -> None:
    x = torch.randn(64, 12)
    cfg = TrainConfig(50, 4, aux_k=3)
    weights = initial(cfg, x.mean(0), torch.Generator().manual_seed(1))
    dead = torch.arange(50) >= 40
    result = losses(weights, x, cfg, dead, 0.0, len(x), Alone())
    result.aux_loss.backward()
    assert weights.W_dec.grad is not None and weights.W_enc.grad is not None
    for grad in (weights.W_dec.grad, weights.W_enc.grad):
        assert bool((grad[dead].abs().sum(1) > 0).all()) and not bool(grad[~dead].any())


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 12),
    cols=st.integers(1, 9),
    keep=st.integers(1, 40),
    guess=st.floats(0, 3),
    seed=st.integers(0, 999),
)
def test_largest_positive_is_what_a_sort_gives(rows: int, cols: int, keep: int, guess: float, seed: int) -> None:
    # Halves, so that ties and zeros occur.
    a = (torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed)) * 4).round() / 2
    flat = a.flatten()
    above = flat[flat > 0].sort(descending=True).values
    got, smallest = largest_positive(a, keep, guess)
    if len(above) == 0:
        assert len(got) == 0 and smallest == 0
        return
    edge = above[min(keep, len(above)) - 1]
    assert smallest == edge
    assert torch.equal(got, (flat >= edge).nonzero().squeeze(1))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), k=st.integers(1, 6), mkl=st.booleans())
def test_sparse_gradients_are_those_of_the_dense_formula(seed: int, k: int, mkl: bool) -> None:
    g = torch.Generator().manual_seed(seed)
    x, target = torch.randn(9, 5, generator=g), torch.randn(9, 5, generator=g)
    tensors = [torch.randn(*shape, generator=g).requires_grad_() for shape in ((11, 5), (11,), (11, 5), (5,))]
    W_enc, b_enc, W_dec, b_dec = tensors

    a = F.linear(x - b_dec, W_enc, b_enc)
    kept, smallest = largest_positive(a.detach(), 9 * k)
    z = a * (a.detach() >= smallest) * (a.detach() > 0)
    ((z @ W_dec + b_dec - target) ** 2).sum().backward()
    dense = [t.grad for t in tensors]

    for t in tensors:
        t.grad = None
    with pytest.MonkeyPatch.context() as patch:
        if not mkl:
            patch.setattr(torch.backends.mkl, "is_available", lambda: False)
        values, support = encode_at(a.detach(), x, W_enc, b_enc, b_dec, kept)
        ((decode(values, W_dec, support) + b_dec - target) ** 2).sum().backward()
    for t, expected in zip(tensors, dense, strict=True):
        torch.testing.assert_close(t.grad, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "matryoshka", "jumprelu"])
def test_every_architecture_recovers_the_dictionary(architecture: str) -> None:
    steps = 1200 if architecture == "jumprelu" else 400
    cfg = TrainConfig(40, 2, architecture=architecture, steps=steps, batch=512, lr=1e-2, dead_after=20_000)
    sae = train(sparse_data(30_000)[0], cfg)
    held_out, directions = sparse_data(4000, seed=1)
    measured = evaluate(sae, held_out)
    assert sae.cfg.architecture == architecture
    assert (directions @ sae.W_dec.T).amax(1).mean() > 0.85
    assert measured.variance_unexplained < 0.25
    assert measured.l0 == pytest.approx(2, rel=0.2)


def test_a_prefix_of_a_matryoshka_is_a_dictionary_too() -> None:
    """Cut to its first features, a Matryoshka SAE still explains more than a BatchTopK one cut alike."""
    x, _ = sparse_data(30_000)
    held_out, _ = sparse_data(4000, seed=1)
    left = {}
    for architecture, prefixes in (("batchtopk", ()), ("matryoshka", (10, 40))):
        cfg = TrainConfig(40, 2, architecture, prefixes, steps=300, batch=512, lr=1e-2)
        sae = train(x, cfg)
        z = sae.encode(held_out)
        z[:, 10:] = 0
        left[architecture] = (held_out - sae.decode(z)).square().sum() / (held_out - held_out.mean(0)).square().sum()
    assert left["matryoshka"] < left["batchtopk"]


def test_nested_losses_are_those_of_the_prefixes() -> None:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(32, 6, generator=g)
    cfg = TrainConfig(12, 3, "matryoshka", (2, 5, 12))
    weights = initial(cfg, x.mean(0), g)
    result = losses(weights, x, cfg, torch.zeros(12, dtype=torch.bool), 0.0, len(x), Alone())
    W_enc, b_enc, W_dec, b_dec, _ = (w.detach() for w in weights)
    a = F.linear(x - b_dec, W_enc, b_enc)
    kept, _ = largest_positive(a, 32 * 3)
    z = torch.zeros_like(a).flatten()
    z[kept] = a.flatten()[kept]
    z = z.view_as(a)
    by_hand = torch.stack([(x - z[:, :end] @ W_dec[:end] - b_dec).square().mean() for end in (2, 5, 12)])
    torch.testing.assert_close(result.objective.detach(), by_hand.mean())
    torch.testing.assert_close(result.error, by_hand[-1])


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 9), cols=st.integers(1, 9), k=st.integers(1, 12), seed=st.integers(0, 999))
def test_the_largest_of_each_row_are_above_zero_and_in_order(rows: int, cols: int, k: int, seed: int) -> None:
    a = torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))
    flat = largest_per_row(a, k)
    assert torch.equal(flat, flat.unique())
    for i, row in enumerate(a):
        mine = flat[(flat >= i * cols) & (flat < (i + 1) * cols)] - i * cols
        assert set(mine.tolist()) == {j for j in row.argsort(descending=True)[:k].tolist() if row[j] > 0}


def test_saes_side_by_side_are_those_trained_one_by_one() -> None:
    x = sparse_data(3000)[0]
    cfgs = [
        TrainConfig(16, 2, steps=10, batch=256),
        TrainConfig(24, 3, steps=10, batch=256, seed=4),
        TrainConfig(16, 2, "topk", steps=10, batch=256),
    ]
    reports: list[Progress] = []
    together = train_many(x, cfgs, reports.append)
    assert [(r.sae, r.step) for r in reports] == [(0, 10), (1, 10), (2, 10)]
    # The stream's order is the first one's: give the others the same stream.
    for cfg, sae in zip(cfgs, together, strict=True):
        alone = train_many(x, [cfgs[0], cfg])[1]
        assert all(torch.equal(value, alone.tensors()[name]) for name, value in sae.tensors().items())
    with pytest.raises(FeaturebrushError, match="steps 9"):
        train_many(x, [cfgs[0], TrainConfig(16, 2, steps=9, batch=256)])


class Killed(Exception):
    pass


@pytest.mark.parametrize("source", ["tensor", "list", "function"])
def test_a_run_taken_up_again_ends_with_the_weights_of_an_unbroken_one(source: str, tmp_path) -> None:
    x = sparse_data(3000)[0]
    rows = list(x.split(128))
    data = {"tensor": x, "list": rows, "function": lambda start: iter(rows[start:])}[source]
    cfg = TrainConfig(24, 2, steps=20, batch=128, report_every=1, dead_after=500)
    unbroken = train(data, cfg)

    def die(p: Progress) -> None:
        if p.step == 13:
            raise Killed

    with pytest.raises(Killed):
        train(data, cfg, die, checkpoint=tmp_path / "c.pt", checkpoint_every=5)
    steps: list[int] = []
    resumed = train(data, cfg, lambda p: steps.append(p.step), checkpoint=tmp_path / "c.pt", checkpoint_every=5)
    assert steps == list(range(11, 21))
    assert all(torch.equal(value, resumed.tensors()[name]) for name, value in unbroken.tensors().items())
    with pytest.raises(FeaturebrushError, match="other lr"):
        train(data, TrainConfig(24, 2, steps=20, batch=128, report_every=1, dead_after=500, lr=1e-4),
              checkpoint=tmp_path / "c.pt")  # fmt: skip


def test_geometric_median_resists_outliers() -> None:
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    x[:20] += 100
    assert geometric_median(x).norm() < 1 < x.mean(0).norm()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"k": 99}, "k = 99"),
        ({"steps": 0}, "steps"),
        ({"batch": 1.5}, "batch"),
        ({"lr": 0.0}, "lr"),
        ({"lr": float("nan")}, "lr"),
        ({"aux_weight": -1.0}, "aux_weight"),
        ({"aux_k": 0}, "aux_k"),
        ({"warmup": 0.7, "decay": 0.7}, "together"),
        ({"threshold_memory": 1.0}, "below 1"),
        ({"centre": "median"}, "geometric_median"),
        ({"device": "gpu0"}, "no device"),
        ({"site": "input"}, "site"),
        ({"block": "x"}, "block"),
        ({"architecture": "gated"}, "gated"),
        ({"prefixes": (4, 16)}, "matryoshka"),
        ({"architecture": "matryoshka", "prefixes": (4, 8)}, "end in n_features = 16"),
        ({"architecture": "matryoshka", "prefixes": (8, 4, 16)}, "ascending"),
        ({"architecture": "jumprelu", "bandwidth": 0.0}, "bandwidth"),
    ],
)
def test_illegal_settings_are_refused(changes: dict, says: str) -> None:
    with pytest.raises(FeaturebrushError, match=says):
        TrainConfig(**{"n_features": 16, "k": 2, **changes})


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (torch.zeros(0, 4), r"\[0, 4\]"),
        (torch.zeros(3, 4, 5), r"\[3, 4, 5\]"),
        (torch.ones(30, 4), "all equal"),
        (torch.full((30, 4), float("nan")), "not finite"),
        ([], "nothing to train on"),
        ([torch.randn(9, 4), torch.randn(9, 5)], r"\[9, 5\]: expected \[n, 4\]"),
    ],
)
def test_unusable_data_is_refused(data: torch.Tensor | list, says: str) -> None:
    with pytest.raises(FeaturebrushError, match=says):
        train(data, TrainConfig(n_features=8, k=2, steps=3))


def test_the_learning_rate_rises_stays_and_falls() -> None:
    cfg = TrainConfig(8, 2, steps=100, lr=1.0, warmup=0.1, decay=0.2)
    rates = [cfg.lr_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[80] == 1.0 and rates[99] == pytest.approx(0.05)
    assert min(rates) > 0
