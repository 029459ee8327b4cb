"""Result files of the published code, scored and printed as a table or JSON.

Knows nothing about how they are scored.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from groundrec.app.commands.terminal import print_table
from groundrec.core.errors import SearchError
from groundrec.core.inputs import step_folder
from groundrec.core.track import log
from groundrec.data.exchange.title_lists import read_titles
from groundrec.evaluate.result_files import (
    ResultFile,
    find_result_files,
    read_result_file,
    strip_title,
)
from groundrec.evaluate.statistics import Interval, intervals

__all__ = ["KS", "FileScores", "print_files", "print_scores", "summarised"]

KS = (1, 3, 5, 10, 20, 50)
Reading = dict[str, Interval]
"""Metrics by name, for one way of reading titles as items."""


class FileScores(TypedDict):
    """The scores of one file."""

    facts: dict[str, int | float]
    """Counts, and shares as floats, by what they count."""
    metrics: dict[str, Reading]


def print_scores(
    folder: Path,
    catalogue: Path | None,
    ks: Sequence[int],
    *,
    samples: int = 1000,
    as_json: bool = False,
) -> None:
    """Score every result file in `folder` and print the scores.

    With a `catalogue`, titles that several items share are counted too.
    """
    bearers = Counter(map(strip_title, _titles(catalogue))) if catalogue else None
    results = {str(file): read_result_file(file) for file in find_result_files(folder)}
    wide = {file: r for file, r in results.items() if max(ks, default=0) <= r.shortest}
    scores = {file: _score(result, bearers, ks, samples) for file, result in wide.items()}
    print_files(scores, as_json=as_json)
    if short := {file: r for file, r in results.items() if file not in wide}:
        raise _too_short(short, max(ks))


def print_files(scores: Mapping[str, FileScores], *, as_json: bool) -> None:
    """Print the scores of files, as tables or JSON."""
    if as_json:
        print(json.dumps({file: _as_json(s) for file, s in scores.items()}, ensure_ascii=False))
        return
    for file, scored in scores.items():
        print_table(_table(file, scored))
    _warn_of_lengths(scores)


def _score(
    result: ResultFile, bearers: Counter[str] | None, ks: Sequence[int], samples: int
) -> FileScores:
    cut_offs = ks or [k for k in KS if k <= result.shortest]
    readings = {"by title": result.by_title(cut_offs)}
    facts: dict[str, int | float] = {
        "queries": len(result.targets),
        "titles in a list": result.width,
        "repeated": result.repeated(),
    }
    if bearers:
        readings["at worst"] = result.at_worst(cut_offs, bearers)
        facts["not in the catalogue"] = result.unknown(bearers)
        facts["targets of several items"] = result.shared(bearers)
    return summarised(facts, readings, samples)


def summarised(
    facts: dict[str, int | float],
    readings: Mapping[str, Mapping[str, NDArray[np.float64]]],
    samples: int,
) -> FileScores:
    """Return the scores of a file whose metrics per row are known, with intervals.

    The files name no users, so each row counts as one of its own.
    """
    users = np.arange(int(facts["queries"])).astype(np.str_)
    metrics = {name: intervals(values, users, samples=samples) for name, values in readings.items()}
    return {"facts": facts, "metrics": metrics}


def _too_short(results: Mapping[str, ResultFile], k: int) -> SearchError:
    """Return the error for files with a list of fewer than `k` titles; the others were scored."""
    shortest = min(result.shortest for result in results.values())
    return SearchError(
        f"not scored: lists shorter than the cut-off {k}",
        value="; ".join(f"{file}: {result.shortest_row}" for file, result in results.items()),
        accepted=f"-k {shortest} at most, or lists of {k} titles in every row",
        next_step=f"-k {shortest}",
    )


def _warn_of_lengths(scores: Mapping[str, FileScores]) -> None:
    counts = {file: scored["facts"]["queries"] for file, scored in scores.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{file} {count:,}" for file, count in counts.items())
        log.warning(f"files of different numbers of rows measure different queries: {listed}")


def _as_json(scored: FileScores) -> dict[str, object]:
    metrics = {
        name: {metric: vars(value) for metric, value in reading.items()}
        for name, reading in scored["metrics"].items()
    }
    return {**scored["facts"], "metrics": metrics}


def _table(file: str, scored: FileScores) -> Table:
    facts = (
        f"{name} {value:.1%}" if isinstance(value, float) else f"{name} {value:,}"
        for name, value in scored["facts"].items()
    )
    has_intervals = any(
        math.isfinite(v.low) for r in scored["metrics"].values() for v in r.values()
    )
    note = " (95% interval)" if has_intervals else ""
    headings = (f"{name}{note}" for name in scored["metrics"])
    table = Table("metric", *headings, title=Text(file), caption=", ".join(facts))
    readings = list(scored["metrics"].values())
    for metric in readings[0]:
        values = (reading[metric] for reading in readings)
        cells = map(_cell, values)
        table.add_row(metric.upper(), *cells)
    return table


def _cell(value: Interval) -> str:
    ends = f" ({value.low:.4f}–{value.high:.4f})" if math.isfinite(value.low) else ""
    return f"{value.mean:.4f}{ends}"


def _titles(catalogue: Path) -> Sequence[str]:
    """Return the titles of a data set, of a run, or of a text file: a title and a tab per line."""
    if catalogue.is_file():
        return read_titles(catalogue)
    from groundrec.data import dataset

    of_run = step_folder(catalogue, "prepare")
    return dataset.load(of_run if of_run.is_dir() else catalogue).catalogue.titles
