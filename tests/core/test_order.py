"""Best columns and ranks against a full stable sort."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from groundrec.core.errors import SearchError
from groundrec.core.order import best_items, ranks

few_values = st.sampled_from([-math.inf, -2.0, -0.0, 0.0, 1.0, 1.5])
"""So few that ties are common, at the k-th place too."""
tables = arrays.arrays(
    np.float32,
    st.tuples(st.integers(0, 4), st.integers(1, 9)),
    elements=few_values,
)


@given(tables, st.integers(1, 12))
@settings(max_examples=500, deadline=None)
def test_the_best_are_the_first_of_a_stable_sort(scores: np.ndarray, k: int) -> None:
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    found = best_items(scores, k)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)


@given(tables, st.data())
@settings(max_examples=500, deadline=None)
def test_ranks_are_places_in_a_stable_sort(scores: np.ndarray, data: st.DataObject) -> None:
    rows, columns = scores.shape
    cells = data.draw(
        st.lists(st.tuples(st.integers(0, rows - 1), st.integers(0, columns - 1)), max_size=6)
        if rows
        else st.just([])
    )
    one_each = data.draw(st.booleans())
    if one_each:
        cells = [(row, row % columns) for row in range(rows)]
    order = np.argsort(-scores, axis=1, kind="stable").tolist()
    expected = [
        order[row].index(column) + 1 if scores[row, column] > -math.inf else 0
        for row, column in cells
    ]
    at = np.array(cells, np.int64).reshape(-1, 2)
    assert ranks(scores, at[:, 0], at[:, 1]).tolist() == expected


def test_nan_has_no_place() -> None:
    with pytest.raises(SearchError, match="scores contain NaN: 1 of 2"):
        best_items(np.array([[math.nan, 1]]), 1)
