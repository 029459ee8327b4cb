"""Render a finished evaluation: one self-contained HTML page, one picture, one terminal table.

The page needs no network, and the same report gives the same bytes. Knows nothing about runs, data
sets or models, and computes no metric.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TypedDict

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from groundrec.core.files import atomic_write
from groundrec.core.language import language, localize, say
from groundrec.core.tables import fit
from groundrec.evaluate import charts
from groundrec.evaluate.charts import Curve, FusionCurve, Series
from groundrec.evaluate.report_data import Method, Pick, Report, UserExample
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
    "table_text",
    "write_report",
]

_BEYOND = {
    "coverage": ("coverage", "share of the catalogue recommended to at least one user", "{:.1%}"),
    "gini": ("Gini", "0: every item recommended equally often; 1: always the same item", "{:.2f}"),
    "novelty": ("novelty", "mean self-information of the recommended items, in bits", "{:.1f}"),
    "popularity_lift": (
        "popularity lift",
        "how much more popular the recommended items are than those in users' histories",
        "{:+.0%}",
    ),
    "repeat_rate": ("repeats", "share of recommended items already in the history", "{:.1%}"),
    "invalid": ("invalid", "share of positions that name no item of the catalogue", "{:.2%}"),
    "unfilled": ("unfilled", "share of positions left empty at the end of a slate", "{:.2%}"),
}
"""Measure → its heading, its explanation and its number format."""

_REFERENCE_WIDTH = 32
"""Columns beyond which the heading with the reference's name is wrapped."""


def headline(report: Report) -> str:
    """Return the key result: the best method, its metric, its lead over the reference."""
    best = report.ranked[0]
    reference = next(m for m in report.methods if m.name == report.reference)
    metric = _label(report.main_metric)
    value = best.metrics[report.main_metric].mean
    dataset = localize(report.dataset)
    start = say("On {0}, {1} reaches {2} = {3}", dataset, best.name, metric, f"{value:.3f}")
    if best.name == reference.name:
        return say("{0}; no other method does better.", start)
    other = reference.metrics[report.main_metric].mean
    compared = f"{reference.name} ({other:.3f})"
    gain = say("{0} above {1}", f"{value / other - 1:.0%}", compared) if other else ""
    gain = gain or say("above {0}", compared)
    return say("{0}, {1}{2}.", start, gain, _significance(best.comparison))


def console_table(report: Report) -> Table:
    """Return the terminal table: methods in rows, metrics at the main cut-off in columns.

    Only the method column gives way on a narrow terminal: its names wrap, numbers stay whole.
    """
    k = report.main_metric.rpartition("@")[2]
    metrics = [name for name in report.methods[0].metrics if name.endswith(f"@{k}")]
    table = Table(
        title=Text(report.title),
        caption=say(
            "{0} queries of {1} users, 95% interval", f"{report.queries:,}", f"{report.users:,}"
        ),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column(say("method"), overflow="fold")
    for name in metrics:
        table.add_column(_label(name), justify="right", no_wrap=True)
    comparisons = [_compared(report, method) for method in report.ranked]
    width = max(_REFERENCE_WIDTH, *map(len, comparisons))
    heading = textwrap.fill(say("against {0}", report.reference), width)
    table.add_column(Text(heading), justify="right", no_wrap=True)
    for rank, (method, compared) in enumerate(zip(report.ranked, comparisons, strict=True)):
        cells = [Text(_three(method.metrics[name].mean)) for name in metrics]
        interval = _range(method.metrics[report.main_metric])
        cells[metrics.index(report.main_metric)].append(f" {interval}".rstrip())
        style = "bold" if rank == 0 else None
        table.add_row(Text(method.name), *cells, Text(compared), style=style)
    return table


def table_text(report: Report, width: int = 100) -> str:
    """Return the terminal table as text, `width` columns wide or as wide as its numbers need."""
    table = console_table(report)
    with io.StringIO() as out:
        console = Console(file=out, width=width)
        fit(table, console)
        console.print(table)
        return out.getvalue()


def picture(path: Path, report: Report) -> None:
    """Write the dot plot and the fusion curves as one PNG or SVG, by the suffix of `path`."""
    charts.save(
        path, [_dots(report), *(partial(charts.fusion, curve=curve) for curve in report.fusion)]
    )


def write_report(path: Path, report: Report) -> None:
    """Write the report as one self-contained HTML file, atomically."""
    folder = files("groundrec.evaluate")
    jinja = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    jinja.filters.update(number=_number, label=_label, three=_three, range=_range, share=_share)
    jinja.filters["localize"] = lambda text: localize(str(text))
    template = jinja.from_string(folder.joinpath("report.html.j2").read_text(encoding="utf-8"))
    page = template.render(
        report=report,
        say=say,
        html_language={"en": "en", "zh": "zh-CN"}[language()],
        headline=headline(report),
        style=Markup(folder.joinpath("report.css").read_text(encoding="utf-8")),
        palette=charts.PALETTE,
        compared=partial(_compared, report),
        **_tables(report),
        **_charts(report),
    )
    with atomic_write(path) as part:
        part.write_text(page, encoding="utf-8")


class _TableContext(TypedDict):
    """What the template needs for its tables."""

    metrics: list[str]
    cutoffs: list[int]
    main_cutoff: int
    best: dict[str, float]
    """Metric → the highest mean of any method."""
    slices: dict[str, float]
    """Slice → the highest mean of any method, which scales its bars."""
    beyond: list[tuple[str, str, str, str]]
    """Key, heading, explanation and number format of each measure beyond accuracy."""


class _ChartContext(TypedDict):
    """The drawings of the page, as inline SVG."""

    dots: Markup
    exposure: Markup
    curves: list[Markup]
    fusion: list[Markup]


def _tables(report: Report) -> _TableContext:
    names = list(report.methods[0].metrics)
    cutoffs = sorted({int(name.rpartition("@")[2]) for name in names})
    return {
        "metrics": names,
        "cutoffs": cutoffs,
        "main_cutoff": int(report.main_metric.rpartition("@")[2]),
        "best": {
            name: max(_finite(m.metrics[name].mean for m in report.methods)) for name in names
        },
        "slices": {
            name: max(_finite(m.slices[name].mean for m in report.methods)) or 1.0
            for name in report.methods[0].slices
        },
        "beyond": [(key, *_BEYOND[key]) for key in report.methods[0].beyond if key in _BEYOND],
    }


def _charts(report: Report) -> _ChartContext:
    names = [method.name for method in report.ranked]
    shares = [
        *([(say("targets"), report.target_exposure)] if report.target_exposure else []),
        *((m.name, m.exposure) for m in report.ranked),
    ]
    tiles = partial(charts.tiles, rows=shares, label=say("tenths of all training interactions"))
    return {
        "dots": _inline(
            _dots(report),
            "dots",
            say("{0} of every method", _label(report.main_metric)),
            60 + 34 * len(names),
        ),
        "exposure": _inline(
            tiles,
            "exposure",
            say("What each method recommends, by popularity"),
            60 + 26 * len(shares),
        ),
        "curves": [
            _inline(partial(charts.lines, curve=curve), f"curve{i}", curve.title)
            for i, curve in enumerate(map(_localized, report.curves))
        ],
        "fusion": [
            _inline(
                partial(charts.fusion, curve=curve),
                f"fusion{i}",
                say("{0} by fusion weight, {1}", curve.metric, curve.signal),
            )
            for i, curve in enumerate(report.fusion)
        ],
    }


def _localized(curve: Curve) -> Curve:
    series = tuple(replace(one, name=localize(one.name)) for one in curve.series)
    return replace(
        curve, title=localize(curve.title), x_label=localize(curve.x_label), series=series
    )


def _inline(draw: Callable[[Axes], None], name: str, title: str, height: float = 250) -> Markup:
    return Markup(charts.inline(draw, name, title, height=height))


def _dots(report: Report) -> Callable[[Axes], None]:
    rows = [charts.DotPlotRow(m.name, m.kind, m.metrics[report.main_metric]) for m in report.ranked]
    return partial(charts.dots, rows=rows, label=_label(report.main_metric))


def _finite(values: Iterable[float]) -> list[float]:
    """Return the finite values; a zero where there are none."""
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


def _compared(report: Report, method: Method) -> str:
    """Return the relative difference from the reference, its adjusted p, and ▲ or ▼ if p < 0.05."""
    if method.comparison is None:
        return say("reference") if method.name == report.reference else "–"
    other = method.metrics[report.main_metric].mean - method.comparison.difference
    difference = method.comparison.difference
    gain = f"{difference / other:+.0%}" if other else f"{difference:+.3f}"
    mark = ""
    if method.comparison.adjusted < 0.05:
        mark = "▲" if difference > 0 else "▼"
    return f"{gain} ({_p(method.comparison.adjusted)}) {mark}".rstrip().replace("-", "−")


def _significance(comparison: Comparison | None) -> str:
    """Return the end of the headline: how likely the difference is to be chance."""
    if comparison is None:
        return ""
    if comparison.adjusted < 0.05:
        return say(", {0}", _p(comparison.adjusted))
    return say("; with {0}, this could be chance", _p(comparison.adjusted))
