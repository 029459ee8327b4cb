"""Files of scores, one row per query: NumPy's, Parquet, and tensors saved by torch.

A pickled file is read for its tensors alone, never run. Knows nothing about what scores are for.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from groundrec.core.config_signals import External as Settings
from groundrec.core.errors import ConfigError, DataError
from groundrec.core.types import Catalogue, PreparedDataset

__all__ = ["read_scores"]

ACCEPTED = (
    "arrays `query_ids` [Q] and `scores` [Q, I]; columns `query_id` and `scores`; or one array or"
    " tensor [Q, I] of numbers"
)
TORCH = (".pt", ".pth")
"""Suffixes of files that torch saves; newer ones are also told by what is in them."""


def read_scores(section: Settings, dataset: PreparedDataset) -> tuple[NDArray[np.int64], NDArray]:
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
        names = _members(path)
        if any(name.endswith(".npy") for name in names):
            return _from_npz(path, dataset)
        if path.suffix in TORCH or any(name.endswith("data.pkl") for name in names):
            if names and not any(name.endswith("data.pkl") for name in names):
                raise _no_scores(path, f"a zip archive with {', '.join(names[:3])}")
            return _bare(_tensor(path), path, section.rows, dataset)
        if path.suffix == ".parquet":
            table = pq.read_table(path, columns=["query_id", "scores"])
            return table["query_id"].to_numpy(), _matrix(table["scores"].to_pylist(), path)
        return _bare(_array(path), path, section.rows, dataset)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(
            "the file of scores cannot be read", value=f"{path}: {error}", accepted=ACCEPTED
        ) from None


def _from_npz(path: Path, dataset: PreparedDataset) -> tuple[NDArray[np.int64], NDArray]:
    with np.load(path, allow_pickle=False) as file:
        ids = file["query_ids"].astype(np.int64)
        scores = _numbers(file["scores"], path)
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


def _bare(
    scores: NDArray, path: Path, splits: Sequence[str], dataset: PreparedDataset
) -> tuple[NDArray[np.int64], NDArray]:
    """Return a bare array and the query ids of its rows, which are the queries of `splits`."""
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


def _members(path: Path) -> list[str]:
    """Return the names in a zip archive, which `.npz` and torch's files are; none for others."""
    if not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as file:
        return file.namelist()


def _array(path: Path) -> NDArray:
    return _numbers(np.load(path, allow_pickle=False), path)


def _tensor(path: Path) -> NDArray:
    """Return the one tensor that a file of torch's holds, as float32 where NumPy lacks its type."""
    import torch

    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        first = str(error).strip().partition("\n")[0]
        raise _no_scores(
            path, f"a file with objects other than tensors, or damaged ({first})"
        ) from None
    if not isinstance(saved, torch.Tensor):
        raise _no_scores(path, _described(saved))
    kind = f"a tensor {list(saved.shape)} of {str(saved.dtype).removeprefix('torch.')}"
    if saved.layout != torch.strided:
        raise _no_scores(path, f"{kind}, sparse")
    if saved.is_floating_point():
        saved = saved.float() if saved.dtype != torch.float64 else saved
    return _numbers(saved.detach().numpy(), path, kind)


def _numbers(values: NDArray, path: Path, kind: str = "") -> NDArray:
    """Return scores of two dimensions; raise `DataError` for anything else, naming it."""
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        kind = kind or f"an array {list(values.shape)} of {_type_name(values)}"
        raise _no_scores(path, kind)
    return values


def _type_name(values: NDArray) -> str:
    return values.dtype.str.removeprefix("|") if values.dtype.kind in "US" else values.dtype.name


def _described(saved: Any) -> str:
    if isinstance(saved, Mapping):
        return f"a dict with {', '.join(map(repr, list(saved)[:5]))}"
    if isinstance(saved, (list, tuple)):
        return f"a {type(saved).__name__} of {len(saved)}"
    return f"a {type(saved).__name__}"


def _no_scores(path: Path, what: str) -> DataError:
    return DataError(
        "the file holds no table of scores",
        value=f"{path}: {what}",
        accepted=ACCEPTED,
        next_step="write a .npz with `query_ids` and `scores`, and name it in external.path",
    )
