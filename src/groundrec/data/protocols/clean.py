"""Clean raw rows: find bad ones, normalise titles, drop duplicates, low ratings and rare items.

Written as Ibis expressions. Knows nothing about time order, splits or item numbers.
"""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import ibis
import ibis.expr.types as ir

from groundrec.core.config import Prepare
from groundrec.core.errors import DataError
from groundrec.data.protocols.coded import CodedEvents, encode_events
from groundrec.data.protocols.quarantine import handle_bad_rows
from groundrec.data.raw.files import (
    Column,
    drop_sources,
    drop_tables,
    limit_threads,
    materialize,
    to_arrow,
)
from groundrec.data.sources.table import MILLISECONDS, RawData

__all__ = [
    "CleanEvents",
    "clean",
    "clean_title",
    "count_rows",
    "k_core",
    "read_usable",
    "read_usable_table",
]

MAX_UNESCAPES = 8
"""Maximum number of times a title is unescaped: some are escaped several times over."""

MIN_USERS = 3


@dataclass(frozen=True)
class CleanEvents:
    """The remaining `events` (user, item_id, time, rating) and `titles` (item_id, title).

    `rows` counts the rows read, dropped for each reason, and kept.
    """

    events: ir.Table
    titles: ir.Table
    rows: dict[str, int]


def clean_title(title: str) -> str:
    """Return the title without HTML entities, control characters and repeated whitespace."""
    for _ in range(MAX_UNESCAPES):
        unescaped = html.unescape(title)
        if unescaped == title:
            break
        title = unescaped
    visible = (c for c in title if c.isspace() or unicodedata.category(c) != "Cc")
    return re.sub(r"\s+", " ", "".join(visible)).strip()


@ibis.udf.scalar.python
def _cleaned(title: str) -> str:  # takes one title: Spark 4.0 passes no Arrow arrays
    return clean_title(title) if title is not None else title


def clean(raw: RawData, section: Prepare, folder: Path) -> CleanEvents:
    """Return the cleaned events and titles.

    Bad rows raise `DataError` or are moved to `folder/quarantine.parquet`.
    """
    items = materialize(_checked_items(raw.items))
    titles = materialize(items.filter(items.problem.isnull()).select("item_id", "title").distinct())
    checked = _checked_events(raw.interactions, titles)
    good = materialize(
        checked.filter(checked.problem.isnull()).select("user", "item_id", "time", "rating")
    )
    read = count_rows(raw.interactions)
    if not read:
        raise DataError(
            "no interactions",
            value=f"0 rows, {count_rows(raw.items):,} items",
            accepted="at least one row",
        )
    rows = {
        "read": read,
        "bad": read - count_rows(good),
        "bad_items": count_rows(items.filter(items.problem.notnull())),
    }
    handle_bad_rows(checked, items, rows, section, folder)
    return CleanEvents(_filtered(good, rows, section), titles, rows)


def read_usable(
    raw: RawData, section: Prepare, folder: Path
) -> tuple[CodedEvents, ir.Table, dict[str, int]]:
    """Return the good interactions, the items with `row`, and counts of rows.

    This is for protocols that judge titles themselves: an item may have several titles, or null. A
    missing rating is an empty text. Bad rows raise `DataError` or are moved to
    `folder/quarantine.parquet`.
    """
    items = _items_flagged(raw.items)
    bad_items = count_rows(items.filter(items.problem.notnull()))
    good = _good_items(items)
    if raw.fast_scan and not bad_items:
        # one pass, nothing stored; gives up at the first row that may be bad
        with limit_threads(raw.fast_scan.table.get_backend(), raw.fast_scan.size):
            encoded = encode_events(_flagged(raw.fast_scan.table).drop("row"))
        if encoded:
            handle_bad_rows(items, items, {"bad": 0, "bad_items": 0}, section, folder)
            return encoded, good, {"read": len(encoded), "bad": 0, "bad_items": 0}
    events, rows = _good_events(raw, items, bad_items, section, folder)
    encoded = encode_events(events)
    good = materialize(good)  # it may be derived from the interactions, which are dropped next
    drop_sources(raw.interactions)
    assert encoded is not None
    return encoded, good, rows


def read_usable_table(
    raw: RawData, section: Prepare, folder: Path
) -> tuple[ir.Table, ir.Table, dict[str, int]]:
    """Return the same, with the interactions as a table of the engine, for `encode_events`."""
    items = _items_flagged(raw.items)
    bad_items = count_rows(items.filter(items.problem.notnull()))
    events, rows = _good_events(raw, items, bad_items, section, folder)
    return materialize(events), materialize(_good_items(items)), rows


def _good_events(
    raw: RawData, items: ir.Table, bad_items: int, section: Prepare, folder: Path
) -> tuple[ir.Table, dict[str, int]]:
    """Return the good interactions and counts of rows, after handling the bad ones."""
    events = _flagged(raw.interactions)
    rows = to_arrow(events.aggregate(read=events.count(), bad=events.problem.count())).to_pylist()[
        0
    ]
    rows["bad_items"] = bad_items
    handle_bad_rows(events, items, rows, section, folder)
    return events.filter(events.problem.isnull()), rows


def _items_flagged(items: ir.Table) -> ir.Table:
    """Return the items with `problem`, null for a good row; any title is accepted."""
    problem = ibis.cases((items.broken.notnull(), "line"), (_empty(items.item_id), "item"))
    return items.mutate(problem=problem, title_text=items.title)


def _good_items(items: ir.Table) -> ir.Table:
    return items.filter(items.problem.isnull()).select("item_id", "title", "row")


def _flagged(events: ir.Table) -> ir.Table:
    """Return the interactions with `problem`, null for a good row, and `bad`, 1 for a bad one."""
    problem = ibis.cases(*_problems(events))
    rating: Column = events.rating_text
    return events.mutate(
        problem=problem, bad=problem.notnull().cast("int8"), rating=rating.fill_null("")
    )


def _filtered(good: ir.Table, rows: dict[str, int], section: Prepare) -> ir.Table:
    """Return the events that pass all filters, and add to `rows` how many each removed."""
    distinct = materialize(good.group_by("user", "item_id", "time").agg(rating=good.rating.max()))
    drop_tables(good)
    rated = _rated(distinct, section.min_rating)
    core = k_core(rated, section.k_core)
    good_rows = rows["read"] - rows["bad"]
    n_distinct, n_rated, n_core = map(count_rows, (distinct, rated, core))
    rows["duplicate_events"] = good_rows - n_distinct
    rows["below_min_rating"] = n_distinct - n_rated
    rows["outside_k_core"] = n_rated - n_core
    rows["kept"] = n_core
    _refuse_too_little(core, rated, rows, section)
    return core


def k_core(events: ir.Table, k: int) -> ir.Table:
    """Return the largest subset of `events` where every user and item has at least `k`."""
    core = events
    while k > 1:
        sizes = {
            column: core.group_by(column).agg(events=core.count()) for column in ("user", "item_id")
        }
        rare = [table.filter(_column(table, "events") < k) for table in sizes.values()]
        counts = ibis.union(*(table.aggregate(values=table.count()) for table in rare))
        if not any(to_arrow(counts)["values"].to_pylist()):
            break
        smaller = core
        for column, table in sizes.items():
            smaller = smaller.semi_join(table.filter(_column(table, "events") >= k), column)
        smaller = materialize(smaller)
        if core is not events:
            drop_tables(core)
        core = smaller
    return core


def count_rows(table: ir.Table) -> int:
    """Return the number of rows."""
    return to_arrow(table.aggregate(rows=table.count()))["rows"][0].as_py()


def _column(table: ir.Table, name: str) -> Column:
    return table[name]


def _empty(column: Column) -> Column:
    # all whitespace sorts before "!", and this test is a hundred times faster than the regex
    seems_empty = column < "!"
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
    """Return the interactions with `problem`, null for a good row: its item needs a title."""
    known = titles.select("item_id", has_title=ibis.literal(True))
    events = events.left_join(known, "item_id", rname="{name}_right")
    return events.mutate(
        problem=ibis.cases(*_problems(events), (events.has_title.isnull(), "title"))
    )


def _problems(events: ir.Table) -> list[tuple[Column, str]]:
    """Return the possible problems of an interaction, apart from its title: condition and name."""
    in_range = _column(events, "time").between(0, int(MILLISECONDS))
    return [
        (events.broken.notnull(), "line"),
        (_empty(events.user), "user"),
        (_empty(events.item_id), "item"),
        (~in_range.fill_null(False), "time"),
        (events.rating.isnull() & ~_empty(events.rating_text), "rating"),
    ]


def _rated(events: ir.Table, least: float | None) -> ir.Table:
    if least is None:
        return events
    if not count_rows(events.filter(events.rating.notnull())):
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
    if (users := _distinct(core, "user")) >= MIN_USERS:
        return
    left_before = (
        f"{_distinct(before, 'user'):,} users, {_distinct(before, 'item_id'):,} items,"
        f" {count_rows(before):,} events"
    )
    if rows["outside_k_core"]:
        what = f"the {section.k_core}-core"
        next_step = "--set prepare.k_core=0"
    elif rows["below_min_rating"]:
        what = "prepare.min_rating"
        next_step = "--set prepare.min_rating=… to a lower value"
    else:
        what = "reading"
        next_step = "add data, or check quarantine.parquet if it exists"
    raise DataError(
        f"too few users are left after {what}",
        value=f"{users} with {rows['kept']:,} events (before it: {left_before})",
        accepted=f"at least {MIN_USERS} users",
        next_step=next_step,
    )


def _distinct(table: ir.Table, column: str) -> int:
    return to_arrow(table.aggregate(values=table[column].nunique()))["values"][0].as_py()
