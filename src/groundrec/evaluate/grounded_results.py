"""Result files whose texts are grounded: every item by its distance to the first text of a row.

As BIGRec's evaluate.py does it, and its adjust_ci.py with popularity or a signal's scores: distance
and signal from 0 to 1 within a row, -(1 + w)^(-gamma) d. A title that several items share is found
where the first of them is. Knows nothing about models, nor about files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groundrec.core.errors import DataError
from groundrec.core.types import Scores
from groundrec.evaluate.result_files import metrics_at
from groundrec.rank.fuse import reweight

__all__ = ["GroundedRows", "best_gamma"]

ROWS = 256
"""Rows that are re-weighted at a time."""


@dataclass(frozen=True)
class GroundedRows:
    """Rows with the score of every item, minus its distance, and the items that are right."""

    scores: Scores
    """Shape: [Q, I]."""
    first: NDArray[np.int64]
    """The first item with each row's target title. Shape: [Q]."""
    signal: NDArray[np.float32] | None = None
    """What the distances can be re-weighted by: per row [Q, I], or for all rows [I]."""

    @classmethod
    def of(
        cls,
        scores: Scores,
        targets: Sequence[str],
        titles: Sequence[str],
        signal: NDArray[np.float32] | None = None,
    ) -> GroundedRows:
        """Return rows whose targets are `targets`; raise `DataError` for one not in `titles`."""
        number: dict[str, int] = {}
        for item, title in enumerate(titles):
            number.setdefault(title, item)
        for row, target in enumerate(targets, 1):
            if target not in number:
                raise DataError(
                    "a target is not in the list of titles",
                    value=f"row {row}: {target}",
                    accepted="the list of titles of the data that the results are of",
                    next_step="--catalogue FILE",
                )
        return cls(scores, np.array([number[target] for target in targets]), signal)

    def places(self, gamma: float = 0.0) -> NDArray[np.int64]:
        """Return where the targets are, from 0, re-weighted where a `gamma` is given. Shape: [Q].

        Ties go to the smaller number.
        """
        parts = [
            self._places(slice(start, start + ROWS), gamma)
            for start in range(0, len(self.first), ROWS)
        ]
        return np.concatenate(parts)

    def metrics(self, ks: Sequence[int], gamma: float = 0.0) -> dict[str, NDArray[np.float64]]:
        """Return every metric per row, `{"ndcg@10": [Q], …}`."""
        return metrics_at(self.places(gamma), max(ks), ks)

    def _places(self, rows: slice, gamma: float) -> NDArray[np.int64]:
        scores = self.scores[rows]
        first = self.first[rows]
        if gamma and self.signal is not None:
            per_row = self.signal if self.signal.ndim == 1 else self.signal[rows]
            scores = reweight(scores, np.broadcast_to(per_row, scores.shape), gamma)
        own = np.take_along_axis(scores, first[:, None], 1)
        before = np.arange(scores.shape[1]) < first[:, None]
        return ((scores > own) | ((scores == own) & before)).sum(1)


def best_gamma(rows: GroundedRows, gammas: Sequence[float], metric: str) -> float:
    """Return the first gamma that is best by a metric such as `ndcg@10`."""
    k = int(metric.partition("@")[2])
    means = [float(rows.metrics([k], gamma)[metric].mean()) for gamma in gammas]
    return gammas[int(np.argmax(means))]
