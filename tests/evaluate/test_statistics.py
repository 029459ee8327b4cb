"""Intervals that cover, p-values that are right, and corrections that match the book."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from groundrec.core.errors import ArtifactError, ConfigError
from groundrec.evaluate import statistics as module
from groundrec.evaluate.statistics import (
    compare_to_reference,
    holm,
    intervals,
    paired_p,
    standard_error,
)


def correlated(
    rng: np.random.Generator, users: int = 40, each: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """Values of mean 0 whose queries share a user's taste."""
    taste = rng.normal(size=users)
    return np.repeat(taste, each) + 0.1 * rng.normal(size=users * each), np.repeat(
        np.arange(users), each
    )


def test_intervals_cover_the_true_mean_although_queries_of_a_user_are_correlated() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        values, users = correlated(rng)
        found = intervals({"x": values}, users, samples=300, seed=trial)["x"]
        covered += found.low <= 0 <= found.high
    assert 0.89 <= covered / 200 <= 0.98


def test_an_interval_agrees_with_the_standard_error_of_clustered_data() -> None:
    values, users = correlated(np.random.default_rng(1), users=200)
    found = intervals({"x": values}, users, samples=4000)["x"]
    assert found.mean == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(
        2 * 1.96 * standard_error(values, users), rel=0.06
    )


def test_standard_error_is_the_textbook_one_for_one_query_per_user() -> None:
    values = np.array([1.0, 2.0, 4.0, 9.0])
    assert standard_error(values, np.arange(4)) == pytest.approx(values.std(ddof=1) / 2)
    assert standard_error(np.repeat(values, 3), np.repeat(np.arange(4), 3)) == pytest.approx(
        values.std(ddof=1) / 2
    )
    assert math.isnan(standard_error(values, np.zeros(4)))


def test_intervals_are_the_same_for_the_same_seed_and_in_any_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values, users = correlated(np.random.default_rng(2))
    whole = intervals({"x": values}, users, seed=5)
    monkeypatch.setattr(module, "_CELLS", 1000)
    assert intervals({"x": values}, users, seed=5) == whole
    assert intervals({"x": values}, users, seed=6) != whole


def test_a_nan_does_not_count_and_a_column_of_them_has_no_mean() -> None:
    values = np.array([1.0, np.nan, 3.0, np.nan])
    found = intervals({"some": values, "none": values * np.nan}, np.arange(4))
    assert found["some"].mean == 2
    assert 1 <= found["some"].low <= found["some"].high <= 3
    assert math.isnan(found["none"].mean)
    assert math.isnan(found["none"].low)


def test_no_samples_give_a_mean_without_an_interval() -> None:
    found = intervals({"x": np.array([1.0, 3.0])}, np.arange(2), samples=0)["x"]
    assert found.mean == 2
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_identical_methods_have_p_1() -> None:
    values, users = correlated(np.random.default_rng(3))
    assert paired_p({"a": values, "b": values.copy()}, "a", users) == {"b": 1.0}


def test_a_planted_difference_is_found_and_noise_is_not() -> None:
    rng = np.random.default_rng(4)
    base, users = correlated(rng)
    better = base + 0.2 + 0.1 * rng.normal(size=len(base))
    noise = base + rng.permutation(np.repeat([0.1, -0.1], len(base) // 2))
    found = compare_to_reference({"base": base, "better": better, "noise": noise}, "base", users)
    assert found["better"].p == pytest.approx(1 / 10_001)
    assert found["better"].difference == pytest.approx(0.2, abs=0.03)
    assert found["better"].adjusted == pytest.approx(2 / 10_001)
    assert found["noise"].p > 0.05


def test_p_is_the_share_of_all_sign_flips_of_whole_users() -> None:
    users = np.array(["a", "a", "b", "c", "d", "d", "e", "f", "g"])
    difference = np.array([0.3, 0.1, -0.1, 0.4, 0.2, -0.1, 0.2, 0.0, 0.5])
    sums = np.array([difference[users == user].sum() for user in np.unique(users)])
    flips = np.array(list(itertools.product([-1, 1], repeat=len(sums)))) @ sums
    exact = np.mean(np.abs(flips) >= abs(sums.sum()) - 1e-12)
    found = paired_p({"a": np.zeros(9), "b": difference}, "a", users, permutations=40_000)["b"]
    assert found == pytest.approx(exact, abs=0.01)


def test_one_user_with_many_queries_proves_nothing() -> None:
    better = np.ones(500)
    assert paired_p({"a": better * 0, "b": better}, "a", np.zeros(500)) == {"b": 1.0}


def test_p_values_are_the_same_for_the_same_seed_and_in_any_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(5)
    base, users = correlated(rng, users=37)
    columns = {"a": base, "b": base + rng.normal(size=len(base))}
    whole = paired_p(columns, "a", users, permutations=999)
    monkeypatch.setattr(module, "_CELLS", 400)
    assert paired_p(columns, "a", users, permutations=999) == whole


def test_holm_by_hand() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ArtifactError, match="one value per query"):
        intervals({"x": np.ones(3)}, np.arange(4))
    with pytest.raises(ConfigError, match="unknown method"):
        paired_p({"x": np.ones(3)}, "y", np.arange(3))
    assert paired_p({"x": np.ones(3)}, "x", np.arange(3)) == {}
