"""``python -m sae``: SAEs from the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from sae.errors import FeaturebrushError

COMMANDS = {
    "harvest": ("sae.harvest_cli", "record what a model's blocks do, into shards"),
    "train": ("sae.training_cli", "train SAEs on shards"),
    "eval": ("sae.evaluation", "measure an SAE on activations, or inside its model"),
    "atlas": ("sae.atlas_cli", "examples, neighbours, map and icons of every feature of an SAE"),
    "label": ("sae.label_cli", "label the features of an SAE, and score the labels"),
    "concepts": ("sae.concepts_cli", "which of several measured SAEs finds each known concept best"),
}
"""Command -> (module, what it does). A module has ``add_arguments(parser)`` and ``run(options)``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 if it worked, 2 if something given cannot be used, which is said on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m sae", description="Sparse autoencoders of Featurebrush.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    parsers = {name: commands.add_parser(name, help=text, description=text) for name, (_, text) in COMMANDS.items()}
    # Only the module of the command that is asked for is imported: each is slow in its own way.
    module = import_module(COMMANDS[given[0]][0]) if given and given[0] in COMMANDS else None
    if module is not None:
        module.add_arguments(parsers[given[0]])
    options = parser.parse_args(given)
    folder = getattr(options, "folder", None)
    if folder is not None and folder.is_file():
        options.folder = folder.parent
    try:
        if module is not None:
            module.run(options)
    except (FeaturebrushError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
