"""The SAE for inference, its file format, its atlas and the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import sae
from sae import SAE, Atlas, FeaturebrushError, FeatureInfo, SAEConfig
from sae.__main__ import main
from sae.labels import FeatureLabels
from sae.model import QUANTILE_LEVELS, Architecture
from sae.train import unscaled


def make_sae(
    d: int = 6, f: int = 10, seed: int = 0, threshold: float = 0.3, architecture: Architecture = "batchtopk"
) -> SAE:
    g = torch.Generator().manual_seed(seed)
    prefixes = (2, 5, f) if architecture == "matryoshka" else ()
    return SAE(
        SAEConfig(d, f, 3, "down.1.0", architecture=architecture, prefixes=prefixes),
        {
            "W_enc": torch.randn(f, d, generator=g),
            "b_enc": torch.randn(f, generator=g),
            "W_dec": torch.nn.functional.normalize(torch.randn(f, d, generator=g), dim=1),
            "b_dec": torch.randn(d, generator=g),
            "threshold": threshold * (0.5 + torch.rand(f, generator=g))
            if architecture == "jumprelu"
            else torch.tensor(threshold),
            "mean": torch.rand(f, generator=g),
            "density": torch.rand(f, generator=g),
            "quantiles": torch.rand(f, len(QUANTILE_LEVELS), generator=g).sort(dim=1).values,
        },
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"d_in": 0}, "d_in"),
        ({"n_features": 2.5}, "n_features"),
        ({"k": 11}, "k = 11"),
        ({"k": True}, "k"),
        ({"block": "down.1"}, "down.i.j"),
        ({"site": "updates"}, "did you mean 'update'"),
        ({"architecture": "batchtop"}, "did you mean 'batchtopk'"),
        ({"prefixes": (5, 10)}, "for architecture 'matryoshka', not 'batchtopk'"),
        ({"prefixes": (5, 9), "architecture": "matryoshka"}, "end with n_features = 10"),
        ({"prefixes": (5, 5, 10), "architecture": "matryoshka"}, "ascend"),
        ({"prefixes": (0, 10), "architecture": "matryoshka"}, "at least 1"),
        ({"prefixes": [5, 10], "architecture": "matryoshka"}, "tuple"),
    ],
)
def test_config_refuses_what_cannot_be(changes: dict, says: str) -> None:
    with pytest.raises(FeaturebrushError, match=says):
        SAEConfig(**{"d_in": 6, "n_features": 10, "k": 3, **changes})


ARCHITECTURES = get_args(Architecture)


def chosen(s: SAE, a: torch.Tensor) -> torch.Tensor:
    """The codes of one vector's activations ``a [F]``, one feature at a time."""
    z = torch.zeros_like(a)
    for i in range(len(a)):
        match s.cfg.architecture:
            case "topk":
                keep = int((a > a[i]).sum()) < s.cfg.k
            case "relu":
                keep = True
            case "jumprelu":
                keep = bool(a[i] > s.threshold[i])
            case _:
                keep = bool(a[i] > s.threshold)
        z[i] = a[i] if keep and a[i] > 0 else 0
    return z


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_encode_and_decode_follow_the_equations(architecture: Architecture) -> None:
    s = make_sae(architecture=architecture)
    u = torch.randn(2, 3, 6)
    z = s.encode(u)
    assert z.shape == (2, 3, 10)
    for i in range(2):
        for j in range(3):
            a = torch.stack([((u[i, j] - s.b_dec) * s.W_enc[f]).sum() + s.b_enc[f] for f in range(10)])
            torch.testing.assert_close(z[i, j], chosen(s, a), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(s(u), sum(z[..., i, None] * s.W_dec[i] for i in range(10)) + s.b_dec)
    assert not any(t.requires_grad for t in s.tensors().values())
    assert s.encode(u.half()).dtype == torch.float32


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_codes_of_some_features_are_those_of_all(architecture: Architecture) -> None:
    s = make_sae(architecture=architecture)
    u = torch.randn(4, 3, 6)
    features = torch.tensor([7, 0, 7, 3])
    torch.testing.assert_close(s.encode(u, features), s.encode(u)[..., features])
    assert s.encode(u, features[:0]).shape == (4, 3, 0)


def test_topk_keeps_what_is_positive_where_that_is_less_than_k() -> None:
    s = make_sae(architecture="topk")
    low = SAE(s.cfg, {**s.tensors(), "b_enc": torch.full((10,), -100.0)})
    assert not low.encode(torch.randn(5, 6)).any()
    one = SAE(s.cfg, {**s.tensors(), "b_enc": torch.tensor([-100.0] * 9 + [100.0])})
    assert (one.encode(torch.randn(5, 6)) > 0).sum(1).tolist() == [1] * 5
    assert ((s.encode(torch.randn(50, 6)) > 0).sum(1) <= 3).all()


@pytest.mark.parametrize("architecture", ["topk", "relu"])
def test_an_architecture_without_threshold_needs_none(architecture: Architecture) -> None:
    s = make_sae(architecture=architecture)
    t = SAE(s.cfg, {name: value for name, value in s.tensors().items() if name != "threshold"})
    u = torch.randn(5, 6)
    assert t.threshold == 0 and torch.equal(t.encode(u), s.encode(u))
    with pytest.raises(FeaturebrushError, match="no tensor 'threshold'"):
        SAE(make_sae().cfg, {name: value for name, value in s.tensors().items() if name != "threshold"})


def test_a_position_does_not_depend_on_the_others() -> None:
    s = make_sae()
    u = torch.randn(5, 6)
    torch.testing.assert_close(s.encode(u)[2], s.encode(u[2]))


def test_rows_of_any_length_are_taken() -> None:
    s = make_sae()
    rows = torch.arange(10)[:, None] * s.W_dec
    t = SAE(s.cfg, {**s.tensors(), "W_dec": rows})
    u = torch.randn(5, 6)
    torch.testing.assert_close(t(u), s.encode(u) @ rows + s.b_dec)


def test_wrong_width_is_said() -> None:
    with pytest.raises(FeaturebrushError, match="width 7 .* width 6"):
        make_sae().encode(torch.zeros(1, 7))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("W_enc", torch.zeros(10, 5), r"\[10, 5\]: expected \[10, 6\]"),
        ("b_enc", torch.full((10,), float("nan")), "not finite"),
        ("threshold", torch.tensor(-1.0), "0 or more"),
        ("threshold", torch.zeros(10), r"\[10\]: expected \[\]"),
        ("W_dce", torch.zeros(1), "did you mean 'W_dec'"),
    ],
)
def test_tensors_are_checked(name: str, value: torch.Tensor, says: str) -> None:
    s = make_sae()
    with pytest.raises(FeaturebrushError, match=says):
        SAE(s.cfg, {**s.tensors(), name: value})


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_unscaled_commutes_with_scaling(scale: float, seed: int) -> None:
    s = make_sae(seed=seed)
    u = torch.randn(20, 6, generator=torch.Generator().manual_seed(seed))
    near = ((u - s.b_dec) @ s.W_enc.T + s.b_enc - s.threshold).abs() < 1e-4
    big = unscaled(s, scale)
    atol = 1e-4 * scale
    torch.testing.assert_close(big.encode(scale * u)[~near], scale * s.encode(u)[~near], rtol=1e-4, atol=atol)
    keep = ~near.any(1)
    torch.testing.assert_close(big(scale * u)[keep], scale * s(u)[keep], rtol=1e-4, atol=atol)
    torch.testing.assert_close(big.W_dec, s.W_dec)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saved_and_loaded_is_the_same_to_the_bit(tmp_path: Path, architecture: Architecture) -> None:
    s = make_sae(architecture=architecture)
    s.save(tmp_path / "a" / "b")
    t = sae.load(tmp_path / "a" / "b")
    u = torch.randn(50, 6)
    assert t.cfg == s.cfg
    assert torch.equal(t.encode(u), s.encode(u)) and torch.equal(t(u), s(u))
    assert all(torch.equal(value, s.tensors()[name]) for name, value in t.tensors().items())
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == ["cfg.json", "sae.safetensors"]


def test_half_precision_halves_the_weights_and_keeps_unit_rows(tmp_path: Path) -> None:
    s = make_sae()
    s.save(tmp_path, half=True)
    assert load_file(tmp_path / "sae.safetensors")["W_enc"].dtype == torch.float16
    t = sae.load(tmp_path)
    assert t.W_enc.dtype == torch.float32 and torch.equal(t.threshold, s.threshold)
    torch.testing.assert_close(t.W_dec.norm(dim=1), torch.ones(10), rtol=0, atol=1e-6)
    torch.testing.assert_close(t.W_dec, s.W_dec, rtol=0, atol=1e-3)


def test_a_file_from_before_there_were_prefixes_loads(tmp_path: Path) -> None:
    s = make_sae()
    s.save(tmp_path)
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    assert cfg.pop("prefixes") == []
    (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    assert sae.load(tmp_path).cfg == s.cfg


@pytest.mark.parametrize("half", [False, True])
def test_our_format_holds_unit_rows_only(tmp_path: Path, half: bool) -> None:
    s = make_sae()
    with pytest.raises(FeaturebrushError, match="length 1.*off by 2.*save_saelens"):
        SAE(s.cfg, {**s.tensors(), "W_dec": 3 * s.W_dec}).save(tmp_path / "none", half)
    assert not (tmp_path / "none").exists()
    s.save(tmp_path, half)
    tensors = load_file(tmp_path / "sae.safetensors")
    save_file({**tensors, "W_dec": 3 * tensors["W_dec"]}, tmp_path / "sae.safetensors")
    with pytest.raises(FeaturebrushError, match="length 1"):
        sae.load(tmp_path)


def test_the_block_may_be_told_where_the_file_is_silent(tmp_path: Path) -> None:
    s = make_sae()
    s.save(tmp_path / "told")
    SAE(SAEConfig(6, 10, 3), s.tensors()).save(tmp_path / "silent")
    assert sae.load(tmp_path / "silent", block="mid.0").cfg.block == "mid.0"
    assert sae.load(tmp_path / "told", block="down.1.0").cfg == s.cfg
    with pytest.raises(FeaturebrushError, match="'down.1.0', not 'mid.0'"):
        sae.load(tmp_path / "told", block="mid.0")


def break_file(folder: Path, how: str) -> None:
    cfg, weights = folder / "cfg.json", folder / "sae.safetensors"
    data, tensors = json.loads(cfg.read_text()), load_file(weights)
    if how == "no cfg":
        cfg.unlink()
    elif how == "no weights":
        weights.unlink()
    elif how == "cut weights":
        weights.write_bytes(weights.read_bytes()[:100])
    elif how == "noise":
        weights.write_bytes(b"\xff" * 64)
    elif how == "no json":
        cfg.write_bytes(b"\xff{")
    elif how == "list":
        cfg.write_text("[]")
    elif how == "deep":
        cfg.write_text("[" * 100_000)
    elif how == "version":
        cfg.write_text(json.dumps({**data, "version": 2}))
    elif how == "format":
        cfg.write_text(json.dumps({**data, "format": "x"}))
    elif how == "no k":
        cfg.write_text(json.dumps({key: value for key, value in data.items() if key != "k"}))
    elif how == "k text":
        cfg.write_text(json.dumps({**data, "k": "3"}))
    elif how == "width":
        cfg.write_text(json.dumps({**data, "d_in": 7}))
    elif how == "no tensor":
        save_file({name: tensor for name, tensor in tensors.items() if name != "b_dec"}, weights)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("no cfg", "no SAE of a known format: found the file sae.safetensors"),
        ("no weights", "no sae.safetensors"),
        ("cut weights", "cannot be read"),
        ("noise", "cannot be read"),
        ("no json", "cannot be read"),
        ("list", "JSON object"),
        ("deep", "cannot be read"),
        ("version", "version 2: expected 1"),
        ("format", "no SAE of a known format.*in cfg.json the keys format, version"),
        ("no k", "no k"),
        ("k text", "k must be"),
        ("width", "expected"),
        ("no tensor", "no tensor 'b_dec'"),
    ],
)
def test_damaged_folders_say_what_is_wrong(tmp_path: Path, how: str, says: str) -> None:
    make_sae().save(tmp_path)
    break_file(tmp_path, how)
    with pytest.raises(FeaturebrushError, match=says):
        sae.load(tmp_path)


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(FeaturebrushError, match="no folder"):
        sae.load(tmp_path / "none")


def test_a_failed_save_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s = make_sae()
    s.save(tmp_path)
    before = (tmp_path / "sae.safetensors").read_bytes()

    def full(_tensors: object, path: Path) -> None:
        Path(path).write_bytes(b"half a fi")
        raise OSError("no space left")

    monkeypatch.setattr("sae.formats.save_file", full)
    with pytest.raises(OSError, match="no space"):
        make_sae(seed=1).save(tmp_path)
    assert (tmp_path / "sae.safetensors").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def make_atlas() -> Atlas:
    labels = FeatureLabels(("castle", None, "wave", "castle") + (None,) * 6, (0.5, 0.0, 0.25, 0.75) + (0.0,) * 6, ())
    return Atlas.of(make_sae(), labels)


def test_atlas_round_trips_and_is_columns(tmp_path: Path) -> None:
    atlas = make_atlas()
    atlas.save(tmp_path)
    assert Atlas.load(tmp_path) == atlas
    columns = json.loads((tmp_path / "atlas.json").read_text())["columns"]
    assert columns["label"][:3] == ["castle", None, "wave"] and len(columns["p99"]) == 10


def test_atlas_lookups() -> None:
    atlas = make_atlas()
    assert len(atlas) == 10 and atlas[2].label == "wave" and [info.index for info in atlas] == list(range(10))
    assert [info.index for info in atlas.labelled("castle")] == [3, 0]
    assert [info.index for info in atlas.find("CAST")] == [3, 0]
    assert atlas.labels == ("castle", "wave")
    assert atlas[1].mean == pytest.approx(make_sae().mean[1].item(), rel=1e-5)
    with pytest.raises(FeaturebrushError, match="did you mean 'castle'"):
        atlas.labelled("castel")
    with pytest.raises(FeaturebrushError, match="0 to 9"):
        atlas[10]


@pytest.mark.parametrize(
    "edit",
    [
        lambda data: data.pop("columns"),
        lambda data: data["columns"].pop("mean"),
        lambda data: data["columns"]["mean"].pop(),
        lambda data: data["columns"]["density"].__setitem__(0, 1.5),
        lambda data: data["columns"]["score"].__setitem__(0, "high"),
        lambda data: data["columns"]["label"].__setitem__(0, 5),
        lambda data: data.update(version=9),
    ],
)
def test_damaged_atlas_is_refused(tmp_path: Path, edit) -> None:
    make_atlas().save(tmp_path)
    path = tmp_path / "atlas.json"
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))
    with pytest.raises(FeaturebrushError, match="atlas.json"):
        Atlas.load(tmp_path)


def test_feature_numbers_have_no_gaps() -> None:
    with pytest.raises(FeaturebrushError, match="gaps"):
        Atlas("mid.0", (FeatureInfo(1, 0.0, 0.0, 0.0),))


def test_every_public_name_is_there() -> None:
    assert all(getattr(sae, name) is not None for name in sae.__all__)
    with pytest.raises(AttributeError, match="did you mean 'SAEConfig'"):
        _ = sae.SAEConfg  # type: ignore[attr-defined]


def test_eval_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_sae().save(tmp_path)
    file = tmp_path / "a.safetensors"
    save_file({"down.1.0": torch.randn(2, 4, 4, 6), "other": torch.randn(3, 5)}, file)
    assert main(["eval", str(tmp_path), "--activations", str(file), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["vectors"] == 32 and 0 <= measured["l0"] <= 10
    assert main(["eval", str(tmp_path), "--activations", str(file)]) == 0
    assert "variance unexplained" in capsys.readouterr().out
    for extra, says in ((["--tensor", "othr"], "'other'"), (["--tensor", "other"], "width 5")):
        assert main(["eval", str(tmp_path), "--activations", str(file), *extra]) == 2
        assert says in capsys.readouterr().err
    assert main(["eval", str(tmp_path), "--activations", str(tmp_path / "no")]) == 2
    (tmp_path / "bad").write_bytes(b"\xff" * 50)
    assert main(["eval", str(tmp_path), "--activations", str(tmp_path / "bad")]) == 2
