"""The protocols `global-time` and `leave-one-out`: one query per moment, each moment in one split.

A *moment* is all events of one user with the same time. Its query's history is everything strictly
before it, its targets are all its items. Inside a moment, items are ordered by the md5 of
`user|item_id|seed`, so that neither the order of a file nor the numbering of items shows. Knows
nothing about models or metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import ibis
import ibis.expr.types as ir
import numpy as np
from numpy.typing import NDArray

from groundrec.core.config import Prepare
from groundrec.core.errors import DataError
from groundrec.core.types import Catalogue
from groundrec.data.events import Events
from groundrec.data.protocols.clean import Clean, clean
from groundrec.data.protocols.windows import SPLITS, Prepared, Windows
from groundrec.data.raw.files import Column, fetched, stored
from groundrec.data.sources.table import RawData

__all__ = [
    "Moments",
    "Splitter",
    "by_time",
    "global_time",
    "last_two",
    "leave_one_out",
    "moments_of",
    "windows",
]

TRAIN = 0
VALID = 1
TEST = 2
LEAST_MOMENTS = 3
MAX_HISTORY = 200


@dataclass(frozen=True)
class Moments:
    """M moments, by user and then time, over E events in the same order."""

    user: NDArray[np.int32]
    """User number. Shape: [M]."""
    time: NDArray[np.int64]
    """Seconds UTC. Shape: [M]."""
    starts: NDArray[np.int64]
    """First event of each moment. Shape: [M]."""
    stops: NDArray[np.int64]
    """One past the last event of each moment. Shape: [M]."""
    since: NDArray[np.int64]
    """First event of the moment's user. Shape: [M]."""
    items: NDArray[np.int32]
    """Item number of each event. Shape: [E]."""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Number of events of each moment. Shape: [M]."""
        return self.stops - self.starts


Splitter: TypeAlias = Callable[[Moments, Prepare], NDArray[np.int8]]
"""Maps moments to splits: 0 train, 1 valid, 2 test. Shape: [M]."""


def global_time(raw: RawData, section: Prepare, seed: int, folder: Path) -> Prepared:
    """Protocol: cut at two points in time, the same for everyone."""
    return _prepared(raw, section, seed, folder, by_time)


def leave_one_out(raw: RawData, section: Prepare, seed: int, folder: Path) -> Prepared:
    """Protocol: each user's last moment for test, the one before for validation."""
    return _prepared(raw, section, seed, folder, last_two)


def by_time(moments: Moments, section: Prepare) -> NDArray[np.int8]:
    """Split by two points in time for everyone: the latest `test_share` of events, `valid_share`
    before, the rest.
    """
    times = np.sort(np.repeat(moments.time, moments.sizes))
    shares = np.array([section.valid_share + section.test_share, section.test_share])
    cuts = times[np.clip(np.rint(len(times) * (1 - shares)).astype(int), 0, len(times) - 1)]
    return np.searchsorted(cuts, moments.time, side="right").astype(np.int8)


def last_two(moments: Moments, section: Prepare) -> NDArray[np.int8]:
    """Split off each user's last moment for test and the one before for valid; users with fewer
    than 3 only train.
    """
    del section
    count = np.bincount(moments.user)
    last = np.cumsum(count) - 1
    enough = count >= LEAST_MOMENTS
    split = np.zeros(len(moments.user), np.int8)
    split[last[enough]] = TEST
    split[last[enough] - 1] = VALID
    return split


def moments_of(
    user: NDArray[np.int32], time: NDArray[np.int64], items: NDArray[np.int32]
) -> Moments:
    """Return the moments of events sorted by user (numbered 0, 1, … without gaps) and time. Shapes:
    [E].
    """
    new_user = np.diff(user, prepend=-1) != 0
    starts = np.flatnonzero(new_user | (np.diff(time, prepend=-1) != 0))
    first_of_user = np.flatnonzero(new_user)
    return Moments(
        user[starts],
        time[starts],
        starts,
        np.append(starts[1:], len(items)),
        first_of_user[user[starts]],
        items,
    )


def windows(
    moments: Moments, split: NDArray[np.int8], users: NDArray[np.str_], max_history: int
) -> tuple[dict[str, Windows], dict[str, dict[str, int]]]:
    """Return the queries of each split, by user and then time, and what was skipped.

    A user's first moment has no history: it is kept in train, where sequences start, and skipped
    elsewhere. Query ids run on from train over valid to test.
    """
    usable = (split == TRAIN) | (moments.starts > moments.since)
    splits = {}
    skipped = {}
    next_id = 0
    for code, name in enumerate(SPLITS):
        chosen = np.flatnonzero(usable & (split == code))
        starts = moments.starts[chosen]
        splits[name] = Windows(
            users,
            moments.items,
            next_id,
            moments.user[chosen],
            moments.time[chosen],
            np.maximum(moments.since[chosen], starts - max_history),
            starts,
            moments.stops[chosen],
        )
        next_id += len(chosen)
        left = ~usable & (split == code)
        skipped[name] = {"queries": int(left.sum()), "events": int(moments.sizes[left].sum())}
    return splits, skipped


def _prepared(
    raw: RawData, section: Prepare, seed: int, folder: Path, splitter: Splitter
) -> Prepared:
    cleaned = clean(raw, section, folder)
    catalogue, events = _numbered(cleaned, seed)
    moments = moments_of(events.user, events.time, events.items)
    max_history = section.max_history or MAX_HISTORY
    splits, skipped = windows(moments, splitter(moments, section), events.users, max_history)
    _refuse_empty(splits, moments, section)
    card = {"skipped_without_history": skipped, "notes": _notes(section, max_history)}
    return Prepared(catalogue, events, splits, cleaned.rows, card)


def _numbered(cleaned: Clean, seed: int) -> tuple[Catalogue, Events]:
    """Return the items in the order of their numbers, and the events by user and time."""
    users = _numbers(cleaned.events, "user")
    items = _numbers(cleaned.events, "item_id")
    events = cleaned.events.join(users, "user").join(items, "item_id", rname="{name}_right")
    chance = _chance(events.user, events.item_id, seed)
    events = events.order_by("user_number", "time", chance).select(
        "user_number", "time", "item_id_number", "rating"
    )
    columns = fetched(events)
    names = fetched(users.order_by("user_number"))["user"].to_pylist()
    titles = fetched(items.join(cleaned.titles, "item_id").order_by("item_id_number"))
    user, time, item, rating = (
        columns[c].to_numpy() for c in ("user_number", "time", "item_id_number", "rating")
    )
    catalogue = Catalogue(tuple(titles["item_id"].to_pylist()), tuple(titles["title"].to_pylist()))
    return catalogue, Events(np.array(names), user, time, item, *_ratings(rating))


def _ratings(values: NDArray[np.float64]) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Return a number for each rating, and the rating that each number stands for, empty for NaN."""
    known, numbers = np.unique(values, return_inverse=True)
    return numbers.astype(np.int32), tuple(
        "" if np.isnan(value) else str(value) for value in known.tolist()
    )


def _chance(user: Column, item_id: Column, seed: int) -> Column:
    return user.concat("|", item_id, f"|{seed}").hexdigest("md5")


def _numbers(events: ir.Table, column: str) -> ir.Table:
    """Return each value of `column` with its number: in numeric order if all are whole numbers,
    else as text.
    """
    values = events.select(column).distinct()
    key: Column = values[column]
    order = [key]
    whole = key.re_search(r"\A[0-9]{1,18}\z")
    if fetched(values.aggregate(all=whole.all()))["all"][0].as_py():
        order.insert(0, key.cast("int64"))
    number = ibis.row_number().over(order_by=order).cast("int32")
    return stored(values.mutate(**{f"{column}_number": number}))


def _refuse_empty(splits: Mapping[str, Windows], moments: Moments, section: Prepare) -> None:
    counts = {name: len(queries) for name, queries in splits.items()}
    if all(counts.values()):
        return
    empty = min(counts, key=lambda name: counts[name])
    if section.protocol != "global-time":
        remedy = f"add users with {LEAST_MOMENTS} moments or more"
    elif empty == "train":
        remedy = "--set prepare.valid_share=… and prepare.test_share=… to smaller shares"
    else:
        remedy = f"--set prepare.{empty}_share=… to a larger share"
    times = len(np.unique(moments.time))
    users = moments.user[-1] + 1
    raise DataError(
        f"the {empty} split is empty",
        value=", ".join(f"{size:,} {name}" for name, size in counts.items())
        + f" queries, from {len(moments.items):,} events of {users:,} users at {times:,} different"
        " times",
        accepted=(
            "a query in each split; those of valid and test need an earlier event of the same user"
        ),
        next_step=f"{remedy}, or a lower prepare.k_core (it is {section.k_core})",
    )


def _notes(section: Prepare, max_history: int) -> list[str]:
    notes = [
        (
            "A history holds every earlier event of its user, those of earlier validation and test"
            " moments included: they are known by then."
        ),
        (
            "The catalogue is every item with a remaining event, also those first seen in"
            " validation or test."
        ),
        (
            f"A user's first moment is a query only in train; at most {max_history} recent items"
            " are kept."
        ),
    ]
    if section.k_core > 1:
        notes.append(
            f"The {section.k_core}-core is counted over all events, test included: a mild leak."
        )
    return notes
