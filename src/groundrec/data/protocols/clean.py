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
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from groundrec.core.config import Prepare
from groundrec.core.errors import DataError
from groundrec.core.runs import atomic_write
from groundrec.core.track import log
from groundrec.data.protocols.coded import Coded, coded
from groundrec.data.raw.files import Column, fetched, few_threads, forget, release, stored
from groundrec.data.raw.tables import line_numbers
from groundrec.data.sources.table import MILLISECONDS, RawData

__all__ = ["Clean", "clean", "clean_title", "count", "k_core", "usable", "usable_rows"]

REASONS = {
    "line": "no row can be read from this line",
    "user": "no user",
    "item": "no item id",
    "time": "not a time since 1970 (ISO 8601, or a number in the unit of this file's times)",
    "rating": "not a number",
    "title": "no title for this item",
    "other title": "this item id already has another title",
}
MOST_UNESCAPES = 8
LEAST_USERS = 3


@dataclass(frozen=True)
class Clean:
    """What is left: `events` (user, item_id, time, rating), `titles` (item_id, title), and rows
    dropped by reason.
    """

    events: ir.Table
    titles: ir.Table
    rows: dict[str, int]


def clean_title(title: str) -> str:
    """Return the title with HTML entities unescaped until none is left, no control characters,
    single spaces.
    """
    for _ in range(MOST_UNESCAPES):
        if (plain := html.unescape(title)) == title:
            break
        title = plain
    visible = (c for c in title if c.isspace() or unicodedata.category(c) != "Cc")
    return re.sub(r"\s+", " ", "".join(visible)).strip()


@ibis.udf.scalar.python
def _cleaned(title: str) -> str:  # not of Arrow's arrays: Spark 4.0 hands over one value at a time
    return clean_title(title) if title is not None else title


def clean(raw: RawData, section: Prepare, folder: Path) -> Clean:
    """Return the usable events and titles; bad rows raise `DataError` or go to
    `folder/quarantine.parquet`.
    """
    items = stored(_checked_items(raw.items))
    titles = stored(items.filter(items.problem.isnull()).select("item_id", "title").distinct())
    checked = _checked_events(raw.interactions, titles)
    good = stored(
        checked.filter(checked.problem.isnull()).select("user", "item_id", "time", "rating")
    )
    read = count(raw.interactions)
    if not read:
        raise DataError(
            "no interactions",
            value=f"0 rows with {count(raw.items):,} items",
            accepted="at least one row",
        )
    rows = {
        "read": read,
        "bad": read - count(good),
        "bad_items": count(items.filter(items.problem.notnull())),
    }
    _set_aside(checked, items, rows, section, folder)
    return Clean(_filtered(good, rows, section), titles, rows)


def usable(raw: RawData, section: Prepare, folder: Path) -> tuple[Coded, ir.Table, dict[str, int]]:
    """Return the usable interactions, and items with `row`, for protocols that judge titles
    themselves; and counts.

    An item may have several titles, or null; a missing rating is empty. Bad rows raise `DataError`
    or go to `folder/quarantine.parquet`.
    """
    items = _items_flagged(raw.items)
    bad_items = count(items.filter(items.problem.notnull()))
    good = _good_items(items)
    if raw.glance and not bad_items:
        with few_threads(raw.glance.table.get_backend(), raw.glance.size):
            found = coded(_flagged(raw.glance.table).drop("row"))
        if found:
            _set_aside(items, items, {"bad": 0, "bad_items": 0}, section, folder)
            return found, good, {"read": len(found), "bad": 0, "bad_items": 0}
    events, rows = _good_events(raw, items, bad_items, section, folder)
    found = coded(events)
    good = stored(good)  # titles may stand among the interactions
    release(raw.interactions)
    assert found is not None
    return found, good, rows


def usable_rows(
    raw: RawData, section: Prepare, folder: Path
) -> tuple[ir.Table, ir.Table, dict[str, int]]:
    """Return the same with the interactions as a table of the engine that `coded` takes."""
    items = _items_flagged(raw.items)
    events, rows = _good_events(
        raw, items, count(items.filter(items.problem.notnull())), section, folder
    )
    return stored(events), stored(_good_items(items)), rows


def _good_events(
    raw: RawData, items: ir.Table, bad_items: int, section: Prepare, folder: Path
) -> tuple[ir.Table, dict[str, int]]:
    """Return the interactions without a problem, and counts, after the bad rows were set aside."""
    events = _flagged(raw.interactions)
    rows = fetched(events.aggregate(read=events.count(), bad=events.problem.count())).to_pylist()[0]
    rows["bad_items"] = bad_items
    _set_aside(events, items, rows, section, folder)
    return events.filter(events.problem.isnull()), rows


def _items_flagged(items: ir.Table) -> ir.Table:
    """Return the items with `problem`, null for a good row; any title is good."""
    problem = ibis.cases((items.broken.notnull(), "line"), (_empty(items.item_id), "item"))
    return items.mutate(problem=problem, title_text=items.title)


def _good_items(items: ir.Table) -> ir.Table:
    return items.filter(items.problem.isnull()).select("item_id", "title", "row")


def _flagged(events: ir.Table) -> ir.Table:
    """Return the interactions with `problem`, null for a good row, and `bad`, 1 for any other."""
    problem = ibis.cases(*_problems(events))
    rating: Column = events.rating_text
    return events.mutate(
        problem=problem, bad=problem.notnull().cast("int8"), rating=rating.fill_null("")
    )


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
    """Return the largest part of `events` in which every user and every item has at least `k`
    events.
    """
    core = events
    while k > 1:
        sizes = {
            column: core.group_by(column).agg(events=core.count()) for column in ("user", "item_id")
        }
        rare = [table.filter(_column(table, "events") < k) for table in sizes.values()]
        if not any(
            fetched(ibis.union(*(r.aggregate(values=r.count()) for r in rare)))[
                "values"
            ].to_pylist()
        ):
            break
        smaller = core
        for column, table in sizes.items():
            smaller = smaller.semi_join(table.filter(_column(table, "events") >= k), column)
        smaller = stored(smaller)
        if core is not events:
            forget(core)
        core = smaller
    return core


def count(table: ir.Table) -> int:
    """Return the number of rows."""
    return fetched(table.aggregate(rows=table.count()))["rows"][0].as_py()


def _column(table: ir.Table, name: str) -> Column:
    return table[name]


def _empty(column: Column) -> Column:
    seems_empty = (
        column < "!"
    )  # all of whitespace comes before it, and this is a hundred times faster
    return column.isnull() | (seems_empty & ~column.re_search(r"[^ \t\n\r\x0B\f]"))


def _checked_items(items: ir.Table) -> ir.Table:
    """Return the items with clean titles and `problem`, null for a good row."""
    items = items.mutate(title=_cleaned(items.title), title_text=items.title)
    first = items.title.first().over(ibis.window(group_by="item_id", order_by=["row", "title"]))
    problem = ibis.cases(
        (items.broken.notnull(), "line"),
        (_empty(items.item_id), "item"),
        (_empty(items.title), "title"),
        (items.title != first, "other title"),
    )
    return items.mutate(problem=problem)


def _checked_events(events: ir.Table, titles: ir.Table) -> ir.Table:
    """Return the interactions with `problem`, null for a good row; a row whose item has no title is
    none.
    """
    known = titles.select("item_id", has_title=ibis.literal(True))
    events = events.left_join(known, "item_id", rname="{name}_right")
    return events.mutate(
        problem=ibis.cases(*_problems(events), (events.has_title.isnull(), "title"))
    )


def _problems(events: ir.Table) -> list[tuple[Column, str]]:
    """Return what may be wrong with an interaction, whatever its item: a condition and the name of
    the problem.
    """
    in_range = _column(events, "time").between(0, int(MILLISECONDS))
    return [
        (events.broken.notnull(), "line"),
        (_empty(events.user), "user"),
        (_empty(events.item_id), "item"),
        (~in_range.fill_null(False), "time"),
        (events.rating.isnull() & ~_empty(events.rating_text), "rating"),
    ]


def _set_aside(
    events: ir.Table, items: ir.Table, rows: dict[str, int], section: Prepare, folder: Path
) -> None:
    """Raise at the first bad row, or write them all to `quarantine.parquet`."""
    file = folder / "quarantine.parquet"
    total = rows["bad"] + rows["bad_items"]
    if not total:
        file.unlink(missing_ok=True)
        return
    bad = _bad_rows(events, items)
    if section.bad_rows == "fail":
        raise _bad_row(_placed(fetched(bad.limit(1))).to_pylist()[0], total)
    with atomic_write(file) as part:
        pq.write_table(_placed(fetched(bad)), part)
    log.warning(f"{total:,} bad rows were set aside in {file}")


def _bad_rows(events: ir.Table, items: ir.Table) -> ir.Table:
    """Return file, line, column, reason and the values as text of every bad row: items first, they
    spoil events.

    `column` is null where the whole line is bad; what stands there is in `broken`.
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
    problem = _column(bad, "problem")
    reason = ibis.cases(*((problem == name, why) for name, why in REASONS.items()))
    bad = bad.mutate(column=problem.replace("other title", "title").nullif("line"), reason=reason)
    return bad.order_by("part", "file", "line").select(
        "file", "line", "column", "reason", *texts, "broken"
    )


def _placed(bad: pa.Table) -> pa.Table:
    """Return bad rows with the line of each, empty lines counted, and the file's name."""
    files = bad["file"].to_pylist()
    lines = bad["line"].to_numpy().copy()
    for file in set(files):
        there = np.array([f == file for f in files])
        lines[there] = line_numbers(Path(file), lines[there])
    names = pa.array([Path(file).name for file in files], pa.string())
    return bad.set_column(0, "file", names).set_column(1, "line", pa.array(lines))


def _bad_row(row: dict[str, Any], total: int) -> DataError:
    place = f"{row['file']}, line {row['line']}" + (
        f", column {row['column']}" if row["column"] else ""
    )
    names = ("user", "item", "time", "rating", "title")
    shown = ", ".join(f"{name}={row[name]}" for name in names if row[name] is not None)
    value = f"{row[row['column']]!r} in {shown}" if row["column"] else repr(row["broken"])
    return DataError(
        f"{place}: {row['reason']}",
        value=f"{value} ({total:,} bad {'row' if total == 1 else 'rows'} in all)",
        accepted=(
            "rows with a user, an item that has one title, a time, and a rating that is a number or"
            " empty"
        ),
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


def _refuse_too_little(
    core: ir.Table, before: ir.Table, rows: dict[str, int], section: Prepare
) -> None:
    if (users := _distinct(core, "user")) >= LEAST_USERS:
        return
    there = (
        f"{_distinct(before, 'user'):,} users, {_distinct(before, 'item_id'):,} items,"
        f" {count(before):,} events"
    )
    if rows["outside_k_core"]:
        what = f"the {section.k_core}-core"
        next_step = "--set prepare.k_core=0"
    elif rows["below_min_rating"]:
        what = "prepare.min_rating"
        next_step = "--set prepare.min_rating=… to a lower value"
    else:
        what = "reading"
        next_step = "add data, or look at quarantine.parquet if there is one"
    raise DataError(
        f"too few users are left after {what}",
        value=f"{users} with {rows['kept']:,} events (before it: {there})",
        accepted=f"at least {LEAST_USERS} users",
        next_step=next_step,
    )


def _distinct(table: ir.Table, column: str) -> int:
    return fetched(table.aggregate(values=table[column].nunique()))["values"][0].as_py()
