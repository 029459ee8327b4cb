"""Mixing two scores of the same items: alpha * log p_LM + (1 - alpha) * log p_signal, alpha chosen on validation.

Knows nothing about where scores come from, nor which metric is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from groundrec.core.errors import SearchError
from groundrec.core.types import NO_ITEM, Ragged, Scores, Slates

__all__ = ["HAIR", "Point", "choose_alpha", "dense", "exclude", "log_softmax", "mix"]

HAIR = np.float32(1e-3)
"""How far below a slate's lowest score `dense` puts what is not in the slate."""


class Point(NamedTuple):
    """What one alpha gives on the queries: mean and its standard error."""

    alpha: float
    mean: float
    error: float


def log_softmax(scores: Scores, mask: NDArray[np.bool_] | None = None) -> Scores:
    """Return log-probabilities over the items of `mask` that have a score; -inf elsewhere. Shape: [q, I] → [q, I]."""
    values = scores.astype(np.float64)
    if mask is not None:
        values = np.where(mask, values, -np.inf)
    top = values.max(1, keepdims=True)
    top[np.isneginf(top)] = 0
    total = np.exp(values - top).sum(1, keepdims=True)
    return (values - top - np.log(np.where(total > 0, total, 1))).astype(np.float32)


def mix(lm: Scores, signal: Scores, alpha: float) -> Scores:
    """Return alpha * log p_LM + (1 - alpha) * log p_signal over the items both have a score for; -inf elsewhere.

    Both are made probabilities over those items first. Shape: [q, I].
    """
    if not 0 <= alpha <= 1:
        raise SearchError("alpha is no share", value=alpha, accepted="a number from 0 to 1")
    allowed = ~(np.isneginf(lm) | np.isneginf(signal))
    mixed = np.full(lm.shape, -np.inf, np.float32)
    mixed[allowed] = alpha * log_softmax(lm, allowed)[allowed] + (1 - alpha) * log_softmax(signal, allowed)[allowed]
    return mixed


def exclude(scores: Scores, history: Ragged) -> Scores:
    """Return a copy of `scores` [q, I] with -inf for the items of each query's history."""
    kept = scores.copy()
    kept[history.rows, history.values] = -np.inf
    return kept


def dense(slates: Slates, item_count: int) -> Scores:
    """Return the slates' scores with one for every item, those outside just below the lowest inside. Shape: [Q, I].

    For an exact slate the lowest score bounds all items outside, so this is the best guess of them that changes no
    ranking. An empty slate knows nothing: all its items score alike.
    """
    present = (slates.items != NO_ITEM) & ~np.isneginf(slates.scores)
    lowest = np.where(present, slates.scores, np.inf).min(1, initial=np.inf)
    lowest = np.where(np.isinf(lowest), 0, lowest).astype(np.float32)
    below = lowest - np.maximum(HAIR, np.abs(lowest) * HAIR)
    scores = np.repeat(below[:, None], item_count, axis=1)
    rows, places = np.nonzero(present)
    scores[rows, slates.items[rows, places]] = slates.scores[rows, places]
    return scores


def choose_alpha(
    lm: Scores,
    signal: Scores,
    grid: Iterable[float],
    measure: Callable[[Slates], NDArray[np.floating]],
    *,
    query_ids: NDArray[np.int64],
    k: int,
) -> tuple[float, list[Point]]:
    """Return the alpha of `grid` whose slates of `k` items have the best mean `measure`, and the curve over the grid.

    `measure` gives one value per query. A tie goes to the alpha nearest one half, then to the smaller one.
    """
    curve = [_point(float(alpha), measure(Slates.from_scores(query_ids, mix(lm, signal, alpha), k))) for alpha in grid]
    if not curve:
        raise SearchError("no alpha to choose from", accepted="a grid with at least one value from 0 to 1")
    best = max(curve, key=lambda p: (round(p.mean, 12), -round(abs(p.alpha - 0.5), 12), -p.alpha))
    return best.alpha, curve


def _point(alpha: float, values: NDArray[np.floating]) -> Point:
    if not len(values):
        raise SearchError("no queries to choose alpha on", value=0, accepted="at least one validation query")
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return Point(alpha, float(values.mean()), float(error))
