"""Orders of whole numbers, against Python's own sorting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundrec.data.arrays import stable_argsort

SMALL, WIDE = st.integers(-3, 3), st.integers(-(2**62), 2**62)


@given(numbers=st.lists(SMALL | st.integers(0, 2**18) | WIDE, max_size=40))
def test_equal_numbers_stay_in_their_order(numbers: list[int]) -> None:
    assert stable_argsort(np.array(numbers, np.int64)).tolist() == sorted(
        range(len(numbers)), key=numbers.__getitem__
    )


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64])
def test_the_ends_of_a_type_are_in_order(dtype: type[np.signedinteger]) -> None:
    ends = np.iinfo(dtype)
    assert stable_argsort(np.array([ends.max, 0, ends.min, -1, ends.max], dtype)).tolist() == [
        2,
        3,
        1,
        0,
        4,
    ]
