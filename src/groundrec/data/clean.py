"""From raw rows to events that can be trusted: bad rows, titles, duplicates, ratings, k-core.

Written as Ibis expressions. Knows nothing about time order, splits or item numbers.
"""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from groundrec.core.config import Prepare
from groundrec.core.errors import DataError
from groundrec.core.runs import atomic_write
from groundrec.core.track import log
from groundrec.data.files import Column, forget, stored
from groundrec.data.sources import MILLISECONDS, Raw

__all__ = ["Clean", "clean", "clean_title", "count", "k_core"]

REASONS = {
    "user": "no user",
    "item": "no item id",
    "time": "not a time since 1970 (seconds, milliseconds or ISO 8601)",
    "rating": "not a number",
    "title": "no title for this item",
    "other title": "this item id already has another title",
}
MOST_UNESCAPES = 8
LEAST_USERS = 3


@dataclass(frozen=True)
class Clean:
    """What is left: `events` (user, item_id, time, rating), `titles` (item_id, title), and rows dropped by reason."""

    events: ir.Table
    titles: ir.Table
    rows: dict[str, int]


def clean_title(title: str) -> str:
    """Return the title with HTML entities unescaped until none is left, no control characters, single spaces."""
    for _ in range(MOST_UNESCAPES):
        if (plain := html.unescape(title)) == title:
            break
        title = plain
    visible = (c for c in title if c.isspace() or unicodedata.category(c) != "Cc")
    return re.sub(r"\s+", " ", "".join(visible)).strip()


@ibis.udf.scalar.pyarrow
def _clean_titles(title: str) -> str:  # pyright: ignore[reportReturnType]
    texts = title.to_pylist()  # pyright: ignore[reportAttributeAccessIssue]
    return pa.array([None if t is None else clean_title(t) for t in texts], pa.string())


def clean(raw: Raw, section: Prepare, folder: Path) -> Clean:
    """Return the usable events and titles; bad rows raise `DataError` or go to `folder/quarantine.parquet`."""
    items = stored(_checked_items(raw.items))
    titles = stored(items.filter(items.problem.isnull()).select("item_id", "title").distinct())
    checked = _checked_events(raw.interactions, titles)
    good = stored(checked.filter(checked.problem.isnull()).select("user", "item_id", "time", "rating"))
    read = count(raw.interactions)
    if not read:
        raise DataError("no interactions", value=f"0 rows with {count(raw.items):,} items", accepted="at least one row")
    rows = {"read": read, "bad": read - count(good), "bad_items": count(items.filter(items.problem.notnull()))}
    _set_aside(checked, items, rows, section, folder)
    return Clean(_filtered(good, rows, section), titles, rows)


def _filtered(good: ir.Table, rows: dict[str, int], section: Prepare) -> ir.Table:
    """Return the events left by each filter in turn, and count into `rows` what each took."""
    single = stored(good.group_by("user", "item_id", "time").agg(rating=good.rating.max()))
    forget(good)
    rated = _rated(single, section.min_rating)
    core = k_core(rated, section.k_core)
    counts = [rows["read"] - rows["bad"], *map(count, (single, rated, core))]
    for name, before, after in zip(
        ("duplicate_events", "below_min_rating", "outside_k_core"), counts, counts[1:], strict=False
    ):
        rows[name] = before - after
    rows["kept"] = counts[-1]
    _refuse_too_little(core, rated, rows, section)
    return core


def k_core(events: ir.Table, k: int) -> ir.Table:
    """Return the largest part of `events` in which every user and every item has at least `k` events."""
    if k <= 1:
        return events
    core, before, now = events, -1, count(events)
    while now != before:
        kept = core
        for column in ("user", "item_id"):
            sizes = core.group_by(column).agg(events=core.count())
            kept = kept.semi_join(sizes.filter(_column(sizes, "events") >= k), column)
        smaller = stored(kept)
        if core is not events:
            forget(core)
        core, before, now = smaller, now, count(smaller)
    return core


def count(table: ir.Table) -> int:
    """Return the number of rows."""
    return table.count().to_pyarrow().as_py()


def _column(table: ir.Table, name: str) -> Column:
    return table[name]


def _empty(column: Column) -> Column:
    return column.isnull() | (column.strip() == "")


def _checked_items(items: ir.Table) -> ir.Table:
    """Return the items with clean titles and `problem`, null for a good row."""
    items = items.mutate(title=_clean_titles(items.title), title_text=items.title)
    first = items.title.first().over(ibis.window(group_by="item_id", order_by=["row", "title"]))
    problem = ibis.cases(
        (_empty(items.item_id), "item"), (_empty(items.title), "title"), (items.title != first, "other title")
    )
    return items.mutate(problem=problem)


def _checked_events(events: ir.Table, titles: ir.Table) -> ir.Table:
    """Return the interactions with `problem`, null for a good row."""
    known = titles.select("item_id", has_title=ibis.literal(True))
    events = events.left_join(known, "item_id", rname="{name}_right")
    in_range = _column(events, "time").between(0, int(MILLISECONDS))
    problem = ibis.cases(
        (_empty(events.user), "user"),
        (_empty(events.item_id), "item"),
        (~in_range.fill_null(False), "time"),
        (events.rating.isnull() & ~_empty(events.rating_text), "rating"),
        (events.has_title.isnull(), "title"),
    )
    return events.mutate(problem=problem)


def _set_aside(events: ir.Table, items: ir.Table, rows: dict[str, int], section: Prepare, folder: Path) -> None:
    """Raise at the first bad row, or write them all to `quarantine.parquet`."""
    file = folder / "quarantine.parquet"
    total = rows["bad"] + rows["bad_items"]
    if not total:
        file.unlink(missing_ok=True)
        return
    bad = _bad_rows(events, items)
    if section.bad_rows == "fail":
        raise _bad_row(bad.limit(1).to_pyarrow().to_pylist()[0], total)
    with atomic_write(file) as part:
        pq.write_table(bad.to_pyarrow(), part)
    log.warning(f"{total:,} bad rows were set aside in {file}")


def _bad_rows(events: ir.Table, items: ir.Table) -> ir.Table:
    """Return file, line, column, reason and the values as text of every bad row: items first, they spoil events."""
    none = ibis.null("string")
    parts = [
        items.filter(items.problem.notnull()).mutate(user=none, time_text=none, rating_text=none, part=ibis.literal(0)),
        events.filter(events.problem.notnull()).mutate(title_text=none, part=ibis.literal(1)),
    ]
    texts = {"user": "user", "item": "item_id", "time": "time_text", "rating": "rating_text", "title": "title_text"}
    bad = ibis.union(*(p.select("part", "problem", "file", line="row", **texts) for p in parts))
    problem = _column(bad, "problem")
    reason = ibis.cases(*((problem == name, why) for name, why in REASONS.items()))
    bad = bad.mutate(column=problem.replace("other title", "title"), reason=reason)
    return bad.order_by("part", "file", "line").select("file", "line", "column", "reason", *texts)


def _bad_row(row: dict[str, Any], total: int) -> DataError:
    shown = ", ".join(
        f"{name}={row[name]}" for name in ("user", "item", "time", "rating", "title") if row[name] is not None
    )
    return DataError(
        f"{row['file']}, line {row['line']}, column {row['column']}: {row['reason']}",
        value=f"{row[row['column']]!r} in {shown} ({total:,} bad {'row' if total == 1 else 'rows'} in all)",
        accepted="rows with a user, an item that has one title, a time, and a rating that is a number or empty",
        next_step="mend the file, or --set prepare.bad_rows=quarantine",
    )


def _rated(events: ir.Table, least: float | None) -> ir.Table:
    if least is None:
        return events
    if not count(events.filter(events.rating.notnull())):
        raise DataError(
            "prepare.min_rating is set, but no interaction has a rating",
            value=least,
            accepted="data with a rating column",
            next_step="leave prepare.min_rating out, or name the column in data.columns",
        )
    return events.filter(_column(events, "rating") >= least)


def _refuse_too_little(core: ir.Table, before: ir.Table, rows: dict[str, int], section: Prepare) -> None:
    if (users := _distinct(core, "user")) >= LEAST_USERS:
        return
    there = f"{_distinct(before, 'user'):,} users, {_distinct(before, 'item_id'):,} items, {count(before):,} events"
    if rows["outside_k_core"]:
        what, next_step = f"the {section.k_core}-core", "--set prepare.k_core=0"
    elif rows["below_min_rating"]:
        what, next_step = "prepare.min_rating", "--set prepare.min_rating=… to a lower value"
    else:
        what, next_step = "reading", "add data, or look at quarantine.parquet if there is one"
    raise DataError(
        f"too few users are left after {what}",
        value=f"{users} with {rows['kept']:,} events (before it: {there})",
        accepted=f"at least {LEAST_USERS} users",
        next_step=next_step,
    )


def _distinct(table: ir.Table, column: str) -> int:
    return table[column].nunique().to_pyarrow().as_py()
