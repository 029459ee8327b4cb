"""Summary statistics of a finished data set, computed from its queries alone.

Shares are between 0 and 1. Knows nothing about files, filters or pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundrec.core.types import Catalogue, Queries

__all__ = [
    "count_events",
    "filter_counts",
    "in_figures",
    "leakage",
    "summarize",
    "title_word_counts",
    "train_popularity",
]


def summarize(catalogue: Catalogue, splits: Mapping[str, Queries]) -> dict[str, Any]:
    """Return the numbers of users, items and events, density, duplicate titles and time span."""
    users = len(np.unique(np.concatenate([part.users for part in splits.values()])))
    events = count_events(splits)
    times = np.concatenate([part.times for part in splits.values()])
    return {
        "users": users,
        "items": len(catalogue),
        "events": events,
        "density": round(events / (users * len(catalogue)), 6),
        "duplicate_titles": len(catalogue) - len(set(catalogue.titles)),
        "time_span": [f"{np.datetime64(int(t), 's')}Z" for t in (times.min(), times.max())],
    }


def count_events(splits: Mapping[str, Queries]) -> int:
    """Return the number of events: all targets, and the history of each user's first query."""
    users = np.concatenate([part.users for part in splits.values()])
    times = np.concatenate([part.times for part in splits.values()])
    history = np.concatenate([part.history.lengths for part in splits.values()])
    by_user = np.lexsort((history, times, users))  # the last key is the major one
    first = by_user[np.unique(users[by_user], return_index=True)[1]]
    return int(history[first].sum()) + sum(len(part.targets.values) for part in splits.values())


def leakage(splits: Mapping[str, Queries]) -> dict[str, float]:
    """Return how far training overlaps with test in time, and what of test it lacks."""
    train = splits["train"]
    test = splits["test"]
    targets = train.targets.lengths
    late = targets[train.times >= test.times.min()].sum()
    # for each test query, the number of training events before it: [Q]
    earlier = np.searchsorted(np.sort(np.repeat(train.times, targets)), test.times)
    total = int(targets.sum())
    n_items = int(max(test.targets.values.max(), train.targets.values.max())) + 1
    seen = train_popularity(splits, n_items) > 0
    return {
        "train_events_at_or_after_first_test_moment": _share(late, total),
        "train_events_at_or_after_a_test_moment_on_average": round(
            1 - float(earlier.mean()) / total, 6
        ),
        "test_queries_of_users_unseen_in_train": _share(
            (~np.isin(test.users, train.users)).sum(), len(test)
        ),
        "test_targets_unseen_in_train": _share(
            (~seen[test.targets.values]).sum(), len(test.targets.values)
        ),
    }


def train_popularity(splits: Mapping[str, Queries], items: int) -> NDArray[np.int64]:
    """Return how often each item is a training target. Shape: [items]."""
    return np.bincount(splits["train"].targets.values, minlength=items)


def filter_counts(rows: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """Return name, rows removed and rows left of each filter, also of those that removed none."""
    left = rows.get("read", 0)
    counts = []
    for name, removed in rows.items():
        if name not in ("read", "bad_items", "kept"):
            left -= removed
            counts.append((name, removed, left))
    return counts


def in_figures(leak: float) -> str:
    """Return an entry of a card's section `leakage` as text: a count, or a share in percent."""
    return f"{leak:,}" if isinstance(leak, int) else f"{leak:.1%}"


def title_word_counts(titles: Iterable[str]) -> NDArray[np.int64]:
    """Return the number of whitespace-separated words of each title."""
    return np.array([len(title.split()) for title in titles], np.int64)


def _share(part: np.integer, whole: int) -> float:
    return round(float(part) / whole, 6)
