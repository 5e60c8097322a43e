from __future__ import annotations

import gc
import itertools
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import SIZE

from canvas import Brush, Mask, Painting
from canvas.engine import Cancelled, Engine, Recent, _identity

DISC = Mask.disc(0.4, 0.6, 0.3)


def plain(pipeline: Any, painting: Painting, output_type: str = "pil") -> Any:
    return pipeline(
        painting.prompt,
        num_inference_steps=painting.steps,
        guidance_scale=painting.guidance,
        generator=torch.Generator("cpu").manual_seed(painting.seed),
        height=SIZE,
        width=SIZE,
        output_type=output_type,
    ).images[0]


@pytest.mark.parametrize(
    ("prompt", "seed", "steps", "guidance"),
    [("", 0, 1, 1.0), ("a castle", 7, 3, 1.0), ("a castle", 7, 3, 3.0), ("", 2**63 - 1, 2, 3.0), ("a, b", 1, 5, 0.0)],
)
def test_no_layers_is_the_plain_pipeline_bit_for_bit(painter, reference, prompt, seed, steps, guidance) -> None:
    painting = Painting(prompt=prompt, seed=seed, steps=steps, guidance=guidance)
    for _ in range(2):
        assert painter.render(painting).tobytes() == plain(reference, painting).tobytes()
        latents = painter.engine.latents(painter.plan(painting))
        assert torch.equal(latents[0], plain(reference, painting, "latent"))


@pytest.mark.parametrize(
    "scheduler",
    [
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "PNDMScheduler",
        "LCMScheduler",
    ],
)
def test_other_schedulers_too_and_their_prefix_replays(painter, reference, scheduler) -> None:
    import diffusers

    kind = getattr(diffusers, scheduler)
    before = painter.pipeline.scheduler, reference.scheduler
    try:
        painter.pipeline.scheduler = kind.from_config(before[0].config)
        reference.scheduler = kind.from_config(before[1].config)
        engine = Engine(painter.pipeline)
        painting = Painting(prompt="a", seed=3, steps=4, guidance=2.0)
        latents = engine.latents(painter.plan(painting))
        assert torch.equal(latents[0], plain(reference, painting, "latent"))
        steered = painter.plan(painting.paint("wave", DISC, 3.0, steps=(0.5, 1.0)))
        first = engine.latents(steered)
        assert torch.equal(engine.latents(steered), first)
        assert not torch.equal(first, latents)
    finally:
        painter.pipeline.scheduler, reference.scheduler = before


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("brush", [Brush.concept("castle"), Brush.concept("wave")])
@pytest.mark.parametrize("steps", [(0.0, 1.0), (0.4, 1.0)])
def test_a_replayed_prefix_is_the_full_computation(painter, brush, guidance, steps) -> None:
    start = Painting(seed=5, steps=3, guidance=guidance)
    first, second = (start.paint(brush, mask, 2.0, steps=steps) for mask in (DISC, ~DISC))
    engine = Engine(painter.pipeline)
    engine.latents(painter.plan(first))
    replayed = engine.latents(painter.plan(second))
    assert torch.equal(replayed, Engine(painter.pipeline).latents(painter.plan(second)))
    assert not torch.equal(replayed, engine.latents(painter.plan(first)))


def test_a_replay_computes_nothing_of_the_prefix(painter) -> None:
    engine = Engine(painter.pipeline)
    calls: list[int] = []
    block = painter.pipeline.unet.get_submodule("down_blocks.0.resnets.0")
    handle = block.register_forward_hook(lambda *_: calls.append(1))
    try:
        plan = painter.plan(Painting(steps=3).paint("wave", DISC))
        engine.latents(plan)
        assert len(calls) == 3 + 3, "the unpainted picture, to which the painted one is bound, and the painted one"
        engine.latents(plan)
        assert len(calls) == 6 + 2
        late = Painting(steps=4, keep=False).paint("wave", DISC, steps=(0.5, 1.0))
        engine.latents(painter.plan(late))
        engine.latents(painter.plan(late.with_layer(0, strength=2.0)))
        assert len(calls) == 8 + 4 + 1
    finally:
        handle.remove()


def test_nothing_is_left_on_the_unet(painter) -> None:
    unet = painter.pipeline.unet
    plan = painter.plan(Painting().paint("castle", DISC))
    for _ in range(2):
        painter.engine.latents(plan)
        assert not any("forward" in vars(module) for module in unet.modules())
        assert not any(module._forward_hooks for module in unet.modules())


def test_rendering_stops_between_steps(painter) -> None:
    plan = painter.plan(Painting(steps=5).paint("castle", DISC))
    calls = itertools.count()
    with pytest.raises(Cancelled):
        painter.engine.render(plan, should_stop=lambda: next(calls) == 2)
    assert next(calls) == 3
    finished = painter.engine.render(plan, should_stop=lambda: False)
    assert finished.tobytes() == painter.engine.render(plan).tobytes()


def test_a_draft_is_half_the_steps_within_reach_and_the_settled_picture_beyond(painter) -> None:
    settled = Painting(model=painter.model, seed=3, steps=4).paint("castle", Mask.rect(0.6, 0.6, 1, 1), 2.0)
    painting = settled.paint("castle", Mask.rect(0, 0, 0.2, 0.2), 3.0)
    before = np.asarray(painter.render(settled)).astype(int)
    draft, whole = (
        np.asarray(made).astype(int) for made in (painter.draft(painting, settled), painter.render(painting))
    )
    quick = np.asarray(painter.render(painting.replace(steps=2))).astype(int)
    corner = SIZE // 8
    assert np.abs(draft - quick)[:corner, :corner].mean() < np.abs(draft - whole)[:corner, :corner].mean()
    far = SIZE - corner
    assert (draft[far:, far:] == before[far:, far:]).all()


@pytest.mark.parametrize(
    "settled",
    [
        Painting(seed=4, steps=4),
        Painting(seed=3, steps=3),
        Painting(seed=3, steps=4, prompt="a castle"),
        Painting(seed=3, steps=4).paint("castle", Mask.disc(0.2, 0.2, 0.1), 1.25),
    ],
)
def test_a_draft_from_what_is_not_known_is_the_whole_picture(painter, settled) -> None:
    painting = Painting(seed=3, steps=4).paint("castle", DISC, 2.0)
    painter.engine.forget()
    assert painter.draft(painting, settled).tobytes() == painter.render(painting).tobytes()
    one = painting.replace(steps=1)
    painter.render(one.replace(layers=()))
    assert painter.draft(one, one.replace(layers=())).tobytes() == painter.render(one).tobytes()


def test_many_threads_get_the_pictures_of_one(painter) -> None:
    paintings = [Painting(seed=s, steps=2).paint("castle", DISC) for s in range(4)]
    expected = [painter.render(painting).tobytes() for painting in paintings]
    found: dict[int, bytes] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: painter.render(paintings[i]).tobytes()})) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(4)] == expected


def test_changed_weights_are_seen_after_forget(painter) -> None:
    plan = painter.plan(Painting(steps=1).paint("castle", DISC))
    before = np.asarray(painter.engine.render(plan))
    weight = painter.pipeline.unet.conv_in.weight
    kept = weight.clone()
    try:
        weight.mul_(-1)
        painter.engine.forget()
        assert (np.asarray(painter.engine.render(plan)) != before).any()
    finally:
        weight.copy_(kept)
        painter.engine.forget()
    assert (np.asarray(painter.engine.render(plan)) == before).all()


def test_recent_keeps_the_latest_used() -> None:
    recent: Recent[str, int] = Recent(2)
    recent.put("a", 1)
    recent.put("b", 2)
    assert recent.find("a") == 1
    assert recent.get("c", lambda: 3) == 3
    assert (recent.find("b"), recent.find("a"), len(recent)) == (None, 1, 2)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 50)), max_size=30), st.integers(0, 100))
def test_recent_keeps_within_its_limit_but_always_the_newest(puts: list[tuple[int, int]], limit: int) -> None:
    recent: Recent[int, int] = Recent(limit, lambda weight: weight)
    newest: dict[int, int] = {}
    for key, weight in puts:
        recent.put(key, weight)
        newest.pop(key, None)
        newest[key] = weight
        kept = {k: w for k, w in newest.items() if recent.find(k) is not None}
        newest = dict(kept)
        assert recent.find(key) == weight
        assert sum(kept.values()) <= limit or list(kept) == [key]
        assert len(recent) == len(kept)


def test_many_paintings_keep_their_prefixes_within_the_limit(painter) -> None:
    calls: list[int] = []
    block = painter.pipeline.unet.get_submodule("down_blocks.0.resnets.0")
    handle = block.register_forward_hook(lambda *_: calls.append(1))
    plans = [painter.plan(Painting(seed=seed, steps=1).paint("castle", DISC)) for seed in range(16)]
    try:
        for memory, computed in ((2**28, 2 * 16), (1, 4 * 16)):
            engine = Engine(painter.pipeline, memory)
            calls.clear()
            for _ in range(2):
                for plan in plans:
                    engine.latents(plan)
            assert len(calls) == computed
    finally:
        handle.remove()


def test_all_that_is_kept_together_is_within_the_limit(painter) -> None:
    def kept(engine: Engine) -> int:
        return sum(recent._weight for recent in (engine._prefixes, engine._courses, engine._ends))

    wide = Engine(painter.pipeline)
    narrow = Engine(painter.pipeline, limit := 400_000)
    for seed in range(16):
        for engine in (wide, narrow):
            engine.latents(painter.plan(Painting(seed=seed, steps=2).paint("castle", DISC)))
    assert 0 < kept(narrow) <= limit < kept(wide)


def test_what_is_kept_of_many_samplings_holds_no_masks(painter) -> None:
    """A mask is 16 KiB, and a painting has many; a sampling's end at this size is half of one."""
    painter.engine.forget()
    for i in range(6):
        painting = Painting(seed=3)
        for j in range(4):
            painting = painting.paint("castle", Mask.disc(0.1 * i, 0.2 * j, 0.123))
        painter.render(painting)
    del painting
    gc.collect()
    kept = [thing for thing in gc.get_objects() if isinstance(thing, Mask)]
    ours = [
        mask for mask in kept if any(mask == Mask.disc(0.1 * i, 0.2 * j, 0.123) for i in range(6) for j in range(4))
    ]
    assert not ours


@given(st.sampled_from(["mask", "strength", "mode", "steps", "keep", "seed"]))
def test_the_digest_tells_any_two_samplings_apart(painter, what: str) -> None:
    painting = Painting(seed=3).paint("castle", DISC)
    layer = painting.layers[0]
    other = {
        "mask": lambda: replace(painting, layers=(replace(layer, mask=Mask.disc(0.4, 0.6, 0.301)),)),
        "strength": lambda: replace(painting, layers=(replace(layer, strength=0.999),)),
        "mode": lambda: replace(painting, layers=(replace(layer, mode="replace"),)),
        "steps": lambda: replace(painting, layers=(replace(layer, steps=(0.0, 0.5)),)),
        "keep": lambda: replace(painting, keep=False),
        "seed": lambda: replace(painting, seed=4),
    }[what]()
    mine, again, theirs = (_identity(painter.plan(p)) for p in (painting, replace(painting), other))
    assert mine == again != theirs
