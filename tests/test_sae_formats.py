"""Reading and writing the formats of the field, against what the libraries themselves compute.

``fixtures/sae`` holds SAEs as the real libraries saved them, with their codes; ``fixtures/make_sae_fixtures.py`` made
it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_sae_model import ARCHITECTURES, make_sae

import sae
from sae import SAE, FeaturebrushError, SAEConfig
from sae.formats import FORMATS, detect, save_saelens, save_sparsify
from sae.model import Architecture

FIXTURES = Path(__file__).parent / "fixtures" / "sae"


class Known(NamedTuple):
    architecture: Architecture
    k: int
    prefixes: tuple[int, ...] = ()


SAVED = {
    "sdxl-unbox-topk": Known("topk", 3),
    "saelens-standard": Known("relu", 10),
    "saelens-topk": Known("topk", 3),
    "saelens-topk-rescaled": Known("topk", 3),
    "saelens-jumprelu": Known("jumprelu", 10),
    "saelens-jumprelu-plain-input": Known("jumprelu", 10),
    "saelens-batchtopk": Known("batchtopk", 3),
    "saelens-batchtopk-checkpoint": Known("batchtopk", 3),
    "saelens-matryoshka": Known("matryoshka", 3, (2, 5, 10)),
    "saelens-matryoshka-checkpoint": Known("matryoshka", 3, (2, 5, 10)),
    "sparsify-topk": Known("topk", 3),
    "sparsify-multi-topk": Known("topk", 3),
    "dictionary_learning-relu": Known("relu", 10),
    "dictionary_learning-relu-april": Known("relu", 10),
    "dictionary_learning-relu-new": Known("relu", 10),
    "dictionary_learning-topk": Known("topk", 3),
    "dictionary_learning-batchtopk": Known("batchtopk", 3),
    "dictionary_learning-batchtopk-unset": Known("batchtopk", 3),
    "dictionary_learning-matryoshka": Known("matryoshka", 3, (2, 5, 10)),
    "dictionary_learning-jumprelu": Known("jumprelu", 4),
}
"""Every folder of the fixtures, of d = 6 and F = 10: what it is in our words."""

Tensors = dict[str, Any]


def format_of(name: str) -> str:
    return next(known for known in FORMATS if name.startswith(known))


def check_codes(loaded: SAE, folder: Path) -> None:
    """The library's own codes and reconstruction, to 1e-5."""
    expected = load_file(folder / "expected.safetensors")
    codes = loaded.encode(expected["input"])
    torch.testing.assert_close(codes, expected["codes"], rtol=1e-5, atol=1e-5)
    assert torch.equal(codes > 0, expected["codes"] > 0)
    torch.testing.assert_close(loaded(expected["input"]), expected["reconstruction"], rtol=1e-5, atol=1e-5)


def changed(
    name: str,
    folder: Path,
    config: Callable[[dict[str, Any]], object] = lambda config: None,
    tensors: Callable[[Tensors], object] = lambda tensors: None,
) -> Path:
    """A copy of the fixture ``name`` in ``folder`` with its configuration and tensors edited."""
    known = FORMATS[format_of(name)]
    shutil.copytree(FIXTURES / name, folder, dirs_exist_ok=True)
    data = json.loads((folder / known.config).read_text())
    config(data)
    (folder / known.config).write_text(json.dumps(data))
    path = folder / known.weights
    if path.suffix == ".safetensors":
        held = load_file(path)
        tensors(held)
        save_file({name: value.contiguous() for name, value in held.items()}, path)
    else:
        held = torch.load(path, weights_only=True)
        tensors(held.get("state_dict", held))
        torch.save(held, path)
    return folder


def test_every_fixture_is_tested() -> None:
    assert {path.name for path in FIXTURES.iterdir() if path.is_dir()} == set(SAVED)
    assert sum(path.stat().st_size for path in FIXTURES.rglob("*") if path.is_file()) < 200_000


@pytest.mark.parametrize("name", SAVED)
def test_codes_are_those_of_the_library(name: str) -> None:
    folder = FIXTURES / name
    assert detect(folder) == format_of(name)
    loaded = sae.load(folder, block="down.2.1", site="output")
    check_codes(loaded, folder)
    known = SAVED[name]
    assert loaded.cfg == SAEConfig(6, 10, known.k, "down.2.1", "output", known.architecture, known.prefixes)


@pytest.mark.parametrize("name", ["sdxl-unbox-topk", "saelens-topk", "sparsify-topk", "dictionary_learning-topk"])
def test_a_file_stands_for_its_folder(name: str, tmp_path: Path) -> None:
    known = FORMATS[format_of(name)]
    for file in (known.config, known.weights):
        assert detect(FIXTURES / name / file) == format_of(name)
        check_codes(sae.load(FIXTURES / name / file), FIXTURES / name)
    folder = changed(name, tmp_path)
    (folder / "ae_100.pt").write_bytes(b"")
    with pytest.raises(FeaturebrushError, match="ae_100.pt is not read.*" + known.weights):
        sae.load(folder / "ae_100.pt")


def test_means_of_sdxl_unbox_are_ours(tmp_path: Path) -> None:
    folder = FIXTURES / "sdxl-unbox-topk"
    mean = torch.load(folder / "mean.pt", weights_only=True)
    assert torch.isnan(mean[4]), "no position of the data had this feature"
    torch.testing.assert_close(sae.load(folder).mean, mean.nan_to_num(0.0))
    without = changed("sdxl-unbox-topk", tmp_path)
    (without / "mean.pt").unlink()
    assert not sae.load(without).mean.any()


def test_a_full_size_sdxl_sae_loads_and_encodes(tmp_path: Path) -> None:
    d, f, k = 1280, 5120, 10
    g = torch.Generator().manual_seed(0)
    decoder = torch.nn.functional.normalize(torch.randn(f, d, generator=g), dim=1)
    state = {
        "pre_bias": torch.randn(d, generator=g),
        "latent_bias": torch.zeros(f),
        "stats_last_nonzero": torch.zeros(f, dtype=torch.long),
        "encoder.weight": decoder.clone(),
        "decoder.weight": decoder.T,
    }
    (tmp_path / "config.json").write_text(
        json.dumps({"n_dirs_local": f, "d_model": d, "k": k, "auxk": 256, "dead_steps_threshold": 2441})
    )
    torch.save({"state_dict": state}, tmp_path / "state_dict.pth")
    loaded = sae.load(tmp_path, block="down.2.1")
    assert loaded.cfg == SAEConfig(d, f, k, "down.2.1", "update", "topk")
    # What k features were added up to is found again.
    truth = torch.stack([torch.randperm(f, generator=g)[:k] for _ in range(256)])
    u = 10 * decoder[truth].sum(1) + state["pre_bias"]
    z = loaded.encode(u)
    assert (z > 0).sum() == 256 * k
    assert (z.gather(1, truth) > 0).float().mean() > 0.95
    loaded.save(tmp_path / "ours", half=True)
    torch.testing.assert_close(sae.load(tmp_path / "ours").encode(u), z, rtol=1e-2, atol=5e-2)


# Variants of the real files, where the library's source says that they mean the same.


def with_log_threshold(tensors: Tensors) -> None:
    tensors["log_threshold"] = tensors.pop("threshold").clamp(min=1e-6).log()


def as_topk_of_version_5(config: dict[str, Any]) -> None:
    k = config.pop("k")
    del config["metadata"]
    config |= {"architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": k}}
    config |= {"expansion_factor": 4, "normalize_activations": False, "hook_point": "blocks.0"}


def as_standard_of_version_3(config: dict[str, Any]) -> None:
    del config["architecture"], config["metadata"], config["normalize_activations"]
    config |= {"activation_fn": "relu", "apply_b_dec_to_input": True}


def transposed(*names: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: tensors[name].T.contiguous() for name in names})


@pytest.mark.parametrize(
    ("name", "config", "tensors"),
    [
        ("saelens-topk", as_topk_of_version_5, None),
        ("saelens-standard", as_standard_of_version_3, None),
        ("saelens-standard", None, lambda tensors: tensors.update(scaling_factor=torch.ones(10))),
        ("saelens-standard", None, transposed("W_enc", "W_dec")),
        ("sparsify-topk", lambda config: config.update(num_latents=0, expansion_factor=2), None),
        ("sparsify-topk", lambda config: [config.pop(key) for key in ("activation", "multi_topk", "transcode")], None),
        ("sdxl-unbox-topk", None, transposed("encoder.weight", "decoder.weight")),
        ("sdxl-unbox-topk", None, lambda tensors: tensors.pop("stats_last_nonzero")),
        ("dictionary_learning-jumprelu", None, transposed("W_enc")),
        ("dictionary_learning-topk", None, lambda tensors: (tensors.pop("k"), tensors.pop("threshold"))),
        (
            "dictionary_learning-matryoshka",
            lambda config: config["trainer"].update(dict_class="MatroyshkaBatchTopKSAE"),
            None,
        ),
    ],
)
def test_variants_mean_the_same(
    name: str,
    config: Callable[[dict[str, Any]], object] | None,
    tensors: Callable[[Tensors], object] | None,
    tmp_path: Path,
) -> None:
    folder = changed(name, tmp_path, config or (lambda data: None), tensors or (lambda held: None))
    check_codes(sae.load(folder), FIXTURES / name)


def test_thresholds_may_be_logarithms_or_below_0(tmp_path: Path) -> None:
    fixture = sae.load(FIXTURES / "saelens-jumprelu")
    logarithms = sae.load(changed("saelens-jumprelu", tmp_path / "log", tensors=with_log_threshold))
    torch.testing.assert_close(logarithms.threshold, fixture.threshold, rtol=1e-5, atol=2e-6)
    assert load_file(FIXTURES / "saelens-jumprelu" / "sae_weights.safetensors")["threshold"].min() < 0
    assert fixture.threshold.min() == 0


def test_a_jumprelu_of_equal_thresholds_stays_one_where_nothing_says_more(tmp_path: Path) -> None:
    folder = changed("saelens-batchtopk", tmp_path, lambda config: config.pop("metadata"))
    loaded = sae.load(folder)
    assert loaded.cfg.architecture == "jumprelu" and loaded.cfg.k == 10
    check_codes(loaded, folder)


# What is refused.


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("saelens-standard", {"architecture": "gated"}, "architecture 'gated' of SAELens cannot be represented"),
        ("saelens-standard", {"architecture": "skip_transcoder"}, "'skip_transcoder'"),
        ("saelens-standard", {"activation_fn": "tanh-relu"}, "activation 'tanh-relu'"),
        ("saelens-topk", {"normalize_activations": "layer_norm"}, "'layer_norm', by which every vector"),
        ("saelens-topk", {"normalize_activations": "constant_norm_rescale"}, "'constant_norm_rescale', by which"),
        ("saelens-topk", {"normalize_activations": "expected_average_only_in"}, "fold_activation_norm_scaling_factor"),
        ("saelens-topk", {"normalize_activations": True}, "factor the folder does not hold"),
        ("saelens-topk", {"k": 2.5}, "whole number as k, not 2.5"),
        ("saelens-topk", {"k": 11}, "k = 11"),
        ("saelens-topk", {"d_sae": 12}, "d_sae = 12, but the tensors are for 10"),
        ("sparsify-topk", {"activation": "groupmax"}, "activation 'groupmax' of sparsify"),
        ("sparsify-topk", {"transcode": True}, "transcode = True"),
        ("sparsify-topk", {"skip_connection": True}, "skip_connection = True"),
        ("sparsify-topk", {"signed": True}, "signed = True"),
        ("sparsify-topk", {"batch_topk": True}, "batch_topk = True"),
        ("sparsify-topk", {"sample_topk": True}, "sample_topk = True"),
        ("sparsify-topk", {"input_unit_norm": True}, "input_unit_norm = True"),
        ("sparsify-topk", {"k": None}, "whole number as k, not None"),
        ("sdxl-unbox-topk", {"d_model": 7}, "d_model = 7"),
        ("dictionary_learning-relu", {"trainer": {"dict_class": "GatedAutoEncoder"}}, "class GatedAutoEncoder"),
        ("dictionary_learning-relu", {"trainer": {}}, "class None"),
        ("dictionary_learning-relu", {"trainer": {"dict_class": "AutoEncoderTopK"}}, "no tensor 'b_dec'"),
    ],
)
def test_what_cannot_be_represented_is_named(name: str, changes: Mapping[str, Any], says: str, tmp_path: Path) -> None:
    folder = changed(name, tmp_path, lambda config: config.update(changes))
    with pytest.raises(FeaturebrushError, match=says) as error:
        sae.load(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("name", "edit", "says"),
    [
        ("sparsify-topk", {"W_skip": torch.zeros(6, 6)}, "the tensors W_skip cannot be represented"),
        ("saelens-standard", {"scaling_factor": torch.full((10,), 2.0)}, "scaling_factor"),
        ("saelens-standard", {"W_enc": torch.zeros(5, 10)}, r"W_enc has the shape \[5, 10\]: expected \[6, 10\]"),
        ("saelens-standard", {"b_enc": None}, "no tensor 'b_enc' .*found .*W_enc"),
        ("saelens-standard", {"b_enc": torch.zeros(2, 5)}, r"b_enc has the shape \[2, 5\]"),
        ("sdxl-unbox-topk", {"activation": "TopK"}, "the tensors activation cannot be represented"),
        ("sdxl-unbox-topk", {"pre_bias": "none"}, "pre_bias must be a tensor, not str"),
        ("dictionary_learning-batchtopk", {"threshold": None}, "no tensor 'threshold'"),
        ("dictionary_learning-jumprelu", {"W_enc": torch.full((6, 10), float("inf"))}, "not finite"),
    ],
)
def test_tensors_that_do_not_fit_are_named(name: str, edit: Mapping[str, Any], says: str, tmp_path: Path) -> None:
    def apply(tensors: Tensors) -> None:
        for key, value in edit.items():
            if value is None:
                del tensors[key]
            else:
                tensors[key] = value

    with pytest.raises(FeaturebrushError, match=says):
        sae.load(changed(name, tmp_path, tensors=apply))


class Command:
    """As a pickle: a call of a shell command."""

    def __init__(self, line: str):
        self.line = line

    def __reduce__(self) -> Any:
        return os.system, (self.line,)


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    folder = changed("dictionary_learning-topk", tmp_path / "sae")
    torch.save({"encoder.weight": Command(f"touch {tmp_path / 'ran'}")}, folder / "ae.pt")
    with pytest.raises(FeaturebrushError, match=r"ae\.pt cannot be read as saved tensors"):
        sae.load(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"PK\x03\x04" + b"\0" * 64, b"\x80\x02]q\x00."])
def test_damaged_pickles_are_refused(content: bytes, tmp_path: Path) -> None:
    folder = changed("dictionary_learning-topk", tmp_path)
    (folder / "ae.pt").write_bytes(content)
    with pytest.raises(FeaturebrushError, match=r"ae\.pt (cannot be read|must hold tensors by name)"):
        sae.load(folder)


def test_a_pickle_of_something_else_is_refused(tmp_path: Path) -> None:
    folder = changed("dictionary_learning-topk", tmp_path)
    torch.save([1, 2], folder / "ae.pt")
    with pytest.raises(FeaturebrushError, match="must hold tensors by name, not list"):
        sae.load(folder)
    (folder / "ae.pt").unlink()
    with pytest.raises(FeaturebrushError, match=r"has no ae\.pt"):
        sae.load(folder)


def test_what_fits_no_format_is_described(tmp_path: Path) -> None:
    with pytest.raises(FeaturebrushError, match="found nothing. Known are featurebrush .*dictionary_learning"):
        detect(tmp_path)
    (tmp_path / "cfg.json").write_text('{"width": 5, "depth": 6}')
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(FeaturebrushError) as error:
        sae.load(tmp_path)
    message = str(error.value)
    for part in ("weights.bin", "in cfg.json the keys width, depth", *FORMATS, "ae.pt", "sae_weights.safetensors"):
        assert part in message
    with pytest.raises(FeaturebrushError, match="no folder"):
        detect(tmp_path / "none")


# Writing.


def rough(architecture: Architecture, d: int = 6, f: int = 10) -> SAE:
    """An SAE whose decoder's rows are of many lengths."""
    s = make_sae(d, f, architecture=architecture)
    return SAE(s.cfg, {**s.tensors(), "W_dec": s.W_dec * torch.linspace(0.5, 2, f)[:, None]})


def check_same(a: SAE, b: SAE) -> None:
    """The same SAE, but for its statistics."""
    u = 2 * torch.randn(50, a.cfg.d_in, generator=torch.Generator().manual_seed(1))
    assert a.cfg == b.cfg
    assert torch.equal(a.encode(u), b.encode(u)) and torch.equal(a(u), b(u))


@pytest.mark.parametrize("d", [6, 10])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saelens_round_trip(architecture: Architecture, d: int, tmp_path: Path) -> None:
    s = rough(architecture, d)
    save_saelens(s, tmp_path / "a" / "b")
    assert detect(tmp_path / "a" / "b") == "saelens"
    check_same(sae.load(tmp_path / "a" / "b", block=s.cfg.block), s)


@pytest.mark.parametrize("d", [6, 10])
def test_sparsify_round_trip(d: int, tmp_path: Path) -> None:
    s = rough("topk", d)
    save_sparsify(s, tmp_path)
    assert detect(tmp_path) == "sparsify"
    check_same(sae.load(tmp_path, block=s.cfg.block), s)


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "topk"])
def test_sparsify_has_topk_only(architecture: Architecture, tmp_path: Path) -> None:
    with pytest.raises(FeaturebrushError, match=f"this one is {architecture}: save it with .*save_saelens"):
        save_sparsify(make_sae(architecture=architecture), tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", ["dictionary_learning", "sdxl-unbox"])
def test_square_matrices_have_the_orientation_that_the_format_documents(name: str, tmp_path: Path) -> None:
    s = rough("topk", 10)
    linear = {"encoder.weight": s.W_enc, "decoder.weight": s.W_dec.T}
    if name == "sdxl-unbox":
        config: dict[str, Any] = {"n_dirs_local": 10, "d_model": 10, "k": 3}
        tensors = {**linear, "latent_bias": s.b_enc, "pre_bias": s.b_dec}
    else:
        config = {"trainer": {"dict_class": "AutoEncoderTopK", "activation_dim": 10, "dict_size": 10, "k": 3}}
        tensors = {**linear, "encoder.bias": s.b_enc, "b_dec": s.b_dec}
    (tmp_path / FORMATS[name].config).write_text(json.dumps(config))
    torch.save(tensors, tmp_path / FORMATS[name].weights)
    check_same(sae.load(tmp_path, block=s.cfg.block), s)


@pytest.mark.parametrize(
    ("name", "architecture"),
    [("topk", "topk"), ("standard", "relu"), ("jumprelu", "jumprelu"), ("batchtopk", "batchtopk")],
)
def test_what_is_written_has_the_form_of_saelens_own(name: str, architecture: Architecture, tmp_path: Path) -> None:
    save_saelens(make_sae(architecture=architecture), tmp_path)
    theirs = FIXTURES / f"saelens-{name}"
    config, their_config = (json.loads((folder / "cfg.json").read_text()) for folder in (tmp_path, theirs))
    assert config.keys() == their_config.keys() and config["architecture"] == their_config["architecture"]
    tensors, their_tensors = (load_file(folder / "sae_weights.safetensors") for folder in (tmp_path, theirs))
    shapes = {key: (value.shape, value.dtype) for key, value in tensors.items()}
    assert shapes == {key: (value.shape, value.dtype) for key, value in their_tensors.items()}


def test_what_is_written_has_the_form_of_sparsifys_own(tmp_path: Path) -> None:
    save_sparsify(make_sae(architecture="topk"), tmp_path)
    theirs = FIXTURES / "sparsify-topk"
    config, their_config = (json.loads((folder / "cfg.json").read_text()) for folder in (tmp_path, theirs))
    assert config.keys() <= their_config.keys() and type(config["num_latents"]) is type(their_config["num_latents"])
    tensors, their_tensors = (load_file(folder / "sae.safetensors") for folder in (tmp_path, theirs))
    assert {key: value.shape for key, value in tensors.items()} == {
        key: value.shape for key, value in their_tensors.items()
    }


def test_a_foreign_sae_becomes_one_of_ours(tmp_path: Path) -> None:
    loaded = sae.load(FIXTURES / "saelens-topk-rescaled", block="mid.0")
    loaded.save(tmp_path)
    assert detect(tmp_path) == "featurebrush"
    check_same(sae.load(tmp_path), loaded)
