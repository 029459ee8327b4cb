"""Raw interactions and titles from where they are, as two tables with fixed columns.

A source is constructed from the recipe's `data` section. Knows nothing about splits, histories or which rows are good:
a value that cannot be read is null here, and its text is kept for the message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import ibis
import ibis.expr.types as ir

from groundrec.core.config import Data
from groundrec.core.errors import ConfigError, DataError, closest
from groundrec.core.track import log
from groundrec.data.download import movielens_100k
from groundrec.data.files import FILE, ROW, Backend, Column, existing, read_delimited, read_table

__all__ = ["INTERACTIONS", "ITEMS", "MILLISECONDS", "MovieLens", "MovieLens100K", "Raw", "Source", "Table"]

INTERACTIONS = {
    "user": "string",
    "item_id": "string",
    "time": "int64",
    "rating": "float64",
    "time_text": "string",
    "rating_text": "string",
    "row": "int64",
    "file": "string",
}
"""Columns of `Raw.interactions`: `time` in whole seconds UTC; the texts are the values as they stand in the file."""

ITEMS = {"item_id": "string", "title": "string", "row": "int64", "file": "string"}
"""Columns of `Raw.items`; an item may be listed more than once with the same title."""

MILLISECONDS = 1e11
"""A time above this many seconds (the year 5138) is taken as milliseconds."""

LARGEST = 1e18
"""Numbers beyond this do not fit int64 and are no times."""


@dataclass(frozen=True)
class Raw:
    """What a source read: tables with the columns of `INTERACTIONS` and `ITEMS`, not yet executed."""

    interactions: ir.Table
    items: ir.Table


class Source(Protocol):
    """Constructed from `core.config.Data`."""

    def read(self, connection: Backend) -> Raw:
        """Return the raw tables; raise `DataError` for a missing file or column."""
        ...


@dataclass(frozen=True)
class _Layout:
    events: str
    items: str
    columns: Mapping[str, str]
    delimiters: tuple[str, str]
    names: tuple[Sequence[str] | None, Sequence[str] | None] = (None, None)
    quote: str = ""


_PLAIN = {"user": "user", "item": "item", "rating": "rating", "time": "time", "title": "title"}
_CSV = {"user": "userId", "item": "movieId", "rating": "rating", "time": "timestamp", "title": "title"}
_RECBOLE = {
    "user": "user_id:token",
    "item": "item_id:token",
    "rating": "rating:float",
    "time": "timestamp:float",
    "title": "movie_title:token_seq",
}
_EVENT_NAMES = ("user", "item", "rating", "time")
_GENRES = tuple(f"flag{i}" for i in range(22))
_LAYOUTS = (
    _Layout("u.data", "u.item", _PLAIN, ("\t", "|"), (_EVENT_NAMES, ("item", "title", *_GENRES))),
    _Layout("ratings.dat", "movies.dat", _PLAIN, ("::", "::"), (_EVENT_NAMES, ("item", "title", "genres"))),
    _Layout("ratings.csv", "movies.csv", _CSV, (",", ","), quote='"'),
    _Layout("*.inter", "*.item", _RECBOLE, ("\t", "\t")),
)


class MovieLens:
    """A MovieLens folder in the layout of 100K, 1M, 10M, 20M, 25M or latest, or in RecBole's atomic files."""

    def __init__(self, data: Data) -> None:
        if data.items or data.columns:
            raise ConfigError(
                "MovieLens files have fixed names and columns",
                value="data.items" if data.items else "data.columns",
                accepted="only data.path",
                next_step='--set data.source="table" for files of your own',
            )
        self._folder = existing(data.path, "data.path")

    def read(self, connection: Backend) -> Raw:
        """Return the raw tables of the first layout whose two files are there."""
        layout, events_file, items_file = self._found()
        events = read_delimited(connection, events_file, layout.delimiters[0], names=layout.names[0], quote="")
        items = read_delimited(
            connection,
            items_file,
            layout.delimiters[1],
            names=layout.names[1],
            quote=layout.quote,
            encoding=_encoding(items_file),
        )
        item_id, title = (_column(items, layout.columns[c], items_file) for c in ("item", "title"))
        if "release_year:token" in items.columns:
            title = _with_year(title, items["release_year:token"])
        return Raw(
            _interactions(events, layout.columns, events_file),
            items.select(item_id=item_id, title=title, row=items[ROW], file=items[FILE]),
        )

    def _found(self) -> tuple[_Layout, Path, Path]:
        for layout in _LAYOUTS:
            events, items = (sorted(self._folder.glob(name)) for name in (layout.events, layout.items))
            if len(events) == len(items) == 1:
                return layout, existing(events[0], "data.path"), existing(items[0], "data.path")
        there = sorted(p.name for p in self._folder.iterdir()) if self._folder.is_dir() else ["a file, not a folder"]
        raise DataError(
            f"no MovieLens files in {self._folder}",
            value="there is: " + (", ".join(there[:20]) or "nothing"),
            accepted="one of " + "; ".join(f"{x.events} and {x.items}" for x in _LAYOUTS),
            next_step="--set data.path=FOLDER",
        )


class MovieLens100K:
    """MovieLens-100K, downloaded into the cache unless `data.path` names a folder that has it."""

    def __init__(self, data: Data) -> None:
        self._data = data

    def read(self, connection: Backend) -> Raw:
        """Return the raw tables."""
        folder = self._data.path or movielens_100k()
        return MovieLens(self._data.model_copy(update={"path": folder})).read(connection)


class Table:
    """Any CSV, TSV, Parquet or JSON table with the columns user, item and time, and perhaps rating and title.

    `data.columns` says what they are called there. Titles come from the table `data.items` (item, title), else from
    the interactions' title column, else an item's id is its title. Times are seconds, milliseconds or ISO 8601
    (UTC where no offset is given).
    """

    def __init__(self, data: Data) -> None:
        self._events_file = existing(data.path, "data.path")
        self._items_file = existing(data.items, "data.items") if data.items else None
        if unknown := [name for name in data.columns if name not in _PLAIN]:
            raise DataError(
                f"data.columns renames no such column{closest(unknown[0], _PLAIN)}",
                value=unknown[0],
                accepted=", ".join(_PLAIN),
            )
        self._columns = {**_PLAIN, **data.columns}
        self._named = frozenset(data.columns)

    def read(self, connection: Backend) -> Raw:
        """Return the raw tables; says so when times were taken as milliseconds."""
        events = read_table(connection, self._events_file)
        for name in self._named - {"title"}:
            _column(events, self._columns[name], self._events_file)
        interactions = _interactions(events, self._columns, self._events_file)
        text: Column = interactions["time_text"]
        if count := interactions.filter(text.try_cast("float64") > MILLISECONDS).count().to_pyarrow().as_py():
            log.info(f"{self._events_file.name}: {count:,} times are above 1e11 and were taken as milliseconds")
        return Raw(interactions, self._titles(connection, events))

    def _titles(self, connection: Backend, events: ir.Table) -> ir.Table:
        if self._items_file:
            table = read_table(connection, self._items_file)
            item, title = (self._either(table, name) for name in ("item", "title"))
            return table.select(item_id=item.cast("string"), title=title.cast("string"), row=ROW, file=FILE)
        item = _column(events, self._columns["item"], self._events_file).cast("string")
        title = item
        if "title" in self._named or self._columns["title"] in events.columns:
            title = _column(events, self._columns["title"], self._events_file).cast("string")
        pairs = events.select(item_id=item, title=title, row=ROW, file=FILE)
        pairs = pairs.filter(pairs.item_id.notnull(), pairs.title.notnull())
        return pairs.group_by("item_id", "title").agg(row=pairs.row.min(), file=pairs.file.min())

    def _either(self, table: ir.Table, name: str) -> Column:
        """Return the renamed column, or the one with our own name where only that is there."""
        theirs = self._columns[name]
        assert self._items_file is not None
        return _column(
            table, theirs if theirs in table.columns or name not in table.columns else name, self._items_file
        )


def _interactions(table: ir.Table, columns: Mapping[str, str], file: Path) -> ir.Table:
    user, item, time = (_column(table, columns[name], file) for name in ("user", "item", "time"))
    rating = table[columns["rating"]] if columns["rating"] in table.columns else ibis.null("string")
    return table.select(
        user=user.cast("string"),
        item_id=item.cast("string"),
        time=_seconds(time),
        rating=rating.try_cast("float64"),
        time_text=time.cast("string"),
        rating_text=rating.cast("string"),
        row=table[ROW].cast("int64"),
        file=FILE,
    )


def _seconds(column: Column) -> Column:
    """Return whole seconds UTC, rounded down; null for what is neither a number nor an ISO time."""
    if column.type().is_temporal():
        return column.cast("timestamp('UTC')").epoch_seconds().cast("int64")
    number = column.try_cast("float64")
    number = (number.abs() < LARGEST).ifelse(number, None)
    number = (number > MILLISECONDS).ifelse(number / 1000, number)
    whole = number.floor().cast("int64")
    if not column.type().is_string():
        return whole
    return ibis.coalesce(whole, column.try_cast("timestamp('UTC')").epoch_seconds().cast("int64"))


def _column(table: ir.Table, name: str, file: Path) -> Column:
    if name in table.columns:
        return table[name]
    there = [c for c in table.columns if c not in (ROW, FILE)]
    raise DataError(
        f"{file.name} has no such column{closest(name, there)}",
        value=name,
        accepted=", ".join(there),
        next_step='for the `table` source: --set data.columns={user="…", item="…", time="…"}',
    )


def _with_year(title: Column, year: Column) -> Column:
    return year.re_search(r"^\d{4}$").fill_null(False).ifelse(title.concat(" (", year, ")"), title)


def _encoding(file: Path) -> str:
    try:
        file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"
