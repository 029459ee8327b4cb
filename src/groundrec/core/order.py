"""The order of scores: descending, ties by column number; the best columns and single ranks.

Neither sorts whole rows. Knows nothing about what columns stand for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from groundrec.core.errors import SearchError

__all__ = ["best_items", "ranks"]


def best_items(scores: NDArray[np.floating], k: int) -> NDArray[np.int32]:
    """Return the columns of the `k` highest scores of each row, or of all where there are fewer.

    Descending; ties go to the smaller column. Shape: [q, I] → [q, min(k, I)]. Raises `SearchError`
    for NaN, which has no place in an order.
    """
    rows, columns = scores.shape
    if np.isnan(scores).any():
        raise SearchError(
            "scores contain NaN", value=f"{int(np.isnan(scores).sum())} of {scores.size}"
        )
    if not rows or k >= columns:
        return np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int32)
    # [q, 1]: the k-th highest score of each row.
    last = np.partition(scores, columns - k, axis=1)[:, columns - k, None]
    chosen = scores >= last
    surplus = np.flatnonzero(np.count_nonzero(chosen, axis=1) > k)
    if len(surplus):
        # More columns tie at the k-th score than there are places: the first ones get them.
        tied = scores[surplus] == last[surplus]
        above = np.count_nonzero(chosen[surplus] & ~tied, axis=1)[:, None]
        chosen[surplus] &= ~tied | (np.cumsum(tied, axis=1, dtype=np.int32) <= k - above)
    # Exactly k columns a row, ascending; a stable sort of these few settles ties.
    found = np.nonzero(chosen)[1].reshape(rows, k)
    order = np.argsort(-np.take_along_axis(scores, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1).astype(np.int32)


def ranks(
    scores: NDArray[np.floating], rows: NDArray[np.integer], columns: NDArray[np.integer]
) -> NDArray[np.int32]:
    """Return the ranks of single cells in their rows: 1 for the highest score, ties by column.

    `rows` and `columns` [T] name the cells of `scores` [q, I]; 0 for a cell with the score -inf.
    """
    if not len(rows):
        return np.zeros(0, np.int32)
    is_one_per_row = len(rows) == len(scores) and np.array_equal(rows, np.arange(len(scores)))
    table = scores if is_one_per_row else scores[rows]  # [T, I]
    own = scores[rows, columns][:, None]
    higher = np.count_nonzero(table > own, axis=1)
    # Ties are rare: only the rows that have any are compared with their left part.
    equal = table == own
    tied = np.flatnonzero(np.count_nonzero(equal, axis=1) > 1)
    before = np.arange(scores.shape[1]) < columns[tied, None]
    higher[tied] += np.count_nonzero(equal[tied] & before, axis=1)
    return np.where(np.isneginf(own[:, 0]), 0, higher + 1).astype(np.int32)
