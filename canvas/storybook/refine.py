"""Firm strokes and firm edges: the student of few steps learns from a critic, painted on as it will be used.

A step that predicts a mean draws smudges. Here the student's predictions are judged against drawn scenes, after LADD
(Sauer et al., arXiv 2403.12015), by a critic that also says which cell shows what, after OASIS (Schönfeld et al., arXiv
2012.04781), so that a stroke must become the thing that it stands for. It is painted on in samplings of its own, kept
beyond reach of the strokes as the engine keeps them, with the brushes that are shipped: features of the composition
block's dictionary. That block and all before it stay as they are, so their dictionary stays true.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor, nn
from transformers import CLIPTokenizer

from canvas.storybook import distil, generator, training
from canvas.storybook.captions import named
from canvas.storybook.critic import Critic, Rarity, Verdict, critic_loss, read_loss, smoothness, strongest
from canvas.storybook.data import mirrored
from canvas.storybook.muon import Muon
from canvas.storybook.strokes import THINGS, Hand
from canvas.storybook.vocabulary import CONCEPTS, INDEX
from sae import SAE, load

BRUSHES = "brushes.json"
ODDS = "odds.json"
SOFTNESS, LENGTH = 1.0, 1.6
"""Of the shipped brushes: measured on the student before it was refined, at four strokes for each of 26 things, 0.74
arrive; 0.63 as the differences are and at length 1, 0.67 at 1.6, 0.70 and 0.72 with a softness of 0.01 and 0.1."""
REFINED, CRITIC = "refined.pt", "critic.pt"
PLACE = "refined"
"""The folder, in a run's, of the dictionary and the brushes that the student was refined with."""


@dataclass(frozen=True)
class RefineConfig:
    paintings: int = 8
    """samplings of its own that are painted on, a step, where they are judged at their first step; half as many else"""
    scenes: int = 3
    """noised scenes with strokes over what they show, every third step"""
    drawn: int = 8
    """drawn scenes that the critic sees, a step"""
    learning_rate: float = 1.5e-3
    critic_rate: float = 1e-3
    begin: tuple[float, ...] = (0.55, 0.2, 0.15, 0.1)
    """shares of the steps of the sampler at which a painting is judged; the first decides what there will be"""
    unsaid: float = 0.5
    """share of the paintings without a prompt"""
    real: float = 0.3
    """weight of looking drawn, everywhere"""
    become: float = 0.15
    """weight of every stroke's becoming its concept"""
    say: float = 0.05
    """weight of every concept that a caption names being somewhere"""
    anchor: float = 2.0
    """weight of staying near the student as it was, where nothing is painted"""
    truth: float = 1.0
    """weight of the squared error on noised scenes"""
    smooth: float = 0.02
    """weight of the critic's being smooth"""
    decay: float = 0.99


def orthogonal(directions: Tensor, softness: float) -> Tensor:
    """Directions near the given ones, [n, d], that have less in common: nearer to right angles, the less ``softness``.

    Symmetric orthogonalisation (Löwdin 1950), (DDᵀ + softness)^−½ D. What things have in common, that they are things,
    is most of the difference that each makes: a castle's and a fish's are at a cosine of 0.7, and a model that is
    painted on with them has to guess.
    """
    rows = F.normalize(directions.double(), dim=1)
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    return F.normalize(vectors @ torch.diag((values.clamp_min(0) + softness).rsqrt()) @ vectors.T @ rows, dim=1)


def make_brushes(model: Path, run: Path) -> None:
    """Choose what the student is painted with, and leave it in ``run/refined``, with the dictionary that it is made of.

    For each concept of the composition block the few features that come closest to its own direction among the others'.
    """
    from canvas.storybook.dictionary import concept_entry

    place = run / PLACE
    if (place / BRUSHES).exists():
        return
    shutil.copytree(model / "sae" / generator.COMPOSITION, place, dirs_exist_ok=True)
    sae = load(place)
    known: dict[str, list[float]] = json.loads((place / "differences.json").read_text())
    concepts: list[dict[str, Any]] = json.loads((model / "concepts.json").read_text())["concepts"]
    scores = {entry["name"]: entry["score"] for entry in concepts}
    palette = generator.trained(run)[0]["palette"]
    names = [name for name in CONCEPTS if name in known]
    targets = orthogonal(torch.tensor([known[name] for name in names]), SOFTNESS)
    length = LENGTH * float(palette.square.sqrt())
    entries = [
        concept_entry(name, generator.COMPOSITION, sae, target, 8, length, scores[name])
        for name, target in zip(names, targets, strict=True)
    ]
    (place / BRUSHES).write_text(json.dumps(entries, indent=1) + "\n")


def brushes(run: Path) -> list[dict[str, Any]]:
    """The concepts that the student in ``run`` was painted with, as in a model's ``concepts.json``."""
    return json.loads((run / PLACE / BRUSHES).read_text())


def vectors_of(entries: Sequence[dict[str, Any]], sae: SAE) -> Tensor:
    """What strength 1 adds, for every concept of the vocabulary: [C, d]; 0 where there is no brush."""
    found = torch.zeros(len(CONCEPTS), sae.cfg.d_in)
    for entry in entries:
        features = torch.tensor(entry["features"])
        found[INDEX[entry["name"]]] = (torch.tensor(entry["weights"]) * sae.mean[features]) @ sae.W_dec[features]
    return found


class Paintings(NamedTuple):
    """Pictures in the making."""

    noise: Tensor
    """[n, 8, 32, 32]"""
    ids: Tensor
    """token ids of their prompts [n, 32]"""
    named: Tensor
    """concepts that the prompts name: bool [n, C]"""
    strokes: Tensor
    """[n, C, 16, 16], times their strengths"""


class Studio(generator.Stream):
    """Scenes as the generator's training takes them, and paintings that are no scene's."""

    def __init__(
        self, folder: Path, tokenizer: CLIPTokenizer, shape: generator.GeneratorConfig, cfg: RefineConfig
    ) -> None:
        super().__init__(folder, tokenizer, shape, cfg.scenes)
        captions: list[list[str]] = json.loads((folder / "captions.json").read_text())
        captions += [[mirrored(t) for t in said] for said in captions]
        self.captions, self.refine = captions, cfg
        self.hand = Hand(self.coverage)

    def strokes_of(self, concept: int, n: int) -> Tensor:
        """``n`` strokes of one concept at strength 1, always the same ones: [n, C, 16, 16]."""
        rng = np.random.default_rng((4, concept))
        found = np.zeros((n, *self.coverage.shape[1:]), np.float32)
        for i in range(n):
            found[i, concept] = self.hand.place(concept, rng)
        return torch.from_numpy(found)

    def paintings(self, step: int) -> Paintings:
        rng = np.random.default_rng((1, step))
        n = self.refine.paintings
        which, said = rng.integers(0, len(self.ids), n), rng.integers(0, self.ids.shape[1], n)
        silent = rng.random(n) < self.refine.unsaid
        ids = np.where(silent[:, None], self.empty, self.ids[which, said])
        says = np.zeros((n, len(CONCEPTS)), bool)
        for i in np.flatnonzero(~silent):
            says[i, [INDEX[name] for name in named(self.captions[which[i]][said[i]])]] = True
        return Paintings(
            torch.from_numpy(rng.standard_normal((n, *self.latents.shape[1:]), np.float32)),
            torch.from_numpy(ids),
            torch.from_numpy(says),
            torch.from_numpy(np.stack([self.hand.lay(rng) for _ in range(n)])),
        )

    def drawn(self, step: int) -> tuple[Tensor, Tensor]:
        """Latents [n, 8, 32, 32] of scenes, and what their cells show [n, C, 16, 16]."""
        order = np.sort(np.random.default_rng((2, step)).integers(0, len(self.latents), self.refine.drawn))
        return (
            torch.from_numpy(self.latents[order]).float(),
            torch.from_numpy(self.coverage[order].astype(np.float32) / 255),
        )


class Refinement(nn.Module):
    """The losses of a student and its critic, which descend together. The encoder of words is a run's generator's."""

    palette: Tensor
    rarity: Tensor

    def __init__(
        self, student: UNet2DConditionModel, critic: Critic, encoder: nn.Module, palette: Tensor, rarity: Rarity,
        cfg: RefineConfig,
    ) -> None:  # fmt: skip
        super().__init__()
        self.student, self.critic, self.cfg = student, critic, cfg
        self.before, self.encoder = copy.deepcopy(student).requires_grad_(False), encoder
        self.register_buffer("palette", palette)
        self.register_buffer("rarity", rarity.weight)
        self.levels = distil.levels(distil.STEPS, 1)

    def forward(
        self, step: int, paintings: Paintings, scenes: generator.Batch, drawn: Tensor, coverage: Tensor
    ) -> dict[str, Tensor]:
        """Every step paints; every third one also looks at what is not painted, another third at noised
        scenes; the critic learns at every second."""
        rng = np.random.default_rng((3, step))
        cfg, device = self.cfg, drawn.device
        last = int(rng.choice(distil.STEPS, p=cfg.begin))
        if last:
            paintings = Paintings(*(x[: len(x) // 2] for x in paintings))
        plain, painted, before = self._painted(paintings, last, also_plain=step % 3 == 0)
        made, times = [painted], [torch.full((len(painted),), last, device=device)]
        found: dict[str, Tensor] = {}
        if plain is not None:
            made.append(plain)
            times.append(times[0])
            found["anchor"] = (plain - before).square().mean()
        if step % 3 == 1:
            levels = torch.from_numpy(rng.integers(1, distil.STEPS, len(scenes.latents))).to(device)
            denoised, found["truth"] = self._denoised(scenes, levels)
            made.append(denoised)
            times.append(levels)
        every, when = torch.cat(made), torch.cat(times)
        self.critic.requires_grad_(False)
        judged = self.critic(every, when)
        n = len(painted)
        found["real"] = F.softplus(-judged.drawn).mean()
        found["become"] = self._become(judged.part(slice(0, n)), paintings.strokes)
        if plain is not None:
            found["say"] = self._say(judged.part(slice(n, 2 * n)), paintings.named)
        loss = sum(getattr(cfg, name) * value for name, value in found.items())

        if step % 2:
            return {"loss": loss, f"become {last}": found["become"]} | found
        self.critic.requires_grad_(True)
        again = torch.from_numpy(rng.integers(0, distil.STEPS, len(drawn))).to(device)
        truly, falsely = self.critic(drawn, again), self.critic(every.detach(), when)
        rarity = Rarity(self.rarity)
        apart, reads = critic_loss(truly, coverage, falsely, rarity), read_loss(truly, coverage, rarity)
        loss = loss + apart + 10 * reads
        if step % 8 == 0:
            loss = loss + 2 * cfg.smooth * smoothness(self.critic, drawn, again, truly)
        with torch.no_grad():
            told = ((truly.drawn > 0).float().mean() + (falsely.drawn < 0).float().mean()) / 2
        return {"loss": loss, "apart": apart, "reads": reads, "told": told, f"become {last}": found["become"]} | found

    def _painted(
        self, paintings: Paintings, last: int, also_plain: bool
    ) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """Clean latents of step ``last``: unpainted, painted (kept beyond reach), and unpainted as the student was."""
        n = len(paintings.noise)
        felt = distil.near(paintings.strokes, paintings.noise.shape[-1])
        with torch.no_grad():
            words = self.encoder(paintings.ids).last_hidden_state
        told = torch.cat([words, words])
        strokes = torch.einsum("ncij,cd->ndij", paintings.strokes, self.palette)
        sample = torch.cat([paintings.noise] * 2)
        times, signal = self.levels.times[:, 0].tolist(), self.levels.signal
        with distil.painted(self.student, torch.cat([torch.zeros_like(strokes), strokes])), torch.no_grad():
            for i in range(last):
                clean = self.student(sample, times[i], encoder_hidden_states=told, return_dict=False)[0]
                sample = distil.step(sample, clean, signal[i, 0], signal[i, 1])
                sample = torch.cat([sample[:n], torch.lerp(sample[:n], sample[n:], felt)])
        still, moving = sample.chunk(2)
        with distil.painted(self.student, strokes):
            painted = self.student(moving, times[last], encoder_hidden_states=words, return_dict=False)[0]
        if not also_plain and not last:
            return None, painted, None
        if not also_plain:
            with torch.no_grad():
                beside = self.student(still, times[last], encoder_hidden_states=words, return_dict=False)[0]
            return None, torch.lerp(beside, painted, felt), None
        plain = self.student(still, times[last], encoder_hidden_states=words, return_dict=False)[0]
        with torch.no_grad():
            before = self.before(still, times[last], encoder_hidden_states=words, return_dict=False)[0]
        return plain, torch.lerp(plain.detach(), painted, felt), before

    def _denoised(self, scenes: generator.Batch, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Clean latents of noised scenes with strokes over what they show, and their weighted squared error."""
        signal = self.levels.signal[:, 0].to(levels.device)[levels][:, None, None, None]
        noisy = signal.sqrt() * scenes.latents + (1 - signal).sqrt() * torch.randn_like(scenes.latents)
        with torch.no_grad():
            words = self.encoder(scenes.ids).last_hidden_state
        laid = torch.einsum("ncij,cd->ndij", scenes.strokes, self.palette)
        times = self.levels.times[:, 0].to(levels.device)[levels]
        with distil.painted(self.student, laid):
            clean = self.student(noisy, times, encoder_hidden_states=words, return_dict=False)[0]
        weight = (signal / (1 - signal)).clamp(0.5, 6) * generator.emphasis(scenes.cells, 3.0, noisy.shape[-1])
        return clean, (weight * (clean - scenes.latents).square()).mean()

    def _become(self, judged: Verdict, strokes: Tensor) -> Tensor:
        """How far strokes are from being what they stand for; a stronger one must fill more of its cells."""
        if not (strokes > 0).any():
            return torch.zeros((), device=strokes.device)
        strength = strokes.amax((2, 3))
        things = torch.from_numpy(THINGS).to(strokes.device)
        share = torch.where(things, 0.25 + 0.35 * strength, 0.6 + 0.3 * strength).clamp(0.2, 0.95)
        short = strongest(judged.drawn_as, strokes, share) + strongest(judged.shows, strokes, share)
        return (short * strength[strength > 0].clamp(0.4, 1.5)).mean()

    def _say(self, judged: Verdict, named: Tensor, cells: int = 8) -> Tensor:
        """How far the concepts that captions name are from being seen in some ``cells`` of the picture."""
        best = (judged.drawn_as + judged.shows).flatten(2).topk(cells, -1).values
        short = F.softplus(-best).mean(-1)
        return (short * named).sum() / named.sum().clamp(min=1)


def train_critic(folder: Path, minutes: float, device: str, cfg: RefineConfig | None = None) -> None:
    """Teach the critic to read drawn latents, with noise on them, before it judges any."""
    cfg = cfg or RefineConfig()
    torch.manual_seed(0)
    critic = Critic().to(device)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    studio = Studio(folder, tokenizer, generator.GeneratorConfig(), cfg)
    rarity = rarity_of(studio, device)

    def losses(step: int) -> dict[str, Tensor]:
        latents, coverage = (x.to(device) for x in studio.drawn(step))
        n = len(latents)
        noise = 0.4 * torch.rand(n, 1, 1, 1, device=device) * torch.randn_like(latents)
        verdict = critic(latents + noise, torch.arange(n, device=device) % distil.STEPS)
        as_drawn = verdict._replace(shows=verdict.drawn_as)
        return {"loss": read_loss(verdict, coverage, rarity) + read_loss(as_drawn, coverage, rarity)}

    inner, rest = generator.sorted_parameters(critic)
    training.fit(
        critic, [(Muon(inner, 2e-3), 2e-3), (torch.optim.Adam(rest, 2e-3, betas=(0.9, 0.98)), 2e-3)], losses, minutes,
        checkpoint=folder / CRITIC, device=device, batch=cfg.drawn, decay=0.99, log=folder / "critic.jsonl",
    )  # fmt: skip


@torch.no_grad()
def failing(refinement: Refinement, studio: Studio, n: int = 10) -> list[float]:
    """How far each concept's strokes are from becoming it at the first step, without a prompt: [C]; 0 where there is no
    brush. What fails is painted more often."""
    device = refinement.palette.device
    found = [0.0] * len(CONCEPTS)
    noise = torch.randn(n, *studio.latents.shape[1:], generator=torch.Generator().manual_seed(4)).to(device)
    empty = torch.from_numpy(studio.empty).to(device).expand(n, -1)
    nothing = torch.zeros(n, len(CONCEPTS), dtype=torch.bool, device=device)
    for c in np.flatnonzero(studio.hand.odds):
        if refinement.palette[c].any():
            strokes = studio.strokes_of(int(c), n).to(device)
            _, painted, _ = refinement._painted(Paintings(noise, empty, nothing, strokes), 0, also_plain=False)
            judged = refinement.critic(painted, torch.zeros(n, device=device))
            found[c] = float(refinement._become(judged, strokes))
    return found


def rarity_of(studio: Studio, device: str) -> Rarity:
    some = np.linspace(0, len(studio.coverage) - 1, 2000).astype(int)
    return Rarity.of(torch.from_numpy(studio.coverage[some] >= 64).to(device))


def train(
    folder: Path, model: Path, minutes: float, cfg: RefineConfig | None = None, device: str | None = None,
    critic_minutes: float = 6,
) -> None:  # fmt: skip
    """Refine the student in ``folder`` for a budget, from the checkpoint ``refined.pt`` if there is one; its brushes
    come from the dictionary in ``model``."""
    cfg = cfg or RefineConfig()
    device = device or training.best_device()
    make_brushes(model, folder)
    train_critic(folder, critic_minutes, device, cfg)
    torch.manual_seed(0)
    modules, tokenizer, shape = generator.trained(folder)
    student = modules["unet"]
    known = distil.averaged(folder)
    assert known is not None, "nothing was distilled"
    student.load_state_dict(known[0])
    student.set_attn_processor(AttnProcessor2_0())
    critic = Critic()
    critic.load_state_dict(torch.load(folder / CRITIC, map_location="cpu", weights_only=True)["average"]["weights"])
    studio = Studio(folder, tokenizer, shape, cfg)
    palette = vectors_of(brushes(folder), load(folder / PLACE))
    refinement = Refinement(
        student, critic, modules["encoder"].requires_grad_(False), palette, rarity_of(studio, "cpu"), cfg
    ).to(device)
    known_odds = folder / PLACE / ODDS
    if not known_odds.exists():
        known_odds.write_text(json.dumps(dict(zip(CONCEPTS, failing(refinement, studio), strict=True)), indent=1) + "\n")
    studio.hand.prefer(list(json.loads(known_odds.read_text()).values()))
    inner, rest = generator.sorted_parameters(after_composition(student))
    firm, loose = generator.sorted_parameters(critic)
    steppers: list[tuple[torch.optim.Optimizer, float]] = [
        (Muon(inner, cfg.learning_rate, momentum=0.9), cfg.learning_rate),
        (torch.optim.Adam(rest, cfg.learning_rate, betas=(0.8, 0.98)), cfg.learning_rate),
        (Muon(firm, cfg.critic_rate, momentum=0.9), cfg.critic_rate),
        (torch.optim.Adam(loose, cfg.critic_rate, betas=(0.8, 0.98)), cfg.critic_rate),
    ]

    def losses(step: int) -> dict[str, Tensor]:
        paintings = Paintings(*(x.to(device) for x in studio.paintings(step)))
        scenes = generator.Batch(*(x.to(device) for x in studio.batch(step)))
        return refinement(step, paintings, scenes, *(x.to(device) for x in studio.drawn(step)))

    training.fit(
        nn.ModuleDict({"student": student, "critic": critic}), steppers, losses, minutes,
        checkpoint=folder / REFINED, device=device, batch=cfg.paintings, decay=cfg.decay,
        config=asdict(cfg), log=folder / "refined.jsonl",
    )  # fmt: skip


def after_composition(unet: UNet2DConditionModel) -> nn.Module:
    """What comes after the composition block, to train; everything up to it is frozen, and so is what all share."""
    unet.requires_grad_(False)
    later = nn.ModuleDict(
        {
            "resnets": nn.ModuleList(unet.down_blocks[1].resnets[1:]),
            "attentions": nn.ModuleList(unet.down_blocks[1].attentions[1:]),
            "mid": unet.mid_block,
            "up": unet.up_blocks,
            "norm": unet.conv_norm_out,
            "conv_out": unet.conv_out,
        }
    )
    return later.requires_grad_(True)


def averaged(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The refined student's averaged weights and how far it had come, or None if nothing was refined."""
    state = training.load(folder / REFINED, "cpu")
    if state is None:
        return None
    figures = {"steps": state["step"], "samples": state["samples"], "minutes": round(state["elapsed"] / 60, 1)}
    weights = {
        name.removeprefix("student."): value
        for name, value in state["average"]["weights"].items()
        if name.startswith("student.")
    }
    return weights, figures | {"config": state["config"]}
