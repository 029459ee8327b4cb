"""The protocol `d3`: Amazon reviews prepared as by the paper of D3 (arXiv 2406.14900), to the byte.

1. Keep the reviews in a time window, both ends included, of items whose every metadata row has a
   good title.
2. Take their k-core. While it has fewer than `min_items` items, the window starts a year earlier,
   but not before 1996.
3. Number the items by first appearance, shuffled with seed 42.
4. Make one query per review except a user's first, with the 10 reviews before it as its history,
   equal times in the order of the file.
5. Split the queries by time: 80% training, 10% validation, the rest test.

The published script cleans titles in place, again each time the window grows; so does this one. It
uses months in the local time zone, this one UTC. Knows nothing about models or published files.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from groundrec.core.config import D3, Prepare
from groundrec.core.errors import ConfigError, DataError
from groundrec.core.track import log
from groundrec.core.types import Catalogue
from groundrec.data.arrays import as_arrow, as_numpy, as_texts
from groundrec.data.protocols.clean import k_core, read_usable, read_usable_table
from groundrec.data.protocols.coded import (
    NO_EVENTS,
    CodedEvents,
    by_first_appearance,
    encode_events,
    index_in,
)
from groundrec.data.protocols.windows import Prepared, log_split_sizes, one_query_per_event
from groundrec.data.raw.files import Column, drop_tables, is_duckdb, materialize, to_arrow
from groundrec.data.sources.table import RawData

__all__ = ["d3"]

FIRST_YEAR = 1996
SHUFFLE_SEED = 42
MAX_HISTORY = 10
MAX_BLANKS = 20
UNUSED = ("min_rating", "valid_share", "test_share")


def d3(raw: RawData, section: Prepare, seed: int, folder: Path) -> Prepared:
    """Protocol: prepare Amazon reviews like the paper of D3; the recipe's seed has no effect."""
    del seed
    _refuse_unused(section)
    if is_duckdb(raw.items):
        reviews, titles, read = read_usable(raw, section, folder)
        window = _latest_sufficient_window(titles, section, partial(_window, reviews))
    else:
        table, titles, read = read_usable_table(raw, section, folder)
        window = _latest_sufficient_window(titles, section, partial(_window_of_rows, table))
    catalogue, number = _catalogue(window)
    events = window.reviews.events(window.core, number)
    splits = one_query_per_event(
        events, min_history=1, max_history=section.max_history or MAX_HISTORY
    )
    log_split_sizes(splits)
    if not all(map(len, splits.values())):
        raise _too_few(len(events), section)
    months = {**section.d3.model_dump(exclude={"min_items"}), "st_year": window.year}
    card = {"window": months, "notes": _notes(section)}
    return Prepared(catalogue, events, splits, _rows(read, window), card)


@dataclass(frozen=True)
class _Window:
    """A time window and the reviews and items in it."""

    year: int
    inside: int
    """Number of reviews inside the window."""
    titled: int
    """Number of those whose item has a good title."""
    items: int
    """Number of items in the core."""
    titles: pa.Table
    """Items with a good title: item_id, title."""
    reviews: CodedEvents
    """N reviews, including those of the core."""
    core: NDArray[np.bool_]
    """Which of `reviews` are in the core. Shape: [N]."""


def _latest_sufficient_window(
    titles: ir.Table, section: Prepare, window_of: Callable[[ir.Table, Prepare, int], _Window]
) -> _Window:
    """Return the latest window with enough items, or the one from 1996."""
    year = section.d3.st_year
    while True:
        titles = materialize(_cleaned_again(titles))
        window = window_of(_accepted(titles), section, year)
        if window.items >= (section.d3.min_items if year > FIRST_YEAR else 1):
            return window
        log.info(f"  {window.items:,} items are left from {year}-{section.d3.st_month} on")
        if year <= FIRST_YEAR:
            break
        year -= 1
    raise DataError(
        f"no item is left after the {section.k_core}-core",
        value=(
            f"{window.inside:,} reviews in the longest window, {window.titled:,} of them of items"
            " with a good title"
        ),
        accepted=(
            f"reviews in which some users, and items with titles, occur {section.k_core} times"
        ),
        next_step="--set prepare.k_core=… to a lower value, or check that the metadata matches",
    )


def _window(reviews: CodedEvents, accepted: ir.Table, section: Prepare, year: int) -> _Window:
    """Return the window that starts in `year`, computed in this process."""
    titles = to_arrow(accepted)
    begin, end = _ends(section.d3, year)
    inside = (begin <= reviews.time) & (reviews.time <= end)
    if not inside.any():
        span = [reviews.time.min(), reviews.time.max()] if len(reviews) else []
        raise _empty_window(span, section.d3, year)
    has_title = np.zeros(len(reviews.items), bool)
    has_title[as_numpy(_items(reviews, titles).drop_null())] = True
    titled = inside & has_title[reviews.item]
    core = reviews.core(titled, section.k_core)
    items = int(np.count_nonzero(np.bincount(reviews.item[core])))
    return _Window(year, int(inside.sum()), int(titled.sum()), items, titles, reviews, core)


def _window_of_rows(reviews: ir.Table, accepted: ir.Table, section: Prepare, year: int) -> _Window:
    """Return the window that starts in `year`, computed by the engine.

    The core is fetched only if the window has enough items.
    """
    time: Column = reviews["time"]
    inside = reviews.filter(time.between(*_ends(section.d3, year)))
    titled = materialize(inside.semi_join(accepted, "item_id"))
    core = k_core(titled, section.k_core)
    counts = _counts(inside, titled, core)
    if not counts["inside"]:
        (span,) = to_arrow(reviews.aggregate(first=time.min(), last=time.max())).to_pylist()
        raise _empty_window([t for t in span.values() if t is not None], section.d3, year)
    if counts["items"] >= section.d3.min_items or year == FIRST_YEAR:
        encoded = encode_events(core)
        titles = to_arrow(accepted.semi_join(core, "item_id"))
        assert encoded is not None
    else:
        encoded = NO_EVENTS
        titles = pa.table({"item_id": as_texts([]), "title": as_texts([])})
    drop_tables(titled, *[core] * (core is not titled))
    return _Window(year, **counts, titles=titles, reviews=encoded, core=np.ones(len(encoded), bool))


def _counts(inside: ir.Table, titled: ir.Table, core: ir.Table) -> dict[str, int]:
    """Return the counts of a window, computed in one query."""
    counts = {
        "inside": inside.count(),
        "titled": titled.count(),
        "items": core["item_id"].nunique(),
    }
    rows = [
        value.name("value").as_table().mutate(name=ibis.literal(name))
        for name, value in counts.items()
    ]
    return {row["name"]: row["value"] for row in to_arrow(ibis.union(*rows)).to_pylist()}


def _ends(window: D3, year: int) -> tuple[int, int]:
    """Return the first and the last second of the window that starts in `year`."""
    return _month(year, window.st_month), _month(window.ed_year, window.ed_month)


def _items(reviews: CodedEvents, titles: pa.Table) -> pa.Int32Array:
    """Return the item code of each row of `titles`, null for an item without reviews."""
    return index_in(titles["item_id"].combine_chunks(), reviews.items)


def _cleaned_again(titles: ir.Table) -> ir.Table:
    """Return the metadata with titles cleaned once: two HTML entities, outer blanks, quotes."""
    title: Column = titles.title
    title = title.replace("&quot;", '"').replace("&amp;", "&")
    for mark in (" ", '"'):
        title = title.re_replace(rf"\A{mark}+|{mark}+\z", "")
    return titles.mutate(title=title)


def _accepted(titles: ir.Table) -> ir.Table:
    """Return the last title of each item, of items without a missing, short, long or broken one."""
    title: Column = titles.title
    blanks = title.length() - title.replace(" ", "").length()
    good = ~title.contains("<span id") & (title.length() > 1) & (blanks < MAX_BLANKS)
    bad: Column = ~good.fill_null(False)
    last = titles.group_by("item_id").agg(title=titles.title.argmax(titles.row), bad=bad.any())
    return last.filter(~last["bad"]).drop("bad")  # pyright: ignore[reportOperatorIssue]


def _catalogue(window: _Window) -> tuple[Catalogue, NDArray[np.int32]]:
    """Return the catalogue of the core, and the item number of each item code. Shape: [codes]."""
    reviews = window.reviews
    _, appeared = by_first_appearance(reviews.item[window.core], len(reviews.items))
    shuffled = list(range(len(appeared)))
    random.Random(SHUFFLE_SEED).shuffle(shuffled)
    codes = appeared[shuffled]  # by item number
    number = np.zeros(len(reviews.items), np.int32)
    number[codes] = np.arange(len(codes))
    ids = reviews.items.take(as_arrow(codes))
    titles = (
        window.titles["title"]
        .combine_chunks()
        .take(index_in(ids, window.titles["item_id"].combine_chunks()))
    )
    return Catalogue(tuple(ids.to_pylist()), tuple(titles.to_pylist())), number


def _month(year: int, month: int) -> int:
    """Return the first second of a month."""
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp())


def _rows(read: dict[str, int], window: _Window) -> dict[str, int]:
    """Return the number of rows read, removed by each filter, and kept."""
    kept = int(window.core.sum())
    return {
        **read,
        "outside_window": read["read"] - read["bad"] - window.inside,
        "without_good_title": window.inside - window.titled,
        "outside_k_core": window.titled - kept,
        "kept": kept,
    }


def _too_few(events: int, section: Prepare) -> DataError:
    return DataError(
        f"too few reviews are left after the {section.k_core}-core to split them",
        value=events,
        accepted="at least about ten reviews that are not their user's first",
        next_step="--set prepare.k_core=… to a lower value, or a longer window",
    )


def _refuse_unused(section: Prepare) -> None:
    if given := [name for name in UNUSED if name in section.model_fields_set]:
        raise ConfigError(
            "the protocol `d3` does not use this setting",
            value=f"prepare.{given[0]}",
            accepted="prepare.k_core, prepare.max_history and those of [prepare.d3]",
            next_step="remove it, or --set prepare.protocol=global-time",
        )


def _empty_window(span: Sequence[int], window: D3, year: int) -> DataError:
    dates = f"the reviews are from {_day(span[0])} to {_day(span[1])}" if span else "no reviews"
    return DataError(
        "the time window contains no review",
        value=f"{year}-{window.st_month} to {window.ed_year}-{window.ed_month}; {dates}",
        accepted="a window that contains reviews",
        next_step="--st_year … --st_month … --ed_year … --ed_month …",
    )


def _day(seconds: int) -> str:
    return f"{datetime.fromtimestamp(int(seconds), UTC):%Y-%m-%d}"


def _notes(section: Prepare) -> list[str]:
    return [
        (
            "A history contains the reviews before the target in its user's list, including those"
            " of the same second and those of earlier validation and test queries."
        ),
        (
            "The catalogue contains every item with a remaining review, including those first seen"
            " in validation or test."
        ),
        f"The {section.k_core}-core is computed over all reviews, including test: a mild leak.",
    ]
