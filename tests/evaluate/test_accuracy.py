"""Accuracy per query: hand-computed cases, and agreement with `ir_measures`."""

from __future__ import annotations

import math

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import RR, Success, nDCG

from groundrec.core.errors import ArtifactError, ConfigError, SearchError
from groundrec.core.types import Queries, Ragged, Slates
from groundrec.evaluate.metrics import (
    by_slice,
    find_hits,
    metric_function,
    per_query,
    popularity_bands,
)


def queries_of(targets: list[list[int]], ids: list[int] | None = None) -> Queries:
    count = len(targets)
    numbers = np.array(ids if ids is not None else range(count), np.int64)
    empty = Ragged.of([[]] * count)
    return Queries(
        numbers, np.array(["u"] * count), np.zeros(count, np.int64), empty, Ragged.of(targets)
    )


def slates_of(items: list[list[int]], ids: list[int] | None = None) -> Slates:
    table = np.array(items, np.int32)
    scores = np.tile(-np.arange(table.shape[1], dtype=np.float32), (len(table), 1))
    return Slates(np.array(ids if ids is not None else range(len(table)), np.int64), table, scores)


def test_values_worked_out_by_hand() -> None:
    slates = slates_of([[7, 3, 5, 1], [7, 3, 5, 1], [9, 8, 6, 2]])
    queries = queries_of([[5], [3, 1, 4], [0]])
    values = per_query(slates, queries, [2, 4])
    assert values["hr@2"].tolist() == [0, 1, 0]
    assert values["hr@4"].tolist() == [1, 1, 0]
    assert values["mrr@4"] == pytest.approx([1 / 3, 1 / 2, 0])
    gained, ideal = 1 / math.log2(3) + 1 / math.log2(5), 1 + 1 / math.log2(3) + 1 / 2
    assert values["ndcg@4"] == pytest.approx([1 / 2, gained / ideal, 0])
    assert values["ndcg@2"] == pytest.approx([0, (1 / math.log2(3)) / (1 + 1 / math.log2(3)), 0])


def test_slates_are_matched_to_queries_by_id_not_by_row() -> None:
    slates = slates_of([[1, 2], [3, 4], [5, 6]], ids=[30, 10, 20])
    queries = queries_of([[3], [6], [1]], ids=[10, 20, 30])
    assert metric_function("mrr@2")(slates, queries).tolist() == [1, 0.5, 1]


@pytest.mark.parametrize("ids", [[1, 2, 4], [1, 2], [1, 2, 2]])
def test_other_query_ids_are_refused(ids: list[int]) -> None:
    with pytest.raises(ArtifactError, match="query ids in common"):
        per_query(
            slates_of([[1]] * len(ids), ids=ids), queries_of([[1], [1], [1]], ids=[1, 2, 3]), [1]
        )


def test_a_cutoff_past_the_slate_is_refused() -> None:
    with pytest.raises(SearchError, match=r"recommend\.k"):
        per_query(slates_of([[1, 2, 3]]), queries_of([[1]]), [3, 4])


@pytest.mark.parametrize(
    "name", ["ndcg", "ndcg@", "ndcg@0", "ndcg@-1", "@10", "ndcg@ten", "ndcg@10@5", "gdcn@10"]
)
def test_a_name_that_is_no_metric_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        metric_function(name)


def test_a_repeated_item_is_one_hit_and_a_repeated_target_one_target() -> None:
    hits, relevant = find_hits(slates_of([[4, 4, 2, 4]]), queries_of([[4, 4, 9]]))
    assert hits.tolist() == [[True, False, False, False]]
    assert relevant.tolist() == [2]


def test_empty_and_foreign_places_are_never_hits() -> None:
    hits, _ = find_hits(slates_of([[-1, 1], [-2, 99], [0, -1]]), queries_of([[0], [8], [9]]))
    assert not hits.any()


def test_no_queries_give_no_values() -> None:
    nothing = Slates(
        np.empty(0, np.int64), np.empty((0, 5), np.int32), np.empty((0, 5), np.float32)
    )
    assert {
        name: len(values) for name, values in per_query(nothing, queries_of([]), [5]).items()
    } == {
        "hr@5": 0,
        "ndcg@5": 0,
        "mrr@5": 0,
    }


CASES = st.lists(
    st.tuples(
        st.lists(st.integers(0, 14), min_size=6, max_size=6, unique=True),
        st.lists(st.integers(0, 14), min_size=1, max_size=9),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(CASES, st.integers(1, 6))
def test_agrees_with_ir_measures(cases: list[tuple[list[int], list[int]]], k: int) -> None:
    slates, queries = (
        slates_of([items for items, _ in cases]),
        queries_of([targets for _, targets in cases]),
    )
    truth = {str(q): {str(item): 1 for item in targets} for q, (_, targets) in enumerate(cases)}
    run = {
        str(q): {str(item): float(-place) for place, item in enumerate(items)}
        for q, (items, _) in enumerate(cases)
    }
    theirs = {"hr": Success @ k, "ndcg": nDCG @ k, "mrr": RR @ k}
    ours = per_query(slates, queries, [k])
    expected = {
        (m.measure, m.query_id): m.value
        for m in ir_measures.iter_calc(list(theirs.values()), truth, run)
    }
    for name, theirs_at_k in theirs.items():
        want = [expected[theirs_at_k, str(q)] for q in range(len(cases))]
        assert ours[f"{name}@{k}"] == pytest.approx(want), name


def test_bands_cut_interactions_not_items_into_equal_parts() -> None:
    assert popularity_bands(np.array([1, 30, 10, 0, 10, 9]), 3).tolist() == [2, 0, 1, 2, 2, 2]
    assert popularity_bands(np.array([5, 5, 5]), 3).tolist() == [0, 1, 2]
    assert popularity_bands(np.array([0, 0]), 3).tolist() == [0, 0]


def test_a_slice_counts_only_its_own_targets() -> None:
    popularity = np.array([5, 5, 5])
    slates, queries = slates_of([[2, 0], [1, 2]]), queries_of([[0, 2], [2]])
    values = by_slice(slates, queries, popularity, "mrr@2")
    assert list(values) == ["head", "middle", "tail"]
    np.testing.assert_array_equal(values["head"], [0.5, np.nan])
    np.testing.assert_array_equal(values["middle"], [np.nan, np.nan])
    np.testing.assert_array_equal(values["tail"], [1, 0.5])
