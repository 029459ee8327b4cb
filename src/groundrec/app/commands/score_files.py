"""Result files of the published code, scored and printed as a table or JSON.

Knows nothing about how they are scored.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
from rich.table import Table

from groundrec.app.commands.terminal import print_table
from groundrec.core.errors import SearchError
from groundrec.core.inputs import step_folder
from groundrec.evaluate.result_files import (
    ResultFile,
    find_result_files,
    read_result_file,
    strip_title,
)
from groundrec.evaluate.statistics import Interval, intervals

__all__ = ["FileScores", "print_scores"]

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
    files = find_result_files(folder)
    scores = {str(file): _score(read_result_file(file), bearers, ks, samples) for file in files}
    if as_json:
        print(json.dumps({file: _as_json(s) for file, s in scores.items()}, ensure_ascii=False))
        return
    for file, scored in scores.items():
        print_table(_table(file, scored), whole=True)


def _score(
    result: ResultFile, bearers: Counter[str] | None, ks: Sequence[int], samples: int
) -> FileScores:
    if too_large := [k for k in ks if k > result.width]:
        raise SearchError(
            "a cut-off larger than the lists",
            value=too_large[0],
            accepted=f"at most {result.width}, the length of the longest list",
            next_step=f"-k {result.width}",
        )
    cut_offs = ks or [k for k in KS if k <= result.width]
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
    # The files name no users, so each query counts as one of its own.
    users = np.arange(len(result.targets)).astype(np.str_)
    metrics = {name: intervals(values, users, samples=samples) for name, values in readings.items()}
    return {"facts": facts, "metrics": metrics}


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
    headings = (f"{name} (95% interval)" for name in scored["metrics"])
    table = Table("metric", *headings, title=file, caption=", ".join(facts))
    readings = list(scored["metrics"].values())
    for metric in readings[0]:
        values = (reading[metric] for reading in readings)
        cells = (f"{v.mean:.4f} ({v.low:.4f}–{v.high:.4f})" for v in values)
        table.add_row(metric.upper(), *cells)
    return table


def _titles(catalogue: Path) -> Sequence[str]:
    """Return the titles of a data set, of a run, or of a text file: a title and a tab per line."""
    if catalogue.is_file():
        lines = catalogue.read_text(encoding="utf-8").splitlines()
        return [line.split("\t")[0] for line in lines if line.strip()]
    from groundrec.data import dataset

    of_run = step_folder(catalogue, "prepare")
    return dataset.load(of_run if of_run.is_dir() else catalogue).catalogue.titles
