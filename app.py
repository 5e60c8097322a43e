"""Starts the page: ``python app.py``. Also the entry of a Hugging Face Space."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from canvas.registry import REGISTRY
from sae.errors import FeaturebrushError


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog="app.py", description="Featurebrush: paint with concepts, in the browser.")
    parser.add_argument(
        "--model",
        default="storybook",
        metavar="NAME",
        help=f"{', '.join(REGISTRY)}; a folder; or an id on the Hugging Face hub",
    )
    parser.add_argument("--saes", metavar="FOLDER", help="SAEs to paint with, one folder for each block in it")
    parser.add_argument("--download", action="store_true", help="fetch what is not in the local cache of the hub")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: CUDA if it is there)")
    parser.add_argument(
        "--backend",
        default="auto",
        choices=("auto", "torch", "openvino", "inductor"),
        help="what computes: auto is openvino on a CPU if it is installed, else torch, whose pictures are exact",
    )
    parser.add_argument("--host", help="address to listen on (default: GRADIO_SERVER_NAME, else 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port (default: GRADIO_SERVER_PORT, else the first free from 7860)")
    parser.add_argument("--share", action="store_true", help="also make a temporary public link")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Load the model, serve the page until interrupted."""
    options = parse(arguments)
    from canvas.painter import Painter
    from canvas.ui import page
    from sae.devices import chosen

    try:
        if known := REGISTRY.get(options.model):
            print(f"Loading {options.model}: {known.title}; {known.memory_on(chosen(options.device).type)}")
        painter = Painter.load(options.model, options.device, options.saes, options.download, options.backend)
        painter.warm_up()
    except FeaturebrushError as error:
        print(f"app.py: {error}", file=sys.stderr)
        return 2
    page.launch(
        page.build(painter, page.opening(painter)),
        server_name=options.host,
        server_port=options.port,
        share=options.share or None,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
