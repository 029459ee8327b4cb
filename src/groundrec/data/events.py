"""The events that a protocol kept, in memory and as `events.parquet`.

    events.parquet    user · items list<int32> · times list<int64> · ratings list<string>
                      · query_ids list<int64>

There is one row per user, with the oldest event first. A rating is the text of the raw data, empty
if missing; a query id names the query whose target the event is, -1 for none. Knows nothing about
histories or splits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from groundrec.core.files import digest
from groundrec.data.arrays import as_arrow, as_numpy, as_texts
from groundrec.data.digests import hash_array, hash_texts

__all__ = ["NO_QUERY", "Events", "read_events", "write_events"]

NO_QUERY = -1
USERS = 1 << 13
"""Users per row group."""

SCHEMA = pa.schema(
    [
        ("user", pa.string()),
        ("items", pa.list_(pa.int32())),
        ("times", pa.list_(pa.int64())),
        ("ratings", pa.list_(pa.string())),
        ("query_ids", pa.list_(pa.int64())),
    ]
)
REPEATED = ["times.list.element", "ratings.list.element"]
"""Columns with few distinct values, for which Parquet writes dictionaries."""


@dataclass(frozen=True)
class Events:
    """E events of U users, sorted by user and time."""

    users: NDArray[np.str_]
    """Name of each user number. Shape: [U]."""
    user: NDArray[np.int32]
    """User number of each event, 0, 1, … without gaps. Shape: [E]."""
    time: NDArray[np.int64]
    """Seconds UTC. Shape: [E]."""
    items: NDArray[np.int32]
    """Item number of each event. Shape: [E]."""
    rating: NDArray[np.int32]
    """Index of each event's rating in `ratings`. Shape: [E]."""
    ratings: tuple[str, ...]
    """The distinct ratings as texts of the raw data; the empty text means no rating."""

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def first(self) -> NDArray[np.integer]:
        """Return the index of each user's first event, int32 while that suffices. Shape: [U]."""
        first = np.flatnonzero(np.diff(self.user, prepend=np.int32(-1)))
        return first.astype(np.int32) if len(self) < np.iinfo(np.int32).max else first


def write_events(events: Events, query_ids: NDArray[np.int64], file: Path) -> str:
    """Write the events with the id of the query each is a target of [E]; return their digest."""
    # The stubs take one flag for all columns; the library takes a list of columns too.
    options: Any = {"compression": "zstd", "use_dictionary": REPEATED}
    with pq.ParquetWriter(file, SCHEMA, **options) as writer:
        for rows in _row_groups(events, query_ids):
            writer.write_table(rows)
    return _digest(events, query_ids)


def _row_groups(events: Events, query_ids: NDArray[np.int64]) -> Iterator[pa.Table]:
    ends = np.append(events.first, len(events))
    texts = as_texts(events.ratings)
    for start in range(0, len(events.users), USERS):
        bounds = ends[start : start + USERS + 1]
        chunk = slice(bounds[0], bounds[-1])  # the events of these users
        items, times, ratings, ids = (
            as_arrow(column[chunk])
            for column in (events.items, events.time, events.rating, query_ids)
        )
        values = (items, times, texts.take(ratings), ids)
        offsets = as_arrow((bounds - bounds[0]).astype(np.int32))
        lists = [pa.ListArray.from_arrays(offsets, column) for column in values]
        users = as_texts(events.users[start : start + USERS].tolist())
        yield pa.Table.from_arrays([users, *lists], schema=SCHEMA)


def read_events(file: Path) -> tuple[Events, NDArray[np.int64], str]:
    """Return the events, the query ids and their digest."""
    with pq.ParquetFile(file) as opened:
        table = opened.read().combine_chunks()
    users, *lists = (column.chunk(0) for column in table.columns)
    items, times, ratings, query_ids = (column.flatten() for column in lists)
    ratings = ratings.dictionary_encode()
    count = np.diff(as_numpy(lists[0].offsets))
    events = Events(
        np.array(users.to_pylist()),
        np.repeat(np.arange(len(users), dtype=np.int32), count),
        as_numpy(times),
        as_numpy(items),
        as_numpy(ratings.indices),
        tuple(ratings.dictionary.to_pylist()),
    )
    return events, as_numpy(query_ids), _digest(events, as_numpy(query_ids))


def _digest(events: Events, query_ids: NDArray[np.int64]) -> str:
    """Return a digest that depends neither on rating codes nor on unused ratings."""
    texts = [hash_texts(events.users.tolist())]
    for text in sorted(events.ratings):
        has_rating = events.rating == events.ratings.index(text)
        if has_rating.any():
            texts += [text, hash_array(np.packbits(has_rating))]
    return digest(
        "events", *map(hash_array, (events.user, events.items, events.time, query_ids)), *texts
    )
