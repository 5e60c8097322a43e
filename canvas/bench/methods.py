"""Ways to make a stroke: ours, and what it has to beat, all on the same model."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from canvas.bench.cases import Case
from canvas.concepts import Concept
from canvas.engine import Plan
from canvas.masks import Mask
from canvas.painter import Painter
from canvas.painting import Painting
from canvas.steering import BlockEdits, Edit, FeatureSet, brush_vector

Method = Callable[["Bench", Case], Image.Image]


@dataclass
class Bench:
    """A painter, and what baselines need beside it."""

    painter: Painter
    differences: dict[str, Tensor] = field(default_factory=dict)
    """Of every concept, the mean difference that its presence makes to its block's updates, [d]; from the model."""
    lengths: dict[str, float] = field(default_factory=dict)
    """Of every block that was painted on in training, how long a vector of strength 1 was."""

    @classmethod
    def of(cls, painter: Painter) -> Bench:
        """With the differences and the lengths that lie beside the model's dictionaries, where they do."""
        found: dict[str, Tensor] = {}
        lengths: dict[str, float] = {}
        for block in painter.blocks:
            folder = painter.sae_folder(block)
            if (path := folder / "differences.json").is_file():
                known = json.loads(path.read_text(encoding="utf-8"))
                found |= {name: torch.tensor(vector) for name, vector in known.items()}
            if (path := folder / "provenance.json").is_file():
                metrics = json.loads(path.read_text(encoding="utf-8")).get("metrics", {})
                lengths |= {block: metrics["stroke_length"]} if "stroke_length" in metrics else {}
        return cls(painter, found, lengths)

    def plain(self, case: Case) -> Painting:
        return Painting(model=self.painter.model, prompt=case.prompt, seed=case.seed)

    def vector(self, case: Case) -> tuple[str, Tensor]:
        """Our brush of the case: its block, and the vector ``[d]`` that strength 1 adds."""
        concept = self.painter.concept(case.concept)
        return concept.block, self.vector_of(concept)

    def vector_of(self, concept: Concept) -> Tensor:
        """What its brush adds at strength 1: [d]."""
        features = FeatureSet(concept.block, concept.features, concept.weights)
        return brush_vector(self.painter.sae(concept.block), features)

    def render(self, case: Case, block: str, vector: Tensor, mask: Mask | None = None) -> Image.Image:
        """The case's picture with any vector added under the mask."""
        nothing = FeatureSet(block, (0,), (0.0,))
        edit = Edit(nothing, mask or case.mask, case.strength, "add", (0.0, 1.0))
        edits = {block: BlockEdits(self.painter.sae(block), [edit], [vector])}
        return self.painter.engine.render(replace(self.plan(case), edits=edits))

    def plan(self, case: Case) -> Plan:
        """As for a painting with a layer, whose guidance counts, but without edits."""
        return replace(self.painter.plan(self.painted(case)), edits={})

    def painted(self, case: Case) -> Painting:
        return self.plain(case).paint(case.concept, case.mask, case.strength)


def unpainted(bench: Bench, case: Case) -> Image.Image:
    """No edit."""
    return bench.painter.render(bench.plain(case))


def concept(bench: Bench, case: Case) -> Image.Image:
    """Ours: the concept as the palette has it."""
    return bench.painter.render(bench.painted(case))


def random_feature(bench: Bench, case: Case) -> Image.Image:
    """A feature drawn by the case's seed, as long as our brush."""
    block, vector = bench.vector(case)
    sae = bench.painter.sae(block)
    rng = np.random.default_rng(case.seed)
    direction = sae.W_dec[int(rng.integers(sae.cfg.n_features))]
    return bench.render(case, block, direction * (vector.norm() / direction.norm()))


def shuffled_mask(bench: Bench, case: Case) -> Image.Image:
    """Our brush on as many cells, elsewhere: the mask's cells in an order drawn by the case's seed."""
    block, vector = bench.vector(case)
    cells = case.mask.coverage(16, 16)
    order = np.random.default_rng(case.seed).permutation(cells.size)
    return bench.render(case, block, vector, Mask.from_array(cells.ravel()[order].reshape(cells.shape)))


def prompt_alone(bench: Bench, case: Case) -> Image.Image:
    """Words instead of a brush: "a castle on the left"."""
    x = _middle(case.mask)
    where = "on the left" if x < 0.4 else "on the right" if x > 0.6 else "in the middle"
    words = f"a {case.concept} {where}"
    prompt = f"{case.prompt}, {words}" if case.prompt else words
    return bench.painter.render(replace(bench.plain(case), prompt=prompt))


def one_feature(bench: Bench, case: Case) -> Image.Image:
    """As the published demos do it (2410.22366): the concept's best feature, strength times its mean, scaled up until
    it is as long as our brush."""
    block, vector = bench.vector(case)
    sae = bench.painter.sae(block)
    labelled = [f for f in bench.painter.features(block) if f.label == case.concept]
    if labelled:
        index = max(labelled, key=lambda f: f.score).index
    else:
        entry = bench.painter.concept(case.concept)
        index = entry.features[int(np.argmax(entry.weights))]
    direction = sae.W_dec[index]
    return bench.render(case, block, direction * (vector.norm() / direction.norm()))


def mean_difference(bench: Bench, case: Case) -> Image.Image:
    """The raw difference that the concept's presence makes to the updates, without a dictionary, as long as our
    brush."""
    block, vector = bench.vector(case)
    direction = bench.differences[case.concept].to(vector)
    return bench.render(case, block, direction * (vector.norm() / direction.norm()))


def regional_prompt(bench: Bench, case: Case) -> Image.Image:
    """MultiDiffusion (2302.08113): at every step the prediction for "a castle" within the region, the one for the
    case's prompt outside."""
    painter = bench.painter
    pipe: Any = painter.pipeline
    base = bench.plan(case)
    guidance = painter.defaults.guidance
    steps = base.steps
    scheduler = copy.deepcopy(pipe.scheduler)
    scheduler.set_timesteps(steps, device=pipe.device)
    side = base.size // pipe.vae_scale_factor
    generator = torch.Generator("cpu").manual_seed(case.seed)
    latents = torch.randn((1, pipe.unet.config.in_channels, side, side), generator=generator).to(pipe.device)
    latents = latents * scheduler.init_noise_sigma
    inside = torch.from_numpy(case.mask.coverage(side, side)).to(latents)
    with torch.inference_mode():
        prompts = ["", case.prompt, f"a {case.concept}"]
        words = torch.cat([pipe.encode_prompt(p, pipe.device, 1, False)[0] for p in prompts])
        for t in scheduler.timesteps:
            inputs = scheduler.scale_model_input(torch.cat([latents] * 3), t)
            empty, outer, inner = pipe.unet(inputs, t, encoder_hidden_states=words, return_dict=False)[0].chunk(3)
            wanted = outer + inside * (inner - outer)
            latents = scheduler.step(empty + guidance * (wanted - empty), t, latents, return_dict=False)[0]
        image = pipe.vae.decode(latents / pipe.vae.config.scaling_factor, return_dict=False)[0]
        return pipe.image_processor.postprocess(image, output_type="pil", do_denormalize=[True])[0]


METHODS: dict[str, Method] = {
    "concept": concept,
    "unpainted": unpainted,
    "random feature": random_feature,
    "shuffled mask": shuffled_mask,
    "prompt alone": prompt_alone,
    "one feature": one_feature,
    "mean difference": mean_difference,
    "regional prompt": regional_prompt,
}
WITH_STRENGTH = ("concept", "random feature", "shuffled mask", "one feature", "mean difference")
"""The methods that have a dose."""


def _middle(mask: Mask) -> float:
    columns = mask.coverage(16, 16).sum(0)
    return float((columns * (np.arange(16) + 0.5)).sum() / max(1e-6, float(columns.sum())) / 16)
