"""SDXL at its full shape, with random weights: what painting costs beside a plain forward pass of the U-Net.

    python benchmarks/sdxl.py --rounds 3 --json runs/sdxl.json

The U-Net is that of SDXL and SDXL-Turbo (2.6 billion weights: 10 GB in float32, 5 GB in float16), on the 64×64 latents
of 512 px pictures. Dictionaries as published (four blocks, 1,280 × 5,120, with ``mean.pt``) are written to a folder,
and loaded from it. Then, taking turns: a plain forward pass; and for each block a painted pass, from the prefix that
the first one left, with one feature under a mask that is another each time. A painted pass is also compared with one
that computes everything, by the same edit in a forward hook, to the last bit.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from canvas import Mask
from canvas.registry import REGISTRY, find_saes
from canvas.steering import BlockEdits, Edit, FeatureSet, brush_vector
from canvas.unet import Conditions, Walk
from sae import SAE, load
from sae.activations import block_input, block_module, block_output

FEATURE, STRENGTH = 2301, 8.0
WIDTH, FEATURES, K = 1280, 5120, 10


def build(device: str, dtype: torch.dtype) -> UNet2DConditionModel:
    """The U-Net, its weights random, made without the libraries' slow initialisation."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(320, 640, 1280),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
            use_linear_projection=True,
        ).to(dtype)
    unet = unet.to_empty(device=device).eval().requires_grad_(False)
    for name, value in unet.named_parameters():
        if value.ndim > 1:
            value.uniform_(-1, 1).mul_(math.sqrt(3 / value[0].numel()))
        else:
            value.fill_(1.0 if name.endswith("weight") else 0.0)
    return unet


def write_saes(root: Path, blocks: dict[str, str]) -> None:
    """Dictionaries of random weights, laid out as the public ones are."""
    for folder in blocks.values():
        place = root / folder / "final"
        place.mkdir(parents=True)
        shape = {"n_dirs_local": FEATURES, "d_model": WIDTH, "k": K, "auxk": 256, "dead_steps_threshold": 2441}
        (place / "config.json").write_text(json.dumps(shape))
        directions = torch.nn.functional.normalize(torch.randn(FEATURES, WIDTH), dim=1)
        state = {
            "encoder.weight": directions.clone(),
            "decoder.weight": directions.T.clone(),
            "pre_bias": torch.zeros(WIDTH),
            "latent_bias": torch.zeros(FEATURES),
            "stats_last_nonzero": torch.zeros(FEATURES, dtype=torch.long),
        }
        torch.save({"state_dict": state}, place / "state_dict.pth")
        torch.save(torch.rand(FEATURES), place / "mean.pt")
        torch.save(torch.ones(FEATURES), place / "std.pt")


def edits_at(sae: SAE, block: str, number: int) -> BlockEdits:
    features = FeatureSet(block, (FEATURE,), (1.0,))
    mask = Mask.disc(0.5 + 0.2 * math.cos(number), 0.5 + 0.2 * math.sin(number), 0.2)
    return BlockEdits(sae, [Edit(features, mask, STRENGTH, "add", (0.0, 1.0))], [brush_vector(sae, features)])


class Bench:
    """One U-Net, one picture in the making."""

    def __init__(self, unet: Any, device: str, dtype: torch.dtype):
        random = torch.Generator().manual_seed(0)

        def noise(*shape: int) -> Tensor:
            return torch.randn(shape, generator=random).to(device, dtype)

        self.unet, self.latents, self.time = unet, noise(1, 4, 64, 64), torch.tensor(999, device=device)
        sizes = torch.tensor([[512, 512, 0, 0, 512, 512]], device=device, dtype=dtype)
        self.told = {"encoder_hidden_states": noise(1, 77, 2048)}
        self.told["added_cond_kwargs"] = {"text_embeds": noise(1, 1280), "time_ids": sizes}
        self.walk = Walk(unet)
        self.conditions: Conditions = self.walk.conditions(
            self.latents, self.time, self.told["encoder_hidden_states"], self.told["added_cond_kwargs"]
        )

    def plain(self, _: int = 0) -> Tensor:
        return self.unet(self.latents, self.time, **self.told, return_dict=False)[0]

    def painted(self, block: str, sae: SAE) -> Callable[[int], Tensor]:
        """A function of the frame's number; the prefix is computed here, as by the first frame."""
        place = self.walk.until(block, self.walk.start(self.latents), self.conditions)

        def frame(number: int) -> Tensor:
            part = edits_at(sae, block, number)
            return self.walk.finish(place, self.conditions, {block: lambda h, o: o + part.delta(h, o, 0, 1)})

        return frame

    def hooked(self, block: str, sae: SAE, number: int) -> Tensor:
        """The same edit in a plain forward pass."""
        part = edits_at(sae, block, number)

        def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            out = block_output(output)
            return (out + part.delta(block_input(args, kwargs), out, 0, 1),)

        handle = block_module(self.unet, block).register_forward_hook(hook, with_kwargs=True)
        try:
            return self.plain()
        finally:
            handle.remove()


def timed(work: Callable[[], Any], device: str) -> tuple[Any, float]:
    begun = time.perf_counter()
    found = work()
    if device == "cuda":
        torch.cuda.synchronize()
    return found, time.perf_counter() - begun


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description="SDXL's U-Net at its full shape: painted passes beside plain ones.")
    found.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    found.add_argument("--dtype", choices=("float32", "float16"), help="default: float16 on CUDA, else float32")
    found.add_argument("--rounds", type=int, default=3)
    found.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    return found


@torch.inference_mode()
def main() -> int:
    options = parser().parse_args()
    device = options.device
    name = options.dtype or ("float16" if device == "cuda" else "float32")
    blocks = dict(REGISTRY["sdxl-turbo"].blocks)
    with tempfile.TemporaryDirectory() as folder:
        write_saes(Path(folder), blocks)

        def load_all() -> dict[str, SAE]:
            return {block: load(place, device) for block, place in find_saes(folder).items()}

        saes, loading = timed(load_all, device)
    print(f"{len(saes)} dictionaries of {WIDTH} × {FEATURES} loaded in {loading:.2f} s: {', '.join(saes)}", flush=True)
    unet, building = timed(lambda: build(device, getattr(torch, name)), device)
    weights = sum(value.numel() for value in unet.parameters())
    print(f"U-Net of {weights / 1e9:.2f} billion weights in {name} on {device} made in {building:.0f} s", flush=True)
    bench = Bench(unet, device, getattr(torch, name))
    order = sorted(saes, key=bench.walk.order)
    ways = {"plain": bench.plain} | {block: bench.painted(block, saes[block]) for block in order}
    taken: dict[str, list[float]] = defaultdict(list)
    equal: dict[str, bool] = {}
    for number in range(options.rounds):
        for way, frame in ways.items():
            found, seconds = timed(lambda frame=frame, number=number: frame(number), device)
            taken[way].append(seconds)
            if way != "plain" and number == 0:
                equal[way] = torch.equal(found, bench.hooked(way, saes[way], 0))
    plain = statistics.median(taken["plain"])
    print(f"{'pass':<12} {'median s':>9} {'of plain':>9}  equal to a hooked pass")
    for way, seconds in taken.items():
        middle = statistics.median(seconds)
        print(f"{way:<12} {middle:>9.3f} {middle / plain:>9.3f}  {equal.get(way, '')}")
    used = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else used
    print(f"memory at most: {memory / 2**30:.1f} GiB")
    if options.json:
        facts = {
            "machine": {"system": platform.platform(), "threads": torch.get_num_threads(), "torch": torch.__version__},
            "device": device, "dtype": name, "weights": weights, "loading_s": loading, "memory": memory,
            "seconds": dict(taken), "equal": equal,
        }  # fmt: skip
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
