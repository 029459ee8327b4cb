"""Result files of the originals at the command line: a table or JSON.

Knows nothing about how they are scored.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from groundrec.core.errors import SearchError
from groundrec.evaluate.result_files import (
    ResultFile,
    find_result_files,
    read_result_file,
    strip_title,
)
from groundrec.evaluate.statistics import intervals

__all__ = ["show"]

KS = (1, 3, 5, 10, 20, 50)


def show(
    folder: Path,
    catalogue: Path | None,
    ks: Sequence[int],
    *,
    samples: int = 1000,
    as_json: bool = False,
) -> None:
    """Score every result file in `folder`, with the titles of `catalogue` where it is given, and
    print.
    """
    bearers = Counter(map(strip_title, _titles(catalogue))) if catalogue else None
    found = {
        str(file): _scored(read_result_file(file), bearers, ks, samples)
        for file in find_result_files(folder)
    }
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    for file, scored in found.items():
        Console(highlight=False).print(_table(file, scored))


def _scored(
    result: ResultFile, bearers: Counter[str] | None, ks: Sequence[int], samples: int
) -> dict[str, Any]:
    """Return the metrics of one file at the cut-offs, and what is to be known of its titles."""
    if too_large := [k for k in ks if k > result.width]:
        raise SearchError(
            "a cut-off beyond the lists",
            value=too_large[0],
            accepted=f"at most {result.width}, the longest list",
        )
    fitting = ks or [k for k in KS if k <= result.width]
    readings = {"by title": result.by_title(fitting)}
    told = {
        "queries": len(result.targets),
        "titles in a list": result.width,
        "repeated": result.repeated(),
    }
    if bearers:
        readings["at worst"] = result.at_worst(fitting, bearers)
        told |= {
            "not in the catalogue": result.unknown(bearers),
            "targets of several items": result.shared(bearers),
        }
    alone = np.arange(len(result.targets)).astype(np.str_)
    metrics = {
        name: {
            metric: vars(value)
            for metric, value in intervals(values, alone, samples=samples).items()
        }
        for name, values in readings.items()
    }
    return {**told, "metrics": metrics}


def _table(file: str, scored: dict[str, Any]) -> Table:
    told = ", ".join(
        f"{name} {value:.1%}" if isinstance(value, float) else f"{name} {value:,}"
        for name, value in scored.items()
        if name != "metrics"
    )
    table = Table(
        "metric",
        *(f"{name} (95% interval)" for name in scored["metrics"]),
        title=file,
        caption=told,
    )
    readings = list(scored["metrics"].values())
    for metric in readings[0]:
        cells = (
            f"{r[metric]['mean']:.4f} ({r[metric]['low']:.4f}–{r[metric]['high']:.4f})"
            for r in readings
        )
        table.add_row(metric.upper(), *cells)
    return table


def _titles(catalogue: Path) -> Sequence[str]:
    """Return the titles of a prepared data set, of a run's, or of a text file with a title and a
    tab in each line.
    """
    if catalogue.is_file():
        return [
            line.split("\t")[0]
            for line in catalogue.read_text(encoding="utf-8").splitlines()
            if line.strip()
        ]
    from groundrec.data import dataset as datasets

    inside = catalogue / "dataset"
    return datasets.load(inside if inside.is_dir() else catalogue).catalogue.titles
