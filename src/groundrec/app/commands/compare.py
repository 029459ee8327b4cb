"""`groundrec compare`: methods of finished runs beside each other, as a table to print and a
picture.

Knows nothing about how anything is measured; it asks, and lays out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groundrec.app.commands.options import Bootstrap, Root, RunNames
from groundrec.app.commands.typeset import Sheet, latex, markdown
from groundrec.app.jobs.state import ROOT, named
from groundrec.core.errors import ConfigError, did_you_mean
from groundrec.core.track import log_to

if TYPE_CHECKING:
    from groundrec.app.stages.agreement import Agreement
    from groundrec.app.stages.comparison import Paired, Table
    from groundrec.evaluate.statistics import Interval

__all__ = ["compare_command"]

_SETTERS = {"markdown": markdown, "latex": latex}
FORMATS = (*_SETTERS, "json")
SURE = 0.05
"""A difference with a smaller p-value is marked."""


def compare_command(
    runs: RunNames,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help=(
                "A method of the runs; every one that all runs have when left out. May be given"
                " again."
            )
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help=(
                "A metric, e.g. `hr@10`, or `all`; those of the recipe's main cut-off when left"
                " out."
            )
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help=(
                "The method of the first run that the others are compared with; its first when left"
                " out."
            )
        ),
    ] = None,
    k: Annotated[
        int, typer.Option("-k", min=1, help="Places of a slate in which common items are counted.")
    ] = 20,
    bootstrap: Bootstrap = 1000,
    format_: Annotated[
        str, typer.Option("--format", help="What to print: `markdown`, `latex` or `json`.")
    ] = "markdown",
    picture: Annotated[
        Path | None, typer.Option(help="Draw it too: a file ending in .png or .svg.")
    ] = None,
    root: Root = ROOT,
) -> None:
    """Print the methods of finished runs beside each other: metrics, tests, head and tail, common
    items.

    Intervals and tests are over users; p-values are corrected by Holm over the rows of each metric.
    """
    if format_ not in FORMATS:
        raise ConfigError(
            f"unknown --format{did_you_mean(format_, FORMATS)}",
            value=format_,
            accepted=", ".join(FORMATS),
        )
    if picture and picture.suffix.lower() not in (".png", ".svg"):
        raise ConfigError(
            "no such picture format", value=picture.name, accepted="a name ending in .png or .svg"
        )
    log_to(None, quiet=True)
    from groundrec.app.stages.agreement import agreement
    from groundrec.app.stages.comparison import ALL, compare_runs

    paths = _named(runs, root)
    table = compare_runs(paths, method or [ALL], metric or [], against=against, samples=bootstrap)
    main = next(iter(table.rows[0].metrics))
    common = agreement(
        paths, [(row.run, row.method) for row in table.rows], main, k, samples=bootstrap
    )
    if picture:
        _draw(picture, table, common, main)
    print(
        _json(table, common)
        if format_ == "json"
        else _SETTERS[format_](_sheets(table, common, main))
    )


def _named(runs: Sequence[str], root: Path) -> dict[str, Path]:
    """Return run directories by the shortest names that tell them apart."""
    paths = list(dict.fromkeys(path for name in runs for path in named(name, root)))
    alone = len({path.name for path in paths}) == len(paths)
    return {path.name if alone else str(path): path for path in paths}


def _json(table: Table, common: Agreement) -> str:
    from groundrec.app.stages.page import defined

    return json.dumps(defined({**asdict(table), "agreement": asdict(common)}), ensure_ascii=False)


def _labels(table: Table) -> list[str]:
    """Return what the rows are called: their methods, with their runs where there are several."""
    several = len({row.run for row in table.rows}) > 1
    return [f"{row.run}: {row.method}" if several else row.method for row in table.rows]


def _sheets(table: Table, common: Agreement, main: str) -> list[Sheet]:
    labels = _labels(table)
    metrics = list(table.rows[0].metrics)
    rows = list(zip(labels, table.rows, strict=True))
    left = f"; {table.left_out:,} that not all have ranked are left out" if table.left_out else ""
    asked = (
        f"{table.queries:,} test queries of {table.users:,} users{left}. Means with 95% intervals"
        " over users."
    )
    marks = (
        f" ▲ and ▼: above and below {labels[0]} with p < {SURE} after Holm's correction over the"
        " rows."
    )
    sheets = [
        Sheet(
            asked + marks * (len(rows) > 1),
            ["method", *map(str.upper, metrics)],
            [
                [label, *(_mean(row.metrics[m], row.versus.get(m)) for m in metrics)]
                for label, row in rows
            ],
        )
    ]
    if len(rows) > 1:
        sheets.append(
            Sheet(
                f"Differences from {labels[0]}, query by query, with 95% intervals over users, and"
                " p after Holm.",
                ["method", *map(str.upper, metrics)],
                [
                    [label, *(_difference(row.versus[m]) for m in metrics)]
                    for label, row in rows[1:]
                ],
            )
        )
    names = list(common.slices[0])
    sheets.append(
        Sheet(
            f"{main.upper()} for the targets of each third of the training interactions alone, most"
            " popular first.",
            ["method", *names],
            [
                [n, *(_mean(part[s]) for s in names)]
                for n, part in zip(labels, common.slices, strict=True)
            ],
        )
    )
    numbers = [str(place) for place in range(1, len(labels) + 1)]
    sheets.append(
        Sheet(
            f"Share of the first {common.k} items that two methods have in common, mean over"
            " queries.",
            ["method", *numbers],
            [
                [f"{place} {label}", *(f"{share:.2f}" for share in shares)]
                for place, label, shares in zip(numbers, labels, common.shared, strict=True)
            ],
        )
    )
    return sheets


def _mean(found: Interval, paired: Paired | None = None) -> str:
    """Return a mean, its interval where there is one, and a mark where it surely differs; – where
    nothing counted.
    """
    if not math.isfinite(found.mean):
        return "–"
    ends = f" ({found.low:.3f}–{found.high:.3f})" if math.isfinite(found.low) else ""
    mark = ("" if paired.p >= SURE else " ▲" if paired.difference > 0 else " ▼") if paired else ""
    return f"{found.mean:.3f}{ends}{mark}"


def _difference(paired: Paired) -> str:
    ends = (
        f" ({_signed(paired.low)} to {_signed(paired.high)})" if math.isfinite(paired.low) else ""
    )
    return f"{_signed(paired.difference)}{ends}, p = {paired.p:.3f}"


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def _draw(path: Path, table: Table, common: Agreement, main: str) -> None:
    """Write the main metric, its head and tail, and the common items, side by side."""
    from groundrec.evaluate import charts

    labels = _labels(table)
    names = list(common.slices[0])
    panels = {main.upper(): [row.metrics[main] for row in table.rows]}
    for name in (names[0], names[-1]):
        panels[f"{main.upper()}, {name}"] = [part[name] for part in common.slices]
    draws = [
        partial(
            charts.dots,
            rows=[charts.DotPlotRow(*row) for row in zip(labels, common.kinds, means, strict=True)],
            label=label,
        )
        for label, means in panels.items()
    ]
    same = f"% of the first {common.k} items in common"
    draws.append(partial(charts.matrix, names=labels, shares=common.shared, label=same))
    charts.save(path, draws, height=max(320, 90 + 28 * len(labels)))
