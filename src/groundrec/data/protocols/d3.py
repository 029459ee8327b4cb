"""The protocol `d3`: how the paper of D3 (arXiv 2406.14900) prepares Amazon reviews, to the byte.

1. The reviews inside a window of time, both ends included, of items whose every metadata row has a
good title. 2. Their k-core. While fewer than `min_items` items are left, the window begins a year
earlier, not before 1996. 3. Item numbers: the order of first appearance, shuffled with seed 42. 4.
One query for each review but a user's first: the 10 before it, equal times in the order of the
file. 5. Queries by time: 80% for training, 10% for validation, the rest for testing.

The published script cleans titles in place, once more each time the window grows; so does this. It
takes months in the time zone of its machine; this takes UTC. Knows nothing about models, nor about
the published files.
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
MOST_WORDS = 20
UNUSED = ("min_rating", "valid_share", "test_share")


def d3(raw: RawData, section: Prepare, seed: int, folder: Path) -> Prepared:
    """Protocol: Amazon reviews as the paper of D3 prepares them; the recipe's seed changes nothing."""
    del seed
    _refuse_unused(section)
    if is_duckdb(raw.items):
        reviews, titles, read = read_usable(raw, section, folder)
        window = _first_window_that_suffices(titles, section, partial(_window, reviews))
    else:
        table, titles, read = read_usable_table(raw, section, folder)
        window = _first_window_that_suffices(titles, section, partial(_window_of_rows, table))
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
    """A window of time, and how many reviews and items it leaves."""

    year: int
    inside: int
    titled: int
    """Of those inside, how many are of an item with a good title."""
    items: int
    """Items of the core."""
    titles: pa.Table
    """Items with a good title: item_id, title."""
    reviews: CodedEvents
    """N reviews, those of the core among them."""
    core: NDArray[np.bool_]
    """Which of `reviews` are in the core. Shape: [N]."""


def _first_window_that_suffices(
    titles: ir.Table, section: Prepare, window_of: Callable[[ir.Table, Prepare, int], _Window]
) -> _Window:
    """Return the latest window with enough items, else that of 1996."""
    year = section.d3.st_year
    while True:
        titles = materialize(_cleaned_again(titles))
        window = window_of(_accepted(titles), section, year)
        if window.items >= (section.d3.min_items if year > FIRST_YEAR else 1):
            return window
        log.info(f"  from {year}-{section.d3.st_month} on, {window.items:,} items are left")
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
            f"reviews in which some users and items, the latter with titles, occur {section.k_core}"
            " times"
        ),
        next_step="--set prepare.k_core=… lower, or look for the metadata of these reviews",
    )


def _window(reviews: CodedEvents, accepted: ir.Table, section: Prepare, year: int) -> _Window:
    """Return the window that begins in `year`, counted in this process."""
    titles = to_arrow(accepted)
    begin, end = _ends(section.d3, year)
    inside = (begin <= reviews.time) & (reviews.time <= end)
    if not inside.any():
        raise _empty_window(
            [reviews.time.min(), reviews.time.max()] if len(reviews) else [], section.d3, year
        )
    has_title = np.zeros(len(reviews.items), bool)
    has_title[as_numpy(_items(reviews, titles).drop_null())] = True
    titled = inside & has_title[reviews.item]
    core = reviews.core(titled, section.k_core)
    items = int(np.count_nonzero(np.bincount(reviews.item[core])))
    return _Window(year, int(inside.sum()), int(titled.sum()), items, titles, reviews, core)


def _window_of_rows(reviews: ir.Table, accepted: ir.Table, section: Prepare, year: int) -> _Window:
    """Return the window that begins in `year`, counted by the engine: only the core of one that
    suffices leaves it.
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
        found = encode_events(core)
        titles = to_arrow(accepted.semi_join(core, "item_id"))
        assert found is not None
    else:
        found = NO_EVENTS
        titles = pa.table({"item_id": as_texts([]), "title": as_texts([])})
    drop_tables(titled, *[core] * (core is not titled))
    return _Window(year, **counts, titles=titles, reviews=found, core=np.ones(len(found), bool))


def _counts(inside: ir.Table, titled: ir.Table, core: ir.Table) -> dict[str, int]:
    """Return the counts of a window, all of one query."""
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
    """Return the first and the last second of the window that begins in `year`."""
    return _month(year, window.st_month), _month(window.ed_year, window.ed_month)


def _items(reviews: CodedEvents, titles: pa.Table) -> pa.Int32Array:
    """Return the code of each row's item, null for an item without reviews."""
    return index_in(titles["item_id"].combine_chunks(), reviews.items)


def _cleaned_again(titles: ir.Table) -> ir.Table:
    """Return the metadata with two entities of each title read, blanks and then quotes taken off
    its ends, once.
    """
    title: Column = titles.title
    title = title.replace("&quot;", '"').replace("&amp;", "&")
    for mark in (" ", '"'):
        title = title.re_replace(rf"\A{mark}+|{mark}+\z", "")
    return titles.mutate(title=title)


def _accepted(titles: ir.Table) -> ir.Table:
    """Return the items of which no row has a missing, short, long or broken title, each with its
    last title.
    """
    title: Column = titles.title
    blanks = title.length() - title.replace(" ", "").length()
    good = ~title.contains("<span id") & (title.length() > 1) & (blanks < MOST_WORDS)
    bad: Column = ~good.fill_null(False)
    last = titles.group_by("item_id").agg(title=titles.title.argmax(titles.row), bad=bad.any())
    return last.filter(~last["bad"]).drop("bad")  # pyright: ignore[reportOperatorIssue]


def _catalogue(window: _Window) -> tuple[Catalogue, NDArray[np.int32]]:
    """Return the items of the core in their final order, and the number of each item code."""
    reviews = window.reviews
    _, seen = by_first_appearance(reviews.item[window.core], len(reviews.items))
    shuffled = list(range(len(seen)))
    random.Random(SHUFFLE_SEED).shuffle(shuffled)
    codes = seen[shuffled]
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
    """Return the rows that were read, those that each filter took, and those that were kept."""
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
        accepted="about ten reviews that are not their user's first, or more",
        next_step="--set prepare.k_core=… lower, or a longer window",
    )


def _refuse_unused(section: Prepare) -> None:
    if given := [name for name in UNUSED if name in section.model_fields_set]:
        raise ConfigError(
            "the protocol `d3` has no use for a setting",
            value=f"prepare.{given[0]}",
            accepted="prepare.k_core, prepare.max_history and those of [prepare.d3]",
            next_step="leave it out, or --set prepare.protocol=global-time",
        )


def _empty_window(span: Sequence[int], window: D3, year: int) -> DataError:
    there = f"from {_day(span[0])} to {_day(span[1])}" if span else "none at all"
    return DataError(
        "no review lies inside the window of time",
        value=(
            f"{year}-{window.st_month} to {window.ed_year}-{window.ed_month}; the reviews are"
            f" {there}"
        ),
        accepted="a window in which there are reviews",
        next_step="--st_year … --st_month … --ed_year … --ed_month …",
    )


def _day(seconds: int) -> str:
    return f"{datetime.fromtimestamp(int(seconds), UTC):%Y-%m-%d}"


def _notes(section: Prepare) -> list[str]:
    return [
        (
            "A history holds the reviews before the target in its user's list, those of the same"
            " second and of earlier validation and test queries included."
        ),
        (
            "The catalogue is every item with a remaining review, also those first seen in"
            " validation or test."
        ),
        f"The {section.k_core}-core is counted over all reviews, test included: a mild leak.",
    ]
