"""One weight for each of several rankers, all learned at once by maximum likelihood.

Tables of scores are looked at batch by batch: what does not fit into `KEPT_CELLS` is computed anew
for every step of the optimiser. Knows nothing about where scores come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from groundrec.core.errors import SearchError
from groundrec.core.types import Ragged, Scores
from groundrec.rank.fuse import log_softmax, shared

__all__ = ["Batch", "learn"]

Batch: TypeAlias = tuple[Sequence[Scores], Ragged]
"""Every ranker's scores [q, I] of some queries, and these queries' targets."""
PENALTY = 1e-4
STEPS = 100
"""Most Newton steps in which weights are learned."""
ENOUGH = 1e-9
"""Stop when a step would gain less log-likelihood per query."""
BLOCK = 32
"""Queries looked at together: few, so that they stay in the processor's cache."""
KEPT_CELLS = 2**27
"""Most log-probabilities that are kept in memory: 512 MB."""


class _Table(NamedTuple):
    """Log-probabilities of the queries that have a target among the items ranked by all."""

    log_p: NDArray[np.float32]
    """Shape: [n, q, I]; 0 where not allowed."""
    allowed: NDArray[np.bool_]
    """Shape: [q, I]."""
    wanted: NDArray[np.float64]
    """Sum over queries of the mean log-probability of their targets. Shape: [n]."""


def learn(batches: Callable[[], Iterable[Batch]]) -> NDArray[np.float64]:
    """Return the weights of log-probabilities under which the targets are likeliest. Shape: [n].

    `batches()` yields the same batches whenever it is called. Maximum likelihood of a softmax over
    the items that all have a score for, weighted sums of `log_softmax` as its logits, and a small
    penalty, so that equal scores share their weight. Queries without a target among those items say
    nothing; raises `SearchError` where none has one.
    """
    kept: list[_Table] = []
    count = 0
    is_whole = True
    for batch in batches():
        table = _table(batch)
        count += len(table.allowed)
        is_whole = is_whole and sum(one.log_p.size for one in (*kept, table)) <= KEPT_CELLS
        if is_whole or not kept:
            kept.append(table)
    if not count:
        raise SearchError(
            "no targets to learn weights from", value=0, accepted="at least one validation query"
        )
    rankers = len(kept[0].log_p)
    start = np.full(rankers, 1 / rankers)
    of_kept = sum(len(one.allowed) for one in kept)
    weights = _newton_minimize(lambda w: _loss(w, kept), start, ENOUGH * of_kept)
    if is_whole:
        return weights
    # The first batches alone come near: few steps over all of them are left.
    return _newton_minimize(lambda w: _loss(w, map(_table, batches())), weights, ENOUGH * count)


def _table(batch: Batch) -> _Table:
    scores, targets = batch
    allowed = shared(*scores)
    known = allowed[targets.rows, targets.values]
    queries, rows = np.unique(targets.rows[known], return_inverse=True)
    allowed = allowed[queries]
    log_p = np.stack([np.where(allowed, log_softmax(s[queries], allowed), 0) for s in scores])
    of_targets = log_p[:, rows, targets.values[known]].astype(np.float64)  # [n, targets]
    return _Table(log_p, allowed, of_targets @ (1 / np.bincount(rows)[rows]))


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


def _loss(weights: NDArray[np.float64], tables: Iterable[_Table]) -> _Derivatives:
    """Return minus the targets' log-likelihood under n weights, with the penalty."""
    value = PENALTY * weights @ weights
    gradient = 2 * PENALTY * weights
    hessian = 2 * PENALTY * np.eye(len(weights))
    for log_p, allowed, wanted in tables:
        value -= weights @ wanted
        gradient = gradient - wanted
        for start in range(0, len(allowed), BLOCK):
            rows = slice(start, start + BLOCK)
            x = log_p[:, rows].astype(np.float64)  # [n, q, I]
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
