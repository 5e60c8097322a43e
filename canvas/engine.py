"""The sampler: the loop of Stable Diffusion's pipelines, with edits at blocks and without doing work twice.

Every operation is the pipeline's own, in the pipeline's order (diffusers 0.42, ``pipeline_stable_diffusion.py`` and
``pipeline_stable_diffusion_xl.py``), so that a plan without edits gives the pipeline's picture bit for bit. Beside it,
the engine keeps what does not change from frame to frame while someone paints: what the prompt says, initial noise, and
the prefix of the sampling, which is everything before the first edited block of the first edited step.
"""

from __future__ import annotations

import copy
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import torch
from diffusers import AutoencoderTiny
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor, nn

from canvas import steering
from canvas.compiled import Compile
from canvas.steering import BlockEdits, reach
from canvas.unet import Conditions, Edit, Place, Walk
from sae.pipelines import Pipeline, decode_latents, text_conditions

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Cancelled(Exception):
    """The rendering was stopped between two steps because ``should_stop`` said so."""


class Recent(Generic[K, V]):
    """The values made for the most recently used keys. Not for several threads at once.

    Parameters: together they weigh at most ``limit``, by ``weigh`` (1 each if not given); the newest is always kept.
    """

    def __init__(self, limit: int, weigh: Callable[[V], int] = lambda _: 1):
        self._limit = limit
        self._weigh = weigh
        self._values: OrderedDict[K, V] = OrderedDict()
        self._weight = 0

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value kept for ``key``, or a new one by ``make``."""
        if key not in self._values:
            self.put(key, make())
        self._values.move_to_end(key)
        return self._values[key]

    def put(self, key: K, value: V) -> None:
        """Keep ``value`` for ``key``; the keys unused for longest are forgotten while all weigh too much."""
        self._forget(key)
        self._values[key] = value
        self._weight += self._weigh(value)
        while self._weight > self._limit and len(self._values) > 1:
            self._forget(next(iter(self._values)))

    def _forget(self, key: K) -> None:
        if key in self._values:
            self._weight -= self._weigh(self._values.pop(key))

    def find(self, key: K) -> V | None:
        """The value kept for ``key``, or None."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def clear(self) -> None:
        """Forget everything."""
        self._values.clear()
        self._weight = 0

    def __len__(self) -> int:
        return len(self._values)


@dataclass(frozen=True)
class Plan:
    """What to sample: the arguments of the pipeline's call, and the edits of each block."""

    prompt: str
    seed: int
    """0..2**63-1."""
    steps: int
    """``num_inference_steps``, from 1."""
    guidance: float
    """``guidance_scale``; above 1 the U-Net runs on an unconditional and a conditional half."""
    size: int
    """Height and width of the picture in pixels."""
    edits: Mapping[str, BlockEdits] = field(default_factory=dict)
    """By block name."""
    keep: bool = True
    """Whether the picture stays, beyond reach of the edits, what it is without them."""
    subtract: bool = False
    """Whether what is added on the conditional half of a guided batch is taken away on the unconditional one."""


class _Decoder(nn.Module):
    def __init__(self, vae: Any):
        super().__init__()
        self.vae = vae

    def forward(self, latents: Tensor) -> tuple[Tensor, ...]:
        return self.vae.decode(latents, return_dict=False)


@dataclass
class _Run:
    """Where a sampling stands: before its step ``step``."""

    latents: Tensor
    scheduler: Any
    generator: torch.Generator
    step: int = 0

    def copy(self) -> _Run:
        generator = torch.Generator("cpu")
        generator.set_state(self.generator.get_state())
        return _Run(self.latents, copy.deepcopy(self.scheduler), generator, self.step)


@dataclass(frozen=True)
class _Prefix:
    """A sampling up to its first edited step, and that step up to its first edited block."""

    run: _Run
    place: Place

    @property
    def bytes(self) -> int:
        """What its tensors take."""
        tensors = (self.run.latents, self.place.entered, self.place.sample, *self.place.skips)
        return sum(tensor.nbytes for tensor in tensors)


@dataclass(frozen=True)
class _Course:
    """Where a sampling goes, and how much of the way a painted one is bound to it."""

    latents: Tensor
    """after each step: ``[steps, 1, c, h, w]``"""
    free: Tensor
    """``[1, 1, h, w]``: 1 within reach of the strokes, 0 where the picture stays as it is"""

    def hold(self, step: int, latents: Tensor) -> Tensor:
        """The painted ``latents`` after ``step`` within reach of the strokes, and the unpainted ones beyond."""
        return torch.lerp(self.latents[step], latents, self.free)


class Engine:
    """Renders plans with one pipeline. Calls from several threads wait for each other.

    Parameters: ``pipeline`` is used, never changed; if its weights are changed from outside, call ``forget``.
    ``blocks`` are those at which edits may be (None: all); ``compile`` makes faster functions of the model's parts.
    ``sketcher`` is a small decoder of the same latents, which draws the drafts; None: the pipeline's own does.
    ``memory`` is how many bytes it keeps, on the pipeline's device. Half of it are prefixes, one for each painting in
    the making, so that many people paint with one model and none computes what another's frame has pushed out; three
    eighths the unpainted samplings that paintings are bound to beyond their strokes; the rest samplings' ends.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        memory: int = 2**28,
        blocks: Collection[str] | None = None,
        compile: Compile | None = None,
        sketcher: AutoencoderTiny | None = None,
    ):
        self.pipeline, self.sketcher = pipeline, sketcher
        self._lock = threading.Lock()
        self._blocks, self._compile = blocks, compile
        self._build()
        self._told: Recent[Hashable, dict[str, Any]] = Recent(16)
        self._conditions: Recent[Hashable, Conditions] = Recent(1024)
        self._noise: Recent[tuple[int, int], tuple[Tensor, Tensor]] = Recent(16)
        self._prefixes: Recent[Hashable, _Prefix] = Recent(memory // 2, lambda prefix: prefix.bytes)
        self._courses: Recent[Hashable, Tensor] = Recent(memory * 3 // 8, lambda course: course.nbytes)
        self._ends: Recent[bytes, Tensor] = Recent(memory // 8, lambda end: end.nbytes)

    def _build(self) -> None:
        self._walk = Walk(self.pipeline.unet, self._blocks, self._compile)
        self._decode = self._compile(_Decoder(self.pipeline.vae)) if self._compile else None
        self._sketch = self._compile(_Decoder(self.sketcher)) if self._compile and self.sketcher else None
        self._device = self.pipeline.device  # which a pipeline takes milliseconds to find

    def render(self, plan: Plan, should_stop: Callable[[], bool] | None = None) -> Image.Image:
        """The picture of ``plan``, RGB, ``plan.size`` pixels square.

        ``should_stop`` is asked before every step and before decoding; when it says True, ``Cancelled`` is raised.
        """
        with self._lock, torch.inference_mode():
            latents = self._sample(plan, should_stop).latents
            _stop_if(should_stop)
            return self._picture(latents)

    def draft(
        self, plan: Plan, settled: Plan, share: float = 0.5, should_stop: Callable[[], bool] | None = None
    ) -> Image.Image:
        """A quick picture of ``plan`` for while it is on its way from ``settled``, a plan that was rendered before.

        It is sampled in a ``share`` of the steps, at least one, and only within reach of the edits that the two do not
        share; the rest is the picture of ``settled``. Where that is not known any more, or differs in more than edits,
        or ``share`` leaves no step out, it is the sampling that ``render`` shows. Where there is a small decoder, that
        draws the picture.
        """
        with self._lock, torch.inference_mode():
            known = self._ends.find(_identity(settled))
            steps = max(1, int(share * plan.steps))
            if known is None or steps >= plan.steps or _situation(plan) != _situation(settled):
                latents = self._sample(plan, should_stop).latents
            else:
                quick = self._sample(replace(plan, steps=steps), should_stop).latents
                changed = set(_edits_of(plan)) ^ set(_edits_of(settled))
                latents = torch.lerp(known, quick, reach(changed, *quick.shape[-2:]).to(quick))
            _stop_if(should_stop)
            return self._picture(latents, sketched=self.sketcher is not None)

    def _picture(self, latents: Tensor, sketched: bool = False) -> Image.Image:
        pipeline: Any = self.pipeline
        vae, decode = (self.sketcher, self._sketch) if sketched else (pipeline.vae, self._decode)
        image = decode_latents(vae, latents, decode)
        return pipeline.image_processor.postprocess(image, output_type="pil", do_denormalize=[False])[0]

    def latents(self, plan: Plan, should_stop: Callable[[], bool] | None = None) -> Tensor:
        """The sampled latents ``[1, c, h, w]`` of ``plan``, as the pipeline gives with ``output_type="latent"``."""
        with self._lock, torch.inference_mode():
            sampled = self._sample(plan, should_stop).latents
        return sampled.clone()

    def updates(self, plan: Plan, share: float = 0.75) -> dict[str, tuple[Tensor, Tensor]]:
        """What every block makes of the picture of ``plan``: its input and its output ``[1, d, H, W]``, as edited.

        They are taken in one pass, at the step that stands at ``share`` (0..1) of the way through the sampling; of a
        guided batch, on the conditional half.
        """
        seen: dict[str, tuple[Tensor, Tensor]] = {}
        with self._lock, torch.inference_mode():
            self._sample(plan, None, _Watch(round(share * (plan.steps - 1)), seen))
        return {block: (entered.clone(), left.clone()) for block, (entered, left) in seen.items()}

    def forget(self) -> None:
        """Drop everything kept from earlier renderings; needed only after the pipeline was changed from outside."""
        with self._lock:
            for kept in (self._told, self._conditions, self._noise, self._prefixes, self._courses, self._ends):
                kept.clear()
            self._build()

    def _sample(self, plan: Plan, should_stop: Callable[[], bool] | None, watch: _Watch | None = None) -> _Run:
        course = self._course(plan, should_stop)
        pipeline: Any = self.pipeline
        guided = plan.guidance > 1 and pipeline.unet.config.time_cond_proj_dim is None
        said = (plan.prompt, plan.size, guided)
        told = self._told.get(said, lambda: text_conditions(pipeline, [plan.prompt], plan.size, guided))
        # a prefix skips blocks that are to be watched
        run, prefix, first_edit = self._begun(plan, told["encoder_hidden_states"].dtype, replay=watch is None)
        timesteps = run.scheduler.timesteps
        extra = pipeline.prepare_extra_step_kwargs(run.generator, 0.0)
        timestep_cond = self._timestep_condition(plan.guidance, run.latents)
        n = len(timesteps)
        passed: list[Tensor] = []
        for i in range(run.step, n):
            _stop_if(should_stop)
            run.step = i
            t = timesteps[i]
            inputs = torch.cat([run.latents] * 2) if guided else run.latents
            inputs = run.scheduler.scale_model_input(inputs, t)
            conditions = self._conditions.get(
                (*said, plan.guidance, float(t)),
                lambda x=inputs, t=t: self._walk.conditions(
                    x, t, told["encoder_hidden_states"], told.get("added_cond_kwargs"), timestep_cond
                ),
            )
            edits = _edits(plan, i, n, guided)
            if watch is not None and i == min(watch.step, n - 1):
                self._walk.finish(self._walk.start(inputs), conditions, watch.over(edits, self._walk.blocks, guided))
                return run
            if first_edit is not None and i == first_edit.step:
                place = prefix.place if prefix else self._until(first_edit, inputs, conditions, run)
            else:
                place = self._walk.start(inputs)
            predicted = self._walk.finish(place, conditions, edits)
            if guided:
                unconditional, conditional = predicted.chunk(2)
                predicted = unconditional + plan.guidance * (conditional - unconditional)
            run.latents = run.scheduler.step(predicted, t, run.latents, **extra, return_dict=False)[0]
            if course:
                run.latents = course.hold(i, run.latents)
            passed.append(run.latents)
        if not plan.edits:
            self._courses.put(_situation(plan), torch.stack(passed))
        self._ends.put(_identity(plan), run.latents)
        return run

    def _course(self, plan: Plan, should_stop: Callable[[], bool] | None) -> _Course | None:
        """What binds ``plan`` beyond its strokes, or None where nothing does.

        The unpainted latents are put in place of the painted ones after every step, so that what is drawn within fits
        what stands around it (Avrahami et al., Blended Latent Diffusion, arXiv 2206.02779, with the sampling itself in
        place of a noised picture).
        """
        if not (plan.edits and plan.keep):
            return None
        pipeline: Any = self.pipeline
        side = plan.size // pipeline.vae_scale_factor
        free = reach(_edits_of(plan), side, side)
        if bool((free == 1).all()):
            return None
        latents = self._courses.find(_situation(plan))
        if latents is None:
            self._sample(replace(plan, edits={}), should_stop)
            latents = self._courses.find(_situation(plan))
        assert latents is not None
        return _Course(latents, free.to(latents))

    def _begun(
        self, plan: Plan, dtype: torch.dtype, replay: bool = True
    ) -> tuple[_Run, _Prefix | None, _FirstEdit | None]:
        pipeline: Any = self.pipeline
        scheduler = copy.deepcopy(pipeline.scheduler)
        scheduler.set_timesteps(plan.steps, device=self._device)
        first_edit = self._first_edit(plan, len(scheduler.timesteps))
        prefix = self._prefixes.find(first_edit.key) if first_edit and replay else None
        if prefix is not None:
            return prefix.run.copy(), prefix, first_edit
        noise, state = self._noise.get((plan.seed, plan.size), lambda: self._drawn(plan.seed, plan.size, dtype))
        generator = torch.Generator("cpu")
        generator.set_state(state)
        return _Run(noise * scheduler.init_noise_sigma, scheduler, generator), None, first_edit

    def _first_edit(self, plan: Plan, n_steps: int) -> _FirstEdit | None:
        for step in range(n_steps):
            acting = [name for name, part in plan.edits.items() if part.is_active(step, n_steps)]
            if acting:
                block = min(acting, key=self._walk.order)
                return _FirstEdit(step, block, (*_situation(plan), step, block))
        return None

    def _until(self, first_edit: _FirstEdit, inputs: Tensor, conditions: Conditions, run: _Run) -> Place:
        """Compute the prefix, and keep it."""
        before = run.copy()
        place = self._walk.until(first_edit.block, self._walk.start(inputs), conditions)
        self._prefixes.put(first_edit.key, _Prefix(before, place))
        return place

    def _drawn(self, seed: int, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Initial noise of unit variance ``[1, c, h, w]``, and the generator's state after it was drawn."""
        pipeline: Any = self.pipeline
        generator = torch.Generator("cpu").manual_seed(seed)
        side = size // pipeline.vae_scale_factor
        shape = (1, pipeline.unet.config.in_channels, side, side)
        noise = randn_tensor(shape, generator=generator, device=self._device, dtype=dtype)
        return noise, generator.get_state()

    def _timestep_condition(self, guidance: float, latents: Tensor) -> Tensor | None:
        pipeline: Any = self.pipeline
        width = pipeline.unet.config.time_cond_proj_dim
        if width is None:
            return None
        scale = torch.tensor(guidance - 1).repeat(1)
        return pipeline.get_guidance_scale_embedding(scale, embedding_dim=width).to(latents)


@dataclass(frozen=True)
class _FirstEdit:
    """The first step at which anything is edited, the first block edited there, and what the prefix depends on."""

    step: int
    block: str
    key: Hashable


@dataclass(frozen=True)
class _Watch:
    """Notes what goes through every block at one step."""

    step: int
    seen: dict[str, tuple[Tensor, Tensor]]

    def over(self, edits: Mapping[str, Edit], blocks: Iterable[str], guided: bool) -> dict[str, Edit]:
        """``edits``, which also note."""

        def noting(block: str) -> Edit:
            def edit(h: Tensor, o: Tensor) -> Tensor:
                left = edits[block](h, o) if block in edits else o
                conditional = slice(len(h) // 2, None) if guided else slice(None)
                self.seen[block] = (h[conditional], left[conditional])
                return left

            return edit

        return {block: noting(block) for block in blocks}


def _situation(plan: Plan) -> tuple[Hashable, ...]:
    """What an unpainted sampling depends on."""
    return plan.prompt, plan.seed, plan.steps, plan.guidance, plan.size


def _edits_of(plan: Plan) -> list[steering.Edit]:
    return [edit for part in plan.edits.values() for edit in part.edits]


def _identity(plan: Plan) -> bytes:
    """A digest of what a sampling depends on: masks themselves would take ten times what is kept of a sampling."""
    told = hashlib.sha256(repr((*_situation(plan), plan.keep, plan.subtract)).encode())
    for edit in _edits_of(plan):
        told.update(repr((edit.features, edit.strength, edit.mode, edit.steps)).encode())
        told.update(edit.mask.data)
    return told.digest()


def _edits(plan: Plan, step: int, n_steps: int, guided: bool) -> dict[str, Edit]:
    """What each block's output becomes at ``step``; of a guided batch, the conditional half is edited."""

    def edit_by(part: BlockEdits) -> Edit:
        def edit(h: Tensor, o: Tensor) -> Tensor:
            if not guided:
                return o + part.delta(h, o, step, n_steps)
            plain, steered = o.chunk(2)
            delta = part.delta(h.chunk(2)[1], steered, step, n_steps)
            return torch.cat([plain - delta if plan.subtract else plain, steered + delta])

        return edit

    return {name: edit_by(part) for name, part in plan.edits.items() if part.is_active(step, n_steps)}


def _stop_if(should_stop: Callable[[], bool] | None) -> None:
    if should_stop is not None and should_stop():
        raise Cancelled
