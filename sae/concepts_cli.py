"""``python -m sae concepts``: which of several dictionaries finds each known concept best, by what was measured."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae.concept_metrics import MATCH
from sae.errors import FeaturebrushError
from sae.files import read_object
from sae.report import JSON_FILE

FOUND = 0.6
"""Average precision from which on a concept of several features counts as found."""


@dataclass(frozen=True)
class Best:
    """How well one concept is found where it is found best."""

    concept: str
    share: float
    """Share of the positions that show it."""
    f1: float
    """Of the best single feature of all blocks."""
    feature: str
    """That feature, as in ``down.1.0/12``; ``-`` if there is none."""
    precision: float
    """Average precision of the best few features of one block."""
    block: str
    """That block; ``-`` if no image showed the concept."""


def best_of(reports: Sequence[dict[str, Any]]) -> list[Best]:
    """Concept by concept the best of several `sae.report.Report.to_dict`, all of the same concepts."""
    named = [[row["concept"] for row in report["concepts"] or ()] for report in reports]
    seen = [{name: report["measured_on"][name] for name in ("source", "first", "count", "steps")} for report in reports]
    if not named[0] or any(names != named[0] for names in named) or any(one != seen[0] for one in seen):
        raise FeaturebrushError("the reports are of no concepts or of different ones: measure all on the same scenes")
    tables = [[(report["sae"]["block"], row) for row in report["concepts"]] for report in reports]
    found = []
    for rows in zip(*tables, strict=True):
        block, single = max(rows, key=lambda entry: entry[1]["f1"])
        shown = [entry for entry in rows if entry[1]["average_precision"] is not None]
        where, several = max(shown, key=lambda entry: entry[1]["average_precision"], default=("-", None))
        feature = "-" if single["feature"] is None else f"{block}/{single['feature']}"
        precision = several["average_precision"] if several else 0.0
        found.append(Best(single["concept"], single["share"], single["f1"], feature, precision, where))
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Folders of measured dictionaries."""
    parser.add_argument(
        "folders", type=Path, nargs="+", metavar="FOLDER", help=f"with the {JSON_FILE} of `python -m sae eval --out`"
    )


def run(options: argparse.Namespace) -> None:
    """Print the table, best found first, and how many concepts are found."""
    best = best_of([read_object(folder / JSON_FILE) for folder in options.folders])
    width = max([len("concept"), *(len(row.concept) for row in best)])
    print(f"{'concept':{width}}  share     F1  {'feature':12}     AP  block")
    for row in sorted(best, key=lambda row: -row.f1):
        found = f"{row.f1:5.3f}  {row.feature:12}  {row.precision:5.3f}  {row.block}"
        print(f"{row.concept:{width}}  {row.share:5.3f}  {found}")
    single, several = sum(row.f1 >= MATCH for row in best), sum(row.precision >= FOUND for row in best)
    print(f"\n{single} of {len(best)} concepts have a single feature with F1 of {MATCH} or more,")
    print(f"{several} a concept of a few features with average precision of {FOUND} or more.")
