"""The prepared data set on disk: Parquet files, and `dataset.json`, which is written last.

    items.parquet               item int32 · item_id · title
    train|valid|test.parquet    query_id int64 · user · time int64 · history, targets list<int32>
    events.parquet              see `data.events`
    dataset.json                fingerprint · events · counts · card

The fingerprint is a digest of the contents of items and queries, not of the files: the same queries
have the same fingerprint on any machine and with any version of the Parquet writer. Only exports
read `events.parquet`, models never do; it has its own digest and may be missing. Knows nothing
about where the interactions came from.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from groundrec.core.errors import ArtifactError, DataError
from groundrec.core.files import atomic_write, digest, read_json, write_json
from groundrec.core.types import Catalogue, PreparedDataset, Queries, Ragged
from groundrec.data.arrays import as_arrow, as_lists, as_numpy, as_texts
from groundrec.data.digests import QueryHashes, hash_texts, quoted
from groundrec.data.events import Events, read_events, write_events
from groundrec.data.protocols.windows import SPLITS, Windows, target_query_ids

__all__ = [
    "SPLITS",
    "DatasetReader",
    "Saved",
    "copy",
    "describe",
    "load",
    "report_full_disk",
    "save",
]

ROW_GROUP = 1 << 15

QUERIES = pa.schema(
    [
        ("query_id", pa.int64()),
        ("user", pa.string()),
        ("time", pa.int64()),
        ("history", pa.list_(pa.int32())),
        ("targets", pa.list_(pa.int32())),
    ]
)

Split: TypeAlias = Queries | Windows


class Saved(NamedTuple):
    """The fingerprint and the counts of a data set that was written."""

    fingerprint: str
    counts: dict[str, Any]


def save(
    catalogue: Catalogue,
    splits: Mapping[str, Split],
    card: Mapping[str, object],
    folder: Path,
    events: Events | None = None,
) -> Saved:
    """Write the data set; with `events`, all `splits` must be `Windows` over them.

    An existing data set in `folder` stays intact until all new files are complete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pa.default_memory_pool().release_unused()
    digests = [hash_texts(catalogue.item_ids), hash_texts(catalogue.titles)]
    windows = {name: split for name, split in splits.items() if isinstance(split, Windows)}
    query_ids = target_query_ids(events, windows) if events else np.empty(0, np.int64)
    names = ("items", *SPLITS, *["events"] * (events is not None))
    with contextlib.ExitStack() as stack:
        files = {
            name: stack.enter_context(atomic_write(folder / f"{name}.parquet")) for name in names
        }
        pq.write_table(_item_table(catalogue), files["items"])
        # compression releases the interpreter lock: a second thread writes events, valid and test
        # while this one writes train
        with ThreadPoolExecutor(1) as pool:
            writing_events = None
            if events:
                writing_events = pool.submit(write_events, events, query_ids, files["events"])
            writing = [pool.submit(_write_queries, splits[s], files[s]) for s in SPLITS[1:]]
            digests += _write_queries(splits[SPLITS[0]], files[SPLITS[0]])
        digests += [column for split in writing for column in split.result()]
        events_digest = writing_events.result() if writing_events else None
        (folder / "dataset.json").unlink(missing_ok=True)
    _texts.cache_clear()
    if not events:
        (folder / "events.parquet").unlink(missing_ok=True)
    saved = Saved(digest("data set", *digests), {"items": len(catalogue), **describe(splits)})
    write_json(
        folder / "dataset.json", {**saved._asdict(), "events": events_digest, "card": dict(card)}
    )
    return saved


class DatasetReader:
    """Reads a finished data set block by block; `check` compares what was read with its digests."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._digests: dict[str, list[str]] = {}
        record = read_json(folder / "dataset.json")
        if not isinstance(record, dict) or "fingerprint" not in record:
            raise self.refused("no finished data set: dataset.json is missing or incomplete")
        self.fingerprint: str = record["fingerprint"]
        self.card: dict[str, Any] = record.get("card", {})
        self._events: str | None = record.get("events")
        with self._readable():
            with pq.ParquetFile(folder / "items.parquet") as file:
                table = file.read()
            self.catalogue = Catalogue(
                tuple(table["item_id"].to_pylist()), tuple(table["title"].to_pylist())
            )

    def batches(self, split: str) -> Iterator[tuple[pa.RecordBatch, Ragged, Ragged]]:
        """Yield a block of rows of a split at a time, with its histories and targets."""
        hashes = QueryHashes()
        with self._readable(), pq.ParquetFile(self._folder / f"{split}.parquet") as file:
            for batch in file.iter_batches(ROW_GROUP):
                history = _ragged(batch["history"])
                targets = _ragged(batch["targets"])
                ids = as_numpy(batch["query_id"])
                times = as_numpy(batch["time"])
                hashes.add(ids, quoted(batch["user"]), times, history, targets)
                yield batch, history, targets
        self._digests[split] = hashes.digests()

    def blocks(self, split: str) -> Iterator[Queries]:
        """Yield the queries of a split, at most `ROW_GROUP` at a time."""
        for batch, history, targets in self.batches(split):
            users = np.array(batch["user"].to_pylist())
            yield Queries(
                as_numpy(batch["query_id"]), users, as_numpy(batch["time"]), history, targets
            )

    def events(self) -> tuple[Events, NDArray[np.int64]]:
        """Return the events, and for each the id of the query it is a target of, or -1."""
        if not self._events:
            raise self.refused("this data set has no events: no ratings and times of its histories")
        with self._readable():
            events, query_ids, events_digest = read_events(self._folder / "events.parquet")
        if events_digest != self._events:
            raise self.refused("events.parquet does not match dataset.json")
        return events, query_ids

    def check(self) -> None:
        """Raise `ArtifactError` unless what was read has the recorded fingerprint.

        All splits must have been read to the end.
        """
        texts = [hash_texts(self.catalogue.item_ids), hash_texts(self.catalogue.titles)]
        columns = [column for name in SPLITS for column in self._digests[name]]
        actual = digest("data set", *texts, *columns)
        if actual != self.fingerprint:
            raise self.refused(
                f"the files do not match dataset.json ({actual} is not {self.fingerprint})"
            )

    def refused(self, what: str) -> ArtifactError:
        """Return the error for a problem of this data set."""
        return ArtifactError(
            what,
            value=self._folder,
            accepted="a folder with a complete prepared data set",
            next_step="prepare the data set again",
        )

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (OSError, KeyError, pa.ArrowException) as error:
            raise self.refused(f"the data set cannot be read ({error})") from None


def load(folder: Path) -> PreparedDataset:
    """Return the data set in `folder`; raise `ArtifactError` if it is incomplete or altered."""
    reader = DatasetReader(folder)
    splits = {name: _joined(list(reader.blocks(name))) for name in SPLITS}
    reader.check()
    return PreparedDataset(
        reader.catalogue,
        *(splits[s] for s in SPLITS),
        fingerprint=reader.fingerprint,
        card=reader.card,
    )


def copy(source: Path, folder: Path) -> dict[str, Any]:
    """Check the data set in `source`, copy it to `folder` and return its card."""
    reader = DatasetReader(source)
    for name in SPLITS:
        for _ in reader.batches(name):
            pass
    reader.check()
    names = [
        file.name for file in source.glob("*.parquet") if file.stem in ("items", "events", *SPLITS)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        for name in names:
            shutil.copyfile(source / name, stack.enter_context(atomic_write(folder / name)))
        (folder / "dataset.json").unlink(missing_ok=True)
    write_json(folder / "dataset.json", read_json(source / "dataset.json"))
    return reader.card


def describe(splits: Mapping[str, Split]) -> dict[str, dict[str, Any]]:
    """Return each split's numbers of queries, targets and users, time span and history lengths."""
    return {name: _counts(split) for name, split in splits.items()}


@contextlib.contextmanager
def report_full_disk(folder: Path) -> Iterator[None]:
    """Turn the `OSError` of a full disk into a `DataError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free
        raise DataError(
            "the disk is full",
            value=f"{folder}; {free:,} bytes are free now that partial files are removed",
            accepted="enough space for the data set and for the engine's temporary files",
            next_step="free some space, or write to another disk",
        ) from None


def _counts(split: Split) -> dict[str, Any]:
    if isinstance(split, Windows):
        lengths = split.target_start - split.history_start
        targets = int(split.target_counts.sum())
        users = np.count_nonzero(np.bincount(split.users))
    else:
        lengths = split.history.lengths
        targets = len(split.targets.values)
        users = len(np.unique(split.users))
    return {
        "queries": len(split),
        "targets": targets,
        "users": int(users),
        "first": _iso(split.times.min()) if len(split) else None,
        "last": _iso(split.times.max()) if len(split) else None,
        "history_median": float(np.median(lengths)) if len(lengths) else 0.0,
        "history_max": int(lengths.max(initial=0)),
    }


def _iso(seconds: np.integer) -> str:
    return f"{np.datetime64(int(seconds), 's')}Z"


def _item_table(catalogue: Catalogue) -> pa.Table:
    return pa.table(
        {
            "item": as_arrow(np.arange(len(catalogue), dtype=np.int32)),
            "item_id": as_texts(catalogue.item_ids),
            "title": as_texts(catalogue.titles),
        }
    )


def _write_queries(split: Split, file: Path) -> list[str]:
    """Write the queries and return the digests of their columns."""
    hashes = QueryHashes()
    ids = split.ids
    times = split.times
    names, user = _users(split)
    texts, in_json = _texts(tuple(names))
    with pq.ParquetWriter(file, QUERIES, compression="zstd", use_dictionary=False) as writer:
        for rows, history, targets in _lists(split):
            number = as_arrow(user[rows])
            hashes.add(ids[rows], in_json.take(number), times[rows], history, targets)
            columns = (as_arrow(ids[rows]), texts.take(number), as_arrow(times[rows]))
            lists = (as_lists(history), as_lists(targets))
            writer.write_table(pa.Table.from_arrays([*columns, *lists], schema=QUERIES))
    return hashes.digests()


@lru_cache(maxsize=1)
def _texts(names: tuple[str, ...]) -> tuple[pa.StringArray, pa.StringArray]:
    """Return the names of users, plain and as JSON; cached, since splits share their users."""
    texts = as_texts(names)
    return texts, quoted(texts)


def _users(split: Split) -> tuple[list[str], NDArray[np.int32]]:
    """Return the names of users, and the index of each query's user. Shapes: [U], [Q]."""
    if isinstance(split, Windows):
        return split.names.tolist(), split.users
    encoded = as_texts(split.users.tolist()).dictionary_encode()
    return encoded.dictionary.to_pylist(), as_numpy(encoded.indices)


def _lists(split: Split) -> Iterator[tuple[slice, Ragged, Ragged]]:
    """Yield the rows, histories and targets of a block of queries at a time."""
    if isinstance(split, Windows):
        yield from split.lists(ROW_GROUP)
        return
    for first in range(0, len(split), ROW_GROUP):
        rows = slice(first, first + ROW_GROUP)
        yield rows, _part(split.history, rows), _part(split.targets, rows)


def _part(ragged: Ragged, rows: slice) -> Ragged:
    offsets = ragged.offsets[rows.start : rows.stop + 1]
    return Ragged(ragged.values[offsets[0] : offsets[-1]], offsets - offsets[0])


def _ragged(column: pa.ListArray) -> Ragged:
    # `flatten` starts at the first row of a sliced column, its offsets do not
    offsets = as_numpy(column.offsets)
    return Ragged(as_numpy(column.flatten()), (offsets - offsets[0]).astype(np.int64))


def _joined(blocks: list[Queries]) -> Queries:
    """Return the blocks as one; the empty arrays give the types where there is no block."""
    return Queries(
        ids=np.concatenate([np.empty(0, np.int64), *(b.ids for b in blocks)]),
        users=np.concatenate([np.empty(0, np.str_), *(b.users for b in blocks)]),
        times=np.concatenate([np.empty(0, np.int64), *(b.times for b in blocks)]),
        history=_stacked([b.history for b in blocks]),
        targets=_stacked([b.targets for b in blocks]),
    )


def _stacked(parts: list[Ragged]) -> Ragged:
    values = np.concatenate([np.empty(0, np.int32), *(p.values for p in parts)])
    offsets = np.cumsum(np.concatenate([[0], *(p.lengths for p in parts)]), dtype=np.int64)
    return Ragged(values, offsets)
