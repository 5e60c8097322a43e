"""``python -m sae label``: what the features of an SAE stand for, by labellers whose scores can be compared."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from sae.atlas import ATLAS_FILE, Atlas
from sae.atlas_table import AtlasTable, build_atlas
from sae.denoising import Denoiser
from sae.devices import chosen
from sae.errors import FeaturebrushError
from sae.evaluation import add_model, add_pictures, config_in, given_model, given_sae
from sae.gallery import GalleryConfig, Shown, gallery
from sae.labellers.clip import ClipLabeller
from sae.labellers.detection import (
    Labelled,
    Labeller,
    Picture,
    best_labels,
    evidence_of,
    label_with,
    trial_of,
)
from sae.labellers.masks import MaskLabeller
from sae.labellers.prompts import PromptLabeller
from sae.labellers.vlm import Endpoint, VlmLabeller
from sae.labels import label_features
from sae.model import SAE
from sae.sources import Source, open_source

LABELLERS = ("masks", "prompts", "clip", "vlm")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """An SAE with statistics, the model around it, pictures, and who labels."""
    add_model(parser)
    add_pictures(parser, 600)
    parser.add_argument(
        "--by", nargs="+", choices=LABELLERS, required=True, help="labellers; each feature takes the best"
    )
    parser.add_argument("--features", type=int, metavar="N", help="only the N most often active ones")
    parser.add_argument("--clip", metavar="FOLDER", help="for clip: a folder of a transformers CLIP model")
    parser.add_argument(
        "--words", type=Path, metavar="FILE", help="for clip: the labels to choose from, one on each line"
    )
    parser.add_argument("--save", action="store_true", help="write the labels into FOLDER's atlas.json")


def run(options: argparse.Namespace) -> None:
    """Label, print how well each labeller did, and write what was asked for.

    Labels are made from one half of the pictures and tried on the other. Only ``--by vlm`` sends anything anywhere:
    pictures, to the endpoint that the environment names.
    """
    sae = given_sae(options, options.folder)
    if not bool((sae.density > 0).any()):
        raise FeaturebrushError(f"the SAE in {options.folder} has no statistics yet: run `python -m sae atlas` first")
    source, _ = open_source(options.prompts)
    concepts = () if isinstance(source, Sequence) else source.concepts
    if "masks" in options.by and not concepts:
        raise FeaturebrushError(f"the pictures of {options.prompts!r} have no masks: label by something else")
    cfg = config_in(GalleryConfig, options)
    half = cfg.count // 2
    if half < 2:
        raise FeaturebrushError(f"labels need at least 4 pictures, not {cfg.count}: half of them try the labels")
    if isinstance(source, Sequence) and len(source) < cfg.count:
        raise FeaturebrushError(
            f"{len(source)} prompts are too few for {cfg.count} pictures: those that try the labels need their own"
        )
    labellers = [_labeller(name, options) for name in options.by if name != "masks"]
    denoiser = Denoiser(given_model(options), cfg.steps, cfg.size)
    made_from = _look(sae, denoiser, source, replace(cfg, count=cfg.count - half))
    tried_on = _look(sae, denoiser, source, replace(cfg, first=cfg.first + cfg.count - half, count=half))
    if "masks" in options.by:
        labellers.insert(0, MaskLabeller(label_features(sae, made_from.truth, concepts)))

    order = sae.density.argsort(descending=True).tolist()
    features = [f for f in order if sae.density[f] > 0][: options.features]
    evidence = [evidence_of(made_from.table, f, made_from.pictures, made_from.peaks) for f in features]
    trials = [trial_of(f, tried_on.pictures, tried_on.peaks) for f in features]
    everything: list[Labelled] = []
    for labeller in labellers:
        found = label_with(labeller, tqdm(evidence, desc=labeller.name, mininterval=5), trials)
        everything += found
        scores = [one.score for one in found if one.score is not None]
        mean = f"mean score {sum(scores) / len(scores):.3f}" if scores else "no score"
        print(f"{labeller.name:8} labelled {len(scores)} of {len(features)} features, {mean}")
    if options.save:
        new = Atlas.of(sae, best_labels(everything, sae.cfg.n_features))
        if (options.folder / ATLAS_FILE).is_file():
            new = _kept(Atlas.load(options.folder), new, set(features))
        new.save(options.folder)


def _kept(old: Atlas, new: Atlas, tried: set[int]) -> Atlas:
    """``new``, with the labels of ``old`` where none was tried."""
    if len(old) != len(new):
        raise FeaturebrushError(f"the atlas there has {len(old)} features, the SAE {len(new)}: make its atlas again")
    pairs = zip(old, new, strict=True)
    return Atlas(
        new.block, tuple(n if n.index in tried else replace(n, label=o.label, score=o.score) for o, n in pairs)
    )


class _Looked(NamedTuple):
    pictures: list[Picture]
    peaks: Tensor
    table: AtlasTable
    truth: list[tuple[Tensor, Tensor]]


def _look(sae: SAE, denoiser: Denoiser, source: Source, cfg: GalleryConfig) -> _Looked:
    concepts: tuple[str, ...] = () if isinstance(source, Sequence) else source.concepts
    pictures: list[Picture] = []
    truth: list[tuple[Tensor, Tensor]] = []

    def batches():  # noqa: ANN202 - as `build_atlas` takes them
        for shown in gallery(denoiser, source, sae, cfg):
            pictures.extend(_pictures(shown, len(pictures), concepts))
            if shown.masks is not None:
                truth.append((shown.activations.cpu(), shown.masks.cpu()))
            yield shown.activations, None

    built = build_atlas(sae, batches(), keep_peaks=True)
    return _Looked(pictures, built.examples.all_peaks, built.table, truth)


def _pictures(shown: Shown, first: int, concepts: tuple[str, ...]) -> list[Picture]:
    pixels = ((shown.images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    found = []
    for i, caption in enumerate(shown.captions):
        present: frozenset[str] = frozenset()
        if shown.masks is not None:
            seen = shown.masks[i].flatten(0, 1).any(0).nonzero().flatten().tolist()
            present = frozenset(concepts[c] for c in seen)
        found.append(Picture(first + i, Image.fromarray(np.ascontiguousarray(pixels[i])), caption, present))
    return found


def _labeller(name: str, options: argparse.Namespace) -> Labeller:
    if name == "prompts":
        return PromptLabeller()
    if name == "vlm":
        return VlmLabeller(Endpoint.from_environment())
    if not options.clip or not options.words:
        raise FeaturebrushError("to label by clip give --clip FOLDER and --words FILE")
    # transformers takes seconds to import, and only this labeller needs it.
    from transformers import CLIPModel, CLIPTokenizer

    words, _ = open_source(str(options.words))
    try:
        clip = CLIPModel.from_pretrained(options.clip, local_files_only=True)
        tokenizer = CLIPTokenizer.from_pretrained(options.clip, local_files_only=True)
    except (OSError, ValueError) as error:
        raise FeaturebrushError(f"{options.clip!r} cannot be loaded as a CLIP model: {error}") from error
    if not isinstance(words, Sequence):
        raise FeaturebrushError(f"--words takes a file with a label on each line, not {str(options.words)!r}")
    model: Any = clip
    return ClipLabeller(model.to(chosen(options.device)), tokenizer, words)
