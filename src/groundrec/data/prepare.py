"""From raw interactions to queries: one query per moment, each moment in one split.

A *moment* is all events of one user with the same time. Its query's history is everything strictly before it, its
targets are all its items. Inside a moment, items are ordered by the md5 of `user|item_id|seed`, so that neither the
order of a file nor the numbering of items shows. Knows nothing about models or metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import ibis
import ibis.expr.types as ir
import numpy as np
from numpy.typing import NDArray

from groundrec.core.config import Data, Prepare
from groundrec.core.errors import DataError
from groundrec.core.registry import resolve
from groundrec.core.track import log
from groundrec.core.types import Catalogue, Queries, Ragged
from groundrec.data.clean import Clean, clean
from groundrec.data.dataset import SPLITS, describe, save
from groundrec.data.files import Column, engine, stored

__all__ = ["Moments", "Protocol", "global_time", "leave_one_out", "moments_of", "prepare", "windows"]

TRAIN, VALID, TEST = 0, 1, 2
BLOCK = 1 << 13
LEAST_MOMENTS = 3


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


Protocol: TypeAlias = Callable[[Moments, Prepare], NDArray[np.int8]]
"""Maps moments to splits: 0 train, 1 valid, 2 test. Shape: [M]."""


def prepare(data: Data, section: Prepare, seed: int, folder: Path) -> dict[str, Any]:
    """Write the prepared data set into `folder` and return its card."""
    protocol: Protocol = resolve("protocols", section.protocol)
    with engine(folder) as connection:
        cleaned = clean(resolve("sources", data.source)(data).read(connection), section, folder)
        users, catalogue, moments = _numbered(cleaned, seed)
    split = protocol(moments, section)
    splits, skipped = windows(moments, split, users, section.max_history)
    _refuse_empty(splits, moments, section)
    leakage = _leakage(splits)
    if share := leakage["train_events_at_or_after_a_test_moment_on_average"]:
        log.warning(
            f"{section.protocol}: for the average test moment, {share:.1%} of the training events happen at the same "
            "time or later, so the model is tested on a past whose future it has seen"
        )
    card = {
        "settings": {**data.model_dump(mode="json"), **section.model_dump(mode="json"), "seed": seed},
        "rows": cleaned.rows,
        **_statistics(users, catalogue, moments),
        "splits": describe(splits),
        "skipped_without_history": skipped,
        "leakage": leakage,
        "notes": _notes(section),
    }
    save(catalogue, splits, card, folder)
    return card


def global_time(moments: Moments, section: Prepare) -> NDArray[np.int8]:
    """Split by two points in time for everyone: the latest `test_share` of events, `valid_share` before, the rest."""
    times = np.sort(np.repeat(moments.time, moments.sizes))
    shares = np.array([section.valid_share + section.test_share, section.test_share])
    cuts = times[np.clip(np.rint(len(times) * (1 - shares)).astype(int), 0, len(times) - 1)]
    return np.searchsorted(cuts, moments.time, side="right").astype(np.int8)


def leave_one_out(moments: Moments, section: Prepare) -> NDArray[np.int8]:
    """Split off each user's last moment for test and the one before for valid; users with fewer than 3 only train."""
    del section
    count = np.bincount(moments.user)
    last = np.cumsum(count) - 1
    enough = count >= LEAST_MOMENTS
    split = np.zeros(len(moments.user), np.int8)
    split[last[enough]] = TEST
    split[last[enough] - 1] = VALID
    return split


def moments_of(user: NDArray[np.int32], time: NDArray[np.int64], items: NDArray[np.int32]) -> Moments:
    """Return the moments of events sorted by user (numbered 0, 1, … without gaps) and time. Shapes: [E]."""
    new_user = np.diff(user, prepend=-1) != 0
    starts = np.flatnonzero(new_user | (np.diff(time, prepend=-1) != 0))
    first_of_user = np.flatnonzero(new_user)
    return Moments(
        user[starts], time[starts], starts, np.append(starts[1:], len(items)), first_of_user[user[starts]], items
    )


def windows(
    moments: Moments, split: NDArray[np.int8], users: NDArray[np.str_], max_history: int
) -> tuple[dict[str, Queries], dict[str, dict[str, int]]]:
    """Return the queries of each split, by user and then time, and what was skipped.

    A user's first moment has no history: it is kept in train, where sequences start, and skipped elsewhere.
    Query ids run on from train over valid to test.
    """
    usable = (split == TRAIN) | (moments.starts > moments.since)
    splits, skipped, next_id = {}, {}, 0
    for code, name in enumerate(SPLITS):
        chosen = np.flatnonzero(usable & (split == code))
        splits[name] = _queries(moments, chosen, users, max_history, next_id)
        next_id += len(chosen)
        left = ~usable & (split == code)
        skipped[name] = {"queries": int(left.sum()), "events": int(moments.sizes[left].sum())}
    return splits, skipped


def _queries(
    moments: Moments, chosen: NDArray[np.int64], users: NDArray[np.str_], max_history: int, first_id: int
) -> Queries:
    starts, stops = moments.starts[chosen], moments.stops[chosen]
    return Queries(
        np.arange(first_id, first_id + len(chosen), dtype=np.int64),
        users[moments.user[chosen]],
        moments.time[chosen],
        _slices(moments.items, np.maximum(moments.since[chosen], starts - max_history), starts),
        _slices(moments.items, starts, stops),
    )


def _slices(values: NDArray[np.int32], starts: NDArray[np.int64], stops: NDArray[np.int64]) -> Ragged:
    """Return `values[starts[i]:stops[i]]` as row i, gathered block by block to need little more memory than that."""
    lengths = stops - starts
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    out = np.empty(offsets[-1], np.int32)
    for a in range(0, len(starts), BLOCK):
        b = min(a + BLOCK, len(starts))
        shift = np.repeat(starts[a:b] - offsets[a:b], lengths[a:b])
        out[offsets[a] : offsets[b]] = values[np.arange(offsets[a], offsets[b]) + shift]
    return Ragged(out, offsets)


def _numbered(cleaned: Clean, seed: int) -> tuple[NDArray[np.str_], Catalogue, Moments]:
    """Return users and items in the order of their numbers, and the moments."""
    users = _numbers(cleaned.events, "user")
    items = _numbers(cleaned.events, "item_id")
    events = cleaned.events.join(users, "user").join(items, "item_id", rname="{name}_right")
    chance = _chance(events.user, events.item_id, seed)
    events = events.order_by("user_number", "time", chance).select("user_number", "time", "item_id_number")
    columns = events.to_pyarrow()
    names = users.order_by("user_number").to_pyarrow()["user"].to_pylist()
    titles = items.join(cleaned.titles, "item_id").order_by("item_id_number").to_pyarrow()
    return (
        np.array(names),
        Catalogue(tuple(titles["item_id"].to_pylist()), tuple(titles["title"].to_pylist())),
        moments_of(*(columns[c].to_numpy() for c in ("user_number", "time", "item_id_number"))),
    )


def _chance(user: Column, item_id: Column, seed: int) -> Column:
    return user.concat("|", item_id, f"|{seed}").hexdigest("md5")


def _numbers(events: ir.Table, column: str) -> ir.Table:
    """Return each value of `column` with its number: in numeric order if all are whole numbers, else as text."""
    values = events.select(column).distinct()
    key: Column = values[column]
    order = [key]
    if key.re_search(r"^[0-9]{1,18}$").all().to_pyarrow().as_py():
        order.insert(0, key.cast("int64"))
    number = ibis.row_number().over(order_by=order).cast("int32")
    return stored(values.mutate(**{f"{column}_number": number}))


def _statistics(users: NDArray[np.str_], catalogue: Catalogue, moments: Moments) -> dict[str, Any]:
    events = len(moments.items)
    return {
        "users": len(users),
        "items": len(catalogue),
        "events": events,
        "moments": len(moments.user),
        "moments_of_several_events": int((moments.sizes > 1).sum()),
        "density": round(events / (len(users) * len(catalogue)), 6),
        "duplicate_titles": len(catalogue) - len(set(catalogue.titles)),
        "time_span": [f"{np.datetime64(int(t), 's')}Z" for t in (moments.time.min(), moments.time.max())],
    }


def _leakage(splits: Mapping[str, Queries]) -> dict[str, float]:
    """Return what the test queries share with, or lack in, the training events; all are shares from 0 to 1."""
    train, test = splits["train"], splits["test"]
    late = train.targets.lengths[train.times >= test.times.min()].sum()
    known = np.searchsorted(np.sort(np.repeat(train.times, train.targets.lengths)), test.times)
    return {
        "train_events_at_or_after_first_test_moment": _share(late, len(train.targets.values)),
        "train_events_at_or_after_a_test_moment_on_average": round(
            1 - float(known.mean()) / len(train.targets.values), 6
        ),
        "test_queries_of_users_unseen_in_train": _share((~np.isin(test.users, train.users)).sum(), len(test)),
        "test_targets_unseen_in_train": _share(
            (~np.isin(test.targets.values, train.targets.values)).sum(), len(test.targets.values)
        ),
    }


def _share(part: np.integer, whole: int) -> float:
    return round(float(part) / whole, 6)


def _refuse_empty(splits: Mapping[str, Queries], moments: Moments, section: Prepare) -> None:
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
    times, users = len(np.unique(moments.time)), moments.user[-1] + 1
    raise DataError(
        f"the {empty} split is empty",
        value=", ".join(f"{size:,} {name}" for name, size in counts.items())
        + f" queries, from {len(moments.items):,} events of {users:,} users at {times:,} different times",
        accepted="a query in each split; those of valid and test need an earlier event of the same user",
        next_step=f"{remedy}, or a lower prepare.k_core (it is {section.k_core})",
    )


def _notes(section: Prepare) -> list[str]:
    notes = [
        "A history holds every earlier event of its user, those of earlier validation and test moments included: "
        "they are known by then.",
        "The catalogue is every item with a remaining event, also those first seen in validation or test.",
        f"A user's first moment is a query only in train; at most {section.max_history} recent items are kept.",
    ]
    if section.k_core > 1:
        notes.append(f"The {section.k_core}-core is counted over all events, test included: a mild leak.")
    return notes
