"""Export a finished data set in the file format `d3`.

    train|valid|test/<name>.csv    one row per target, lists as Python prints them
    info/<name>.txt                title, tab, item number

The published script names its files after category, k and window: `Books_5_2017-10-2018-11`. To
write at the speed of the disk, all pieces of text are put into one vocabulary, and rows are built
as arrays of indices into it, many rows at a time. Knows nothing about how the data set was made.
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

from groundrec.core.files import atomic_write
from groundrec.core.track import log
from groundrec.core.types import Catalogue
from groundrec.data.arrays import as_arrow, as_numpy, as_texts, bytes_of
from groundrec.data.dataset import DatasetReader
from groundrec.data.events import Events
from groundrec.data.protocols.windows import SPLITS, concatenated_ranges

__all__ = ["Format", "d3", "name_of"]

Format: TypeAlias = Callable[[DatasetReader, Path], list[Path]]
"""Writes a finished data set to a folder and returns the files; all appear together."""

ROWS = 1 << 11
SPECIAL = frozenset(',"\r\n')
HEADER = (
    "user_id,item_asins,item_asin,history_item_id,item_id,history_item_title,item_title,"
    "history_rating,rating,history_timestamp,timestamp\r\n"
)


def d3(reader: DatasetReader, folder: Path) -> list[Path]:
    """Write the files of D3's `process.py`, which has no rows for queries without a history."""
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
    if writer.skipped:
        log.warning(f"{writer.skipped:,} queries without a history were skipped")
    return files


def name_of(reader: DatasetReader) -> str:
    """Return the published script's name for the files: category, k and window, as far as known."""
    settings = reader.card.get("settings", {})
    window = reader.card.get("window")
    category = settings.get("category") or settings.get("source") or "dataset"
    if not window:
        return category
    months = "{st_year}-{st_month}-{ed_year}-{ed_month}".format(**window)
    return f"{category}_{settings['k_core']}_{months}"


class _Vocabulary:
    """All pieces of text that a file consists of, by index."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def add(self, texts: Iterable[str]) -> int:
        """Add texts; return the index of the first, the others follow."""
        first = len(self._texts)
        self._texts.extend(texts)
        return first

    def decoder(self) -> Callable[[NDArray[np.int32]], memoryview]:
        """Return the function from indices to the bytes of their texts, concatenated."""
        texts = as_texts(self._texts)
        return lambda indices: bytes_of(texts.take(as_arrow(indices)))


@dataclass(frozen=True)
class _Column:
    """A column of V distinct values, with the index of each value's text in its three forms.

    Value v has the texts `cell + v`, `first + v` and `later + v`.
    """

    code: NDArray[np.integer]
    """The value of each event. Shape: [E]."""
    cell: int
    """As a cell of its own."""
    first: int
    """As the first element of a list."""
    later: int
    """As a later element of a list, with a comma before it."""
    special: NDArray[np.bool_]
    """Whether a list of only that value must be quoted in CSV. Shape: [V]."""

    @classmethod
    def of(
        cls, words: _Vocabulary, code: NDArray[np.integer], values: Sequence[object], end: str = ","
    ) -> _Column:
        """Return the column of `values[code]`, its texts added to `words`."""
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
        self.skipped = 0
        self._reader = reader
        self._events, query_ids = reader.events()
        self._start = _first_targets(query_ids)
        words = _Vocabulary()
        self._users = words.add(f"{_cell(user)}," for user in self._events.users.tolist())
        self._open = words.add(("[", '"['))
        self._close = words.add(("],", ']",'))
        self._columns = _columns(words, reader.catalogue, self._events)
        self._decode = words.decoder()

    def write(
        self,
        ids: NDArray[np.int64],
        lengths: NDArray[np.int64],
        targets: NDArray[np.int64],
        out: IO[bytes],
    ) -> None:
        """Write one row per target of the queries `ids` [Q].

        `lengths` [Q] are those of their histories, `targets` [Q] their numbers of targets.
        """
        if ids.max(initial=-1) >= len(self._start):
            raise self._reader.refused("the queries do not match events.parquet")
        first = self._start[ids]
        start = np.repeat(first, targets)
        length = np.repeat(lengths, targets)
        target = concatenated_ranges(first, first + targets)
        self.skipped += int((lengths == 0).sum())
        rows = np.flatnonzero(length)
        for chunk in np.array_split(rows, max(1, len(rows) // ROWS)):
            out.write(self._decode(self._indices(start[chunk], length[chunk], target[chunk])))

    def _indices(
        self, start: NDArray[np.integer], length: NDArray[np.integer], target: NDArray[np.integer]
    ) -> NDArray[np.int32]:
        """Return the texts of R rows whose histories are the `length` events before `start`.

        A row is its user and then, for each column, an opening bracket, `length` list elements, a
        closing bracket and the target's cell. Shapes: [R]; the result is flat, row after row.
        """
        size = 1 + len(self._columns) * (length + 3)  # texts per row
        first = np.cumsum(size) - size  # where each row starts
        indices = np.empty(size.sum(), np.int32)
        indices[first] = self._users + self._events.user[target]
        history = concatenated_ranges(start - length, start)  # events of all histories: [H]
        # position of each history event in its own history: [H]
        position = np.arange(len(history)) - np.repeat(np.cumsum(length) - length, length)
        for c, column in enumerate(self._columns):
            at = first + 1 + c * (length + 3)  # where the column starts in each row
            # a list of several elements contains commas; a single one may be special by itself
            quoted = (length > 1) | column.special[column.code[start - length]]
            indices[at] = self._open + quoted
            indices[at + length + 1] = self._close + quoted
            form = np.where(position, column.later, column.first)
            indices[np.repeat(at + 1, length) + position] = form + column.code[history]
            indices[at + length + 2] = column.cell + column.code[target]
        return indices


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
    """Return the first target event of each query, -1 if it has none. Shape: [Q]."""
    # in reverse, so that of several targets the first is the last one written
    events = np.flatnonzero(query_ids >= 0)[::-1]
    first = np.full(query_ids.max(initial=-1) + 1, -1)
    first[query_ids[events]] = events
    return first


def _value(text: str) -> object:
    """Return a rating as a number if JSON reads one, else as text; None if it is missing."""
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


def _cell(text: str) -> str:
    return text if SPECIAL.isdisjoint(text) else '"' + text.replace('"', '""') + '"'
