"""Slates on disk: a folder of shards, written one at a time, and read back whole or by query.

Knows nothing about how slates are made, nor about metrics.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from groundrec.core.errors import ArtifactError
from groundrec.core.files import atomic_write, read_json, write_json
from groundrec.core.types import NO_ITEM, Queries, Slates
from groundrec.rank.search.search import Work

__all__ = ["SavedSlates", "Shards", "load_slates", "save_slates", "work_of"]

_WORK = "work"
"""Metadata key of a shard's file: the work its slates took, as JSON."""

_SHARDS = "shards.json"

_SCHEMA = pa.schema(
    [
        ("query_id", pa.int64()),
        ("items", pa.list_(pa.int32())),
        ("scores", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True)
class Shards:
    """The files in `folder` that hold the slates of `queries` queries, `size` in each file."""

    folder: Path
    queries: int
    size: int

    @classmethod
    def open(cls, folder: Path, queries: int, size: int) -> Shards:
        """Return the shards of a folder, of the size that it was started with; `size` if new.

        So a run that is resumed with another `recommend.shard_size` keeps the shards it has.
        """
        file = folder / _SHARDS
        if (kept := read_json(file)) is None:
            # Version 0.1 recorded the size among the inputs alone.
            recorded = (read_json(folder / "inputs.json") or {}).get("recommend", {})
            kept = {"size": recorded.get("shard_size", size)}
            write_json(file, kept)
        return cls(folder, queries, kept["size"])

    def __len__(self) -> int:
        return -(-self.queries // self.size)

    def path(self, shard: int) -> Path:
        """Return the file of a shard."""
        return self.folder / f"{shard * self.size:09d}.parquet"

    def rows(self, shard: int) -> NDArray[np.int64]:
        """Return the positions of the queries in a shard."""
        return np.arange(shard * self.size, min((shard + 1) * self.size, self.queries))

    def missing(self) -> list[int]:
        """Return the shards without a file."""
        return [shard for shard in range(len(self)) if not self.path(shard).exists()]


@dataclass(frozen=True)
class SavedSlates:
    """The slates in a folder of shards, found by query id.

    Only the query ids stay in memory: a shard is read when one of its queries is asked for. Raises
    `ArtifactError` for a query without a slate.
    """

    folder: Path

    def slates(self, queries: Queries) -> Slates:
        """Return the saved slates of `queries`, in their order."""
        if not len(queries):
            return Slates.from_scores(queries.ids, np.empty((0, 0), np.float32), 0)
        asked, parts = [], []
        for path, positions, rows in self._shards_of(queries):
            shard = _read(path)
            asked.append(positions)
            parts.append(Slates(shard.query_ids[rows], shard.items[rows], shard.scores[rows]))
        order = np.argsort(np.concatenate(asked))
        found = Slates.concatenate(parts)
        return Slates(queries.ids, found.items[order], found.scores[order])

    def column(self, name: str, queries: Queries) -> list[Any]:
        """Return one of the further columns for `queries`; None for a query without a value."""
        values: list[Any] = [None] * len(queries)
        for path, positions, rows in self._shards_of(queries):
            table = pq.read_table(path, columns=[name])
            if name not in table.column_names:  # no query of this shard has a value
                continue
            shard = table[name].to_numpy()
            for position, row in zip(positions, rows, strict=True):
                values[position] = shard[row]
        return values

    @cached_property
    def _index(self) -> tuple[NDArray[np.int64], NDArray[np.intp], NDArray[np.intp]]:
        """Query ids, ascending, and the file and the row of each. Shapes: [Q], three times."""
        ids = [pq.read_table(p, columns=["query_id"])["query_id"].to_numpy() for p in self._files]
        lengths = [len(part) for part in ids]
        file = np.repeat(np.arange(len(ids)), lengths)
        row = np.concatenate([np.arange(length) for length in lengths])
        every = np.concatenate(ids)
        order = np.argsort(every, kind="stable")
        return every[order], file[order], row[order]

    @cached_property
    def _files(self) -> list[Path]:
        return _shard_files(self.folder)

    def _shards_of(
        self, queries: Queries
    ) -> Iterator[tuple[Path, NDArray[np.intp], NDArray[np.intp]]]:
        """Yield each file with any of `queries`: their positions in `queries`, and in the file."""
        ids, file, row = self._index
        at = np.searchsorted(ids, queries.ids)
        unknown = queries.ids[ids[at.clip(max=len(ids) - 1)] != queries.ids]
        if len(unknown):
            raise ArtifactError(
                "a query has no saved slate",
                value=f"query {unknown[0]} in {self.folder}",
                accepted="queries of the split that the slates were made for",
                next_step="the same command with --if-exists resume",
            )
        for number in np.unique(file[at]):
            positions = np.flatnonzero(file[at] == number)
            yield self._files[number], positions, row[at[positions]]


def save_slates(
    slates: Slates,
    path: Path,
    work: Work | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """Write slates, the `work` they took and further `columns` to a Parquet file, atomically."""
    values = {
        "query_id": slates.query_ids,
        "items": list(slates.items),
        "scores": list(slates.scores),
    }
    table = pa.table(values, schema=_SCHEMA)
    for name, column in (columns or {}).items():
        table = table.append_column(name, pa.array(column))
    metadata = {_WORK: json.dumps(vars(work))} if work else None
    with atomic_write(path) as part:
        pq.write_table(table.replace_schema_metadata(metadata), part)


def work_of(folder: Path) -> Work:
    """Return the work that all slates of a folder took, in whichever process and run."""
    total = Work()
    for path in sorted(folder.glob("*.parquet")):
        noted = (pq.read_schema(path).metadata or {}).get(_WORK.encode(), b"{}")
        total.add(Work(**json.loads(noted)))
    return total


def load_slates(folder: Path) -> Slates:
    """Return all slates of a folder, in order; raise `ArtifactError` where there are none."""
    return Slates.concatenate([_read(path) for path in _shard_files(folder)])


def _shard_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise ArtifactError("no slates here", value=folder, accepted="a finished `recommend` stage")
    return files


def _read(path: Path) -> Slates:
    table = pq.read_table(path, columns=_SCHEMA.names)
    ids = table["query_id"].to_numpy()
    shape = (len(ids), -1) if len(ids) else (0, 0)
    items, scores = (
        table[name].combine_chunks().flatten().to_numpy().reshape(shape)
        for name in ("items", "scores")
    )
    if items.size and items.min() < NO_ITEM:
        raise ArtifactError("slates with impossible items", value=path)
    return Slates(ids, items.astype(np.int32), scores.astype(np.float32))
