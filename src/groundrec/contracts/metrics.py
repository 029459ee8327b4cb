"""The rules for metrics. Knows nothing about particular metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from groundrec.contracts.rules import check_rules

__all__ = ["RULES", "check_metric"]

K = 6
Metric: TypeAlias = Callable[[NDArray[np.bool_], NDArray[np.integer], int], NDArray[np.float64]]


def check_metric(metric: Metric) -> None:
    """Raise `AssertionError` for the first rule that a metric breaks."""
    check_rules(metric, RULES)


def returns_a_float_per_query(metric: Metric) -> None:
    """A metric returns one float64 between 0 and 1 per query, at any cut-off."""
    rng = np.random.default_rng(0)
    relevant = rng.integers(1, 5, size=50)
    hits = rng.random((50, K)).argsort(axis=1) < np.minimum(relevant, 3)[:, None]
    for k in range(1, K + 1):
        values = metric(hits, relevant, k)
        assert (values.shape, values.dtype) == ((50,), np.float64), f"{values.dtype} {values.shape}"
        assert values.min() >= 0, values.min()
        assert values.max() <= 1, values.max()


def is_one_when_perfect(metric: Metric) -> None:
    """The best possible slate has the value 1."""
    hits = _hits("x-----", "xxx---", "xxxxxx")
    relevant = np.array([1, 3, 9])
    for k in (1, 2, 3, K):
        np.testing.assert_allclose(metric(hits, relevant, k), 1, rtol=1e-12)


def is_zero_without_hits(metric: Metric) -> None:
    """A slate without hits has the value 0, and so does a query without targets."""
    np.testing.assert_array_equal(metric(_hits("------", "------"), np.array([2, 0]), K), 0)


def ignores_other_queries(metric: Metric) -> None:
    """A query's value does not depend on other queries."""
    hits = _hits("x-x---", "-x----", "-----x")
    relevant = np.array([2, 1, 3])
    alone = [metric(hits[[i]], relevant[[i]], 4)[0] for i in range(3)]
    np.testing.assert_array_equal(metric(hits, relevant, 4), alone)


def ends_at_the_cutoff(metric: Metric) -> None:
    """Positions after the cut-off do not count."""
    np.testing.assert_array_equal(metric(_hits("--xxxx"), np.array([4]), 2), 0)


def prefers_the_top(metric: Metric) -> None:
    """A hit nearer to the top is never worse."""
    values = metric(np.eye(K, dtype=bool), np.ones(K, int), K)
    assert (np.diff(values) <= 0).all(), values


RULES = (
    returns_a_float_per_query,
    is_one_when_perfect,
    is_zero_without_hits,
    ignores_other_queries,
    ends_at_the_cutoff,
    prefers_the_top,
)


def _hits(*rows: str) -> NDArray[np.bool_]:
    return np.array([[character == "x" for character in row] for row in rows])
