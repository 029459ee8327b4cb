"""A finished comparison to one self-contained page, one picture and one table for the terminal.

`Report` is plain data that the caller fills; the page needs no network and is the same, byte for
byte, for the same report. Knows nothing about runs, data sets or models, and computes no metric.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from rich import box
from rich.table import Table
from rich.text import Text

from groundrec.core.errors import ConfigError
from groundrec.core.runs import atomic_write
from groundrec.evaluate import charts
from groundrec.evaluate.charts import Curve, FusionCurve, Kind, Series
from groundrec.evaluate.statistics import Comparison, Interval

__all__ = [
    "Curve",
    "FusionCurve",
    "Method",
    "Pick",
    "Report",
    "Series",
    "UserExample",
    "console_table",
    "headline",
    "picture",
    "write_report",
]

_BEYOND = {
    "coverage": ("coverage", "share of the catalogue shown to anyone", "{:.1%}"),
    "gini": ("Gini", "0: every item shown equally often; 1: one item takes every place", "{:.2f}"),
    "novelty": ("novelty", "mean self-information of what is shown, in bits", "{:.1f}"),
    "popularity_lift": (
        "popularity lift",
        "how much more popular than what people had taken before",
        "{:+.0%}",
    ),
    "repeat_rate": ("repeats", "share of what is shown that the person already had", "{:.1%}"),
    "invalid": ("invalid", "share of places that name no item of the catalogue", "{:.2%}"),
    "unfilled": ("unfilled", "share of places left empty at the end", "{:.2%}"),
}


@dataclass(frozen=True)
class Method:
    """One way of ranking and everything measured of it on the test queries."""

    name: str
    kind: Kind
    metrics: Mapping[str, Interval]
    """`{"ndcg@10": …}`; the same names for every method."""
    beyond: Mapping[str, float]
    """`evaluate.metrics.beyond_accuracy`."""
    slices: Mapping[str, Interval]
    """The main metric for the targets of the head, the middle and the tail."""
    exposure: tuple[float, ...]
    """`evaluate.metrics.exposure`."""
    comparison: Comparison | None = None
    """On the main metric against `Report.reference`; None for the reference itself."""


@dataclass(frozen=True)
class Pick:
    """A recommended title, and whether the person took that item next."""

    title: str
    hit: bool = False


@dataclass(frozen=True)
class UserExample:
    """One query shown in full: titles, oldest first, what each method recommended, and what was
    taken next.
    """

    name: str
    history: tuple[str, ...]
    recommended: Mapping[str, tuple[Pick, ...]]
    next_titles: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """Everything a report shows; `reference` names the best method that is not fused, which the
    others meet.
    """

    title: str
    dataset: str
    data: tuple[tuple[str, object], ...]
    """The data card: what, and how many."""
    warnings: tuple[str, ...]
    """What a reader must know before believing the numbers, for example what the split leaks."""
    methods: tuple[Method, ...]
    reference: str
    queries: int
    users: int
    curves: tuple[Curve, ...] = ()
    fusion: tuple[FusionCurve, ...] = ()
    examples: tuple[UserExample, ...] = ()
    recipe: str = ""
    environment: tuple[tuple[str, object], ...] = ()
    main_metric: str = "ndcg@10"
    bootstrap: int = 1000
    permutations: int = 10_000
    target_exposure: tuple[float, ...] = ()
    """How what people took is shared out among the bands of `Method.exposure`."""

    def __post_init__(self) -> None:
        """Check that the names fit together."""
        known = [method.name for method in self.methods]
        if self.reference not in known:
            raise ConfigError(
                "the reference is not a method", value=self.reference, accepted=", ".join(known)
            )
        if without := [m.name for m in self.methods if self.main_metric not in m.metrics]:
            raise ConfigError(f"methods without {self.main_metric}", value=", ".join(without))

    @property
    def ranked(self) -> list[Method]:
        """The methods by falling main metric, ties by name."""
        return sorted(self.methods, key=lambda m: (-m.metrics[self.main_metric].mean, m.name))


def headline(report: Report) -> str:
    """Return the key result as one sentence: the best method, its metric, and its distance to the
    reference.
    """
    best = report.ranked[0]
    reference = next(m for m in report.methods if m.name == report.reference)
    metric = _label(report.main_metric)
    value = best.metrics[report.main_metric].mean
    start = f"On {report.dataset}, {best.name} reaches {metric} = {value:.3f}"
    if best.name == reference.name:
        return f"{start}; no other method does better."
    other = reference.metrics[report.main_metric].mean
    gain = f"{value / other - 1:.0%} above" if other else "above"
    return f"{start}, {gain} {reference.name} ({other:.3f}){_how_sure(best.comparison)}."


def console_table(report: Report) -> Table:
    """Return the methods by the main metric, with its interval, for the terminal: under 80 columns."""
    k = report.main_metric.rpartition("@")[2]
    columns = [name for name in report.methods[0].metrics if name.endswith(f"@{k}")]
    table = Table(
        title=Text(report.title),
        caption=f"{report.queries:,} queries of {report.users:,} users, 95% interval",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("method", no_wrap=True)
    for name in columns:
        table.add_column(_label(name), justify="right", no_wrap=True)
    table.add_column(Text(f"against {report.reference}"), justify="right", no_wrap=True)
    for place, method in enumerate(report.ranked):
        cells = [Text(_three(method.metrics[name].mean)) for name in columns]
        cells[columns.index(report.main_metric)].append(
            f" {_range(method.metrics[report.main_metric])}".rstrip()
        )
        style = "bold" if place == 0 else None
        table.add_row(Text(method.name), *cells, Text(_against(report, method)), style=style)
    return table


def picture(path: Path, report: Report) -> None:
    """Write the dot plot and the fusion curves side by side as a PNG or SVG image, by the ending of
    `path`.
    """
    charts.save(
        path, [_dots(report), *(partial(charts.fusion, curve=curve) for curve in report.fusion)]
    )


def write_report(path: Path, report: Report) -> None:
    """Write the report as one HTML file that refers to nothing outside itself, atomically."""
    folder = files("groundrec.evaluate")
    jinja = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    jinja.filters.update(number=_number, label=_label, three=_three, range=_range, share=_share)
    template = jinja.from_string(folder.joinpath("report.html.j2").read_text(encoding="utf-8"))
    page = template.render(
        report=report,
        headline=headline(report),
        style=Markup(folder.joinpath("report.css").read_text(encoding="utf-8")),
        palette=charts.PALETTE,
        against=partial(_against, report),
        **_tables(report),
        **_charts(report),
    )
    with atomic_write(path) as part:
        part.write_text(page, encoding="utf-8")


def _tables(report: Report) -> dict[str, Any]:
    names = list(report.methods[0].metrics)
    cutoffs = sorted({int(name.rpartition("@")[2]) for name in names})
    return {
        "metrics": names,
        "cutoffs": cutoffs,
        "main_cutoff": int(report.main_metric.rpartition("@")[2]),
        "best": {name: max(_known(m.metrics[name].mean for m in report.methods)) for name in names},
        "slices": {
            name: max(_known(m.slices[name].mean for m in report.methods)) or 1.0
            for name in report.methods[0].slices
        },
        "beyond": [(key, *_BEYOND[key]) for key in report.methods[0].beyond if key in _BEYOND],
    }


def _charts(report: Report) -> dict[str, Any]:
    names = [method.name for method in report.ranked]
    shares = [
        *([("taken by people", report.target_exposure)] if report.target_exposure else []),
        *((m.name, m.exposure) for m in report.ranked),
    ]
    tiles = partial(charts.tiles, rows=shares, label="tenths of all training interactions")
    return {
        "dots": _inline(
            _dots(report),
            "dots",
            f"{_label(report.main_metric)} of every method",
            60 + 34 * len(names),
        ),
        "exposure": _inline(
            tiles, "exposure", "What each method shows, by popularity", 60 + 26 * len(shares)
        ),
        "curves": [
            _inline(partial(charts.lines, curve=curve), f"curve{i}", curve.title)
            for i, curve in enumerate(report.curves)
        ],
        "fusion": [
            _inline(
                partial(charts.fusion, curve=curve),
                f"fusion{i}",
                f"{curve.metric} against alpha, {curve.signal}",
            )
            for i, curve in enumerate(report.fusion)
        ],
    }


def _inline(draw: Callable[[Axes], None], name: str, title: str, height: float = 250) -> Markup:
    return Markup(charts.inline(draw, name, title, height=height))


def _dots(report: Report) -> Callable[[Axes], None]:
    rows = [charts.DotPlotRow(m.name, m.kind, m.metrics[report.main_metric]) for m in report.ranked]
    return partial(charts.dots, rows=rows, label=_label(report.main_metric))


def _known(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)] or [0.0]


def _label(metric: str) -> str:
    return metric.upper()


def _number(value: object, form: str = "") -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "–"
    if form:
        return form.format(value).replace("-", "−")
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _three(value: float) -> str:
    return _number(value, "{:.3f}")


def _range(interval: Interval) -> str:
    return f"{interval.low:.3f}–{interval.high:.3f}" if math.isfinite(interval.low) else ""


def _share(value: float, most: float) -> str:
    return f"{value / most:.3f}" if math.isfinite(value) else "0"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _against(report: Report, method: Method) -> str:
    """Return the relative distance to the reference with its Holm-adjusted p-value and ▲ or ▼ where
    p < 0.05.
    """
    if method.comparison is None:
        return "reference" if method.name == report.reference else "–"
    other = method.metrics[report.main_metric].mean - method.comparison.difference
    gain = (
        f"{method.comparison.difference / other:+.0%}"
        if other
        else f"{method.comparison.difference:+.3f}"
    )
    mark = (
        ("▲" if method.comparison.difference > 0 else "▼")
        if method.comparison.adjusted < 0.05
        else ""
    )
    return f"{gain} ({_p(method.comparison.adjusted)}) {mark}".rstrip().replace("-", "−")


def _how_sure(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    if comparison.adjusted < 0.05:
        return f", {_p(comparison.adjusted)}"
    return f"; with {_p(comparison.adjusted)}, chance alone could do that"
