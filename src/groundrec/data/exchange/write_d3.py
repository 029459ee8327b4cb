"""A finished data set in the file formats of published code: `d3`.

    train|valid|test/<name>.csv    one row per target, lists as Python prints them; `name` as below
    info/<name>.txt                title, tab, item number

The published script names its files after the category, k and the window:
`Books_5_2017-10-2018-11`. To write them as fast as a disk takes them, a file is put together from
the words of one dictionary, chosen by number, many rows at a time. Knows nothing about how the data
set was made.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from groundrec.core.runs import atomic_write
from groundrec.core.track import log
from groundrec.core.types import Catalogue
from groundrec.data.arrays import as_arrow, as_numpy, as_texts, bytes_of
from groundrec.data.dataset import DatasetReader
from groundrec.data.events import Events
from groundrec.data.protocols.windows import SPLITS, concatenated_ranges

__all__ = ["Format", "d3", "name_of"]

Format: TypeAlias = Callable[[DatasetReader, Path], list[Path]]
"""Writes a finished data set into a folder and returns the files; none of them before all are
whole.
"""

ROWS = 1 << 11
SPECIAL = frozenset(',"\r\n')
HEADER = (
    "user_id,item_asins,item_asin,history_item_id,item_id,history_item_title,item_title,"
    "history_rating,rating,history_timestamp,timestamp\r\n"
)


def d3(reader: DatasetReader, folder: Path) -> list[Path]:
    """Write the files of D3's `process.py`; queries without a history have no row there, and are
    left out.
    """
    name = name_of(reader)
    files = [folder / part / f"{name}.csv" for part in SPLITS] + [folder / "info" / f"{name}.txt"]
    writer = _Writer(reader)
    with contextlib.ExitStack() as stack:
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
        parts = [stack.enter_context(atomic_write(file)) for file in files]
        for split, part in zip(SPLITS, parts, strict=False):
            with part.open("wb") as out:
                out.write(HEADER.encode())
                for batch, history, targets in reader.batches(split):
                    writer.write(as_numpy(batch["query_id"]), history.lengths, targets.lengths, out)
        lines = (f"{title}\t{item}\n" for item, title in enumerate(reader.catalogue.titles))
        parts[-1].write_bytes("".join(lines).encode())
        reader.check()
    if writer.left_out:
        log.warning(f"{writer.left_out:,} queries without a history were left out")
    return files


def name_of(reader: DatasetReader) -> str:
    """Return what the published script would call the files: category, k and window, as far as they
    are known.
    """
    settings = reader.card.get("settings", {})
    window = reader.card.get("window")
    category = settings.get("category") or settings.get("source") or "dataset"
    if not window:
        return category
    months = "{st_year}-{st_month}-{ed_year}-{ed_month}".format(**window)
    return f"{category}_{settings['k_core']}_{months}"


class _Vocabulary:
    """Every piece of text that a file is made of, by number."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def add(self, texts: Iterable[str]) -> int:
        """Return the number of the first text; the others follow."""
        first = len(self._texts)
        self._texts.extend(texts)
        return first

    def spell(self) -> Callable[[NDArray[np.int32]], memoryview]:
        """Return what turns numbers into bytes."""
        words = as_texts(self._texts)

        return lambda numbers: bytes_of(words.take(as_arrow(numbers)))


@dataclass(frozen=True)
class _Column:
    """A value of events: which of its words each event has, as a cell and in the list of a history."""

    code: NDArray[np.integer]
    """Which value each event has. Shape: [E]."""
    cell: int
    first: int
    later: int
    special: NDArray[np.bool_]
    """Values that, alone in a list, make its cell quoted."""

    @classmethod
    def of(
        cls, words: _Vocabulary, code: NDArray[np.integer], values: Sequence[object], end: str = ","
    ) -> _Column:
        """Return the column of `values[code]`, its words added to `words`."""
        listed = [repr(value) for value in values]
        escaped = [text.replace('"', '""') for text in listed]
        return cls(
            code,
            words.add(_cell("" if value is None else str(value)) + end for value in values),
            words.add(escaped),
            words.add(f", {text}" for text in escaped),
            np.array([not SPECIAL.isdisjoint(text) for text in listed]),
        )


class _Writer:
    """Turns queries into rows. A row is a user, then five times a list of the history and the
    target's own value.
    """

    def __init__(self, reader: DatasetReader) -> None:
        self.left_out = 0
        self._reader = reader
        self._events, query_ids = reader.events()
        self._start = _first_targets(query_ids)
        words = _Vocabulary()
        self._users = words.add(f"{_cell(user)}," for user in self._events.users.tolist())
        self._open = words.add(("[", '"['))
        self._close = words.add(("],", ']",'))
        self._columns = _columns(words, reader.catalogue, self._events)
        self._spell = words.spell()

    def write(
        self,
        ids: NDArray[np.int64],
        lengths: NDArray[np.int64],
        targets: NDArray[np.int64],
        out: IO[bytes],
    ) -> None:
        """Write the rows of queries with histories of such lengths, one for each target."""
        if ids.max(initial=-1) >= len(self._start):
            raise self._reader.refused("the queries are not those of events.parquet")
        first = self._start[ids]
        start = np.repeat(first, targets)
        length = np.repeat(lengths, targets)
        target = concatenated_ranges(first, first + targets)
        self.left_out += int((lengths == 0).sum())
        rows = np.flatnonzero(length)
        for some in np.array_split(rows, max(1, len(rows) // ROWS)):
            out.write(self._spell(self._numbers(start[some], length[some], target[some])))

    def _numbers(
        self, start: NDArray[np.integer], length: NDArray[np.integer], target: NDArray[np.integer]
    ) -> NDArray[np.int32]:
        """Return the words of rows whose histories are the `length` events before `start`."""
        size = 1 + len(self._columns) * (length + 3)
        first = np.cumsum(size) - size
        numbers = np.empty(size.sum(), np.int32)
        numbers[first] = self._users + self._events.user[target]
        history = concatenated_ranges(start - length, start)
        place = np.arange(len(history)) - np.repeat(np.cumsum(length) - length, length)
        for c, column in enumerate(self._columns):
            at = first + 1 + c * (length + 3)
            quoted = (length > 1) | column.special[column.code[start - length]]
            numbers[at] = self._open + quoted
            numbers[at + length + 1] = self._close + quoted
            numbers[np.repeat(at + 1, length) + place] = (
                np.where(place, column.later, column.first) + column.code[history]
            )
            numbers[at + length + 2] = column.cell + column.code[target]
        return numbers


def _columns(words: _Vocabulary, catalogue: Catalogue, events: Events) -> list[_Column]:
    times, time = np.unique(events.time, return_inverse=True)
    return [
        _Column.of(words, events.items, catalogue.item_ids),
        _Column.of(words, events.items, range(len(catalogue))),
        _Column.of(words, events.items, catalogue.titles),
        _Column.of(words, events.rating, list(map(_value, events.ratings))),
        _Column.of(words, time, times.tolist(), end="\r\n"),
    ]


def _first_targets(query_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first event that is a target of each query. Shape: [Q]."""
    events = np.flatnonzero(query_ids >= 0)[::-1]
    first = np.full(query_ids.max(initial=-1) + 1, -1)
    first[query_ids[events]] = events
    return first


def _value(text: str) -> object:
    """Return a rating as JSON reads it, None where there is none."""
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


def _cell(text: str) -> str:
    return text if SPECIAL.isdisjoint(text) else '"' + text.replace('"', '""') + '"'
