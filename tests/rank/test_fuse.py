"""Mixing against the plain definition, one row and one item at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from groundrec.core.errors import SearchError
from groundrec.core.types import NO_ITEM, Ragged, Scores, Slates
from groundrec.rank.fuse import choose_alpha, dense, exclude, log_softmax, mix

numbers = st.one_of(st.integers(-40, 40).map(float), st.just(-math.inf))
tables = arrays.arrays(np.float32, (3, 5), elements=numbers)


def plain_log_softmax(row: list[float]) -> list[float]:
    finite = [value for value in row if value > -math.inf]
    if not finite:
        return row
    top = max(finite)
    total = top + math.log(sum(math.exp(value - top) for value in finite))
    return [value - total for value in row]


def order(row: np.ndarray) -> list[int]:
    return [int(i) for i in np.argsort(-row, kind="stable") if row[i] > -np.inf]


@given(tables, arrays.arrays(np.bool_, (3, 5)))
@settings(max_examples=200, deadline=None)
def test_log_softmax_is_over_the_mask(scores: Scores, mask: np.ndarray) -> None:
    expected = [plain_log_softmax(np.where(m, row, -np.inf).tolist()) for row, m in zip(scores, mask, strict=True)]
    np.testing.assert_allclose(log_softmax(scores, mask), expected, rtol=1e-5, atol=1e-5)


@given(tables, tables, st.floats(0, 1))
@settings(max_examples=300, deadline=None)
def test_mix_is_the_weighted_sum_of_log_probabilities_over_what_both_allow(
    lm: Scores, cf: Scores, alpha: float
) -> None:
    mixed = mix(lm, cf, alpha)
    for q in range(3):
        both = [i for i in range(5) if lm[q, i] > -math.inf and cf[q, i] > -math.inf]
        a, b = (plain_log_softmax([float(s[q, i]) for i in both]) for s in (lm, cf))
        expected = np.full(5, -np.inf)
        expected[both] = [alpha * x + (1 - alpha) * y for x, y in zip(a, b, strict=True)]
        np.testing.assert_allclose(mixed[q], expected, rtol=1e-4, atol=1e-4)


@given(arrays.arrays(np.float32, (3, 5), elements=st.integers(-40, 40)), tables)
@settings(max_examples=200, deadline=None)
def test_the_ends_of_alpha_are_the_orders_of_the_two(lm: Scores, cf: Scores) -> None:
    for row, a, b in zip(range(3), mix(lm, cf, 1.0), mix(lm, cf, 0.0), strict=True):
        allowed = cf[row] > -np.inf
        assert order(a) == order(np.where(allowed, lm[row], -np.inf))
        assert order(b) == order(cf[row])


@given(tables, arrays.arrays(np.float32, (3, 1), elements=st.integers(-9, 9)), st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_a_constant_added_to_a_row_changes_nothing(scores: Scores, shift: np.ndarray, alpha: float) -> None:
    other = scores[:, ::-1].copy()
    np.testing.assert_allclose(mix(scores + shift, other, alpha), mix(scores, other, alpha), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_alpha_outside_its_range_is_refused(alpha: float) -> None:
    with pytest.raises(SearchError, match="alpha"):
        mix(np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32), alpha)


def test_exclude_removes_the_history_and_leaves_the_given_scores_alone() -> None:
    scores = np.ones((2, 3), np.float32)
    kept = exclude(scores, Ragged.of([[0, 2, 2], []]))
    assert kept.tolist() == [[-np.inf, 1, -np.inf], [1, 1, 1]]
    assert scores.min() == 1


@given(tables, st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_dense_begins_with_the_slate_and_ranks_the_rest_below(scores: Scores, k: int) -> None:
    slates = Slates.from_scores(np.arange(3), scores, k)
    full = dense(slates, 5)
    assert full.shape == (3, 5)
    assert np.isfinite(full).all()
    for slate, values, row in zip(slates.items, slates.scores, full, strict=True):
        inside = [int(i) for i in slate if i != NO_ITEM]
        outside = sorted(set(range(5)) - set(inside))
        assert order(row) == inside + outside
        np.testing.assert_array_equal(row[inside], values[: len(inside)])
        assert len(set(row[outside].tolist())) <= 1
        assert order(log_softmax(row[None])[0]) == order(row)


def test_an_empty_slate_knows_nothing() -> None:
    slates = Slates(np.array([1]), np.full((1, 2), NO_ITEM, np.int32), np.full((1, 2), -np.inf, np.float32))
    assert len(np.unique(dense(slates, 4))) == 1


def hits(targets: list[int]):
    return lambda slates: np.array([float(t in row) for t, row in zip(targets, slates.items, strict=True)])


def test_choose_alpha_finds_the_side_that_knows_and_tells_the_curve() -> None:
    knows, misleads = np.eye(4, dtype=np.float32) * 5, np.roll(np.eye(4, dtype=np.float32) * 9, 1, axis=1)
    grid, measure = [0.0, 0.25, 0.5, 0.75, 1.0], hits([0, 1, 2, 0])
    alpha, curve = choose_alpha(knows, misleads, grid, measure, query_ids=np.arange(4), k=1)
    assert [point.alpha for point in curve] == grid
    assert [point.mean for point in curve] == [0.25, 0.25, 0.25, 0.75, 0.75]
    assert alpha == 0.75, "of two equal ones, the nearer to one half"
    assert curve[0].error == pytest.approx(np.std([0, 0, 0, 1], ddof=1) / 2)
    assert choose_alpha(misleads, knows, grid, measure, query_ids=np.arange(4), k=1)[0] == 0.25


def test_choose_alpha_passes_slates_of_the_given_queries_without_excluded_items() -> None:
    seen: list[Slates] = []

    def measure(slates: Slates) -> np.ndarray:
        seen.append(slates)
        return np.zeros(len(slates))

    lm = exclude(np.array([[3, 2, 1]], np.float32), Ragged.of([[0]]))
    alpha, _ = choose_alpha(
        lm, np.zeros((1, 3), np.float32), [0.0, 0.4, 0.6, 1.0], measure, query_ids=np.array([9]), k=3
    )
    assert alpha == 0.4, "of two equally near ones, the smaller"
    assert all(slates.query_ids.tolist() == [9] for slates in seen)
    assert all(slates.items[0].tolist() == [1, 2, NO_ITEM] for slates in seen)


def test_choose_alpha_refuses_an_empty_grid_and_no_queries() -> None:
    one = np.zeros((1, 2), np.float32)
    with pytest.raises(SearchError, match="no alpha"):
        choose_alpha(one, one, [], hits([0]), query_ids=np.arange(1), k=1)
    with pytest.raises(SearchError, match="no queries"):
        choose_alpha(one[:0], one[:0], [0.5], hits([]), query_ids=np.arange(0), k=1)
