"""The output of a source, two tables with fixed columns, and the source `table`.

A source is constructed with the recipe's section `data`. It does not judge rows: an unreadable
value is null, and its text is kept for the error message. Knows nothing about splits or histories.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import ibis
import ibis.expr.types as ir

from groundrec.core.config import Data
from groundrec.core.errors import ConfigError, DataError, did_you_mean
from groundrec.core.track import log
from groundrec.data.raw.fetch import check_location, local_path
from groundrec.data.raw.files import BROKEN, FILE, ROW, Backend, Column
from groundrec.data.raw.tables import columns_of, read_table

__all__ = [
    "INTERACTIONS",
    "ITEMS",
    "MILLISECONDS",
    "NAMES",
    "FastScan",
    "RawData",
    "Source",
    "TableSource",
]
__all__ += [
    "in_milliseconds",
    "interactions_table",
    "items_table",
    "refuse_other_settings",
    "require_columns",
]

INTERACTIONS = {
    "user": "string",
    "item_id": "string",
    "time": "int64",
    "rating": "float64",
    "time_text": "string",
    "rating_text": "string",
    "row": "int64",
    "file": "string",
    "broken": "string",
}
"""Columns of `RawData.interactions`: `time` in whole seconds UTC, `*_text` as written in the file.

`broken` is null, or the text of a line that cannot be parsed.
"""

ITEMS = {
    "item_id": "string",
    "title": "string",
    "row": "int64",
    "file": "string",
    "broken": "string",
}
"""Columns of `RawData.items`; an item may occur more than once with the same title."""

MILLISECONDS = 1e11
"""A time above this is in milliseconds: in seconds it would be after the year 5138."""

LARGEST = 1e18
"""Numbers beyond this do not fit int64 and cannot be times."""

NAMES = {"user": "user", "item": "item", "rating": "rating", "time": "time", "title": "title"}
"""Our columns → their default names in a table; `data.columns` overrides them."""


@dataclass(frozen=True)
class FastScan:
    """The interactions as a table that is read from its file, of `size` bytes, whenever computed.

    It has the columns of `INTERACTIONS` except `row`, in the order of the file. `broken` is also
    set for a line that needs the second try that `RawData.interactions` gives it.
    """

    table: ir.Table
    size: int


class RawData:
    """The output of a source: tables with the columns of `INTERACTIONS` and `ITEMS`.

    A source may offer a `fast_scan` of the interactions. `encoding` is that of the items' file, if
    its format does not imply one.
    """

    def __init__(
        self,
        interactions: ir.Table | Callable[[], ir.Table],
        items: ir.Table,
        fast_scan: FastScan | None = None,
        encoding: str = "",
    ) -> None:
        self._interactions = interactions
        self.items = items
        self.fast_scan = fast_scan
        self.encoding = encoding

    @cached_property
    def interactions(self) -> ir.Table:
        """Return every row, including lines that only Python's parsers can read."""
        return self._interactions() if callable(self._interactions) else self._interactions


class Source(Protocol):
    """Constructed with `core.config.Data`, where a missing file raises `DataError`."""

    def read(self, connection: Backend) -> RawData:
        """Return the raw tables; raise `DataError` for an unreadable file or a missing column."""
        ...


class TableSource:
    """Any CSV, TSV, Parquet or JSON table with user, item and time, optionally rating and title.

    `data.columns` renames columns. Titles come from the table `data.items` (item, title), else from
    the title column of the interactions; otherwise an item's id is its title. Times are seconds,
    milliseconds or ISO 8601 (UTC if no offset is given).
    """

    def __init__(self, data: Data) -> None:
        refuse_other_settings(data, "items", "columns", "items_sha256")
        check_location(data.path, "data.path")
        if data.items:
            check_location(data.items, "data.items")
        if unknown := [name for name in data.columns if name not in NAMES]:
            raise DataError(
                f"data.columns has an unknown column{did_you_mean(unknown[0], NAMES)}",
                value=unknown[0],
                accepted=", ".join(NAMES),
                next_step='--set data.columns={user="…", item="…", time="…"}',
            )
        self._data = data
        self._columns = {**NAMES, **data.columns}

    def read(self, connection: Backend) -> RawData:
        """Return the raw tables; log it if times are read as milliseconds."""
        file = local_path(self._data.path, "data.path", self._data.sha256)
        there = columns_of(connection, file)
        named = {*self._data.columns, "user", "item", "time"} - {"title"}
        has_title = not self._data.items and (
            "title" in self._data.columns or self._columns["title"] in there
        )
        wanted = [
            n for n in ("user", "item", "time", "rating") if n in named or self._columns[n] in there
        ]
        columns = {name: self._columns[name] for name in [*wanted, *["title"] * has_title]}
        require_columns(columns.values(), there, file)
        ids = (columns["user"], columns["item"])
        events = read_table(connection, file, list(dict.fromkeys(columns.values())), ids)
        milliseconds = in_milliseconds(events, columns["time"])
        if milliseconds:
            log.info(f"{file.name}: most times are above 1e11 and are read as milliseconds")
        raw = interactions_table(events, columns, milliseconds=milliseconds)
        return RawData(
            raw, self._listed(connection) if self._data.items else _titles_among(events, columns)
        )

    def _listed(self, connection: Backend) -> ir.Table:
        """Return the items of `data.items`, whose columns have their new or their default names."""
        file = local_path(self._data.items, "data.items", self._data.items_sha256)
        there = columns_of(connection, file)
        item, title = (
            n if self._columns[n] not in there and n in there else self._columns[n]
            for n in ("item", "title")
        )
        require_columns((item, title), there, file)
        return items_table(
            read_table(connection, file, list(dict.fromkeys((item, title))), (item,)), item, title
        )


def _titles_among(events: ir.Table, columns: Mapping[str, str]) -> ir.Table:
    """Return the items that occur, each with all its titles, or with its id as its title."""
    events = events.filter(events[BROKEN].isnull())
    pairs = items_table(events, columns["item"], columns.get("title", columns["item"]))
    pairs = pairs.filter(pairs.item_id.notnull(), pairs.title.notnull())
    first = pairs.group_by("item_id", "title").agg(row=pairs.row.min(), file=pairs.file.min())
    return first.mutate(broken=ibis.null("string"))


def interactions_table(
    table: ir.Table, columns: Mapping[str, str], *, milliseconds: bool = False
) -> ir.Table:
    """Return `table` in the form of `RawData.interactions`; `columns` maps our names to its."""
    time = table[columns["time"]]
    rating: Column = table[columns["rating"]] if "rating" in columns else ibis.null("string")
    return table.select(
        user=table[columns["user"]].cast("string"),
        item_id=table[columns["item"]].cast("string"),
        time=_seconds(time, milliseconds),
        rating=rating.try_cast("float64"),
        time_text=time.cast("string"),
        rating_text=rating.cast("string"),
        row=table[ROW].cast("int64"),
        file=FILE,
        broken=BROKEN,
    )


def items_table(table: ir.Table, item: str, title: str) -> ir.Table:
    """Return `table` in the form of `RawData.items`."""
    return table.select(
        item_id=table[item].cast("string"),
        title=table[title].cast("string"),
        row=table[ROW].cast("int64"),
        file=FILE,
        broken=BROKEN,
    )


def in_milliseconds(table: ir.Table, column: str) -> bool:
    """Return whether most numbers in a column of times are too large to be seconds."""
    time: Column = table[column]
    if time.type().is_temporal():
        return False
    number = time.try_cast("float64")
    counts = (
        table.aggregate(large=(number > MILLISECONDS).sum(), all=number.count())
        .to_pyarrow()
        .to_pylist()[0]
    )
    return 2 * (counts["large"] or 0) > counts["all"]


def _seconds(column: Column, milliseconds: bool) -> Column:
    """Return whole seconds UTC, rounded down; null if no number in that unit and not ISO 8601."""
    if column.type().is_temporal():
        return column.cast("timestamp('UTC')").epoch_seconds().cast("int64")
    number = column.try_cast("float64")
    number = (number.abs() < LARGEST).ifelse(number, None)
    large = number > MILLISECONDS
    number = large.ifelse(number / 1000, None) if milliseconds else large.ifelse(None, number)
    whole = number.floor().cast("int64")
    if not column.type().is_string():
        return whole
    return ibis.coalesce(whole, column.try_cast("timestamp('UTC')").epoch_seconds().cast("int64"))


def require_columns(names: Iterable[str], there: Sequence[str], file: Path) -> None:
    """Raise `DataError` for the first of `names` that is missing in a file."""
    for name in names:
        if name not in there:
            raise DataError(
                f"{file.name} has no such column{did_you_mean(name, there)}",
                value=name,
                accepted=", ".join(there),
                next_step=(
                    'for the `table` source: --set data.columns={user="…", item="…", time="…"}'
                ),
            )


def refuse_other_settings(data: Data, *used: str) -> None:
    """Raise `ConfigError` for a setting other than `source`, `path`, `sha256` and those `used`."""
    given = [name for name in type(data).model_fields if getattr(data, name)]
    if ignored := [name for name in given if name not in ("source", "path", "sha256", *used)]:
        raise ConfigError(
            f"the `{data.source}` source does not use this setting",
            value=f"data.{ignored[0]}",
            accepted=", ".join(f"data.{name}" for name in ("path", "sha256", *used)),
            next_step='--set data.source="table" for files of your own',
        )
