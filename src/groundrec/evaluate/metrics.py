"""Metrics of slates: accuracy per query, and what accuracy does not show.

An accuracy metric is a function `(hits bool [Q, K], relevant int [Q], k) -> float64 [Q]` registered
by name; `evaluate.statistics` averages. Slates and targets are compared by item number, never by
title. Knows nothing about files, nor which method made a slate.
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
    "distinct_targets",
    "exposure",
    "find_hits",
    "gini",
    "hit_rate",
    "invalid_share",
    "metric_function",
    "mrr",
    "ndcg",
    "novelty",
    "parse_name",
    "per_query",
    "popularity_bands",
    "popularity_lift",
    "repeat_rate",
    "unfilled_share",
    "values_of_hits",
]

Values = NDArray[np.float64]
Hits = NDArray[np.bool_]
Counts = NDArray[np.integer]

SLICES = ("head", "middle", "tail")
"""The items of each third of the training interactions, from the most popular to the rarest."""


def hit_rate(hits: Hits, relevant: Counts, k: int) -> Values:
    """Return 1 where any of the top `k` items is a target, else 0. Shape: [Q]."""
    return np.where(hits[:, :k].any(axis=1), 1.0, 0.0)


def ndcg(hits: Hits, relevant: Counts, k: int) -> Values:
    """Return the normalised discounted cumulative gain of the top `k`. Shape: [Q].

    DCG = Σ_j hit_j / log2(j + 1), divided by the DCG of min(k, relevant) hits at the top (Järvelin
    and Kekäläinen 2002, binary gains). 0 for a query without targets.
    """
    discount = 1 / np.log2(np.arange(2, k + 2))  # [k]
    # cumsum adds in order whatever the width; sum may not, and would round differently
    gained = np.cumsum(hits[:, :k] * discount[: hits.shape[1]], axis=1)[:, -1]
    # ideal[n] is the DCG of n hits at the top; infinite for n = 0, so that no targets give 0
    ideal = np.concatenate([[np.inf], np.cumsum(discount)])
    return gained / ideal[np.minimum(relevant, k)]


def mrr(hits: Hits, relevant: Counts, k: int) -> Values:
    """Return 1 / rank of the first target in the top `k`, 0 where there is none. Shape: [Q]."""
    top = hits[:, :k]
    return top.any(axis=1) / (top.argmax(axis=1) + 1.0)


def find_hits(slates: Slates, queries: Queries) -> tuple[Hits, NDArray[np.int64]]:
    """Return which slate items are targets, bool [Q, K], and how many distinct targets, int64 [Q].

    Rows are in the order of `queries`, whatever the order of `slates`. If a slate repeats an item,
    only its first position is a hit. Raises `ArtifactError` unless both have the same query ids,
    each once.
    """
    items = _aligned(slates, queries)  # [Q, K]
    rows = queries.targets.rows
    targets = queries.targets.values
    hits = np.zeros(items.shape, np.bool_)
    is_target = items[rows] == targets[:, None]  # [targets, K]
    found = is_target.any(axis=1)
    # argmax gives the first of equal items: a repeated one counts once
    hits[rows[found], is_target[found].argmax(axis=1)] = True
    return hits, distinct_targets(queries)


def distinct_targets(queries: Queries) -> NDArray[np.int64]:
    """Return the number of distinct targets of each query. Shape: [Q]."""
    width = 1 + queries.targets.values.max(initial=0)
    # row * width + item is one key per pair of query and item
    keys = np.unique(queries.targets.rows * width + queries.targets.values)
    return np.bincount(keys // width, minlength=len(queries))


def per_query(
    slates: Slates,
    queries: Queries,
    ks: Sequence[int],
    metrics: Sequence[str] = ("hr", "ndcg", "mrr"),
) -> dict[str, Values]:
    """Return `{"ndcg@10": float64 [Q], …}` for every metric at every cut-off, in the order of
    `queries`.

    Raises `ArtifactError` if the query ids differ, `SearchError` if a cut-off exceeds the slate
    length.
    """
    return values_of_hits(*find_hits(slates, queries), ks, metrics)


def values_of_hits(
    hits: Hits, relevant: NDArray[np.int64], ks: Sequence[int], metrics: Sequence[str]
) -> dict[str, Values]:
    """Return `{"ndcg@10": float64 [Q], …}` from what `find_hits` returns."""
    functions = {name: resolve("metrics", name) for name in metrics}
    for k in ks:
        _check_cutoff(k, hits.shape[1])
    return {
        f"{name}@{k}": function(hits, relevant, k)
        for name, function in functions.items()
        for k in ks
    }


def metric_function(name: str) -> Callable[[Slates, Queries], Values]:
    """Return the function `(slates, queries) -> float64 [Q]` for a name such as `ndcg@10`.

    Raises `ConfigError` if the name is not `metric@k` or the metric is unknown.
    """
    metric, k = parse_name(name)
    return lambda slates, queries: per_query(slates, queries, [k], [metric])[name]


def parse_name(name: str) -> tuple[str, int]:
    """Return the metric and the cut-off of a name such as `ndcg@10`."""
    match = re.fullmatch(r"([^@]+)@([1-9]\d*)", name)
    if not match:
        known = ", ".join(f"{metric}@10" for metric in names("metrics"))
        raise ConfigError(
            "a metric's name needs a cut-off", value=name, accepted=f"metric@k, for example {known}"
        )
    resolve("metrics", match[1])
    return match[1], int(match[2])


def popularity_bands(popularity: Counts, bands: int) -> NDArray[np.int64]:
    """Return each item's band: band 0 has the most popular items, with 1/`bands` of interactions.

    Items are ordered by descending popularity, ties by item number. An item belongs to the band in
    which its own interactions start; one without interactions to the last. Shape: [I].
    """
    order = np.argsort(-popularity, kind="stable")
    counts = popularity[order].astype(np.int64)
    before = np.cumsum(counts) - counts  # interactions of all more popular items
    band = np.empty(len(counts), np.int64)
    band[order] = np.minimum(bands * before // max(counts.sum(), 1), bands - 1)
    return band


def by_slice(
    slates: Slates, queries: Queries, popularity: Counts, metric: str
) -> dict[str, Values]:
    """Return `metric` per query with the targets of one of `SLICES` at a time. Shape of each: [Q].

    A query without a target in a slice is NaN there.
    """
    band = popularity_bands(popularity, len(SLICES))[queries.targets.values]  # one per target
    value_of = metric_function(metric)
    result = {}
    for number, name in enumerate(SLICES):
        part = _with_targets(queries, band == number)
        result[name] = np.where(part.targets.lengths > 0, value_of(slates, part), np.nan)
    return result


def coverage(slates: Slates, items: int, k: int) -> float:
    """Return the share of the catalogue in the top `k` of any slate (Ge et al. 2010)."""
    return float(np.count_nonzero(_shown(slates, items, k))) / items


def gini(slates: Slates, items: int, k: int) -> float:
    """Return the Gini coefficient of exposure in the top `k`: 0 equal, near 1 all one item.

    G = Σ_i (2i - I - 1) x_i / (I Σ x), x the exposure counts in ascending order, i = 1 … I (Fleder
    and Hosanagar 2009). NaN if nothing is recommended.
    """
    counts = np.sort(_shown(slates, items, k))
    rank = 2 * np.arange(1, items + 1) - items - 1
    return _ratio(np.sum(rank * counts), items * counts.sum())


def novelty(slates: Slates, popularity: Counts, k: int) -> float:
    """Return the mean self-information, in bits, of the items in the top `k` (Zhou et al. 2010).

    -log2 p(item), p = (popularity + 1) / (Σ popularity + I): add-one smoothing keeps unseen
    items finite.
    """
    bits = -np.log2((popularity + 1) / (popularity.sum() + len(popularity)))
    counts = _shown(slates, len(popularity), k)
    return _ratio(np.sum(counts * bits), counts.sum())


def popularity_lift(slates: Slates, queries: Queries, popularity: Counts, k: int) -> float:
    """Return how much more popular the top `k` is than the histories: 0 as popular, 1 twice.

    (GAP_recommended - GAP_history) / GAP_history, where GAP is the mean over queries of a list's
    mean popularity, without queries whose list is empty (Abdollahpouri et al. 2019).
    """
    top = _aligned(slates, queries)[:, :k]
    valid = _valid(top, len(popularity))  # [Q, k]
    shown = np.where(valid, popularity[np.where(valid, top, 0)], 0).sum(axis=1)
    past = np.bincount(queries.history.rows, popularity[queries.history.values], len(queries))
    before = _mean_of_means(past, queries.history.lengths)
    return _ratio(_mean_of_means(shown, valid.sum(axis=1)) - before, before)


def repeat_rate(slates: Slates, queries: Queries, items: int, k: int) -> float:
    """Return the share of the items in the top `k` that are already in the query's history."""
    top = _aligned(slates, queries)[:, :k]
    valid = _valid(top, items)
    # one key per pair of query and item; sorted and searched, faster than `isin` for so few keys
    keys = np.arange(len(queries), dtype=np.int64)[:, None] * items + top
    past = np.sort(queries.history.rows * items + queries.history.values)
    at = np.searchsorted(past, keys).clip(max=len(past) - 1)
    known = past[at] == keys if len(past) else np.zeros(keys.shape, np.bool_)
    return _ratio(np.count_nonzero(known & valid), np.count_nonzero(valid))


def invalid_share(slates: Slates, items: int, k: int) -> float:
    """Return the share of the first `k` positions that should name an item but do not.

    A position is invalid if its number is neither an item of the catalogue nor -1, or if it is -1
    while a later position of the slate is filled.
    """
    wrong = ~_valid(slates.items, items) & ~_unfilled(slates)
    return _ratio(np.count_nonzero(wrong[:, :k]), wrong[:, :k].size)


def unfilled_share(slates: Slates, k: int) -> float:
    """Return the share of the first `k` positions left empty (-1) at the end of a slate."""
    empty = _unfilled(slates)[:, :k]
    return _ratio(np.count_nonzero(empty), empty.size)


def exposure(slates: Slates, popularity: Counts, k: int, bands: int = 10) -> Values:
    """Return each popularity band's share of the top `k`, the most popular first. Shape: [bands].

    A method that recommends items in proportion to their popularity gives each about 1/`bands`.
    """
    counts = _shown(slates, len(popularity), k)
    shares = np.bincount(popularity_bands(popularity, bands), counts, bands)
    return shares / max(counts.sum(), 1)


def beyond_accuracy(
    slates: Slates, queries: Queries, popularity: Counts, k: int
) -> dict[str, float]:
    """Return every measure beyond accuracy at cut-off `k`, by name.

    Raises `ArtifactError` if the query ids differ, `SearchError` if `k` exceeds the slate length.
    """
    _check_cutoff(k, slates.k)
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
    """Return the slates' items in the order of `queries`. Shape: [Q, K]."""
    of_slates = np.argsort(slates.query_ids)
    of_queries = np.argsort(queries.ids)
    have = slates.query_ids[of_slates]
    want = queries.ids[of_queries]
    if not np.array_equal(have, want) or np.any(have[1:] == have[:-1]):
        both = len(np.intersect1d(have, want))
        raise ArtifactError(
            "the slates do not belong to these queries",
            value=f"{len(have)} slates, {len(want)} queries, {both} query ids in common",
            accepted="exactly one slate per query, with the same query ids",
            next_step="recommend again for this data set and split",
        )
    # both argsorts list the same ids in ascending order: pair them to get each query's slate
    row = np.empty(len(want), np.int64)
    row[of_queries] = of_slates
    return slates.items[row]


def _check_cutoff(k: int, length: int) -> None:
    if not 1 <= k <= length:
        raise SearchError(
            "a metric's cut-off exceeds the slates",
            value=k,
            accepted=f"1 to {length}, the length of a slate",
            next_step="raise recommend.k or lower evaluate.ks",
        )


def _with_targets(queries: Queries, keep: NDArray[np.bool_]) -> Queries:
    """Return the queries with only the targets to `keep`, one flag per target."""
    lengths = np.bincount(queries.targets.rows[keep], minlength=len(queries))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    targets = Ragged(queries.targets.values[keep], offsets)
    return Queries(queries.ids, queries.users, queries.times, queries.history, targets)


def _valid(numbers: NDArray[np.int32], items: int) -> NDArray[np.bool_]:
    return (numbers >= 0) & (numbers < items)


def _unfilled(slates: Slates) -> NDArray[np.bool_]:
    """Return which positions are empty together with all later ones. Shape: [Q, K]."""
    filled = slates.items != NO_ITEM
    return ~np.logical_or.accumulate(filled[:, ::-1], axis=1)[:, ::-1]


def _shown(slates: Slates, items: int, k: int) -> NDArray[np.int64]:
    """Return how often each item is in the top `k` of a slate. Shape: [I]."""
    top = slates.items[:, :k]
    return np.bincount(top[_valid(top, items)], minlength=items)


def _ratio(part: SupportsFloat, whole: SupportsFloat) -> float:
    return float(part) / float(whole) if whole else float("nan")


def _mean_of_means(totals: NDArray[np.number], lengths: NDArray[np.integer]) -> float:
    filled = lengths > 0
    return _ratio((totals[filled] / lengths[filled]).sum(), np.count_nonzero(filled))
