"""The protocols `global-time` and `leave-one-out`: one query per moment, each moment in one split.

A *moment* is all events of one user at one time. Its query's history is everything strictly before
it, its targets are all of its items. Within a moment, items are sorted by the md5 of
`user|item_id|seed`, so the result depends neither on the order of the file nor on the numbering of
items. Knows nothing about models or metrics.
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
from groundrec.data.protocols.clean import CleanEvents, clean
from groundrec.data.protocols.windows import SPLITS, Prepared, Windows
from groundrec.data.raw.files import Column, materialize, to_arrow
from groundrec.data.sources.table import RawData

__all__ = [
    "Moments",
    "Splitter",
    "global_time",
    "group_moments",
    "leave_one_out",
    "split_by_time",
    "split_last_two",
    "split_queries",
]

TRAIN = 0
VALID = 1
TEST = 2
MIN_MOMENTS = 3
MAX_HISTORY = 200


@dataclass(frozen=True)
class Moments:
    """M moments, sorted by user and then time, over E events in the same order."""

    user: NDArray[np.int32]
    """User number. Shape: [M]."""
    time: NDArray[np.int64]
    """Seconds UTC. Shape: [M]."""
    start: NDArray[np.int64]
    """Index of each moment's first event. Shape: [M]."""
    stop: NDArray[np.int64]
    """One past the index of each moment's last event. Shape: [M]."""
    user_start: NDArray[np.int64]
    """Index of the first event of each moment's user. Shape: [M]."""
    items: NDArray[np.int32]
    """Item number of each event. Shape: [E]."""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Return the number of events of each moment. Shape: [M]."""
        return self.stop - self.start


Splitter: TypeAlias = Callable[[Moments, Prepare], NDArray[np.int8]]
"""Maps moments to splits: 0 train, 1 valid, 2 test. Shape of the result: [M]."""


def global_time(raw: RawData, section: Prepare, seed: int, folder: Path) -> Prepared:
    """Protocol: split at two points in time, the same for all users."""
    return _prepared(raw, section, seed, folder, split_by_time)


def leave_one_out(raw: RawData, section: Prepare, seed: int, folder: Path) -> Prepared:
    """Protocol: test on each user's last moment, validate on the one before."""
    return _prepared(raw, section, seed, folder, split_last_two)


def split_by_time(moments: Moments, section: Prepare) -> NDArray[np.int8]:
    """Split at two times: the last `test_share` of events, `valid_share` before them, the rest."""
    # one time per event, so that the shares are shares of events, not of moments
    times = np.sort(np.repeat(moments.time, moments.sizes))
    shares = np.array([section.valid_share + section.test_share, section.test_share])
    cut_index = np.rint(len(times) * (1 - shares)).astype(int)
    cuts = times[np.clip(cut_index, 0, len(times) - 1)]
    # a moment exactly at a cut belongs to the later split: no time is in two splits
    return np.searchsorted(cuts, moments.time, side="right").astype(np.int8)


def split_last_two(moments: Moments, section: Prepare) -> NDArray[np.int8]:
    """Split off each user's last moment for test and the one before for validation.

    Users with fewer than three moments are only trained on.
    """
    del section
    count = np.bincount(moments.user)  # [U]
    last = np.cumsum(count) - 1  # index of each user's last moment
    enough = count >= MIN_MOMENTS
    split = np.zeros(len(moments.user), np.int8)
    split[last[enough]] = TEST
    split[last[enough] - 1] = VALID
    return split


def group_moments(
    user: NDArray[np.int32], time: NDArray[np.int64], items: NDArray[np.int32]
) -> Moments:
    """Return the moments of events sorted by user and time. Shapes: [E].

    Users are numbered 0, 1, … without gaps.
    """
    new_user = np.diff(user, prepend=-1) != 0
    start = np.flatnonzero(new_user | (np.diff(time, prepend=-1) != 0))  # [M]
    user_start = np.flatnonzero(new_user)  # [U]
    return Moments(
        user=user[start],
        time=time[start],
        start=start,
        stop=np.append(start[1:], len(items)),
        user_start=user_start[user[start]],
        items=items,
    )


def split_queries(
    moments: Moments, split: NDArray[np.int8], users: NDArray[np.str_], max_history: int
) -> tuple[dict[str, Windows], dict[str, dict[str, int]]]:
    """Return the queries of each split, sorted by user and time, and the number skipped.

    A user's first moment has no history. It stays in train, where sequences start, and is skipped
    elsewhere. Query ids continue from train to valid to test. Shape of `split`: [M].
    """
    usable = (split == TRAIN) | (moments.start > moments.user_start)  # [M]
    splits = {}
    skipped = {}
    next_id = 0
    for code, name in enumerate(SPLITS):
        chosen = np.flatnonzero(usable & (split == code))  # the Q moments that become queries
        start = moments.start[chosen]
        splits[name] = Windows(
            names=users,
            items=moments.items,
            first_id=next_id,
            users=moments.user[chosen],
            times=moments.time[chosen],
            # a window never reaches back into the events of the user before
            history_start=np.maximum(moments.user_start[chosen], start - max_history),
            target_start=start,
            target_stop=moments.stop[chosen],
        )
        next_id += len(chosen)
        dropped = ~usable & (split == code)
        events = int(moments.sizes[dropped].sum())
        skipped[name] = {"queries": int(dropped.sum()), "events": events}
    return splits, skipped


def _prepared(
    raw: RawData, section: Prepare, seed: int, folder: Path, splitter: Splitter
) -> Prepared:
    cleaned = clean(raw, section, folder)
    catalogue, events = _numbered(cleaned, seed)
    moments = group_moments(events.user, events.time, events.items)
    max_history = section.max_history or MAX_HISTORY
    splits, skipped = split_queries(moments, splitter(moments, section), events.users, max_history)
    _refuse_empty(splits, moments, section)
    card = {"skipped_without_history": skipped, "notes": _notes(section, max_history)}
    return Prepared(catalogue, events, splits, cleaned.rows, card)


def _numbered(cleaned: CleanEvents, seed: int) -> tuple[Catalogue, Events]:
    """Return the catalogue in the order of item numbers, and the events by user and time."""
    users = _numbers(cleaned.events, "user")
    items = _numbers(cleaned.events, "item_id")
    events = cleaned.events.join(users, "user").join(items, "item_id", rname="{name}_right")
    tie_breaker = _tie_breaker(events.user, events.item_id, seed)
    events = events.order_by("user_number", "time", tie_breaker).select(
        "user_number", "time", "item_id_number", "rating"
    )
    columns = to_arrow(events)
    names = to_arrow(users.order_by("user_number"))["user"].to_pylist()
    titles = to_arrow(items.join(cleaned.titles, "item_id").order_by("item_id_number"))
    user, time, item, rating = (
        columns[c].to_numpy() for c in ("user_number", "time", "item_id_number", "rating")
    )
    catalogue = Catalogue(tuple(titles["item_id"].to_pylist()), tuple(titles["title"].to_pylist()))
    return catalogue, Events(np.array(names), user, time, item, *_ratings(rating))


def _ratings(values: NDArray[np.float64]) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Return the code of each rating, and the rating text of each code; NaN is the empty text."""
    distinct, codes = np.unique(values, return_inverse=True)
    texts = tuple("" if np.isnan(value) else str(value) for value in distinct.tolist())
    return codes.astype(np.int32), texts


def _tie_breaker(user: Column, item_id: Column, seed: int) -> Column:
    """Return the key that orders the events of one moment, independent of file and numbering."""
    return user.concat("|", item_id, f"|{seed}").hexdigest("md5")


def _numbers(events: ir.Table, column: str) -> ir.Table:
    """Return the distinct values of `column`, numbered: as numbers if all are, else as text."""
    values = events.select(column).distinct()
    key: Column = values[column]
    order = [key]
    is_whole = key.re_search(r"\A[0-9]{1,18}\z")
    if to_arrow(values.aggregate(all=is_whole.all()))["all"][0].as_py():
        order.insert(0, key.cast("int64"))
    number = ibis.row_number().over(order_by=order).cast("int32")
    return materialize(values.mutate(**{f"{column}_number": number}))


def _refuse_empty(splits: Mapping[str, Windows], moments: Moments, section: Prepare) -> None:
    counts = {name: len(queries) for name, queries in splits.items()}
    if all(counts.values()):
        return
    empty = min(counts, key=lambda name: counts[name])
    if section.protocol != "global-time":
        next_step = f"add users with {MIN_MOMENTS} moments or more"
    elif empty == "train":
        next_step = "--set prepare.valid_share=… and prepare.test_share=… to smaller shares"
    else:
        next_step = f"--set prepare.{empty}_share=… to a larger share"
    times = len(np.unique(moments.time))
    users = moments.user[-1] + 1
    raise DataError(
        f"the {empty} split is empty",
        value=", ".join(f"{size:,} {name}" for name, size in counts.items())
        + f" queries, from {len(moments.items):,} events of {users:,} users at {times:,} different"
        " times",
        accepted=(
            "at least one query per split; in valid and test, its user needs an earlier event"
        ),
        next_step=f"{next_step}, or a lower prepare.k_core (it is {section.k_core})",
    )


def _notes(section: Prepare, max_history: int) -> list[str]:
    notes = [
        (
            "A history contains all earlier events of its user, including those of earlier"
            " validation and test moments, which are known by then."
        ),
        (
            "The catalogue contains every item with a remaining event, including those first seen"
            " in validation or test."
        ),
        (
            f"A user's first moment is a query only in train; a history keeps at most the latest"
            f" {max_history} items."
        ),
    ]
    if section.k_core > 1:
        notes.append(
            f"The {section.k_core}-core is computed over all events, including test: a mild leak."
        )
    return notes
