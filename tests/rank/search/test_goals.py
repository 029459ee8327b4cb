"""The search for what a model and a signal like together, against a sum over all items."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundrec.core.errors import SearchError
from groundrec.core.types import NO_ITEM, Ragged, Slates
from groundrec.rank.fuse import mix, weighted_sum
from groundrec.rank.search.goals import FusedSignal
from groundrec.rank.search.masks import Mask
from groundrec.rank.search.search import Answer, Search
from groundrec.text.trie import Trie
from tests.rank.models import END, MODELS, VOCABULARY
from tests.rank.search.test_search import Case, cases, same

ALPHAS = [0.0, 0.05, 0.3, 0.5, 0.8, 0.99, 1.0]


@st.composite
def signals(draw: st.DrawFn, shape: tuple[int, int]) -> np.ndarray:
    """Scores with few or many ties, of which some may be -inf. Shape: [Q, I]."""
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    coarse = draw(st.booleans())
    scores = rng.integers(0, 3, shape) if coarse else rng.normal(0, 3, shape)
    refused = rng.random(shape) < draw(st.sampled_from([0.0, 0.3]))
    return np.where(refused, -np.inf, scores).astype(np.float32)


@st.composite
def fused_cases(draw: st.DrawFn) -> tuple[Case, FusedSignal]:
    case = draw(cases())
    scores = draw(signals(case.allowed.shape))
    return case, FusedSignal(scores, draw(st.sampled_from(ALPHAS)))


def brute_force(case: Case, signal: FusedSignal) -> tuple[np.ndarray, np.ndarray]:
    """Return every item's fused score, and which may be recommended. Shapes: [Q, I], twice."""
    allowed = case.allowed & ~np.isneginf(signal.scores)
    lm = np.where(allowed, case.expected(), 0)
    weight = np.where(allowed, np.exp(signal.scores.astype(np.float64)), 0)
    total = weight.sum(1, keepdims=True)
    log_p = np.log(np.where(allowed, weight / np.where(total > 0, total, 1), 1))
    fused = signal.alpha * lm + (1 - signal.alpha) * log_p
    return np.where(allowed, fused, -np.inf), allowed


def found(
    case: Case, signal: FusedSignal, k: int, rows: list[int] | None = None, **how: Any
) -> Answer:
    """Answer some of a case's queries together."""
    rows = list(range(len(case.prompts))) if rows is None else rows
    some = replace(
        case,
        prompts=[case.prompts[r] for r in rows],
        allowed=case.allowed[rows],
        guide=case.guide and replace(case.guide, scores=case.guide.scores[rows]),
    )
    part = replace(signal, scores=signal.scores[rows])
    return some.search().exact(some.prompts, k, some.mask, some.guide, signal=part, **how)


@given(fused_cases(), st.integers(1, 14), st.integers(1, 30))
@settings(max_examples=250, deadline=None)
def test_the_fused_best_are_those_of_all_items(
    pair: tuple[Case, FusedSignal], k: int, width: int
) -> None:
    case, signal = pair
    expected, allowed = brute_force(case, signal)
    answer = found(case, signal, k, width=width)
    same(answer, expected, allowed)
    assert (answer.gap == 0).all()
    if signal.alpha < 1:
        tied = (answer.scores[:, :-1] == answer.scores[:, 1:]) & np.isfinite(answer.scores[:, 1:])
        assert (answer.items[:, :-1] < answer.items[:, 1:])[tied].all()


@given(fused_cases(), st.integers(1, 5))
@settings(max_examples=80, deadline=None)
def test_a_batch_gives_the_fused_slates_of_its_queries_alone(
    pair: tuple[Case, FusedSignal], k: int
) -> None:
    case, signal = pair
    together = found(case, signal, k)
    for row in range(len(case.prompts)):
        alone = found(case, signal, k, [row])
        np.testing.assert_allclose(alone.scores[0], together.scores[row], atol=1e-4)
        expected = brute_force(case, signal)[0][row]
        gaps = np.diff(np.sort(expected[np.isfinite(expected)]))
        if (gaps > 1e-3).all():  # else rounding may turn two items round
            assert (alone.items[0] == together.items[row]).all()


@given(fused_cases(), st.integers(1, 14))
@settings(max_examples=100, deadline=None)
def test_the_model_alone_is_the_search_without_a_signal(
    pair: tuple[Case, FusedSignal], k: int
) -> None:
    case, signal = pair
    finite = replace(signal, scores=np.where(np.isneginf(signal.scores), -9, signal.scores))
    fused, plain = case.search(), case.search()
    answer = fused.exact(
        case.prompts, k, case.mask, case.guide, signal=replace(finite, alpha=1.0), budget=20
    )
    expected = plain.exact(case.prompts, k, case.mask, case.guide, budget=20)
    for name in ("items", "scores", "gap"):
        assert getattr(answer, name).tobytes() == getattr(expected, name).tobytes()
    assert fused.work == plain.work


@given(fused_cases(), st.integers(1, 14))
@settings(max_examples=60, deadline=None)
def test_the_signal_alone_reads_nothing(pair: tuple[Case, FusedSignal], k: int) -> None:
    case, signal = pair
    search = case.search()
    alone = replace(signal, alpha=0.0)
    answer = search.exact(case.prompts, k, case.mask, case.guide, signal=alone)
    masked = np.where(case.allowed, signal.scores, -np.inf).astype(np.float32)
    expected = Slates.from_scores(np.arange(len(masked)), masked, k).items
    assert (answer.items == expected).all()
    assert search.work.tokens == search.work.passes == 0


@given(fused_cases(), st.integers(1, 3), st.integers(1, 8))
@settings(max_examples=100, deadline=None)
def test_a_fused_search_out_of_budget_says_how_much_better_the_truth_may_be(
    pair: tuple[Case, FusedSignal], k: int, budget: int
) -> None:
    case, signal = pair
    expected, allowed = brute_force(case, signal)
    answer = found(case, signal, k, width=1, budget=budget)
    for row, truth in enumerate(expected):
        items = answer.items[row][answer.items[row] != NO_ITEM]
        assert len(items) >= min(1, allowed[row].sum())
        assert allowed[row, items].all()
        np.testing.assert_allclose(truth[items], answer.scores[row][: len(items)], atol=1e-4)
        assert len(set(items)) == len(items)
        assert (np.diff(answer.scores[row][: len(items)]) <= 0).all()
        outside = np.delete(truth, items).max(initial=-np.inf)
        if np.isfinite(answer.gap[row]):
            assert outside <= answer.scores[row, -1] + answer.gap[row] + 1e-4


@given(cases(), st.data(), st.sampled_from([0.2, 0.7]))
@settings(max_examples=60, deadline=None)
def test_scores_are_those_of_mix_less_a_constant_of_the_query(
    case: Case, data: st.DataObject, alpha: float
) -> None:
    case = replace(case, guide=None)
    signal = FusedSignal(data.draw(signals(case.allowed.shape)), alpha)
    everything = case.search().all(case.prompts, case.mask)
    mixed = mix(everything, signal.scores, alpha)
    answer = found(case, signal, len(case.catalogue))
    distinct = len(set(case.catalogue)) == len(case.catalogue)
    for row in range(len(mixed)):
        items = answer.items[row][answer.items[row] != NO_ITEM]
        if not len(items):
            continue
        above = answer.scores[row, : len(items)] - mixed[row, items]
        ranked = np.isfinite(mixed[row])
        of_all = np.log(np.exp(everything[row, ranked].astype(np.float64)).sum())
        np.testing.assert_allclose(above, alpha * of_all, atol=1e-4)
        if case.kind == "renormalised" and distinct and (ranked == case.allowed[row]).all():
            np.testing.assert_allclose(above, 0, atol=1e-4)


@given(cases(), st.data(), st.lists(st.floats(0, 2), min_size=2, max_size=2))
@settings(max_examples=40, deadline=None)
def test_a_weighted_sum_of_signals_is_one_signal(
    case: Case, data: st.DataObject, weights: list[float]
) -> None:
    case = replace(case, guide=None)
    several = [data.draw(signals(case.allowed.shape)) for _ in weights]
    everything = case.search().all(case.prompts, case.mask)
    expected = weighted_sum([everything, *several], [0.5, *weights])
    signal = FusedSignal(weighted_sum(several, [w / 0.5 for w in weights]), 0.5)
    answer = found(case, signal, len(case.catalogue))
    for row in range(len(expected)):
        items = answer.items[row][answer.items[row] != NO_ITEM]
        assert len(items) == np.isfinite(expected[row]).sum()
        assert (np.diff(expected[row, items]) <= 1e-3).all()


def indifferent(name: str) -> Any:
    """Return a model to which every token is equally likely."""
    model = copy.deepcopy(MODELS[name])
    model.lm_head.weight.data.zero_()
    return model


INDIFFERENT = indifferent("llama")


@given(
    st.lists(st.integers(2, VOCABULARY - 1), min_size=1, max_size=30), st.data(), st.integers(1, 8)
)
@settings(max_examples=100, deadline=None)
def test_ties_between_and_within_titles_go_to_the_smaller_item(
    titles: list[int], data: st.DataObject, k: int
) -> None:
    shape = (3, len(titles))
    scores = data.draw(signals(shape))
    denied = data.draw(st.lists(st.integers(1, len(titles)), max_size=len(titles) - 1))
    deny = Ragged.of([[item % len(titles) for item in denied]] * 3)
    trie = Trie.compile(Ragged.of([(title, END) for title in titles]))
    search = Search(INDIFFERENT, trie, data.draw(st.sampled_from(["full", "renormalised"])))
    mask = Mask.of(3, deny=deny)
    alpha = data.draw(st.sampled_from([0.0, 0.4, 0.9]))
    answer = search.exact([[3], [4, 5], [6]], k, mask, signal=FusedSignal(scores, alpha))
    masked = np.where(mask.dense(len(titles)), scores, -np.inf).astype(np.float32)
    assert (answer.items == Slates.from_scores(np.arange(3), masked, k).items).all()


def test_a_slate_out_of_budget_is_completed_by_what_model_and_signal_like() -> None:
    rng = np.random.default_rng(1)
    catalogue = [(*rng.integers(2, VOCABULARY, 6), END) for _ in range(400)]
    search = Search(MODELS["llama"], Trie.compile(Ragged.of(catalogue)))
    scores = np.full((1, 400), -np.inf, np.float32)
    scores[0, search.all([[3, 4]])[0].argsort()[:5]] = [0, 1, 2, 3, 4]  # the model's last five
    answer = search.exact([[3, 4]], 5, signal=FusedSignal(scores, 0.1), width=1, budget=1)
    assert search.work.unproved == 1
    assert answer.items[0].tolist() == scores[0].argsort()[::-1][:5].tolist()


@pytest.mark.parametrize("mode", ["exact", "beam", "all"])
def test_tree_tokens_are_all_but_those_of_the_prompts(mode: str) -> None:
    search = Search(MODELS["llama"], Trie.compile(Ragged.of([(2, 3, END), (2, 4, END), (5, END)])))
    prompts = [[3, 4], [5, 6, 7]]
    ask = {
        "exact": lambda: search.exact(prompts, 3),
        "beam": lambda: search.beam(prompts, 3, 3),
        "all": lambda: search.all(prompts),
    }
    ask[mode]()
    # Below the root: 2, then 3 and 4, and 5; no title's last token is read.
    assert search.work.tree_tokens == 2 * (1 + 2 + 1)
    assert search.work.tokens == search.work.tree_tokens + 2 + 3


def test_a_signal_that_forbids_everything_leaves_an_empty_slate() -> None:
    search = Search(MODELS["llama"], Trie.compile(Ragged.of([(2, END), (3, END), (4, END)])))
    scores = np.array([[-np.inf, -np.inf, 0], [0, 1, 2]], np.float32)
    mask = Mask.of(2, deny=Ragged.of([[2], []]))
    for alpha in (0.0, 0.5, 1.0):
        answer = search.exact([[4], [5]], 2, mask, signal=FusedSignal(scores, alpha))
        assert answer.items[0].tolist() == [NO_ITEM, NO_ITEM]
        assert (answer.items[1] != NO_ITEM).all()
        assert (answer.gap == 0).all()


def test_a_strong_signal_spares_most_of_what_the_model_would_read() -> None:
    rng = np.random.default_rng(1)
    catalogue = [(*rng.integers(2, VOCABULARY, 6), END) for _ in range(400)]
    trie = Trie.compile(Ragged.of(catalogue))
    plain, fused = Search(MODELS["llama"], trie), Search(MODELS["llama"], trie)
    plain.exact([[3, 4]], 5, width=2)
    strong = FusedSignal(np.where(rng.random((1, 400)) < 0.05, 30, 0).astype(np.float32), 0.5)
    fused.exact([[3, 4]], 5, width=2, signal=strong)
    assert fused.work.tree_tokens * 2 < plain.work.tree_tokens
    assert fused.work.tokens - fused.work.tree_tokens == 2


@pytest.mark.parametrize(
    ("scores", "alpha", "message"),
    [
        (np.zeros((1, 2)), -0.1, "alpha must be between 0 and 1"),
        (np.zeros((1, 2)), 1.1, "alpha must be between 0 and 1"),
        (np.zeros((1, 2)), float("nan"), "alpha must be between 0 and 1"),
        (np.zeros((1, 3)), 0.5, "another catalogue"),
        (np.zeros((2, 2)), 0.5, "other queries"),
        (np.array([[0, np.nan]]), 0.5, "NaN or infinity"),
        (np.array([[0, np.inf]]), 0.0, "NaN or infinity"),
    ],
)
def test_a_signal_that_cannot_be_fused_is_refused(
    scores: np.ndarray, alpha: float, message: str
) -> None:
    search = Search(MODELS["llama"], Trie.compile(Ragged.of([(2, END), (3, END)])))
    with pytest.raises(SearchError, match=message):
        search.exact([[2]], 1, signal=FusedSignal(scores.astype(np.float32), alpha))
