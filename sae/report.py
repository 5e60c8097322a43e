"""What was measured of a dictionary: as text, as JSON, and as a page with plots that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from sae.concept_metrics import MATCH, ConceptRow, ConceptTable
from sae.files import write_atomically, write_json
from sae.metrics import DensityHistogram, Evaluation
from sae.model import SAEConfig
from sae.splice import Losses, PictureChange

JSON_FILE, PAGE_FILE = "eval.json", "eval.html"


@dataclass(frozen=True)
class Report:
    """Everything measured of one SAE; None for what was not."""

    sae: SAEConfig
    measures: Evaluation
    channels: tuple[float, ...]
    """Explained variance of every channel, NaN for those that never vary."""
    density: DensityHistogram
    losses: Losses | None = None
    pictures: PictureChange | None = None
    table: ConceptTable | None = None
    stability: float | None = None
    measured_on: dict[str, Any] | None = None
    """What it was measured on, and how."""

    def with_stability(self, stability: float) -> Report:
        """The same, with how far other seeds find the same features."""
        return replace(self, stability=stability)

    def numbers(self) -> dict[str, float | int | None]:
        """The single numbers, by name."""
        found: dict[str, float | int | None] = dict(self.measures._asdict())
        if self.pictures is not None:
            found |= {"spliced_mse": self.pictures.mse, "spliced_ssim": self.pictures.ssim}
        if self.losses is not None:
            found |= {
                "loss_recovered_from_zero": self.losses.recovered_from_zero,
                "loss_recovered_from_mean": self.losses.recovered_from_mean,
            }
        if self.table is not None:
            found |= {
                "mean_average_precision": self.table.mean_average_precision,
                "matching_features": self.table.matching_features,
                "found_concepts": self.table.found_concepts,
            }
        if self.stability is not None:
            found["stability"] = self.stability
        return found

    def to_dict(self) -> dict[str, Any]:
        """A JSON object: the single numbers by name, then the rest."""
        return {
            **self.numbers(),
            "sae": self.sae.to_dict(),
            "measured_on": self.measured_on,
            "losses": asdict(self.losses) if self.losses else None,
            "pictures": self.pictures.pictures if self.pictures else None,
            "channels": [None if math.isnan(value) else value for value in self.channels],
            "density": self.density._asdict(),
            "concepts": [asdict(row) for row in self.table.rows] if self.table else None,
        }

    def to_text(self) -> str:
        """The single numbers in lines, then the table of concepts."""
        numbers = self.numbers()
        width = max(map(len, numbers))
        lines = [f"{name.replace('_', ' '):{width}}  {_shown(value)}" for name, value in numbers.items()]
        if self.table is not None:
            name = max([len("concept"), *(len(row.concept) for row in self.table.rows)])
            lines += ["", f"{'concept':{name}}  images  share  feature     F1     AP  features together"]
            for row in self.table.rows:
                feature = "-" if row.feature is None else str(row.feature)
                precision = "-" if row.average_precision is None else f"{row.average_precision:.3f}"
                together = " ".join(map(str, row.features))
                lines.append(
                    f"{row.concept:{name}}  {row.images:6}  {row.share:5.3f}  {feature:>7}  {row.f1:5.3f}  "
                    f"{precision:>5}  {together}"
                )
        return "\n".join(lines)

    def write(self, folder: str | Path) -> None:
        """Write ``eval.json`` and ``eval.html`` into ``folder``, which is made if it is not there."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / JSON_FILE, self.to_dict())
        write_atomically(folder / PAGE_FILE, lambda beside: beside.write_text(self.to_html(), encoding="utf-8"))

    def to_html(self) -> str:
        """A page with the numbers, the plots and the table; no scripts, no files beside it."""
        cfg = self.sae
        title = f"{cfg.n_features} features, {cfg.architecture}, k = {cfg.k}, {cfg.block or 'no block'}"
        rows = "".join(
            f"<tr><th scope=row>{escape(name.replace('_', ' '))}</th><td>{_shown(value)}</td></tr>"
            for name, value in self.numbers().items()
        )
        parts = [f"<h1>{escape(title)}</h1>", f"<table>{rows}</table>", self._density_plot(), self._channel_plot()]
        if self.table is not None:
            parts.append(_concepts(self.table))
        if self.measured_on is not None:
            facts = ", ".join(f"{name} {value}" for name, value in self.measured_on.items() if value is not None)
            parts.append(f"<p>Measured on: {escape(facts)}</p>")
        return _PAGE.format(title=escape(title), body="\n".join(parts))

    def _density_plot(self) -> str:
        edges, counts = self.density.edges, self.density.counts
        names = [f"{low:.2g} to {high:.2g}: {n}" for low, high, n in zip(edges, edges[1:], counts, strict=False)]
        powers = ((i, math.log10(edge)) for i, edge in enumerate(edges))
        ticks = {i: f"1e{round(power)}" for i, power in powers if abs(power - round(power)) < 1e-6}
        text = f"How many features are active at what share of the positions; {self.density.dead} never are."
        return _bars("Density", text, counts, names, ticks, max([1, *counts]))

    def _channel_plot(self) -> str:
        ordered = sorted((value for value in self.channels if not math.isnan(value)), reverse=True)
        names = [f"{value:.4f}" for value in ordered]
        text = f"Share of the variance explained in each of {len(ordered)} channels, the best first."
        return _bars("Channels", text, [max(0.0, value) for value in ordered], names, {0: "best"}, 1.0)


def _shown(value: float | int | None) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.4f}"


_WIDTH, _HEIGHT, _LEFT, _BELOW = 720, 180, 48, 20


def _bars(
    title: str, text: str, values: Sequence[float], names: Iterable[str], ticks: dict[int, str], top: float
) -> str:
    """A bar chart: values 0..top, a name shown on each bar, and ticks under the left edges of some."""
    step = _WIDTH / max(1, len(values))
    bars = "".join(
        f'<rect x="{_LEFT + i * step:.2f}" y="{_HEIGHT * (1 - value / top):.2f}" width="{max(0.5, step * 0.9):.2f}" '
        f'height="{_HEIGHT * value / top:.2f}"><title>{escape(name)}</title></rect>'
        for i, (value, name) in enumerate(zip(values, names, strict=True))
    )
    below = "".join(f'<text x="{_LEFT + i * step:.1f}" y="{_HEIGHT + 15}">{escape(t)}</text>' for i, t in ticks.items())
    return (
        f"<h2>{escape(title)}</h2><p>{escape(text)}</p>"
        f'<svg viewBox="0 0 {_LEFT + _WIDTH + 40} {_HEIGHT + _BELOW}" role="img" aria-label="{escape(text)}">'
        f'<text x="0" y="12">{top:g}</text><text x="0" y="{_HEIGHT}">0</text>'
        f'<line x1="{_LEFT}" y1="{_HEIGHT}" x2="{_LEFT + _WIDTH}" y2="{_HEIGHT}"/>{bars}{below}</svg>'
    )


def _concepts(table: ConceptTable) -> str:
    head = "<tr><th>concept</th><th>images</th><th>share</th><th>feature</th><th>F1</th><th>AP of several</th></tr>"
    text = (
        f"F1 of the best single feature and average precision of the best few together, on scenes that chose neither. "
        f"{table.matching_features:.1%} of the features match a concept (F1 of {MATCH} or more), and "
        f"{table.found_concepts:.1%} of the concepts have such a feature."
    )
    rows = "".join(map(_concept_row, table.rows))
    return f"<h2>Concepts</h2><p>{escape(text)}</p><table class=wide>{head}{rows}</table>"


def _concept_row(row: ConceptRow) -> str:
    feature = "-" if row.feature is None else str(row.feature)
    return (
        f"<tr><th scope=row>{escape(row.concept)}</th><td>{row.images}</td><td>{row.share:.3f}</td><td>{feature}</td>"
        f"<td>{_meter(row.f1)}</td><td>{_meter(row.average_precision)}</td></tr>"
    )


def _meter(value: float | None) -> str:
    if value is None:
        return "-"
    return f'<span class=meter><i style="width:{100 * value:.1f}%"></i></span> {value:.3f}'


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 54rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse }} th {{ text-align: left; font-weight: 500 }}
th, td {{ padding: .15rem 1rem .15rem 0; font-variant-numeric: tabular-nums }}
svg {{ width: 100%; height: auto }} rect, .meter i {{ fill: #4269d0; background: #4269d0 }}
svg text {{ font-size: 11px; fill: currentColor }} svg line {{ stroke: currentColor }}
.meter {{ display: inline-block; width: 8rem; height: .7rem; background: #8883 }}
.meter i {{ display: block; height: 100% }}
</style></head><body>
{body}
</body></html>
"""
