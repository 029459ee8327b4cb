"""A signal from another program: a file of scores, one row per query, one column per item.

Knows nothing about how the scores were made; they are read as unnormalised log-probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from groundrec.core.config_signals import External as Settings
from groundrec.core.errors import ArtifactError, ConfigError, DataError
from groundrec.core.files import atomic_write
from groundrec.core.recipe import Recipe
from groundrec.core.types import Catalogue, PreparedDataset, Queries, Scores
from groundrec.signals.counts import existing

__all__ = ["External"]

FILE = "scores.safetensors"
ACCEPTED = (
    "arrays `query_ids` [Q] and `scores` [Q, I]; columns `query_id` and `scores`; or one array [Q,"
    " I] of numbers"
)


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
        ids, scores = _read(section, dataset)
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


def _read(section: Settings, dataset: PreparedDataset) -> tuple[NDArray[np.int64], NDArray]:
    """Return query ids [Q] and scores [Q, I], with columns in the order of the catalogue."""
    path = section.path
    if path is None or not path.is_file():
        raise ConfigError(
            "the signal `external` needs a file of scores",
            value=path,
            accepted=(
                "a .npz or .parquet file keyed by query id, or a bare .npy in the order of"
                " `external.rows`"
            ),
            next_step="--set external.path=scores.npz",
        )
    try:
        if path.suffix == ".npz":
            return _from_npz(path, dataset)
        if path.suffix == ".parquet":
            table = pq.read_table(path, columns=["query_id", "scores"])
            return table["query_id"].to_numpy(), _matrix(table["scores"].to_pylist(), path)
        return _from_npy(path, section.rows, dataset)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            "the file of scores cannot be read", value=f"{path}: {error}", accepted=ACCEPTED
        ) from None


def _from_npz(path: Path, dataset: PreparedDataset) -> tuple[NDArray[np.int64], NDArray]:
    with np.load(path, allow_pickle=False) as file:
        ids = file["query_ids"].astype(np.int64)
        scores = file["scores"]
        made_for = str(file["dataset"]) if "dataset" in file else dataset.fingerprint
        if made_for != dataset.fingerprint:
            raise DataError(
                "the scores were made for another data set",
                value=f"{path}: {made_for}",
                accepted=dataset.fingerprint,
            )
        return ids, (
            scores
            if "item_ids" not in file
            else scores[:, _columns(file["item_ids"], dataset.catalogue, path)]
        )


def _columns(item_ids: NDArray, catalogue: Catalogue, path: Path) -> NDArray[np.intp]:
    """Return the column of the file that holds each item of the catalogue. Shape: [I]."""
    column = {str(name): i for i, name in enumerate(item_ids)}
    if missing := [name for name in catalogue.item_ids if name not in column]:
        raise DataError(
            "items of the catalogue are missing from the scores",
            value=f"{path}: {missing[0]}, and {len(missing) - 1:,} more",
            accepted="every item id of the data set in `item_ids`",
        )
    return np.array([column[name] for name in catalogue.item_ids], np.intp)


def _from_npy(
    path: Path, splits: Sequence[str], dataset: PreparedDataset
) -> tuple[NDArray[np.int64], NDArray]:
    """Return a bare array and the query ids of its rows, which are the queries of `splits`."""
    scores = np.load(path, allow_pickle=False)
    ids = np.concatenate([dataset.split(name).ids for name in splits] or [np.empty(0, np.int64)])
    if not splits or len(scores) != len(ids):
        queries = " + ".join(
            f"{name} ({len(dataset.split(name)):,})" for name in ("train", "valid", "test")
        )
        raise DataError(
            "a bare array does not tell which row is which query",
            value=f"{path}: {len(scores):,} rows; external.rows = {list(splits)}",
            accepted=f"in external.rows, the splits whose queries are its rows: {queries}",
            next_step="--set 'external.rows=[\"test\"]', or write an .npz with query_ids",
        )
    return ids, scores


def _matrix(rows: list[list[float]], path: Path) -> NDArray:
    if len({len(row) for row in rows}) > 1:
        raise DataError(
            "rows of different lengths", value=path, accepted="a score for every item in each row"
        )
    return np.array(rows, np.float32)


def _check(
    section: Settings, ids: NDArray[np.int64], scores: NDArray, dataset: PreparedDataset
) -> None:
    """Raise `DataError` unless each query of validation and test has a row of usable scores."""
    shape = (len(ids), len(dataset.catalogue))
    if scores.shape != shape:
        raise DataError(
            "the scores have the wrong shape",
            value=f"{section.path}: {scores.shape}",
            accepted=f"{shape}",
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
