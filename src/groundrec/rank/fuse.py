"""Scores of the same items combined, by weights chosen on validation.

`KINDS` are the ways with one weight; `rank.learn_weights` learns one for each of several rankers.
Each ranks the items that both have a score for, and no others. Knows nothing about where scores
come from, nor which metric is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from groundrec.core.errors import SearchError
from groundrec.core.order import ranks
from groundrec.core.types import NO_ITEM, Ragged, Scores, Slates

__all__ = [
    "EPSILON",
    "KINDS",
    "PROBABILITY",
    "Kind",
    "Point",
    "best_weight",
    "exclude",
    "fused_slates",
    "log_softmax",
    "mix",
    "published_gammas",
    "reciprocal_ranks",
    "reweight",
    "row_blocks",
    "shared",
    "slates_to_scores",
    "target_ranks",
    "weighted_sum",
    "z_scores",
]

RANKS = 60
BLOCK_CELLS = 2**17
"""Cells of a table that are mixed together."""
EPSILON = np.float32(1e-3)
"""How far below a slate's lowest score `slates_to_scores` puts what is not in the slate."""


class Point(NamedTuple):
    """The mean over queries at one alpha, and its standard error."""

    alpha: float
    mean: float
    error: float


def log_softmax(scores: Scores, mask: NDArray[np.bool_] | None = None) -> Scores:
    """Return log-probabilities over the items of `mask` with a score; -inf elsewhere. [q, I]."""
    values = scores.astype(np.float64)
    if mask is not None:
        values = np.where(mask, values, -np.inf)
    top = values.max(1, keepdims=True)
    top[np.isneginf(top)] = 0
    total = np.exp(values - top).sum(1, keepdims=True)
    return (values - top - np.log(np.where(total > 0, total, 1))).astype(np.float32)


def mix(lm: Scores, signal: Scores, alpha: float) -> Scores:
    """Return alpha * log p_LM + (1 - alpha) * log p_signal over the items both have a score for;
    -inf elsewhere.

    Both are made probabilities over those items first. Shape: [q, I].
    """
    return PROBABILITY.fused(lm, signal, alpha)


def reweight(lm: Scores, signal: Scores, gamma: float) -> Scores:
    """Return -(1 + w)^(-gamma) * d, BIGRec's injection of popularity or collaborative scores (arXiv
    2308.08434).

    d is the distance, which is minus the language model's score, w the signal's score, both from 0
    to 1 over the items of a query that both have a score for; a signal that scores them alike gives
    0. The nearest item, d = 0, stays first whatever gamma is. Shape: [q, I].
    """
    return REWEIGHT.fused(lm, signal, gamma)


def reciprocal_ranks(lm: Scores, signal: Scores, alpha: float) -> Scores:
    """Return alpha / (60 + rank_LM) + (1 - alpha) / (60 + rank_signal); 1/2 is Cormack et al.'s
    (2009). Shape: [q, I].

    Items of one score share their mean rank.
    """
    return RECIPROCAL_RANK.fused(lm, signal, alpha)


def z_scores(lm: Scores, signal: Scores, alpha: float) -> Scores:
    """Return alpha * z_LM + (1 - alpha) * z_signal: scores less a query's mean, in its standard
    deviations. [q, I].
    """
    return Z_SCORE.fused(lm, signal, alpha)


def target_ranks(
    kind: Kind, lm: Scores, signal: Scores, grid: Sequence[float], targets: Ragged
) -> NDArray[np.int32]:
    """Return the rank of every target under every weight of `grid`. Shape: [weights, targets].

    1 for the best item, 0 for one that may not be recommended; ties go to the smaller item number.
    What does not depend on the weight is computed once.
    """
    found = np.empty((len(grid), len(targets.values)), np.int32)
    for rows in row_blocks(lm):
        lm_part, signal_part = kind.prepare(lm[rows], signal[rows])
        here = slice(targets.offsets[rows.start], targets.offsets[rows.stop])
        row = targets.rows[here] - rows.start
        for number, weight in enumerate(grid):
            mixed = kind.combine(lm_part, signal_part, weight)
            found[number, here] = ranks(mixed, row, targets.values[here])
    return found


def fused_slates(
    query_ids: NDArray[np.int64], k: int, scores: Sequence[Scores], fused: Callable[..., Scores]
) -> Slates:
    """Return the `k` best items of each query by `fused(*scores)`, computed for few rows at a time.

    Shapes: `query_ids` [q], each of `scores` [q, I].
    """
    parts = [
        Slates.from_scores(query_ids[rows], fused(*(table[rows] for table in scores)), k)
        for rows in row_blocks(scores[0])
    ]
    return Slates.concatenate(parts)


def row_blocks(scores: Scores) -> Iterator[slice]:
    """Yield slices of so few rows of [q, I] that what is computed of them stays in the cache."""
    rows, items = scores.shape
    size = max(1, BLOCK_CELLS // max(items, 1))
    yield from (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def weighted_sum(
    scores: Sequence[Scores], weights: Sequence[float] | NDArray[np.floating]
) -> Scores:
    """Return the sum of log-probabilities over the items that all have a score for, each times its
    weight. [q, I].
    """
    allowed = np.logical_and.reduce([~np.isneginf(s) for s in scores])
    total = np.zeros(allowed.shape)
    for score, weight in zip(scores, weights, strict=True):
        total += weight * np.where(allowed, log_softmax(score, allowed), 0)
    return np.where(allowed, total, -np.inf).astype(np.float32)


def published_gammas(signal: str) -> list[float]:
    """Return the values of gamma that BIGRec's code tries: whole numbers to 99, and hundredths
    below 1.

    With popularity it tries the whole ones only. Its script for games leaves out 0: there a signal
    is never refused.
    """
    whole = [float(i) for i in range(100)]
    return whole if signal == "popularity" else [i / 100 for i in range(100)] + whole[1:]


def exclude(scores: Scores, history: Ragged) -> Scores:
    """Return a copy of `scores` [q, I] with -inf for the items of each query's history."""
    kept = scores.copy()
    kept[history.rows, history.values] = -np.inf
    return kept


def slates_to_scores(slates: Slates, item_count: int) -> Scores:
    """Return a score for every item: those outside a slate score just below its lowest. [Q, I].

    The lowest score of an exact slate bounds all items outside. With an empty slate, all items
    score alike.
    """
    present = (slates.items != NO_ITEM) & ~np.isneginf(slates.scores)
    lowest = np.where(present, slates.scores, np.inf).min(1, initial=np.inf)
    lowest = np.where(np.isinf(lowest), 0, lowest).astype(np.float32)
    outside = lowest - np.maximum(EPSILON, np.abs(lowest) * EPSILON)
    scores = np.repeat(outside[:, None], item_count, axis=1)
    rows, ranks = np.nonzero(present)
    scores[rows, slates.items[rows, ranks]] = slates.scores[rows, ranks]
    return scores


def best_weight(
    grid: Sequence[float], values: Iterable[NDArray[np.floating]], neutral: float = 0.5
) -> tuple[float, list[Point]]:
    """Return the weight of `grid` with the best mean of `values`, and the curve over the grid.

    `values` holds one array per weight, with one value per query. A tie goes to the weight nearest
    `neutral`, then to the smaller one.
    """
    curve = [_point(weight, value) for weight, value in zip(grid, values, strict=True)]
    if not curve:
        raise SearchError(
            "no alpha to choose from", accepted="a grid with at least one value from 0 to 1"
        )
    best = max(
        curve, key=lambda p: (round(p.mean, 12), -round(abs(p.alpha - neutral), 12), -p.alpha)
    )
    return best.alpha, curve


def _point(alpha: float, values: NDArray[np.floating]) -> Point:
    if not len(values):
        raise SearchError(
            "no validation queries to choose the weight of a signal on",
            value=0,
            accepted=(
                "at least one validation query: a weight chosen on test would flatter the result"
            ),
            next_step="split with validation, or --set fuse.signals=[]",
        )
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return Point(alpha, float(values.mean()), float(error))


def shared(*scores: Scores) -> NDArray[np.bool_]:
    """Return which items all have a score for; raise `SearchError` for NaN and infinity."""
    for i, table in enumerate(scores):
        if (wrong := np.isnan(table) | np.isposinf(table)).any():
            raise SearchError(
                f"the scores of the {'signal' if i else 'language model'} contain NaN or infinity",
                value=f"{int(wrong.sum())} of {wrong.size}",
                accepted="finite scores, or -inf for an item that is not to be ranked",
            )
    return ~np.logical_or.reduce([np.isneginf(table) for table in scores])


def _unit(values: Scores, allowed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return each row scaled to 0…1 over `allowed`; 0 elsewhere, and where all are equal."""
    low = np.where(allowed, values, np.inf).min(1, keepdims=True).astype(np.float64)
    high = np.where(allowed, values, -np.inf).max(1, keepdims=True).astype(np.float64)
    low = np.where(np.isinf(low), 0, low)
    high = np.where(np.isinf(high), 0, high)
    return np.where(allowed, values - low, 0) / np.where(high > low, high - low, 1)


def _ranks(values: Scores, allowed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the rank of each item of `allowed`, 1 for the best."""
    return rankdata(np.where(allowed, -values.astype(np.float64), np.inf), axis=1)


def _standard(values: Scores, allowed: NDArray[np.bool_]) -> NDArray[np.float64]:
    count = np.maximum(allowed.sum(1, keepdims=True), 1)
    mean = np.where(allowed, values, 0).sum(1, keepdims=True, dtype=np.float64) / count
    apart = np.where(allowed, values - mean, 0)
    spread = np.sqrt((apart**2).sum(1, keepdims=True) / count)
    return apart / np.where(spread > 0, spread, 1)


def _log_probabilities(lm: Scores, signal: Scores) -> tuple[Scores, Scores]:
    """Return both as log-probabilities over the items that both have a score for."""
    allowed = ~(np.isneginf(lm) | np.isneginf(signal))
    return log_softmax(lm, allowed), log_softmax(signal, allowed)


def _distances(lm: Scores, signal: Scores) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return d and w of `reweight`; d is infinite where an item may not be recommended."""
    allowed = shared(lm, signal)
    return np.where(allowed, _unit(-lm, allowed), np.inf), _unit(signal, allowed)


def _reciprocal(lm: Scores, signal: Scores) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    allowed = shared(lm, signal)
    a, b = (np.where(allowed, 1 / (RANKS + _ranks(s, allowed)), -np.inf) for s in (lm, signal))
    return a, b


def _standardised(lm: Scores, signal: Scores) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    allowed = shared(lm, signal)
    a, b = (np.where(allowed, _standard(s, allowed), -np.inf) for s in (lm, signal))
    return a, b


def _linear(
    lm: NDArray[np.floating], signal: NDArray[np.floating], alpha: float
) -> NDArray[np.float32]:
    """Return alpha * lm + (1 - alpha) * signal; -inf where both are."""
    if not 0 <= alpha <= 1:
        raise SearchError(
            "alpha must be between 0 and 1", value=alpha, accepted="a number from 0 to 1"
        )
    # 0 * -inf is not a number, whether a weight is 0 or only becomes it in 32 bits.
    if np.float32(alpha) in (0, 1):
        return (lm if alpha > 0.5 else signal).astype(np.float32)
    return (alpha * lm + (1 - alpha) * signal).astype(np.float32, copy=False)


def _shrunk(
    distance: NDArray[np.floating], weight: NDArray[np.floating], gamma: float
) -> NDArray[np.float32]:
    if not gamma >= 0:
        raise SearchError("gamma is no weight", value=gamma, accepted="a number from 0")
    return (-((1 + weight) ** -gamma) * distance).astype(np.float32)


@dataclass(frozen=True)
class Kind:
    """A way to fuse by one weight."""

    prepare: Callable[[Scores, Scores], tuple[NDArray[np.floating], NDArray[np.floating]]]
    """Returns what is combined, of the language model and of the signal. Shapes: [q, I]."""
    combine: Callable[[NDArray[np.floating], NDArray[np.floating], float], Scores]
    symbol: str
    """The weight's symbol."""
    neutral: float
    """The weight that a tie goes to."""
    label: str
    """Its name in a report; empty for the usual way."""

    def fused(self, lm: Scores, signal: Scores, weight: float) -> Scores:
        """Return the fused scores, -inf where either has no score. Shape: [q, I]."""
        return self.combine(*self.prepare(lm, signal), weight)


PROBABILITY = Kind(_log_probabilities, _linear, "α", 0.5, "")
REWEIGHT = Kind(_distances, _shrunk, "γ", 0.0, "re-weighted")
RECIPROCAL_RANK = Kind(_reciprocal, _linear, "α", 0.5, "reciprocal rank")
Z_SCORE = Kind(_standardised, _linear, "α", 0.5, "z-score")

KINDS = {
    "probability": PROBABILITY,
    "reweight": REWEIGHT,
    "reciprocal-rank": RECIPROCAL_RANK,
    "z-score": Z_SCORE,
}
