"""Mixing against the plain definition, one row and one item at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.optimize import minimize
from scipy.special import logsumexp

from groundrec.core.errors import SearchError
from groundrec.core.types import NO_ITEM, Ragged, Scores, Slates
from groundrec.rank import fuse, learn_weights
from groundrec.rank.fuse import (
    KINDS,
    best_weight,
    exclude,
    fused_slates,
    log_softmax,
    mix,
    published_gammas,
    reciprocal_ranks,
    reweight,
    slates_to_scores,
    target_ranks,
    weighted_sum,
    z_scores,
)
from groundrec.rank.learn_weights import learn

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
    expected = [
        plain_log_softmax(np.where(m, row, -np.inf).tolist())
        for row, m in zip(scores, mask, strict=True)
    ]
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
def test_a_constant_added_to_a_row_changes_nothing(
    scores: Scores, shift: np.ndarray, alpha: float
) -> None:
    other = scores[:, ::-1].copy()
    np.testing.assert_allclose(
        mix(scores + shift, other, alpha), mix(scores, other, alpha), rtol=1e-4, atol=1e-4
    )


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
    full = slates_to_scores(slates, 5)
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
    slates = Slates(
        np.array([1]), np.full((1, 2), NO_ITEM, np.int32), np.full((1, 2), -np.inf, np.float32)
    )
    assert len(np.unique(slates_to_scores(slates, 4))) == 1


def test_the_best_weight_is_that_of_the_best_mean_and_the_curve_is_told() -> None:
    grid = [0.0, 0.25, 0.5, 0.75, 1.0]
    values = [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 1, 0], [1, 1, 0, 1], [1, 0, 1, 1]]
    alpha, curve = best_weight(grid, map(np.array, values))
    assert [point.alpha for point in curve] == grid
    assert [point.mean for point in curve] == [0.25, 0.25, 0.25, 0.75, 0.75]
    assert alpha == 0.75, "of two equal ones, the nearer to one half"
    assert curve[0].error == pytest.approx(np.std([0, 0, 0, 1], ddof=1) / 2)
    assert best_weight([0.4, 0.6], map(np.array, [[1.0], [1.0]]))[0] == 0.4, "then the smaller"
    assert best_weight([0.4, 0.6], map(np.array, [[1.0], [1.0]]), neutral=0.9)[0] == 0.6


def test_a_weight_needs_a_grid_and_queries() -> None:
    with pytest.raises(SearchError, match="no alpha"):
        best_weight([], [])
    with pytest.raises(SearchError, match="no validation queries"):
        best_weight([0.5], [np.empty(0)])


target_lists = st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=3, max_size=3)


@given(tables, tables, target_lists, st.sampled_from(sorted(KINDS)))
@settings(max_examples=200, deadline=None)
def test_ranks_of_targets_are_their_places_in_the_fused_slates(
    lm: Scores, cf: Scores, wanted: list[list[int]], name: str
) -> None:
    kind = KINDS[name]
    targets = Ragged.of(wanted)
    grid = [0.0, 0.3, 1.0]
    found = target_ranks(kind, lm, cf, grid, targets)
    for weight, row in zip(grid, found, strict=True):
        slates = fused_slates(np.arange(3), 5, [lm, cf], partial(kind.fused, weight=weight))
        whole = Slates.from_scores(np.arange(3), kind.fused(lm, cf, weight), 5)
        np.testing.assert_array_equal(slates.items, whole.items)
        places = [
            slates.items[q].tolist().index(item) + 1 if item in slates.items[q] else 0
            for q, item in zip(targets.rows, targets.values, strict=True)
        ]
        assert row.tolist() == places


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    lm, cf = rng.normal(size=(2, 23, 40)).astype(np.float32)
    targets = Ragged.of(rng.integers(0, 40, size=(23, 2)))
    weigh = partial(mix, alpha=0.4)

    def found() -> tuple[list[np.ndarray], np.ndarray]:
        ranks = [target_ranks(kind, lm, cf, [0.2, 0.9], targets) for kind in KINDS.values()]
        return ranks, fused_slates(np.arange(23), 7, [lm, cf], weigh).scores

    whole, slates = found()
    monkeypatch.setattr(fuse, "BLOCK_CELLS", 120)
    parts, in_parts = found()
    np.testing.assert_array_equal(parts, whole)
    np.testing.assert_array_equal(in_parts, slates)


# -- other kinds -----------------------------------------------------------------------------------


def both(lm: Scores, cf: Scores, q: int) -> list[int]:
    return [i for i in range(lm.shape[1]) if lm[q, i] > -math.inf and cf[q, i] > -math.inf]


def unit(values: list[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(v - low) / (high - low) if high > low else 0.0 for v in values]


@given(tables, tables, st.sampled_from([0.0, 0.25, 1.0, 7.0, 99.0]))
@settings(max_examples=300, deadline=None)
def test_reweight_is_the_papers_formula_over_what_both_allow(
    lm: Scores, cf: Scores, gamma: float
) -> None:
    found = reweight(lm, cf, gamma)
    for q in range(3):
        items = both(lm, cf, q)
        expected = np.full(5, -np.inf)
        if items:
            d, w = unit([-float(lm[q, i]) for i in items]), unit([float(cf[q, i]) for i in items])
            expected[items] = [-((1 + b) ** -gamma) * a for a, b in zip(d, w, strict=True)]
        np.testing.assert_allclose(found[q], expected, rtol=1e-4, atol=1e-7)


def test_no_gamma_is_the_model_alone_and_a_large_one_the_signal_behind_the_nearest() -> None:
    lm, cf = np.array([[-1, -2, -3, -4]], np.float32), np.array([[5, 1, 2, 9]], np.float32)
    assert order(reweight(lm, cf, 0)[0]) == [0, 1, 2, 3]
    assert order(reweight(lm, cf, 99)[0]) == [0, 3, 2, 1]
    assert order(reweight(lm, np.ones_like(cf), 50)[0]) == [0, 1, 2, 3]


@given(tables, tables, st.floats(0, 1))
@settings(max_examples=300, deadline=None)
def test_ranks_and_standard_scores_by_their_definitions(
    lm: Scores, cf: Scores, alpha: float
) -> None:
    ranks, standard = reciprocal_ranks(lm, cf, alpha), z_scores(lm, cf, alpha)
    for q in range(3):
        items = both(lm, cf, q)
        by_rank, by_z = np.full(5, -np.inf), np.full(5, -np.inf)
        a, b = ([float(s[q, i]) for i in items] for s in (lm, cf))
        for place, i in enumerate(items):
            by_rank[i] = alpha / (60 + rank(a, place)) + (1 - alpha) / (60 + rank(b, place))
            by_z[i] = alpha * z(a, place) + (1 - alpha) * z(b, place)
        np.testing.assert_allclose(ranks[q], by_rank, rtol=1e-5)
        np.testing.assert_allclose(standard[q], by_z, rtol=1e-4, atol=1e-4)


def rank(values: list[float], i: int) -> float:
    """Return the mean of the places that equal values share."""
    return 1 + sum(v > values[i] for v in values) + (sum(v == values[i] for v in values) - 1) / 2


def z(values: list[float], i: int) -> float:
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
    return (values[i] - mean) / spread if spread > 1e-9 else 0.0


def learned(scores: Sequence[Scores], targets: Ragged, size: int = 1000) -> np.ndarray:
    """Return the learned weights, of batches of `size` queries."""

    def batches() -> list[learn_weights.Batch]:
        starts = range(0, len(targets), size)
        rows = [np.arange(start, min(start + size, len(targets))) for start in starts]
        return [([s[r] for s in scores], targets.take(r)) for r in rows]

    return learn(batches)


def test_learned_weights_are_those_the_targets_were_drawn_with() -> None:
    rng = np.random.default_rng(0)
    scores = [rng.normal(size=(6000, 8)).astype(np.float32) * 2 for _ in range(3)]
    true = [1.0, 0.5, 0.0]
    logits = np.add.reduce([w * log_softmax(s) for w, s in zip(true, scores, strict=True)])
    targets = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    weights = learned(scores, Ragged.of(targets[:, None]))
    np.testing.assert_allclose(weights, true, atol=0.06)
    expected = sum(w * log_softmax(s) for w, s in zip(weights, scores, strict=True))
    np.testing.assert_allclose(weighted_sum(scores, weights), expected, rtol=1e-4, atol=1e-4)


def old_learn(
    scores: list[np.ndarray], targets: Ragged
) -> tuple[np.ndarray, Callable[[np.ndarray], float]]:
    """Return the weights that a general minimiser finds, and what it minimises, query by query."""
    allowed = np.all([~np.isneginf(s) for s in scores], axis=0)
    x = [
        [log_softmax(s[[q]], allowed[[q]])[0, allowed[q]].astype(float) for s in scores]
        for q in range(len(allowed))
    ]
    picks = [np.isin(np.flatnonzero(allowed[q]), targets[q]) for q in range(len(allowed))]

    def loss(weights: np.ndarray) -> float:
        total = 1e-4 * weights @ weights
        for own, pick in zip(x, picks, strict=True):
            if pick.any():
                logits = weights @ np.stack(own)
                total -= (logits[pick] - logsumexp(logits)).mean()
        return float(total)

    return (
        minimize(
            loss, np.full(len(scores), 1 / len(scores)), method="BFGS", options={"gtol": 1e-7}
        ).x,
        loss,
    )


@given(
    arrays.arrays(
        np.float32, (2, 4, 5), elements=st.one_of(st.integers(-6, 6).map(float), st.just(-math.inf))
    ),
    st.lists(st.sets(st.integers(0, 4), max_size=2).map(sorted), min_size=4, max_size=4),
)
@settings(max_examples=25, deadline=None)
def test_no_other_weights_are_likelier_than_the_learned_ones(
    table: np.ndarray, wanted: list[list[int]]
) -> None:
    targets, scores = Ragged.of(wanted), list(table)
    assume(any(np.isfinite(table[:, q, i]).all() for q, items in enumerate(wanted) for i in items))
    weights, (other, loss) = learned(scores, targets), old_learn(scores, targets)
    assert loss(weights) <= loss(other) + 1e-6
    assert loss(weights) <= loss(np.ones(2)) + 1e-6


def test_learned_weights_equal_those_of_a_general_minimiser() -> None:
    rng = np.random.default_rng(2)
    scores = [rng.normal(size=(70, 9)).astype(np.float32) * 3 for _ in range(3)]
    scores[1][rng.random((70, 9)) < 0.2] = -np.inf
    targets = Ragged.of(rng.choice(9, rng.integers(0, 3), replace=False) for _ in range(70))
    np.testing.assert_allclose(learned(scores, targets), old_learn(scores, targets)[0], atol=1e-4)


@pytest.mark.parametrize("kept", [0, 70 * 9, 2**20])
@pytest.mark.parametrize("size", [1, 7, 70])
def test_learned_weights_do_not_depend_on_batches_nor_on_what_memory_keeps(
    monkeypatch: pytest.MonkeyPatch, kept: int, size: int
) -> None:
    rng = np.random.default_rng(5)
    scores = [rng.normal(size=(70, 9)).astype(np.float32) * 3 for _ in range(3)]
    targets = Ragged.of(rng.choice(9, rng.integers(0, 3), replace=False) for _ in range(70))
    whole = learned(scores, targets)
    monkeypatch.setattr(learn_weights, "KEPT_CELLS", kept)
    np.testing.assert_allclose(learned(scores, targets, size), whole, atol=1e-4)


def test_equal_scores_share_their_weight() -> None:
    scores = np.random.default_rng(3).normal(size=(40, 6)).astype(np.float32)
    weights = learned([scores, scores], Ragged.of(scores.argmax(1)[:, None]))
    assert weights[0] == pytest.approx(weights[1])
    with pytest.raises(SearchError, match="scores of the signal contain NaN or infinity"):
        learned([scores, np.full_like(scores, np.nan)], Ragged.of([0] for _ in scores))


def test_learning_leaves_out_targets_that_are_not_to_be_ranked() -> None:
    rng = np.random.default_rng(1)
    scores = [rng.normal(size=(50, 6)).astype(np.float32) for _ in range(2)]
    targets = rng.integers(0, 5, 50)
    plain = learned([s[:, :5] for s in scores], Ragged.of(targets[:, None]))
    scores[0][:, 5] = -np.inf
    np.testing.assert_allclose(
        learned(scores, Ragged.of([t, 5] for t in targets)), plain, atol=1e-4
    )
    with pytest.raises(SearchError, match="no targets"):
        learned(scores, Ragged.of([5] for _ in targets))


@pytest.mark.parametrize("combine", [reweight, reciprocal_ranks, z_scores])
def test_scores_that_are_no_numbers_are_refused(combine) -> None:
    good, bad = np.zeros((1, 2), np.float32), np.array([[math.nan, 1]], np.float32)
    with pytest.raises(SearchError, match="scores of the signal contain NaN or infinity: 1 of 2"):
        combine(good, bad, 0.5)


def test_the_published_values_of_gamma() -> None:
    assert published_gammas("popularity") == list(range(100))
    others = published_gammas("sasrec")
    assert others == sorted(set(others))
    assert (len(others), others[0], others[1], others[-1]) == (199, 0, 0.01, 99)
