"""Metrics from the ranks of the targets alone, where no slate is written down.

Equal to the metrics of the slates, since those depend on nothing but where the targets stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from groundrec.core.types import Queries
from groundrec.evaluate.metrics import distinct_targets, parse_name, values_of_hits

__all__ = ["RankMetrics"]

Ranks: TypeAlias = NDArray[np.integer]
"""One rank per value of `queries.targets`, 1 for the best item, 0 for one that is not ranked."""


class RankMetrics:
    """Metrics of slates of `k` items for some queries, from the ranks of their targets."""

    def __init__(self, queries: Queries, k: int) -> None:
        self._rows = queries.targets.rows
        self._relevant = distinct_targets(queries)
        self._k = k

    def per_query(
        self, ranks: Ranks, ks: Sequence[int], metrics: Sequence[str]
    ) -> dict[str, NDArray[np.float64]]:
        """Return what `metrics.per_query` returns for the slates. Shape of each: [Q].

        Raises `SearchError` if a cut-off exceeds `k`.
        """
        hits = np.zeros((len(self._relevant), self._k), np.bool_)
        inside = (ranks > 0) & (ranks <= self._k)
        hits[self._rows[inside], ranks[inside] - 1] = True
        return values_of_hits(hits, self._relevant, ks, metrics)

    def value(self, name: str, ranks: Ranks) -> NDArray[np.float64]:
        """Return one metric, named such as `ndcg@10`. Shape: [Q].

        Raises `ConfigError` as `metrics.metric_function` does.
        """
        metric, cutoff = parse_name(name)
        return self.per_query(ranks, [cutoff], [metric])[name]
