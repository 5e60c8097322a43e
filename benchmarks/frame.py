"""What a frame costs: the plain pipeline, the published demos' way, our unsteered frame, our painted one.

    python benchmarks/frame.py --steps 1 2 4 8 --frames 20 --json runs/frame.json

All on one model, in one process, taking turns frame by frame, so that what slows the machine slows all. The picture's
seed and prompt stay; the mask is another one in every frame, as while someone paints:

- *pipeline*: diffusers' own call, nothing painted.
- *demo*: the same call with a forward hook that encodes the block's update, fills a dense array of codes from the mask
  and adds its decode, as the published demos do (Surkov et al., arXiv 2410.22366).
- *unsteered*: our frame without layers.
- *painted*: our frame with one layer.

The last two with each backend that is asked for.

Guidance is the same for all four in a run. Times are of whole frames, from the request to the PIL image.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from canvas import Mask, Painter, Painting
from sae.activations import block_input, block_module, block_output
from sae.errors import FeaturebrushError

PROMPT, SEED = "a meadow by day", 7
WARM_UP = 3

Frame = Callable[[int, bool], Any]
"""Makes the frame of that number; or only its latents, if so told, which is all but the decoding."""


def mask_at(frame: int) -> Mask:
    """A disc on its way around the canvas; no two frames of a run have the same."""
    angle = 0.37 * frame
    return Mask.disc(0.5 + 0.25 * math.cos(angle), 0.5 + 0.25 * math.sin(angle), 0.15 + 0.0005 * (frame % 100))


def plain_frames(painter: Painter, steps: int, guidance: float) -> Frame:
    size = painter.defaults.size

    def frame(_: int, latent: bool) -> Any:
        generator = torch.Generator("cpu").manual_seed(SEED)
        found: Any = painter.pipeline(
            PROMPT, height=size, width=size, num_inference_steps=steps, guidance_scale=guidance, generator=generator,
            output_type="latent" if latent else "pil",
        )  # fmt: skip
        return found.images[0]

    return frame


def demo_frames(painter: Painter, steps: int, guidance: float, concept: str) -> Frame:
    """One feature, its mean times the strength, under a dense mask; the update is encoded at every step."""
    entry = painter.concept(concept)
    sae = painter.sae(entry.block)
    feature = entry.features[0]
    plain = plain_frames(painter, steps, guidance)

    def frame(number: int, latent: bool) -> Any:
        def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            out = block_output(output)
            update = (out - block_input(args, kwargs)).permute(0, 2, 3, 1)
            codes = torch.zeros_like(sae.encode(update))
            codes[..., feature] = torch.from_numpy(mask_at(number).coverage(*update.shape[1:3])) * sae.mean[feature]
            added = codes @ sae.W_dec
            return (out + added.permute(0, 3, 1, 2).to(out.dtype),)

        handle = block_module(painter.pipeline.unet, entry.block).register_forward_hook(hook, with_kwargs=True)
        try:
            return plain(number, latent)
        finally:
            handle.remove()

    return frame


def our_frames(painter: Painter, steps: int, guidance: float, concept: str | None) -> Frame:
    base = Painting(model=painter.model, prompt=PROMPT, seed=SEED, steps=steps, guidance=guidance)

    def frame(number: int, latent: bool) -> Any:
        painting = base.paint(concept, mask_at(number)) if concept else base
        return painter.engine.latents(painter.plan(painting)) if latent else painter.render(painting)

    return frame


def _wait(painter: Painter) -> None:
    if painter.pipeline.device.type == "cuda":
        torch.cuda.synchronize()


def measure(
    painters: dict[str, Painter], steps: int, guidance: float, concept: str, frames: int
) -> dict[str, dict[str, float]]:
    """Milliseconds a frame of each way: median and 95th percentile; the median without decoding, and what is left."""
    first = next(iter(painters.values()))
    ways = {
        "pipeline": plain_frames(first, steps, guidance),
        "demo": demo_frames(first, steps, guidance, concept),
    }
    for name, painter in painters.items():
        ways[f"unsteered, {name}"] = our_frames(painter, steps, guidance, None)
        ways[f"painted, {name}"] = our_frames(painter, steps, guidance, concept)
    taken: dict[tuple[str, bool], list[float]] = defaultdict(list)
    for number in range(-WARM_UP, frames):
        for name, way in ways.items():
            for latent in (False, True):
                begun = time.perf_counter()
                way(number, latent)
                _wait(first)
                if number >= 0:
                    taken[name, latent].append(1000 * (time.perf_counter() - begun))
    found = {}
    for name in ways:
        whole, sampling = (sorted(taken[name, latent]) for latent in (False, True))
        p50 = statistics.median(whole)
        part = statistics.median(sampling)
        p95 = whole[math.ceil(0.95 * len(whole)) - 1]
        found[name] = {"p50": p50, "p95": p95, "sampling": part, "decoding": p50 - part}
    return found


def equal(painter: Painter, steps: int, guidance: float) -> bool:
    """Whether our unsteered frame is the pipeline's picture, bit for bit."""
    both = our_frames(painter, steps, guidance, None), plain_frames(painter, steps, guidance)
    ours, theirs = (frame(0, False) for frame in both)
    return ours.tobytes() == theirs.tobytes()


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description="What a frame costs.")
    found.add_argument("--model", default="storybook")
    found.add_argument("--device")
    found.add_argument("--backends", nargs="+", default=["torch", "openvino"], help="of our frames")
    found.add_argument("--concept", default="tree")
    found.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8])
    found.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0])
    found.add_argument("--frames", type=int, default=20)
    found.add_argument("--threads", type=int, help="by default what torch chooses")
    found.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    return found


def main() -> int:
    options = parser().parse_args()
    if options.frames < 1 or min(options.steps) < 1:
        parser().error("give at least one frame and one step")
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        painters = {name: Painter.load(options.model, options.device, backend=name) for name in options.backends}
        painter = next(iter(painters.values()))
        painter.concept(options.concept)
    except FeaturebrushError as error:
        parser().error(str(error))
    painter.pipeline.set_progress_bar_config(disable=True)
    rows = []
    print(f"{'steps':>5} {'guidance':>8} {'way':<20} {'p50 ms':>8} {'p95 ms':>8} {'sampling':>8} {'decoding':>8}")
    for guidance in options.guidance:
        for steps in options.steps:
            same = {name: equal(one, steps, guidance) for name, one in painters.items()}
            found = measure(painters, steps, guidance, options.concept, options.frames)
            for way, f in found.items():
                figures = "".join(f"{f[part]:>9.1f}" for part in ("p50", "p95", "sampling", "decoding"))
                print(f"{steps:>5} {guidance:>8g} {way:<20}{figures}", flush=True)
            for name in painters:
                ours = found[f"painted, {name}"]["p50"]
                shares = ", ".join(f"{ours / found[way]['p50']:.2f} of {way}" for way in list(found)[:2])
                own = f"{ours / found[f'unsteered, {name}']['p50']:.2f} of unsteered"
                print(f"      painted, {name}: {shares}, {own}; unsteered is the pipeline's bit for bit: {same[name]}")
            rows.append({"steps": steps, "guidance": guidance, "equal": same, "ways": found})
    if options.json:
        facts = {
            "machine": {"system": platform.platform(), "threads": torch.get_num_threads(), "torch": torch.__version__},
            "options": {name: str(v) if isinstance(v, Path) else v for name, v in vars(options).items()},
            "rows": rows,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
