"""`groundrec compare`: methods of finished runs side by side, as a table to print and a picture.

Knows nothing about how anything is measured; it asks, and lays out.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groundrec.app.commands.options import Bootstrap, Root, RunNames, check_choice
from groundrec.app.commands.typeset import Sheet, latex, markdown
from groundrec.app.jobs.measured import split_measured
from groundrec.app.jobs.state import ROOT, State, named
from groundrec.core.errors import ConfigError
from groundrec.core.track import log_to

if TYPE_CHECKING:
    from groundrec.app.stages.agreement import Agreement
    from groundrec.app.stages.comparison import Paired, Table
    from groundrec.app.stages.seeds import SeedRow, Spread
    from groundrec.evaluate.statistics import Interval

__all__ = ["compare_command"]

_TYPESET = {"markdown": markdown, "latex": latex}
FORMATS = (*_TYPESET, "json")
SIGNIFICANT = 0.05
"""A difference with a smaller p-value is marked."""
Methods = Annotated[
    list[str] | None,
    typer.Option(help="A method of the runs; repeatable. Default: every one that all runs have."),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        help="A metric, e.g. `hr@10`, or `all`. Default: those at the recipe's main cut-off."
    ),
]
Against = Annotated[
    str | None,
    typer.Option(
        help="The method of the first run to compare the others with. Default: its first method."
    ),
]
TopK = Annotated[
    int, typer.Option("-k", min=1, help="Count common items among the first K of each slate.")
]
Format = Annotated[str, typer.Option("--format", help=f"What to print: {', '.join(FORMATS)}.")]
Picture = Annotated[
    Path | None, typer.Option(help="Also draw to this file, ending in .png or .svg.")
]


def compare_command(
    runs: RunNames,
    method: Methods = None,
    metric: Metrics = None,
    against: Against = None,
    k: TopK = 20,
    bootstrap: Bootstrap = 1000,
    format_: Format = "markdown",
    picture: Picture = None,
    root: Root = ROOT,
) -> None:
    """Compare the methods of finished RUNS: metrics, tests, head and tail, common items.

    Intervals and tests are over users; p-values are Holm-adjusted over the rows of each metric.
    Runs that differ in their seed alone are also one row: mean ± standard deviation.
    """
    check_choice("--format", format_, FORMATS)
    if picture and picture.suffix.lower() not in (".png", ".svg"):
        raise ConfigError(
            "unknown picture format",
            value=picture.name,
            accepted="a name ending in .png or .svg",
            next_step="--picture comparison.svg",
        )
    log_to(None, quiet=True)
    from groundrec.app.stages.agreement import agreement
    from groundrec.app.stages.comparison import ALL, compare_runs

    paths, unmeasured = _paths_by_name(runs, root)
    table = compare_runs(paths, method or [ALL], metric or [], against=against, samples=bootstrap)
    main = next(iter(table.rows[0].metrics))
    rows = [(row.run, row.method) for row in table.rows]
    common = agreement(paths, rows, main, k, samples=bootstrap)
    if picture:
        _draw(picture, table, common, main)
    if format_ == "json":
        print(_as_json(table, common, unmeasured))
    else:
        print(_TYPESET[format_](list(_sheets(table, common, main))))
    for state in unmeasured:
        print(
            f"not compared: {state.name} ({state.state}) has no results; see"
            f" groundrec runs show {state.path}",
            file=sys.stderr,
        )


def _paths_by_name(runs: Sequence[str], root: Path) -> tuple[dict[str, Path], list[State]]:
    """Return the measured runs by the shortest names that tell them apart, and the others."""
    found = dict.fromkeys(path for name in runs for path in named(name, root))
    paths, unmeasured = split_measured(found, root)
    are_distinct = len({path.name for path in paths}) == len(paths)
    return {path.name if are_distinct else str(path): path for path in paths}, unmeasured


def _as_json(table: Table, common: Agreement, unmeasured: Sequence[State]) -> str:
    from groundrec.app.stages.page import defined
    from groundrec.app.stages.seeds import over_seeds

    others = {
        "seeds": [asdict(row) for row in over_seeds(table)],
        "agreement": asdict(common),
        "unmeasured": {state.name: state.state for state in unmeasured},
    }
    return json.dumps(defined({**asdict(table), **others}), ensure_ascii=False)


def _labels(table: Table) -> list[str]:
    """Return the labels of the rows: their methods, with their runs if there are several."""
    has_runs = len({row.run for row in table.rows}) > 1
    return [f"{row.run}: {row.method}" if has_runs else row.method for row in table.rows]


def _sheets(table: Table, common: Agreement, main: str) -> Iterator[Sheet]:
    from groundrec.app.stages.seeds import over_seeds

    labels = _labels(table)
    if seeds := over_seeds(table):
        yield _seeds_sheet(seeds)
    yield _means_sheet(table, labels)
    if len(labels) > 1:
        yield _differences_sheet(table, labels)
    yield _slices_sheet(common, labels, main)
    yield _common_items_sheet(common, labels)


def _seeds_sheet(rows: Sequence[SeedRow]) -> Sheet:
    metrics = list(rows[0].metrics)
    caption = (
        "Means ± standard deviations over runs that differ in their seed alone. Each run by itself"
        " follows."
    )
    cells = [
        [f"{row.name}: {row.method}", *(_format_spread(row.metrics[name]) for name in metrics)]
        for row in rows
    ]
    return Sheet(caption, ["method", *map(str.upper, metrics)], cells)


def _format_spread(found: Spread) -> str:
    return f"{found.mean:.3f} ± {found.deviation:.3f}" if math.isfinite(found.mean) else "–"


def _means_sheet(table: Table, labels: Sequence[str]) -> Sheet:
    metrics = list(table.rows[0].metrics)
    left = f"; {table.left_out:,} not ranked by all are left out" if table.left_out else ""
    caption = (
        f"{table.queries:,} test queries of {table.users:,} users{left}. Means with 95% intervals"
        " over users."
    )
    if len(labels) > 1:
        caption += (
            f" ▲ and ▼: above and below {labels[0]} with p < {SIGNIFICANT}, Holm-adjusted over the"
            " rows."
        )
    rows = [
        [label, *(_format_mean(row.metrics[name], row.versus.get(name)) for name in metrics)]
        for label, row in zip(labels, table.rows, strict=True)
    ]
    return Sheet(caption, ["method", *map(str.upper, metrics)], rows)


def _differences_sheet(table: Table, labels: Sequence[str]) -> Sheet:
    metrics = list(table.rows[0].metrics)
    caption = (
        f"Differences from {labels[0]}, query by query, with 95% intervals over users and"
        " Holm-adjusted p-values."
    )
    rows = [
        [label, *(_format_difference(row.versus[name]) for name in metrics)]
        for label, row in zip(labels[1:], table.rows[1:], strict=True)
    ]
    return Sheet(caption, ["method", *map(str.upper, metrics)], rows)


def _slices_sheet(common: Agreement, labels: Sequence[str], main: str) -> Sheet:
    names = list(common.slices[0])
    caption = (
        f"{main.upper()} on the targets in each third of the training interactions, most popular"
        " first."
    )
    rows = [
        [label, *(_format_mean(part[name]) for name in names)]
        for label, part in zip(labels, common.slices, strict=True)
    ]
    return Sheet(caption, ["method", *names], rows)


def _common_items_sheet(common: Agreement, labels: Sequence[str]) -> Sheet:
    """Return the table whose columns are the rows' numbers, as in a table of distances."""
    numbers = [str(number) for number in range(1, len(labels) + 1)]
    caption = (
        f"Share of the first {common.k} items that two methods have in common, mean over queries."
    )
    rows = [
        [f"{number} {label}", *(f"{share:.2f}" for share in shares)]
        for number, label, shares in zip(numbers, labels, common.shared, strict=True)
    ]
    return Sheet(caption, ["method", *numbers], rows)


def _format_mean(interval: Interval, paired: Paired | None = None) -> str:
    """Return a mean, its interval if there is one, and a mark if it differs significantly.

    `–` is a mean over no query.
    """
    if not math.isfinite(interval.mean):
        return "–"
    is_bounded = math.isfinite(interval.low)
    ends = f" ({interval.low:.3f}–{interval.high:.3f})" if is_bounded else ""
    mark = ""
    if paired and paired.p < SIGNIFICANT:
        mark = " ▲" if paired.difference > 0 else " ▼"
    return f"{interval.mean:.3f}{ends}{mark}"


def _format_difference(paired: Paired) -> str:
    is_bounded = math.isfinite(paired.low)
    ends = f" ({_signed(paired.low)} to {_signed(paired.high)})" if is_bounded else ""
    return f"{_signed(paired.difference)}{ends}, p = {paired.p:.3f}"


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def _draw(path: Path, table: Table, common: Agreement, main: str) -> None:
    """Draw the main metric, its head and tail, and the common items, side by side."""
    from groundrec.evaluate import charts

    labels = _labels(table)
    names = list(common.slices[0])
    panels = {main.upper(): [row.metrics[main] for row in table.rows]}
    for name in (names[0], names[-1]):
        panels[f"{main.upper()}, {name}"] = [part[name] for part in common.slices]
    draws = []
    for label, means in panels.items():
        kinds = zip(labels, common.kinds, means, strict=True)
        rows = [charts.DotPlotRow(*row) for row in kinds]
        draws.append(partial(charts.dots, rows=rows, label=label))
    same = f"% of the first {common.k} items in common"
    draws.append(partial(charts.matrix, names=labels, shares=common.shared, label=same))
    charts.save(path, draws, height=max(320, 90 + 28 * len(labels)))
