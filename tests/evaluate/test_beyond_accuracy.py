"""What accuracy does not show, each measure on a case worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundrec.core.errors import ArtifactError, SearchError
from groundrec.core.types import Queries, Ragged, Slates
from groundrec.evaluate import metrics

POPULARITY = np.array([8, 4, 2, 1])


def slates_of(*rows: list[int]) -> Slates:
    items = np.array(rows, np.int32)
    return Slates(np.arange(len(rows)), items, np.zeros(items.shape, np.float32))


def queries_of(*history: list[int]) -> Queries:
    count = len(history)
    nothing = Ragged.of([[0]] * count)
    return Queries(
        np.arange(count),
        np.array(["u"] * count),
        np.zeros(count, np.int64),
        Ragged.of(history),
        nothing,
    )


def test_coverage_counts_an_item_once_and_only_within_the_cutoff() -> None:
    slates = slates_of([0, 1, 3], [1, 0, 3])
    assert metrics.coverage(slates, 4, k=2) == 0.5
    assert metrics.coverage(slates, 4, k=3) == 0.75


def test_gini_is_0_when_every_item_is_shown_equally_and_rises_to_1() -> None:
    assert metrics.gini(slates_of([0, 1], [2, 3]), 4, k=2) == 0
    assert metrics.gini(slates_of([0], [0]), 4, k=1) == pytest.approx(3 / 4)
    assert metrics.gini(slates_of([0, 1], [0, 2]), 4, k=2) == pytest.approx(
        (-3 * 0 - 1 + 1 + 3 * 2) / (4 * 4)
    )


@given(st.lists(st.lists(st.integers(0, 5), min_size=3, max_size=3), min_size=1, max_size=8))
def test_gini_equals_the_mean_absolute_difference(rows: list[list[int]]) -> None:
    counts = np.bincount(np.ravel(rows), minlength=6)
    pairs = np.abs(counts[:, None] - counts[None, :]).sum()
    assert metrics.gini(slates_of(*rows), 6, k=3) == pytest.approx(pairs / (2 * 6 * counts.sum()))


def test_novelty_is_mean_self_information_with_add_one_smoothing() -> None:
    bits = [-math.log2(n / 19) for n in (9, 5)]
    assert metrics.novelty(slates_of([0, 1, 3]), POPULARITY, k=2) == pytest.approx(sum(bits) / 2)
    assert math.isfinite(metrics.novelty(slates_of([1]), np.array([3, 0]), k=1))


def test_popularity_lift_compares_lists_with_histories_query_by_query() -> None:
    slates, queries = slates_of([0, 1], [3, -1]), queries_of([2], [1, 2, 2, 2])
    recommended, before = ((8 + 4) / 2 + 1) / 2, (2 + 10 / 4) / 2
    assert metrics.popularity_lift(slates, queries, POPULARITY, k=2) == pytest.approx(
        recommended / before - 1
    )
    assert metrics.popularity_lift(slates_of([2]), queries_of([2]), POPULARITY, k=1) == 0


def test_a_query_without_history_or_without_items_is_left_out_of_its_mean() -> None:
    slates, queries = slates_of([1], [-1]), queries_of([], [2])
    assert metrics.popularity_lift(slates, queries, POPULARITY, k=1) == pytest.approx(4 / 2 - 1)


def test_repeat_rate_looks_only_at_the_querys_own_history() -> None:
    assert metrics.repeat_rate(
        slates_of([0, 1], [0, -1]), queries_of([1], [1]), 4, k=2
    ) == pytest.approx(1 / 3)


def test_invalid_places_are_told_from_empty_ones() -> None:
    slates = slates_of([0, -1, 2, -1], [4, -7, -1, -1], [-1, -1, -1, -1])
    assert metrics.invalid_share(slates, 4, k=4) == pytest.approx(3 / 12)
    assert metrics.unfilled_share(slates, k=4) == pytest.approx(7 / 12)
    assert metrics.invalid_share(slates, 4, k=1) == pytest.approx(1 / 3)


@given(
    st.lists(st.lists(st.integers(-2, 5), min_size=4, max_size=4), min_size=1), st.integers(1, 4)
)
def test_every_place_is_valid_invalid_or_unfilled(rows: list[list[int]], k: int) -> None:
    slates = slates_of(*rows)
    valid = np.mean([[0 <= item < 4 for item in row[:k]] for row in rows])
    shares = valid + metrics.invalid_share(slates, 4, k) + metrics.unfilled_share(slates, k)
    assert shares == pytest.approx(1)


def test_exposure_is_even_for_recommendations_in_proportion_to_popularity() -> None:
    popularity = np.array([4, 4, 4])
    assert metrics.exposure(slates_of([0], [1], [2]), popularity, k=1, bands=3) == pytest.approx(
        [1 / 3] * 3
    )
    assert metrics.exposure(slates_of([0, 2], [0, -1]), popularity, k=2, bands=3) == pytest.approx(
        [2 / 3, 0, 1 / 3]
    )


def test_nothing_recommended_is_not_a_number_rather_than_a_good_one() -> None:
    found = metrics.beyond_accuracy(slates_of([-1, -1]), queries_of([0]), POPULARITY, k=2)
    assert {name for name, value in found.items() if math.isnan(value)} == {
        "gini",
        "novelty",
        "popularity_lift",
        "repeat_rate",
    }
    assert (found["coverage"], found["invalid"], found["unfilled"]) == (0, 0, 1)


def test_slates_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SearchError):
        metrics.beyond_accuracy(slates_of([1, 2]), queries_of([0]), POPULARITY, k=3)
    with pytest.raises(ArtifactError):
        metrics.beyond_accuracy(slates_of([1, 2]), queries_of([0], [1]), POPULARITY, k=1)
