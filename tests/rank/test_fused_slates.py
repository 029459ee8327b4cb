"""Slates by model and signal together: the whole catalogue's best, however the model is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from groundrec.core.errors import SearchError
from groundrec.core.types import NO_ITEM, Queries, Ragged, Scores, Slates
from groundrec.rank.fuse import mix, slates_to_scores
from groundrec.rank.recommend import SearchRanker
from groundrec.rank.search.goals import FusedSignal
from tests.rank.test_recommend import ITEMS, queries, recommender

K = 10


def scores_of(some: Queries) -> Scores:
    """Return a signal's scores, of which each row depends on its query alone; a tenth is -inf."""
    rows = [np.random.default_rng(query).normal(0, 2, ITEMS) for query in some.ids]
    refused = [np.random.default_rng([1, query]).random(ITEMS) < 0.1 for query in some.ids]
    return np.where(refused, -np.inf, rows).astype(np.float32)


def model_scores(score: str, some: Queries) -> Scores:
    """Return the model's score of every item that may be recommended."""
    everything = recommender(mode="exhaustive", score=score, k=ITEMS).slates(some, ITEMS)
    scores = slates_to_scores(everything, ITEMS)
    listed = np.zeros(scores.shape, bool)
    rows, ranks = np.nonzero(everything.items != NO_ITEM)
    listed[rows, everything.items[rows, ranks]] = True
    return np.where(listed, scores, np.float32(-np.inf))


@pytest.mark.parametrize("mode", ["exact", "exhaustive"])
@pytest.mark.parametrize("score", ["full", "renormalised"])
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_fused_slates_are_the_best_of_the_mixed_catalogue(
    mode: str, score: str, alpha: float
) -> None:
    some = queries()
    signal = FusedSignal(scores_of(some), alpha)
    expected = Slates.from_scores(some.ids, mix(model_scores(score, some), signal.scores, alpha), K)
    found = recommender(mode=mode, score=score).slates(some, K, signal=signal)
    assert found.items.tolist() == expected.items.tolist()
    # The same up to one number for each query.
    apart = np.where(expected.items == NO_ITEM, np.nan, found.scores - expected.scores)
    assert np.nanmax(np.nanmax(apart, 1) - np.nanmin(apart, 1)) < 1e-4


def test_fused_slates_do_not_depend_on_the_batch_and_keep_to_the_lists() -> None:
    some = queries()
    allow = Ragged.of([np.arange(0, ITEMS, 2)] * len(some))
    deny = Ragged.of([[0, 4]] * len(some))
    ranker = recommender(mode="exact")
    signal = FusedSignal(scores_of(some), 0.5)
    together = ranker.slates(some, K, allow, deny, signal)
    for i in range(len(some)):
        part = some.take(np.array([i]))
        row = replace(signal, scores=scores_of(part))
        alone = ranker.slates(part, K, allow.take(np.array([i])), deny.take(np.array([i])), row)
        assert alone.items.tolist() == together.items[i : i + 1].tolist()
        listed = set(together.items[i].tolist()) - {NO_ITEM}
        assert listed.isdisjoint({0, 4, *some.history[i].tolist()})
        assert all(item % 2 == 0 for item in listed)


def test_slates_of_the_signal_alone_load_no_model() -> None:
    def refuse() -> Any:
        raise AssertionError("the model is loaded")

    ranker = recommender(mode="exact")
    unloaded = SearchRanker(replace(ranker.inputs, load=refuse, folder=Path()))
    some = queries()
    found = unloaded.slates(some, K, signal=FusedSignal(scores_of(some), 0.0))
    seen = scores_of(some)
    seen[some.history.rows, some.history.values] = -np.inf
    assert found.items.tolist() == Slates.from_scores(some.ids, seen, K).items.tolist()
    with pytest.raises(AssertionError, match="is loaded"):
        unloaded.slates(some, K, signal=FusedSignal(scores_of(some), 0.1))


def test_a_beam_search_with_a_signal_is_refused() -> None:
    some = queries()
    signal = FusedSignal(scores_of(some), 0.5)
    with pytest.raises(SearchError) as refused:
        recommender(mode="beam").slates(some, K, signal=signal)
    assert refused.value.next_step == "--set recommend.mode=exact"
    with pytest.raises(SearchError, match="other queries"):
        recommender(mode="exact").slates(some.take(np.array([0])), K, signal=signal)
