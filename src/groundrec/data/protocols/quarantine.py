"""Bad rows of raw data: the error for the first, or all of them in `quarantine.parquet`.

Knows nothing about what makes a row bad, only the names of the problems.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from groundrec.core.config import Prepare
from groundrec.core.errors import DataError
from groundrec.core.files import atomic_write
from groundrec.core.track import log
from groundrec.data.raw.files import Column, to_arrow
from groundrec.data.raw.tables import line_numbers

__all__ = ["handle_bad_rows"]

REASONS = {
    "line": "this line cannot be parsed",
    "user": "the user is missing",
    "item": "the item id is missing",
    "time": "not a time since 1970 (ISO 8601, or a number in the unit of this file's times)",
    "rating": "not a number",
    "title": "the item has no title",
    "other title": "this item id already has another title",
}
"""Problem → its explanation."""


def handle_bad_rows(
    events: ir.Table, items: ir.Table, rows: dict[str, int], section: Prepare, folder: Path
) -> None:
    """Raise `DataError` for the first bad row, or write all of them to `quarantine.parquet`.

    `prepare.bad_rows` decides which. `events` and `items` have the column `problem`, null for a
    good row; `rows` counts the bad ones.
    """
    file = folder / "quarantine.parquet"
    total = rows["bad"] + rows["bad_items"]
    if not total:
        file.unlink(missing_ok=True)
        return
    bad = _bad_rows(events, items)
    if section.bad_rows == "fail":
        raise _bad_row(_with_lines(to_arrow(bad.limit(1))).to_pylist()[0], total)
    with atomic_write(file) as part:
        pq.write_table(_with_lines(to_arrow(bad)), part)
    log.warning(f"{total:,} bad rows were moved to {file}")


def _bad_rows(events: ir.Table, items: ir.Table) -> ir.Table:
    """Return file, line, column, reason and the values as text of every bad row.

    Items come first, since a bad item makes its events bad. `column` is null where the whole line
    is bad; `broken` is then the line's text.
    """
    none = ibis.null("string")
    parts = [
        items.filter(items.problem.notnull()).mutate(
            user=none, time_text=none, rating_text=none, part=ibis.literal(0)
        ),
        events.filter(events.problem.notnull()).mutate(title_text=none, part=ibis.literal(1)),
    ]
    texts = {
        "user": "user",
        "item": "item_id",
        "time": "time_text",
        "rating": "rating_text",
        "title": "title_text",
    }
    bad = ibis.union(
        *(p.select("part", "problem", "file", "broken", line="row", **texts) for p in parts)
    )
    problem: Column = bad["problem"]
    reason = ibis.cases(*((problem == name, why) for name, why in REASONS.items()))
    bad = bad.mutate(column=problem.replace("other title", "title").nullif("line"), reason=reason)
    return bad.order_by("part", "file", "line").select(
        "file", "line", "column", "reason", *texts, "broken"
    )


def _with_lines(bad: pa.Table) -> pa.Table:
    """Return the bad rows with file names for paths, and lines that count empty lines too."""
    files = bad["file"].to_pylist()
    lines = bad["line"].to_numpy().copy()
    for file in set(files):
        in_file = np.array([f == file for f in files])
        lines[in_file] = line_numbers(Path(file), lines[in_file])
    names = pa.array([Path(file).name for file in files], pa.string())
    return bad.set_column(0, "file", names).set_column(1, "line", pa.array(lines))


def _bad_row(row: dict[str, Any], total: int) -> DataError:
    """Return the error for one bad row."""
    location = f"{row['file']}, line {row['line']}"
    if row["column"]:
        location += f", column {row['column']}"
    names = ("user", "item", "time", "rating", "title")
    shown = ", ".join(f"{name}={row[name]}" for name in names if row[name] is not None)
    value = f"{row[row['column']]!r} in {shown}" if row["column"] else repr(row["broken"])
    remedy = "fix the file, or --set prepare.bad_rows=quarantine"
    if row["column"] == "title":
        value = value if row["title"] else f"item={row['item']}"
        remedy += "; --protocol d3 leaves out items without a title and keeps the last of several"
    return DataError(
        f"{location}: {row['reason']}",
        value=f"{value} ({total:,} bad {'row' if total == 1 else 'rows'} in total)",
        accepted=(
            "rows with a user, an item that has one title, a time, and a rating that is a number or"
            " empty"
        ),
        next_step=remedy,
    )
