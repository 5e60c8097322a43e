"""The sampler: the loop of ``StableDiffusionPipeline.__call__``, with edits at blocks and without doing work twice.

Every operation is the pipeline's own, in the pipeline's order (diffusers 0.42, ``pipeline_stable_diffusion.py``), so
that a plan without edits gives the pipeline's picture bit for bit. Beside it, the engine keeps what does not change
from frame to frame while someone paints: prompt embeddings, initial noise, and the prefix of the sampling, which is
everything before the first edited block of the first edited step.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor, nn

from canvas.steering import BlockEdits, reach, steered
from sae.activations import block_names

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Cancelled(Exception):
    """The rendering was stopped between two steps because ``should_stop`` said so."""


class Recent(Generic[K, V]):
    """The values made for the most recently used keys, at most ``size`` of them. Not for several threads at once."""

    def __init__(self, size: int):
        self._size = size
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value kept for ``key``, or a new one by ``make``."""
        if key not in self._values:
            self.put(key, make())
        self._values.move_to_end(key)
        return self._values[key]

    def put(self, key: K, value: V) -> None:
        """Keep ``value`` for ``key``; the key unused for longest is forgotten if there are too many."""
        self._values[key] = value
        self._values.move_to_end(key)
        while len(self._values) > self._size:
            self._values.popitem(last=False)

    def find(self, key: K) -> V | None:
        """The value kept for ``key``, or None."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def clear(self) -> None:
        """Forget everything."""
        self._values.clear()

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


@dataclass
class _Prefix:
    """A sampling up to its first edited step, and at that step the outputs of the modules before the first edit."""

    run: _Run
    outputs: dict[nn.Module, Any] = field(default_factory=dict)


def _guidance_scale(plan: Plan, latents: Tensor) -> float | Tensor:
    """The factor of the difference between the two halves of a guided batch.

    Without a prompt the halves differ by the edits alone, so the unconditional one is the unpainted picture: then the
    factor is ``plan.guidance`` within reach of the edits and 0 beyond, and what was not painted stays as it is.
    """
    edits = [edit for block in plan.edits.values() for edit in block.edits]
    if plan.prompt or not edits:
        return plan.guidance
    return plan.guidance * reach(edits, *latents.shape[-2:]).to(latents)


class Engine:
    """Renders plans with one pipeline. Calls from several threads wait for each other.

    Parameters: ``pipeline`` is used, never changed; if its weights are changed from outside, call ``forget``.
    """

    def __init__(self, pipeline: StableDiffusionPipeline):
        self.pipeline = pipeline
        self._lock = threading.Lock()
        self._embeddings: Recent[tuple[str, bool], Tensor] = Recent(16)
        self._noise: Recent[tuple[int, int], tuple[Tensor, Tensor]] = Recent(16)
        self._prefixes: Recent[Hashable, _Prefix] = Recent(2)

    def render(self, plan: Plan, should_stop: Callable[[], bool] | None = None) -> Image.Image:
        """The picture of ``plan``, RGB, ``plan.size`` pixels square.

        ``should_stop`` is asked before every step and before decoding; when it says True, ``Cancelled`` is raised.
        """
        pipeline = self.pipeline
        with self._lock, torch.inference_mode():
            run = self._sample(plan, should_stop)
            _stop_if(should_stop)
            scaled = run.latents / pipeline.vae.config.scaling_factor
            image = pipeline.vae.decode(scaled, return_dict=False, generator=run.generator)[0]
            images: Any = pipeline.image_processor.postprocess(image, output_type="pil", do_denormalize=[True])
            return images[0]

    def latents(self, plan: Plan, should_stop: Callable[[], bool] | None = None) -> Tensor:
        """The sampled latents ``[1, c, h, w]`` of ``plan``, as the pipeline gives with ``output_type="latent"``."""
        with self._lock, torch.inference_mode():
            sampled = self._sample(plan, should_stop).latents
        return sampled.clone()

    def forget(self) -> None:
        """Drop everything kept from earlier renderings; needed only after the pipeline was changed from outside."""
        with self._lock:
            for kept in (self._embeddings, self._noise, self._prefixes):
                kept.clear()

    def _sample(self, plan: Plan, should_stop: Callable[[], bool] | None) -> _Run:
        pipeline = self.pipeline
        guided = plan.guidance > 1 and pipeline.unet.config.time_cond_proj_dim is None
        embeddings = self._embeddings.get((plan.prompt, guided), lambda: self._encoded(plan.prompt, guided))
        run, prefix, first_edit = self._begun(plan)
        timesteps = run.scheduler.timesteps
        extra = pipeline.prepare_extra_step_kwargs(run.generator, 0.0)
        timestep_cond = self._timestep_condition(plan.guidance, run.latents)
        scale = _guidance_scale(plan, run.latents)
        n = len(timesteps)
        for i in range(run.step, n):
            _stop_if(should_stop)
            run.step = i
            t = timesteps[i]
            inputs = torch.cat([run.latents] * 2) if guided else run.latents
            if hasattr(run.scheduler, "scale_model_input"):
                inputs = run.scheduler.scale_model_input(inputs, t)
            with ExitStack() as stack:
                if first_edit is not None and i == first_edit.step:
                    stack.enter_context(self._prefix_step(first_edit, prefix, run))
                stack.enter_context(steered(pipeline.unet, plan.edits, i, n, guided))
                predicted = pipeline.unet(
                    inputs, t, encoder_hidden_states=embeddings, timestep_cond=timestep_cond, return_dict=False
                )[0]
            if guided:
                unconditional, conditional = predicted.chunk(2)
                predicted = unconditional + scale * (conditional - unconditional)
            run.latents = run.scheduler.step(predicted, t, run.latents, **extra, return_dict=False)[0]
        return run

    def _begun(self, plan: Plan) -> tuple[_Run, _Prefix | None, _FirstEdit | None]:
        scheduler = copy.deepcopy(self.pipeline.scheduler)
        scheduler.set_timesteps(plan.steps, device=self.pipeline.device)
        first_edit = _first_edit(plan, len(scheduler.timesteps), block_names(self.pipeline.unet))
        prefix = self._prefixes.find(first_edit.key) if first_edit else None
        if prefix is not None:
            return prefix.run.copy(), prefix, first_edit
        noise, state = self._noise.get((plan.seed, plan.size), lambda: self._drawn(plan.seed, plan.size))
        generator = torch.Generator("cpu")
        generator.set_state(state)
        return _Run(noise * scheduler.init_noise_sigma, scheduler, generator), None, first_edit

    @contextmanager
    def _prefix_step(self, first_edit: _FirstEdit, prefix: _Prefix | None, run: _Run) -> Iterator[None]:
        """Replay the prefix within the first edited step, or record it if there is none yet."""
        if prefix is not None:
            with replayed(prefix.outputs):
                yield
            return
        prefix = _Prefix(run.copy())
        with recorded(modules_before(self.pipeline.unet, first_edit.block), prefix.outputs):
            yield
        self._prefixes.put(first_edit.key, prefix)

    def _encoded(self, prompt: str, guided: bool) -> Tensor:
        pipeline = self.pipeline
        conditional, unconditional = pipeline.encode_prompt(prompt, pipeline.device, 1, guided)
        return conditional if unconditional is None else torch.cat([unconditional, conditional])

    def _drawn(self, seed: int, size: int) -> tuple[Tensor, Tensor]:
        """Initial noise of unit variance ``[1, c, h, w]``, and the generator's state after it was drawn."""
        pipeline = self.pipeline
        generator = torch.Generator("cpu").manual_seed(seed)
        side = size // pipeline.vae_scale_factor
        shape = (1, pipeline.unet.config.in_channels, side, side)
        dtype = pipeline.text_encoder.dtype
        noise = randn_tensor(shape, generator=generator, device=pipeline.device, dtype=dtype)
        return noise, generator.get_state()

    def _timestep_condition(self, guidance: float, latents: Tensor) -> Tensor | None:
        width = self.pipeline.unet.config.time_cond_proj_dim
        if width is None:
            return None
        scale = torch.tensor(guidance - 1).repeat(1)
        return self.pipeline.get_guidance_scale_embedding(scale, embedding_dim=width).to(latents)


@dataclass(frozen=True)
class _FirstEdit:
    """The first step at which anything is edited, the first block edited there, and what the prefix depends on."""

    step: int
    block: str
    key: Hashable


def _first_edit(plan: Plan, n_steps: int, order: tuple[str, ...]) -> _FirstEdit | None:
    for step in range(n_steps):
        blocks = [name for name in order if name in plan.edits and plan.edits[name].is_active(step, n_steps)]
        if blocks:
            key = (plan.prompt, plan.seed, plan.steps, plan.guidance, plan.size, step, blocks[0])
            return _FirstEdit(step, blocks[0], key)
    return None


def _stop_if(should_stop: Callable[[], bool] | None) -> None:
    if should_stop is not None and should_stop():
        raise Cancelled


def modules_before(unet: nn.Module, block: str) -> list[nn.Module]:
    """The modules whose outputs stand for all that ``unet`` computes up to and including the unedited ``block``."""
    kind, *place = block.split(".")
    *outer, j = (int(part) for part in place)
    before: list[Any] = [unet.conv_in, unet.time_embedding]
    if kind == "down":
        owner = unet.get_submodule(f"down_blocks.{outer[0]}")
        before += list(unet.get_submodule("down_blocks").children())[: outer[0]]
    elif kind == "mid":
        owner = unet.get_submodule("mid_block")
        before += list(unet.get_submodule("down_blocks").children())
    else:
        owner = unet.get_submodule(f"up_blocks.{outer[0]}")
        before += list(unet.get_submodule("down_blocks").children())
        before += [unet.mid_block] if unet.mid_block is not None else []
        before += list(unet.get_submodule("up_blocks").children())[: outer[0]]
    for name in ("resnets", "attentions"):
        before += list(owner.get_submodule(name).children())[: j + 1]
    return before


@contextmanager
def recorded(modules: list[nn.Module], outputs: dict[nn.Module, Any]) -> Iterator[None]:
    """While open, the output of every call of ``modules`` is put into ``outputs``, before other hooks alter it."""

    def hook(module: nn.Module, _args: Any, output: Any) -> None:
        outputs[module] = output

    handles = []
    try:
        for module in modules:
            handles.append(module.register_forward_hook(hook, prepend=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replayed(outputs: Mapping[nn.Module, Any]) -> Iterator[None]:
    """While open, each of the modules returns its recorded output instead of computing it; hooks still see it."""

    def returning(output: Any) -> Callable[..., Any]:
        return lambda *_args, **_kwargs: output

    shadowed = {module: vars(module)["forward"] for module in outputs if "forward" in vars(module)}
    try:
        for module, output in outputs.items():
            module.forward = returning(output)
        yield
    finally:
        for module in outputs:
            vars(module).pop("forward", None)
            if module in shadowed:
                module.forward = shadowed[module]
