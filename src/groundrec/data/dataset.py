"""The prepared data set on disk: four Parquet files, and `dataset.json` written last.

    items.parquet                    item int32 · item_id · title
    train|valid|test.parquet         query_id int64 · user · time int64 · history list<int32> · targets list<int32>
    dataset.json                     fingerprint · counts · card

The fingerprint is a digest of the contents, not of the files: the same queries have the same fingerprint on any
machine and with any version of the Parquet writer. Knows nothing about where the interactions came from.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from groundrec.core.errors import ArtifactError
from groundrec.core.runs import atomic_write, digest, read_json, write_json
from groundrec.core.types import Catalogue, PreparedDataset, Queries, Ragged

__all__ = ["SPLITS", "describe", "load", "save"]

SPLITS = ("train", "valid", "test")
ROW_GROUP = 1 << 16

QUERIES = pa.schema(
    [
        ("query_id", pa.int64()),
        ("user", pa.string()),
        ("time", pa.int64()),
        ("history", pa.list_(pa.int32())),
        ("targets", pa.list_(pa.int32())),
    ]
)


def save(
    catalogue: Catalogue, splits: Mapping[str, Queries], card: Mapping[str, object], folder: Path
) -> PreparedDataset:
    """Write the data set and return it with its fingerprint.

    An older data set in `folder` stays whole until every new file is written beside it.
    """
    dataset = PreparedDataset(
        catalogue, *(splits[s] for s in SPLITS), fingerprint=_fingerprint(catalogue, splits), card=dict(card)
    )
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        pq.write_table(_item_table(catalogue), stack.enter_context(atomic_write(folder / "items.parquet")))
        for name in SPLITS:
            _write_queries(splits[name], stack.enter_context(atomic_write(folder / f"{name}.parquet")))
        (folder / "dataset.json").unlink(missing_ok=True)
    counts = {"items": len(catalogue), **describe(splits)}
    write_json(folder / "dataset.json", {"fingerprint": dataset.fingerprint, "counts": counts, "card": dataset.card})
    return dataset


def load(folder: Path) -> PreparedDataset:
    """Return the data set in `folder`; raise `ArtifactError` unless it is whole and has the recorded fingerprint."""
    record = read_json(folder / "dataset.json")
    if not isinstance(record, dict) or "fingerprint" not in record:
        raise _refused(folder, "no finished data set: dataset.json is missing or cut short")
    try:
        catalogue = _read_catalogue(folder / "items.parquet")
        splits = {name: _read_queries(folder / f"{name}.parquet") for name in SPLITS}
    except (OSError, KeyError, pa.ArrowException) as error:
        raise _refused(folder, f"the data set cannot be read ({error})") from None
    if (found := _fingerprint(catalogue, splits)) != record["fingerprint"]:
        raise _refused(folder, f"the files are not those of dataset.json ({found} is not {record['fingerprint']})")
    return PreparedDataset(
        catalogue, *(splits[s] for s in SPLITS), fingerprint=record["fingerprint"], card=record.get("card", {})
    )


def describe(splits: Mapping[str, Queries]) -> dict[str, dict[str, Any]]:
    """Return, for each split, its queries, targets, users, time span and history lengths."""
    return {name: _counts(queries) for name, queries in splits.items()}


def _counts(queries: Queries) -> dict[str, Any]:
    lengths = queries.history.lengths
    return {
        "queries": len(queries),
        "targets": len(queries.targets.values),
        "users": len(np.unique(queries.users)),
        "first": _iso(queries.times.min()) if len(queries) else None,
        "last": _iso(queries.times.max()) if len(queries) else None,
        "history_median": float(np.median(lengths)) if len(lengths) else 0.0,
        "history_max": int(lengths.max(initial=0)),
    }


def _iso(seconds: np.integer) -> str:
    return f"{np.datetime64(int(seconds), 's')}Z"


def _refused(folder: Path, what: str) -> ArtifactError:
    return ArtifactError(
        what, value=folder, accepted="a folder that `prepare` finished", next_step="prepare the data set again"
    )


def _fingerprint(catalogue: Catalogue, splits: Mapping[str, Queries]) -> str:
    parts = [_hash_texts(catalogue.item_ids), _hash_texts(catalogue.titles)]
    for name in SPLITS:
        queries = splits[name]
        parts += [_hash(queries.ids), _hash_texts(queries.users.tolist()), _hash(queries.times)]
        for ragged in (queries.history, queries.targets):
            parts += [_hash(ragged.values), _hash(ragged.lengths)]
    return digest("data set", *parts)


def _hash(array: NDArray[np.integer]) -> str:
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return hashlib.sha256(little.data).hexdigest()


def _hash_texts(texts: Iterable[str]) -> str:
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def _item_table(catalogue: Catalogue) -> pa.Table:
    return pa.table(
        {
            "item": pa.array(np.arange(len(catalogue), dtype=np.int32)),
            "item_id": pa.array(catalogue.item_ids, pa.string()),
            "title": pa.array(catalogue.titles, pa.string()),
        }
    )


def _read_catalogue(file: Path) -> Catalogue:
    table = pq.read_table(file)
    return Catalogue(tuple(table["item_id"].to_pylist()), tuple(table["title"].to_pylist()))


def _write_queries(queries: Queries, file: Path) -> None:
    with pq.ParquetWriter(file, QUERIES, compression="zstd", use_dictionary=False) as writer:
        for start in range(0, len(queries), ROW_GROUP):
            rows = slice(start, min(start + ROW_GROUP, len(queries)))
            columns = [queries.ids[rows], queries.users[rows], queries.times[rows]]
            lists = [_lists(queries.history, rows), _lists(queries.targets, rows)]
            arrays = [pa.array(c, t) for c, t in zip(columns, QUERIES.types, strict=False)]
            writer.write_table(pa.Table.from_arrays([*arrays, *lists], schema=QUERIES))


def _lists(ragged: Ragged, rows: slice) -> pa.ListArray:
    offsets = ragged.offsets[rows.start : rows.stop + 1]
    values = ragged.values[offsets[0] : offsets[-1]]
    return pa.ListArray.from_arrays(pa.array((offsets - offsets[0]).astype(np.int32)), pa.array(values, pa.int32()))


def _read_queries(file: Path) -> Queries:
    table = pq.read_table(file)
    users = table["user"].to_pylist()
    return Queries(
        table["query_id"].to_numpy(),
        np.array(users) if users else np.empty(0, np.str_),
        table["time"].to_numpy(),
        _ragged(table["history"]),
        _ragged(table["targets"]),
    )


def _ragged(column: pa.ChunkedArray) -> Ragged:
    values = [chunk.flatten().to_numpy() for chunk in column.chunks]
    lengths = [np.diff(chunk.offsets.to_numpy()) for chunk in column.chunks]
    offsets = np.cumsum(np.concatenate([[0], *lengths]), dtype=np.int64)
    return Ragged(np.concatenate([np.empty(0, np.int32), *values]), offsets)
