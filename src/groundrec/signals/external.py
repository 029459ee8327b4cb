"""A signal from another program: a file of scores, one row per query, one column per item.

Knows nothing about how the scores were made; they are read as unnormalised log-probabilities.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from groundrec.core.config_signals import External as Settings
from groundrec.core.errors import ArtifactError, DataError
from groundrec.core.files import atomic_write
from groundrec.core.recipe import Recipe
from groundrec.core.types import PreparedDataset, Queries, Scores
from groundrec.signals.counts import existing
from groundrec.signals.score_files import read_scores

__all__ = ["External"]

FILE = "scores.safetensors"


class External:
    """Scores from `external.path`, keyed by query id."""

    settings: ClassVar[tuple[str, ...]] = ("external",)

    @staticmethod
    def files(recipe: Recipe) -> list[Path]:
        """Return the file of scores: the signal depends on its content."""
        return [recipe.external.path] if recipe.external.path else []

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._ids: NDArray[np.int64] = np.empty(0, np.int64)
        self._scores: Scores | None = None
        self._file: Path | None = None

    def fit(self, dataset: PreparedDataset, folder: Path) -> None:
        """Read the file; raise `DataError` if it does not fit the data set."""
        section = self.recipe.external
        ids, scores = read_scores(section, dataset)
        _check(section, ids, scores, dataset)
        order = np.argsort(ids)
        self._ids = ids[order]
        self._scores = (scores[order] / section.temperature).astype(np.float32)

    def scores(self, queries: Queries) -> Scores:
        """Return the scores of each query [q, I]; raise `DataError` if one has none."""
        # [q]: the row of each query in the file, whose ids are sorted.
        rows = np.searchsorted(self._ids, queries.ids).clip(max=len(self._ids) - 1)
        missing = queries.ids[self._ids[rows] != queries.ids]
        if len(missing):
            raise DataError(
                "a query has no scores",
                value=f"query {missing[0]}, and {len(missing) - 1:,} more",
                accepted="a row for each query of validation and test",
                next_step="add them to the file at external.path",
            )
        return self._read_rows(rows)

    def save(self, folder: Path) -> None:
        """Write `scores.safetensors`."""
        if self._scores is None:
            raise ArtifactError(
                "this signal was not fitted", value="external", next_step="call fit first"
            )
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / FILE) as part:
            save_file({"ids": self._ids, "scores": self._scores}, part)

    @classmethod
    def load(cls, folder: Path, recipe: Recipe) -> External:
        """Return the signal that `save` wrote; `scores` reads its rows from the file on demand."""
        signal = cls(recipe)
        signal._file = existing(folder / FILE)
        with safe_open(signal._file, "np") as file:
            signal._ids = file.get_tensor("ids")
        return signal

    def _read_rows(self, rows: NDArray[np.intp]) -> Scores:
        if self._scores is not None:
            return self._scores[rows]
        if self._file is None:
            raise ArtifactError(
                "this signal was not fitted", value="external", next_step="call fit or load first"
            )
        with safe_open(self._file, "np") as file:
            # A slice reads single rows, so the whole matrix need not fit into memory.
            stored = file.get_slice("scores")
            if not len(rows):
                return np.empty((0, stored.get_shape()[1]), np.float32)
            return np.concatenate([stored[int(row) : int(row) + 1] for row in rows])


def _check(
    section: Settings, ids: NDArray[np.int64], scores: NDArray, dataset: PreparedDataset
) -> None:
    """Raise `DataError` unless each query of validation and test has a row of usable scores."""
    shape = (len(ids), len(dataset.catalogue))
    if scores.shape != shape:
        padded = scores.shape == (shape[0], shape[1] + 1)
        raise DataError(
            "the scores have one column more than items"
            if padded
            else "the scores have the wrong shape",
            value=f"{section.path}: {scores.shape}",
            accepted=f"{shape}, queries × items",
            next_step="write them without the column of the padding, often the last or the first"
            if padded
            else "write a row for each query and a column for each item",
        )
    if len(np.unique(ids)) < len(ids):
        raise DataError("two rows for one query", value=section.path, accepted="each query id once")
    wanted = np.concatenate([dataset.valid.ids, dataset.test.ids])
    if len(missing := np.setdiff1d(wanted, ids)):
        raise DataError(
            "queries without scores",
            value=f"{section.path}: query {missing[0]}, and {len(missing) - 1:,} more",
            accepted="a row for each query of validation and test",
        )
    if len(bad := np.flatnonzero(~np.isfinite(scores).all(1))):
        raise DataError(
            "scores that are not finite",
            value=f"{section.path}: query {ids[bad[0]]}",
            accepted="finite scores",
        )
    if len(ids) and (scores == scores[:, :1]).all():
        raise DataError(
            "every item has the same score",
            value=section.path,
            accepted="scores that differ between items",
        )
