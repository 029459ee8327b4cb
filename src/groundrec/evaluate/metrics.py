"""Slates and what people took next, to numbers: accuracy per query, and what accuracy does not
show.

An accuracy metric is a function `(hits bool [Q, K], relevant int [Q], k) -> float64 [Q]` registered
by name; averaging is someone else's job (`evaluate.statistics`). Everything compares item numbers,
never titles. Knows nothing about which method made a slate, and nothing about files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import SupportsFloat

import numpy as np
from numpy.typing import NDArray

from groundrec.core.errors import ArtifactError, ConfigError, SearchError
from groundrec.core.registry import names, resolve
from groundrec.core.types import NO_ITEM, Queries, Ragged, Slates

__all__ = [
    "SLICES",
    "beyond_accuracy",
    "by_slice",
    "coverage",
    "exposure",
    "find_hits",
    "gini",
    "hit_rate",
    "invalid_share",
    "metric_function",
    "mrr",
    "ndcg",
    "novelty",
    "per_query",
    "popularity_bands",
    "popularity_lift",
    "repeat_rate",
    "unfilled_share",
]

Values = NDArray[np.float64]
Hits = NDArray[np.bool_]
Counts = NDArray[np.integer]

SLICES = ("head", "middle", "tail")
"""Thirds of the training interactions, from the most popular items to the rarest."""


def hit_rate(hits: Hits, relevant: Counts, k: int) -> Values:
    """Return 1 where any of the first `k` places holds a target, else 0. Shape: [Q]."""
    return np.where(hits[:, :k].any(axis=1), 1.0, 0.0)


def ndcg(hits: Hits, relevant: Counts, k: int) -> Values:
    """Return the discounted gain of the first `k` places over the best possible one. Shape: [Q].

    DCG = Σ_j hit_j / log2(j + 1), divided by the DCG of min(k, relevant) hits in the first places
    (Järvelin and Kekäläinen 2002, binary gains). 0 for a query without targets.
    """
    discount = 1 / np.log2(np.arange(2, k + 2))
    gained = np.cumsum(hits[:, :k] * discount[: hits.shape[1]], axis=1)[:, -1]
    ideal = np.concatenate([[np.inf], np.cumsum(discount)])[np.minimum(relevant, k)]
    return gained / ideal


def mrr(hits: Hits, relevant: Counts, k: int) -> Values:
    """Return 1 / the place of the first target among the first `k` places, 0 where there is none.
    Shape: [Q].
    """
    top = hits[:, :k]
    return top.any(axis=1) / (top.argmax(axis=1) + 1.0)


def find_hits(slates: Slates, queries: Queries) -> tuple[Hits, NDArray[np.int64]]:
    """Return which places hold a target, bool [Q, K], and the number of distinct targets, int64
    [Q].

    Rows follow `queries`, whatever the order of `slates`. An item that a slate repeats is a hit
    only once. Raises `ArtifactError` unless both hold the same query ids, each once.
    """
    items = _aligned(slates, queries)
    rows = np.arange(len(queries), dtype=np.int64)[:, None]
    width = 1 + max(items.max(initial=0), queries.targets.values.max(initial=0))
    wanted = np.unique(queries.targets.rows * width + queries.targets.values)
    keys = np.where(items < 0, -1, rows * width + items).ravel()
    places = np.flatnonzero(np.isin(keys, wanted))
    hits = np.zeros(items.size, np.bool_)
    hits[places[np.unique(keys[places], return_index=True)[1]]] = True
    return hits.reshape(items.shape), np.bincount(wanted // width, minlength=len(queries))


def per_query(
    slates: Slates,
    queries: Queries,
    ks: Sequence[int],
    metrics: Sequence[str] = ("hr", "ndcg", "mrr"),
) -> dict[str, Values]:
    """Return `{"ndcg@10": float64 [Q], …}` for every metric at every cut-off, in the order of
    `queries`.

    Raises `ArtifactError` where the query ids differ, `SearchError` where a cut-off exceeds the
    width of the slates.
    """
    hits, relevant = find_hits(slates, queries)
    functions = {name: resolve("metrics", name) for name in metrics}
    for k in ks:
        _check_cutoff(k, slates)
    return {
        f"{name}@{k}": function(hits, relevant, k)
        for name, function in functions.items()
        for k in ks
    }


def metric_function(name: str) -> Callable[[Slates, Queries], Values]:
    """Return the function `(slates, queries) -> float64 [Q]` that a name such as `ndcg@10` stands
    for.

    Raises `ConfigError` where the name is not `metric@k` or the metric is unknown.
    """
    match = re.fullmatch(r"([^@]+)@([1-9]\d*)", name)
    if not match:
        known = ", ".join(f"{metric}@10" for metric in names("metrics"))
        raise ConfigError(
            "not a metric at a cut-off", value=name, accepted=f"metric@k, for example {known}"
        )
    metric = match[1]
    k = int(match[2])
    resolve("metrics", metric)
    return lambda slates, queries: per_query(slates, queries, [k], [metric])[name]


def popularity_bands(popularity: Counts, bands: int) -> NDArray[np.int64]:
    """Return each item's band: 0 holds the most popular items that make up the first 1/`bands` of
    all interactions.

    Items are ordered by falling popularity, ties by item number; an item belongs to the band in
    which its own interactions begin, an item never seen to the last. Shape: [I].
    """
    order = np.argsort(-popularity, kind="stable")
    counts = popularity[order].astype(np.int64)
    before = np.cumsum(counts) - counts
    band = np.empty(len(counts), np.int64)
    band[order] = np.minimum(bands * before // max(counts.sum(), 1), bands - 1)
    return band


def by_slice(
    slates: Slates, queries: Queries, popularity: Counts, metric: str
) -> dict[str, Values]:
    """Return `metric` per query for the targets of each of `SLICES` alone; NaN where a query has
    none of them.

    Shape of each value: [Q].
    """
    band = popularity_bands(popularity, len(SLICES))[queries.targets.values]
    value_of = metric_function(metric)
    result = {}
    for number, name in enumerate(SLICES):
        part = _with_targets(queries, band == number)
        result[name] = np.where(part.targets.lengths > 0, value_of(slates, part), np.nan)
    return result


def coverage(slates: Slates, items: int, k: int) -> float:
    """Return the share of the catalogue that stands in the first `k` places of any slate (Ge et al.
    2010).
    """
    return float(np.count_nonzero(_shown(slates, items, k))) / items


def gini(slates: Slates, items: int, k: int) -> float:
    """Return how unequally the first `k` places are shared out among all items: 0 evenly, near 1
    all to one.

    G = Σ_i (2i - I - 1) x_i / (I Σ x), x the exposure counts in rising order, i = 1 … I (Fleder and
    Hosanagar 2009). NaN where nothing is recommended.
    """
    counts = np.sort(_shown(slates, items, k))
    rank = 2 * np.arange(1, items + 1) - items - 1
    return _ratio(np.sum(rank * counts), items * counts.sum())


def novelty(slates: Slates, popularity: Counts, k: int) -> float:
    """Return the mean self-information in bits of the items in the first `k` places (Zhou et al.
    2010).

    -log2 p(item), p = (popularity + 1) / (Σ popularity + I): add-one smoothing keeps unseen items finite.
    """
    bits = -np.log2((popularity + 1) / (popularity.sum() + len(popularity)))
    counts = _shown(slates, len(popularity), k)
    return _ratio(np.sum(counts * bits), counts.sum())


def popularity_lift(slates: Slates, queries: Queries, popularity: Counts, k: int) -> float:
    """Return how much more popular the first `k` places are than what people had taken before: 0
    equally, 1 twice.

    (GAP_recommended - GAP_history) / GAP_history, GAP the mean over queries of a list's mean
    popularity, queries with an empty list left out (Abdollahpouri et al. 2019).
    """
    top = _aligned(slates, queries)[:, :k]
    valid = _valid(top, len(popularity))
    shown = np.where(valid, popularity[np.where(valid, top, 0)], 0).sum(axis=1)
    past = np.bincount(queries.history.rows, popularity[queries.history.values], len(queries))
    before = _mean_of_means(past, queries.history.lengths)
    return _ratio(_mean_of_means(shown, valid.sum(axis=1)) - before, before)


def repeat_rate(slates: Slates, queries: Queries, items: int, k: int) -> float:
    """Return the share of the items in the first `k` places that the query's history already holds."""
    top = _aligned(slates, queries)[:, :k]
    valid = _valid(top, items)
    keys = np.arange(len(queries), dtype=np.int64)[:, None] * items + top
    known = np.isin(keys, queries.history.rows * items + queries.history.values)
    return _ratio(np.count_nonzero(known & valid), np.count_nonzero(valid))


def invalid_share(slates: Slates, items: int, k: int) -> float:
    """Return the share of the first `k` places that name no item though they should.

    A place is invalid if its number is neither an item of the catalogue nor -1, or if it is -1 and
    a later place of the slate is filled.
    """
    wrong = ~_valid(slates.items, items) & ~_unfilled(slates)
    return _ratio(np.count_nonzero(wrong[:, :k]), wrong[:, :k].size)


def unfilled_share(slates: Slates, k: int) -> float:
    """Return the share of the first `k` places left empty (-1) at the end of a slate."""
    empty = _unfilled(slates)[:, :k]
    return _ratio(np.count_nonzero(empty), empty.size)


def exposure(slates: Slates, popularity: Counts, k: int, bands: int = 10) -> Values:
    """Return how the first `k` places are shared out among `popularity_bands`, most popular first.
    Shape: [bands].

    A method that shows every item in proportion to its popularity gives about 1/`bands` to each.
    """
    counts = _shown(slates, len(popularity), k)
    shares = np.bincount(popularity_bands(popularity, bands), counts, bands)
    return shares / max(counts.sum(), 1)


def beyond_accuracy(
    slates: Slates, queries: Queries, popularity: Counts, k: int
) -> dict[str, float]:
    """Return every measure beyond accuracy at cut-off `k`, by name.

    Raises `ArtifactError` where the query ids differ, `SearchError` where `k` exceeds the width of
    the slates.
    """
    _check_cutoff(k, slates)
    items = len(popularity)
    return {
        "coverage": coverage(slates, items, k),
        "gini": gini(slates, items, k),
        "novelty": novelty(slates, popularity, k),
        "popularity_lift": popularity_lift(slates, queries, popularity, k),
        "repeat_rate": repeat_rate(slates, queries, items, k),
        "invalid": invalid_share(slates, items, k),
        "unfilled": unfilled_share(slates, k),
    }


def _aligned(slates: Slates, queries: Queries) -> NDArray[np.int32]:
    of_slates = np.argsort(slates.query_ids)
    of_queries = np.argsort(queries.ids)
    have = slates.query_ids[of_slates]
    want = queries.ids[of_queries]
    if not np.array_equal(have, want) or np.any(have[1:] == have[:-1]):
        both = len(np.intersect1d(have, want))
        raise ArtifactError(
            "the slates do not answer these queries, each once",
            value=f"{len(have)} slates, {len(want)} queries, {both} query ids in common",
            accepted="one slate per query, with the same query ids",
            next_step="recommend again for this dataset and split",
        )
    row = np.empty(len(want), np.int64)
    row[of_queries] = of_slates
    return slates.items[row]


def _check_cutoff(k: int, slates: Slates) -> None:
    if not 1 <= k <= slates.k:
        raise SearchError(
            "a metric's cut-off does not fit the slates",
            value=k,
            accepted=f"1 to {slates.k}, the number of places in a slate",
            next_step="raise recommend.k or lower evaluate.ks",
        )


def _with_targets(queries: Queries, keep: NDArray[np.bool_]) -> Queries:
    lengths = np.bincount(queries.targets.rows[keep], minlength=len(queries))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    targets = Ragged(queries.targets.values[keep], offsets)
    return Queries(queries.ids, queries.users, queries.times, queries.history, targets)


def _valid(places: NDArray[np.int32], items: int) -> NDArray[np.bool_]:
    return (places >= 0) & (places < items)


def _unfilled(slates: Slates) -> NDArray[np.bool_]:
    filled = slates.items != NO_ITEM
    return ~np.logical_or.accumulate(filled[:, ::-1], axis=1)[:, ::-1]


def _shown(slates: Slates, items: int, k: int) -> NDArray[np.int64]:
    top = slates.items[:, :k]
    return np.bincount(top[_valid(top, items)], minlength=items)


def _ratio(part: SupportsFloat, whole: SupportsFloat) -> float:
    return float(part) / float(whole) if whole else float("nan")


def _mean_of_means(totals: NDArray[np.number], lengths: NDArray[np.integer]) -> float:
    filled = lengths > 0
    return _ratio((totals[filled] / lengths[filled]).sum(), np.count_nonzero(filled))
