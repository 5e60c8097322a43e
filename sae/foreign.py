"""What other libraries' SAEs mean: their configuration and tensors, made into ours. No files are touched here.

Each function gives the parts of an `SAE` with the codes and reconstructions of the library that wrote it. Where a
library's encoder differs from ours in form only, the difference is folded into the weights, exactly:

- The decoder's bias is not taken from the input: ``W u + b = W (u − b_dec) + (b + W b_dec)``.
- Codes are multiplied by the lengths of the decoder's rows, and divided by them before it: the lengths go into the
  encoder, and the rows become of unit length.
- Some libraries choose the k largest before the relu, some after: the codes are the same. So they are whether a
  threshold below 0 is compared before or after the relu: both are the threshold 0.

Whatever cannot be represented is refused by name, and so is every tensor that is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sae.errors import FeaturebrushError
from sae.model import Architecture, SAEConfig, Site

Parts = tuple[SAEConfig, dict[str, Tensor]]
"""What `sae.model.SAE` is made of."""


def sdxl_unbox(config: Mapping[str, Any], tensors: Mapping[str, Any], block: str, site: Site) -> Parts:
    """sdxl-unbox (arXiv 2410.22366), after openai/sparse_autoencoder: topk.

    ``encoder.weight [F, d]``, ``latent_bias [F]``, ``decoder.weight [d, F]``, ``pre_bias [d]``; ``mean [F]``, over the
    positions where a feature is active, is the statistic of that name.
    """
    left = _Tensors(tensors)
    b_enc, b_dec = left.vector("latent_bias"), left.vector("pre_bias")
    f, d = _size(config, "n_dirs_local", b_enc), _size(config, "d_model", b_dec)
    W_enc, W_dec = left.matrix("encoder.weight", f, d), left.matrix("decoder.weight", f, d, transposed=True)
    mean = left.maybe("mean")
    left.drop("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
    left.check_empty()
    parts = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}
    if mean is not None:
        # The mean over no position is not a number.
        parts["mean"] = mean.masked_fill(mean.isnan(), 0.0)
    return SAEConfig(d, f, _exact(config.get("k")), block, site, "topk"), parts


SAELENS_NAMES: dict[Architecture, str] = {
    "topk": "topk",
    "batchtopk": "batchtopk",
    "matryoshka": "matryoshka_batchtopk",
    "jumprelu": "jumprelu",
    "relu": "standard",
}
"""Our architectures in SAELens' words."""

_FROM_SAELENS: dict[str, Architecture] = {name: ours for ours, name in SAELENS_NAMES.items()}


def saelens(config: Mapping[str, Any], tensors: Mapping[str, Any], block: str, site: Site) -> Parts:
    """SAELens, its SAEs for inference and its checkpoints of training: all architectures.

    ``W_enc [d, F]``, ``b_enc [F]``, ``W_dec [F, d]``, ``b_dec [d]``; ``threshold [F]`` for jumprelu (in checkpoints of
    early versions its logarithm); in checkpoints of batchtopk and matryoshka ``topk_threshold []``. For inference these
    two are written as jumprelu with one threshold for all; where the metadata tells, they are given as what they are.
    """
    name, k = config.get("architecture", "standard"), config.get("k")
    activation = config.get("activation_fn") or config.get("activation_fn_str") or "relu"
    if activation == "topk":
        # Before version 6, topk was an activation of the architecture "standard".
        name, k = "topk", _object(config, "activation_fn_kwargs").get("k", k)
    elif activation != "relu":
        raise _refused(f"the activation {activation!r} of SAELens")
    architecture = _FROM_SAELENS.get(str(name))
    if architecture is None:
        raise _refused(f"the architecture {name!r} of SAELens")
    normalised = config.get("normalize_activations")
    if normalised in (True, "expected_average_only_in"):
        raise _refused(
            f"normalize_activations = {normalised!r}, whose factor the folder does not hold "
            "(let SAELens fold it: fold_activation_norm_scaling_factor),"
        )
    if normalised not in (None, False, "none"):
        raise _refused(f"normalize_activations = {normalised!r}, by which every vector is scaled for itself,")

    left = _Tensors(tensors)
    b_enc, b_dec = left.vector("b_enc"), left.vector("b_dec")
    f, d = _size(config, "d_sae", b_enc), _size(config, "d_in", b_dec)
    W_enc, W_dec = left.matrix("W_enc", f, d, transposed=True), left.matrix("W_dec", f, d)
    threshold = None
    if architecture == "jumprelu":
        logarithm = left.maybe("log_threshold")
        threshold = left.vector("threshold") if logarithm is None else logarithm.exp()
    elif architecture in ("batchtopk", "matryoshka"):
        threshold = left.scalar("topk_threshold")
    factors = left.maybe("scaling_factor")
    if factors is not None and not torch.allclose(factors, torch.ones_like(factors)):
        raise _refused("a finetuning scaling_factor of SAELens")
    left.check_empty()
    if config.get("apply_b_dec_to_input") is False:
        b_enc = _bias_of_plain_input(W_enc, b_enc, b_dec)
    if config.get("rescale_acts_by_decoder_norm") and architecture != "jumprelu":
        W_enc, b_enc, W_dec = _with_unit_rows(W_enc, b_enc, W_dec)

    metadata = _object(config, "metadata")
    training = _object(metadata, "training_architecture_details")
    trained = _FROM_SAELENS.get(str(metadata.get("training_architecture")))
    if architecture == "jumprelu" and trained in ("batchtopk", "matryoshka") and threshold is not None:
        lowest, highest = threshold.aminmax()
        if lowest == highest:
            architecture, threshold = trained, lowest
    prefixes = ()
    if architecture == "matryoshka":
        prefixes = _prefixes(config.get("matryoshka_widths") or training.get("matryoshka_widths"), f)
    k = _exact(k) if architecture == "topk" else _nominal(k if k is not None else training.get("k"), f)
    parts = _parts(W_enc, b_enc, W_dec, b_dec, threshold)
    return SAEConfig(d, f, k, block, site, architecture, prefixes), parts


_BEYOND_SPARSIFY = (
    "transcode",
    "skip_connection",
    "embed_skip",
    "gram_lookup",
    "signed",
    "batch_topk",
    "sample_topk",
    "input_unit_norm",
)
"""Settings, some of them of forks and of early versions, with which sparsify's codes are not those of plain topk."""


def sparsify(config: Mapping[str, Any], tensors: Mapping[str, Any], block: str, site: Site) -> Parts:
    """EleutherAI's sparsify (once "sae"): topk.

    ``encoder.weight [F, d]``, ``encoder.bias [F]``, ``W_dec [F, d]``, ``b_dec [d]``. ``multi_topk`` is a term of the
    loss in training alone and changes nothing here.
    """
    activation = config.get("activation", "topk")
    if activation != "topk":
        raise _refused(f"the activation {activation!r} of sparsify")
    for name in _BEYOND_SPARSIFY:
        if config.get(name):
            raise _refused(f"{name} = {config[name]!r} of sparsify")
    left = _Tensors(tensors)
    b_enc, b_dec = left.vector("encoder.bias"), left.vector("b_dec")
    # num_latents is 0 where expansion_factor says the number.
    f, d = _size(config, "num_latents", b_enc, unless=0), _size(config, "d_in", b_dec)
    W_enc, W_dec = left.matrix("encoder.weight", f, d), left.matrix("W_dec", f, d)
    left.check_empty()
    return SAEConfig(d, f, _exact(config.get("k")), block, site, "topk"), _parts(W_enc, b_enc, W_dec, b_dec)


_DICTIONARIES: dict[str, tuple[Architecture, str]] = {
    "AutoEncoder": ("relu", "bias"),
    "AutoEncoderNew": ("relu", "decoder.bias"),
    "AutoEncoderTopK": ("topk", "b_dec"),
    "BatchTopKSAE": ("batchtopk", "b_dec"),
    "MatryoshkaBatchTopKSAE": ("matryoshka", "b_dec"),
    "MatroyshkaBatchTopKSAE": ("matryoshka", "b_dec"),
    "JumpReluAutoEncoder": ("jumprelu", "b_dec"),
}
"""Classes of dictionary_learning (one of them under its misspelt early name): architecture, the decoder's bias."""

_PLAIN_INPUT = ("AutoEncoderNew", "JumpReluAutoEncoder")
"""Those whose encoder does not take the decoder's bias from the input."""


def dictionary_learning(config: Mapping[str, Any], tensors: Mapping[str, Any], block: str, site: Site) -> Parts:
    """saprmarks/dictionary_learning: relu, topk, batchtopk, matryoshka, jumprelu, by ``trainer.dict_class``.

    ``encoder.weight [F, d]``, ``encoder.bias [F]``, ``decoder.weight [d, F]``, or ``W_enc [d, F]``, ``b_enc [F]``,
    ``W_dec [F, d]``; the decoder's bias by one of three names. topk keeps the k largest, as there by default, though
    its file has a threshold too. AutoEncoder is given unit rows, as its own loader gives it. All groups of a matryoshka
    SAE are active, as in a loaded one; how many are is not in the file.
    """
    trainer = _object(config, "trainer")
    name = str(trainer.get("dict_class"))
    if name not in _DICTIONARIES:
        raise _refused(f"the class {name} of dictionary_learning")
    architecture, bias = _DICTIONARIES[name]
    left = _Tensors(tensors)
    linear = "encoder.weight" in tensors
    b_enc, b_dec = left.vector("encoder.bias" if linear else "b_enc"), left.vector(bias)
    f, d = _size(trainer, "dict_size", b_enc), _size(trainer, "activation_dim", b_dec)
    W_enc = left.matrix("encoder.weight", f, d) if linear else left.matrix("W_enc", f, d, transposed=True)
    W_dec = left.matrix("decoder.weight", f, d, transposed=True) if linear else left.matrix("W_dec", f, d)
    k = int(left.scalar("k")) if "k" in tensors else trainer.get("k")
    groups, threshold = None, None
    if architecture in ("batchtopk", "matryoshka"):
        # -1 until training has set it, by which everything above 0 is kept.
        threshold = left.scalar("threshold")
    elif architecture == "jumprelu":
        threshold, k = left.vector("threshold"), trainer.get("target_l0")
    elif architecture == "topk":
        left.drop("threshold")
    if architecture == "matryoshka":
        groups = left.vector("group_sizes").cumsum(0).int().tolist()
    left.check_empty()
    if name in _PLAIN_INPUT:
        b_enc = _bias_of_plain_input(W_enc, b_enc, b_dec)
    if name == "AutoEncoder":
        W_enc, b_enc, W_dec = _with_unit_rows(W_enc, b_enc, W_dec)
    k = _exact(k) if architecture == "topk" else _nominal(k, f)
    cfg = SAEConfig(d, f, k, block, site, architecture, _prefixes(groups, f))
    return cfg, _parts(W_enc, b_enc, W_dec, b_dec, threshold)


class _Tensors:
    """The tensors of a file, to be taken out by name, as float32. What is left would change the codes."""

    def __init__(self, tensors: Mapping[str, Any]):
        self._left = dict(tensors)
        self._found = ", ".join(map(str, tensors)) or "none"

    def maybe(self, name: str) -> Tensor | None:
        value = self._left.pop(name, None)
        if value is not None and not isinstance(value, Tensor):
            raise FeaturebrushError(f"{name} must be a tensor, not {type(value).__name__}")
        return None if value is None else value.detach().to(torch.float32)

    def _take(self, name: str, expected: str, dimensions: int) -> Tensor:
        value = self.maybe(name)
        if value is None:
            raise FeaturebrushError(f"there is no tensor {name!r} {expected}: found {self._found}")
        if value.dim() != dimensions or value.numel() == 0:
            raise FeaturebrushError(f"{name} has the shape {list(value.shape)}: expected {expected}")
        return value

    def vector(self, name: str) -> Tensor:
        return self._take(name, "[n]", 1)

    def scalar(self, name: str) -> Tensor:
        return self._take(name, "[]", 0)

    def matrix(self, name: str, f: int, d: int, transposed: bool = False) -> Tensor:
        """``[F, d]`` of a matrix that its format stores so or, ``transposed``, as ``[d, F]``.

        The shape has the last word: files of some versions have it the other way round. Where F = d it says nothing.
        """
        value = self._take(name, f"[{d}, {f}]" if transposed else f"[{f}, {d}]", 2)
        if tuple(value.shape) not in ((f, d), (d, f)):
            expected = [d, f] if transposed else [f, d]
            raise FeaturebrushError(f"{name} has the shape {list(value.shape)}: expected {expected}")
        return value.T if (transposed if f == d else value.shape[0] == d) else value

    def drop(self, *names: str) -> None:
        """Leave out what does not take part in the codes."""
        for name in names:
            self._left.pop(name, None)

    def check_empty(self) -> None:
        if self._left:
            raise _refused(f"an SAE with the tensors {', '.join(map(str, self._left))}")


def _parts(
    W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, b_dec: Tensor, threshold: Tensor | None = None
) -> dict[str, Tensor]:
    parts = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}
    return parts if threshold is None else {**parts, "threshold": threshold.clamp(min=0)}


def _bias_of_plain_input(W_enc: Tensor, b_enc: Tensor, b_dec: Tensor) -> Tensor:
    """``b_enc`` of the same encoder where b_dec is taken from its input."""
    return (b_enc.double() + W_enc.double() @ b_dec.double()).float()


def _with_unit_rows(W_enc: Tensor, b_enc: Tensor, W_dec: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Encoder and decoder of the codes multiplied by the lengths of the decoder's rows."""
    lengths = W_dec.double().norm(dim=1)
    rows = W_dec / lengths.clamp(min=1e-12)[:, None]
    return (W_enc * lengths[:, None]).float(), (b_enc * lengths).float(), rows.float()


def _size(config: Mapping[str, Any], key: str, values: Tensor, unless: object = None) -> int:
    """The number of ``values``, which the configuration must not contradict; ``unless`` it says nothing by that."""
    said = config.get(key)
    if said is not None and said != unless and said != len(values):
        raise FeaturebrushError(f"the configuration has {key} = {said!r}, but the tensors are for {len(values)}")
    return len(values)


def _exact(k: object) -> int:
    if type(k) is not int:
        raise FeaturebrushError(f"the configuration must have a whole number as k, not {k!r}")
    return k


def _nominal(k: object, f: int) -> int:
    """The whole number 1..F nearest to what a file says of k; F if it says nothing."""
    if isinstance(k, bool) or not isinstance(k, int | float) or not 0 < k < float("inf"):
        return f
    return min(f, max(1, round(k)))


def _prefixes(sizes: object, f: int) -> tuple[int, ...]:
    """Nested sizes as a file gives them; SAELens adds a last one of F where it is not there."""
    if not isinstance(sizes, list) or not sizes:
        return ()
    return tuple(sizes) if sizes[-1] == f else (*sizes, f)


def _object(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def _refused(what: str) -> FeaturebrushError:
    return FeaturebrushError(
        f"{what} cannot be represented: an SAE here is relu((u − b_dec) W_encᵀ + b_enc), of which the k largest, "
        "those above a threshold or all are kept"
    )
