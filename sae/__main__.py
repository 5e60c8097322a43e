"""``python -m sae``: SAEs from the command line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from sae.errors import FeaturebrushError, unknown
from sae.formats import load
from sae.metrics import evaluate


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 if it worked, 2 if something given cannot be used, which is said on stderr."""
    parser = argparse.ArgumentParser(prog="python -m sae", description="Sparse autoencoders of Featurebrush.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser("eval", help="measure an SAE on activations")
    command.add_argument("folder", type=Path, metavar="FOLDER", help="folder with cfg.json and sae.safetensors")
    command.add_argument(
        "--activations", type=Path, required=True, metavar="FILE", help="safetensors file with activations [..., d]"
    )
    command.add_argument(
        "--tensor", metavar="NAME", help="which tensor of it; if not given, the SAE's block or the only one there"
    )
    command.add_argument("--device", default="cpu", help="where to compute (default: cpu)")
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    try:
        _evaluate(options)
    except FeaturebrushError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _evaluate(options: argparse.Namespace) -> None:
    sae = load(options.folder, options.device)
    measured = evaluate(sae, _activations(options.activations, options.tensor, sae.cfg.block))._asdict()
    if options.json:
        print(json.dumps(measured, indent=2))
        return
    width = max(map(len, measured))
    for name, value in measured.items():
        print(
            f"{name.replace('_', ' '):{width}}  {value:.4f}" if isinstance(value, float) else f"{name:{width}}  {value}"
        )


def _activations(path: Path, name: str | None, block: str) -> torch.Tensor:
    if not path.is_file():
        raise FeaturebrushError(f"there is no file {path}: give a safetensors file with activations [..., d]")
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if name is None:
                name = names[0] if len(names) == 1 else block
            if name not in names:
                raise unknown("tensor", name, names)
            return file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise FeaturebrushError(f"{path} cannot be read as safetensors: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
