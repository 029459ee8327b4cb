"""A run's report as files: numbers for programs, a table, a page and a picture for people.

Writes `test.json` (means, intervals, tests), `per_query.parquet` and `table.txt` into the stage's
folder, `report.html` and `report.png` into the run directory.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from groundrec.app.stages.measure import PerQuery
from groundrec.core.files import atomic_write, read_json, write_json
from groundrec.core.inputs import step_folder
from groundrec.core.track import console
from groundrec.core.types import Queries
from groundrec.evaluate.report import Report, picture, table_text, write_report

__all__ = ["defined", "print_results", "write_page"]

TABLE = "table.txt"


def write_page(folder: Path, run: Path, report: Report, values: PerQuery, queries: Queries) -> None:
    """Write every file of a report."""
    columns = {
        f"{method} {name}": column for method, row in values.items() for name, column in row.items()
    }
    with atomic_write(folder / "per_query.parquet") as part:
        table = {"query_id": queries.ids, "user": queries.users.tolist(), **columns}
        pq.write_table(pa.table(table), part)
    write_json(folder / "test.json", defined(_summary(report)))
    with atomic_write(folder / TABLE) as part:
        part.write_text(table_text(report), encoding="utf-8")
    picture(run / "report.png", report)
    write_report(run / "report.html", report)


def print_results(run: Path, *, as_json: bool = False) -> None:
    """Print the table of methods of an evaluated run, or its numbers as JSON."""
    folder = step_folder(run, "evaluate")
    if as_json:
        print(json.dumps(read_json(folder / "test.json"), ensure_ascii=False))
        return
    console.print((folder / TABLE).read_text(encoding="utf-8"), markup=False, soft_wrap=True)


def defined(value: Any) -> Any:
    """Return `value` with None for numbers that are not defined, such as a mean over nobody, for
    JSON has no NaN.
    """
    if isinstance(value, dict):
        return {name: defined(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [defined(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _summary(report: Report) -> dict[str, object]:
    return {
        "queries": report.queries,
        "users": report.users,
        "reference": report.reference,
        "methods": {
            m.name: {
                "metrics": {name: vars(value) for name, value in m.metrics.items()},
                "beyond": m.beyond,
                "slices": {name: vars(value) for name, value in m.slices.items()},
                "comparison": vars(m.comparison) if m.comparison else None,
            }
            for m in report.ranked
        },
    }
