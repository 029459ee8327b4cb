"""What every registered metric promises, a stranger's included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from groundrec.core.registry import names, resolve

K = 6


@pytest.fixture(params=names("metrics"))
def metric(request: pytest.FixtureRequest) -> Any:
    return resolve("metrics", request.param)


def hits_of(*rows: str) -> np.ndarray:
    return np.array([[place == "x" for place in row] for row in rows])


def test_it_gives_one_float_between_0_and_1_per_query(metric: Any) -> None:
    rng = np.random.default_rng(0)
    relevant = rng.integers(1, 5, size=50)
    hits = rng.random((50, K)).argsort(axis=1) < np.minimum(relevant, 3)[:, None]
    for k in range(1, K + 1):
        values = metric(hits, relevant, k)
        assert values.shape == (50,)
        assert values.dtype == np.float64
        assert values.min() >= 0
        assert values.max() <= 1


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_a_perfect_slate_is_1(metric: Any, k: int) -> None:
    hits = hits_of("x-----", "xxx---", "xxxxxx")
    assert metric(hits, np.array([1, 3, 9]), k).tolist() == [1, 1, 1]


def test_a_slate_without_hits_is_0_with_or_without_targets(metric: Any) -> None:
    assert metric(hits_of("------", "------"), np.array([2, 0]), K).tolist() == [0, 0]


def test_a_query_does_not_depend_on_its_neighbours(metric: Any) -> None:
    hits, relevant = hits_of("x-x---", "-x----", "-----x"), np.array([2, 1, 3])
    together = metric(hits, relevant, 4)
    alone = [metric(hits[[i]], relevant[[i]], 4)[0] for i in range(3)]
    assert together.tolist() == alone


def test_places_past_the_cutoff_do_not_count(metric: Any) -> None:
    assert metric(hits_of("--xxxx"), np.array([4]), 2).tolist() == [0]


def test_a_hit_nearer_the_top_is_never_worse(metric: Any) -> None:
    values = metric(np.eye(K, dtype=bool), np.ones(K, int), K)
    assert (np.diff(values) <= 0).all()


def test_hit_rate_never_falls_as_k_grows() -> None:
    hits = np.random.default_rng(1).random((100, K)) < 0.2
    hit_rate = resolve("metrics", "hr")
    values = np.stack([hit_rate(hits, hits.sum(axis=1), k) for k in range(1, K + 1)])
    assert (np.diff(values, axis=0) >= 0).all()
