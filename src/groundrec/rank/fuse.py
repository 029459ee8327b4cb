"""Scores of the same items combined, by weights chosen or learned on validation.

`KINDS` are the ways with one weight. Each ranks the items that both have a score for, and no
others. Knows nothing about where scores come from, nor which metric is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from groundrec.core.errors import SearchError
from groundrec.core.types import NO_ITEM, Ragged, Scores, Slates

__all__ = [
    "EPSILON",
    "KINDS",
    "Kind",
    "Point",
    "choose_alpha",
    "exclude",
    "learn",
    "log_softmax",
    "mix",
    "published_gammas",
    "reciprocal_ranks",
    "reweight",
    "slates_to_scores",
    "weighted_sum",
    "z_scores",
]

Combine = Callable[[Scores, Scores, float], Scores]
"""A way to make two scores one by a weight."""
RANKS = 60
PENALTY = 1e-4
STEPS = 100
"""Most Newton steps in which weights are learned."""
ENOUGH = 1e-9
"""Stop when a step would gain less log-likelihood per query."""
BLOCK = 32
"""Queries looked at together while learning: few, so that they stay in the processor's cache."""
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
    if not 0 <= alpha <= 1:
        raise SearchError(
            "alpha must be between 0 and 1", value=alpha, accepted="a number from 0 to 1"
        )
    allowed = ~(np.isneginf(lm) | np.isneginf(signal))
    mixed = np.full(lm.shape, -np.inf, np.float32)
    mixed[allowed] = (
        alpha * log_softmax(lm, allowed)[allowed]
        + (1 - alpha) * log_softmax(signal, allowed)[allowed]
    )
    return mixed


def reweight(lm: Scores, signal: Scores, gamma: float) -> Scores:
    """Return -(1 + w)^(-gamma) * d, BIGRec's injection of popularity or collaborative scores (arXiv
    2308.08434).

    d is the distance, which is minus the language model's score, w the signal's score, both from 0
    to 1 over the items of a query that both have a score for; a signal that scores them alike gives
    0. The nearest item, d = 0, stays first whatever gamma is. Shape: [q, I].
    """
    if not gamma >= 0:
        raise SearchError("gamma is no weight", value=gamma, accepted="a number from 0")
    allowed = _shared(lm, signal)
    w = _unit(signal, allowed)
    d = _unit(-lm, allowed)
    return np.where(allowed, -((1 + w) ** -gamma) * d, -np.inf).astype(np.float32)


def reciprocal_ranks(lm: Scores, signal: Scores, alpha: float) -> Scores:
    """Return alpha / (60 + rank_LM) + (1 - alpha) / (60 + rank_signal); 1/2 is Cormack et al.'s
    (2009). Shape: [q, I].

    Items of one score share their mean rank.
    """
    allowed = _shared(lm, signal)
    a, b = (1 / (RANKS + _ranks(scores, allowed)) for scores in (lm, signal))
    return np.where(allowed, alpha * a + (1 - alpha) * b, -np.inf).astype(np.float32)


def z_scores(lm: Scores, signal: Scores, alpha: float) -> Scores:
    """Return alpha * z_LM + (1 - alpha) * z_signal: scores less a query's mean, in its standard
    deviations. [q, I].
    """
    allowed = _shared(lm, signal)
    a, b = (_standard(scores, allowed) for scores in (lm, signal))
    return np.where(allowed, alpha * a + (1 - alpha) * b, -np.inf).astype(np.float32)


def learn(scores: Sequence[Scores], targets: Ragged) -> NDArray[np.float64]:
    """Return the weights of log-probabilities under which the targets are likeliest. Shape:
    [len(scores)].

    Maximum likelihood of a softmax over the items that all have a score for, weighted sums of
    `log_softmax` as its logits, and a hair of a penalty, so that equal scores share their weight.
    Queries without a target among those items say nothing; raises `SearchError` where none has one.
    """
    allowed = _shared(*scores)
    known = allowed[targets.rows, targets.values]
    if not known.any():
        raise SearchError(
            "no targets to learn weights from", value=0, accepted="at least one validation query"
        )
    queries, rows = np.unique(targets.rows[known], return_inverse=True)
    allowed = allowed[queries]
    table = np.stack([np.where(allowed, log_softmax(s[queries], allowed), 0) for s in scores])
    wanted = table[:, rows, targets.values[known]].astype(np.float64) @ (
        1 / np.bincount(rows)[rows]
    )
    start = np.full(len(scores), 1 / len(scores))
    return _newton_minimize(
        lambda weights: _negative_log_likelihood(weights, table, allowed, wanted),
        start,
        ENOUGH * len(queries),
    )


class _Derivatives(NamedTuple):
    """A convex function at one point."""

    value: float
    gradient: NDArray[np.float64]
    hessian: NDArray[np.float64]


def _newton_minimize(
    at: Callable[[NDArray[np.float64]], _Derivatives], point: NDArray[np.float64], enough: float
) -> NDArray[np.float64]:
    """Return the minimum of a convex function by Newton's method, halving steps that overshoot.

    For few unknowns it evaluates the function far less often than L-BFGS.
    """
    here = at(point)
    for _ in range(STEPS):
        step = np.linalg.solve(here.hessian, here.gradient)
        if here.gradient @ step < enough:
            return point - step
        while (there := at(point - step)).value > here.value - here.gradient @ step / 4:
            step /= 2
        point = point - step
        here = there
    return point


def _negative_log_likelihood(
    weights: NDArray[np.float64],
    table: Scores,
    allowed: NDArray[np.bool_],
    wanted: NDArray[np.float64],
) -> _Derivatives:
    """Return minus the targets' log-likelihood under n weights.

    `table` [n, Q, I] are the scores, `wanted` [n] their sums over the targets.
    """
    value = PENALTY * weights @ weights - weights @ wanted
    gradient = 2 * PENALTY * weights - wanted
    hessian = 2 * PENALTY * np.eye(len(weights))
    for start in range(0, len(allowed), BLOCK):
        rows = slice(start, start + BLOCK)
        x = table[:, rows].astype(np.float64)  # [n, q, I]
        logits = np.where(allowed[rows], np.tensordot(weights, x, 1), -np.inf)  # [q, I]
        top = logits.max(1, keepdims=True)
        p = np.exp(logits - top)
        total = p.sum(1, keepdims=True)
        value += (top + np.log(total)).sum()
        # The gradient of log-sum-exp is the mean of x under p, its Hessian the covariance.
        px = x * (p / total)
        mean = px.sum(2)  # [n, q]
        gradient += mean.sum(1)
        hessian += px.reshape(len(x), -1) @ x.reshape(len(x), -1).T - mean @ mean.T
    return _Derivatives(float(value), gradient, hessian)


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


def choose_alpha(
    lm: Scores,
    signal: Scores,
    grid: Iterable[float],
    measure: Callable[[Slates], NDArray[np.floating]],
    *,
    query_ids: NDArray[np.int64],
    k: int,
    combine: Combine = mix,
    neutral: float = 0.5,
) -> tuple[float, list[Point]]:
    """Return the weight of `grid` whose slates of `k` items have the best mean `measure`, and the
    curve over the grid.

    `measure` gives one value per query. A tie goes to the weight nearest `neutral`, then to the
    smaller one.
    """
    curve = [
        _point(float(w), measure(Slates.from_scores(query_ids, combine(lm, signal, w), k)))
        for w in grid
    ]
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


def _shared(*scores: Scores) -> NDArray[np.bool_]:
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


class Kind(NamedTuple):
    """A way to fuse by one weight, the weight's symbol, what ties go to, its name in a report."""

    combine: Combine
    weight: str
    neutral: float
    label: str


KINDS = {
    "probability": Kind(mix, "α", 0.5, ""),
    "reweight": Kind(reweight, "γ", 0.0, "re-weighted"),
    "reciprocal-rank": Kind(reciprocal_ranks, "α", 0.5, "reciprocal rank"),
    "z-score": Kind(z_scores, "α", 0.5, "z-score"),
}
