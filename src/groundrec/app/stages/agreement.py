"""What a table of means hides: which items rankings share, and how well each serves popular and
rare targets.

Knows nothing about how a ranking was made, nor how it is printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from groundrec.app.stages.artefacts import open_run
from groundrec.app.stages.gather import kind_of, slates_by_method
from groundrec.core.types import NO_ITEM, Slates
from groundrec.evaluate.charts import Kind
from groundrec.evaluate.metrics import by_slice
from groundrec.evaluate.statistics import Interval, intervals

__all__ = ["Agreement", "agreement", "overlap"]

Key = tuple[str, str]
"""A run and one of its methods."""


@dataclass(frozen=True)
class Agreement:
    """What rankings share. Rows come in the order they were asked for."""

    k: int
    """Length of the slates that are compared."""
    shared: tuple[tuple[float, ...], ...]
    """Share of common items in two rows' first `k` places, mean over queries."""
    slices: tuple[dict[str, Interval], ...]
    """The main metric for popular, middling and rare targets separately."""
    kinds: tuple[Kind, ...]


def agreement(
    runs: dict[str, Path], rows: Sequence[Key], metric: str, k: int = 20, *, samples: int = 1000
) -> Agreement:
    """Return what `rows` of finished runs share, over the queries that all of them have ranked.

    `k` shrinks to the shortest slate. `metric` is measured for each third of the training
    interactions by itself.
    """
    opened = {name: open_run(path) for name, path in runs.items()}
    ids = reduce(np.intersect1d, (x.queries("test").ids for x in opened.values()))
    slates = {}
    slices = {}
    for name, x in opened.items():
        queries = x.queries("test")
        places = np.flatnonzero(np.isin(queries.ids, ids))
        queries = queries.take(places)
        found = slates_by_method(x)
        for key in (key for key in rows if key[0] == name):
            one = found[key[1]]
            slates[key] = Slates(one.query_ids[places], one.items[places], one.scores[places])
            parts = by_slice(slates[key], queries, x.dataset.popularity(), metric)
            slices[key] = intervals(parts, queries.users, samples=samples)
    k = min(k, *(found.k for found in slates.values()))
    return Agreement(
        k,
        tuple(tuple(overlap(slates[a].items, slates[b].items, k) for b in rows) for a in rows),
        tuple(slices[key] for key in rows),
        tuple(kind_of(opened[run].recipe, method) for run, method in rows),
    )


def overlap(a: NDArray[np.integer], b: NDArray[np.integer], k: int) -> float:
    """Return the mean share of the first `k` places of `a` and `b` [Q, K] that are the same items,
    in any order.

    |A ∩ B| / max(|A|, |B|), since a slate may have fewer than `k` items. Queries with two empty
    slates are left out.
    """
    a = a[:, :k]
    b = b[:, :k]
    same = ((a[:, :, None] == b[:, None]) & (a != NO_ITEM)[:, :, None]).sum((1, 2))
    most = np.maximum((a != NO_ITEM).sum(1), (b != NO_ITEM).sum(1))
    return float(np.mean(same[most > 0] / most[most > 0])) if most.any() else float("nan")
