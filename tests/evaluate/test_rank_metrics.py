"""Metrics from ranks against metrics of the slates that have these ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundrec.core.errors import SearchError
from groundrec.core.order import ranks
from groundrec.core.registry import names
from groundrec.core.types import Queries, Ragged, Slates
from groundrec.evaluate.metrics import metric_function, per_query
from groundrec.evaluate.rank_metrics import RankMetrics

ITEMS = 7
K = 5
KS = [1, 3, 5]


@given(
    st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=4), min_size=1, max_size=6),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=200, deadline=None)
def test_they_are_the_metrics_of_the_slates(wanted: list[list[int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, size=(len(wanted), ITEMS)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.2] = -np.inf
    targets = Ragged.of(wanted)
    queries = Queries.of(Ragged.of([[]] * len(wanted)), 0)
    queries = Queries(queries.ids, queries.users, queries.times, queries.history, targets)
    slates = Slates.from_scores(queries.ids, scores, K)
    found = ranks(scores, targets.rows, targets.values)
    measure = RankMetrics(queries, K)
    expected = per_query(slates, queries, KS, names("metrics"))
    values = measure.per_query(found, KS, names("metrics"))
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(values[name], value)
    np.testing.assert_array_equal(
        measure.value("ndcg@3", found), metric_function("ndcg@3")(slates, queries)
    )


def test_a_cutoff_beyond_the_slates_is_refused() -> None:
    queries = Queries.of(Ragged.of([[0]]), 0)
    with pytest.raises(SearchError, match="cut-off exceeds"):
        RankMetrics(queries, 3).value("ndcg@4", np.zeros(0, np.int32))
