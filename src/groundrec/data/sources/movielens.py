"""MovieLens, in all of its published layouts.

Knows nothing about splits or histories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ibis.expr.types as ir

from groundrec.core.config import Data
from groundrec.core.errors import DataError
from groundrec.data.raw.download import movielens_100k
from groundrec.data.raw.fetch import check_location, local_path
from groundrec.data.raw.files import Backend, Column, check_path
from groundrec.data.raw.tables import read_delimited, read_header
from groundrec.data.sources.table import (
    NAMES,
    RawData,
    interactions_table,
    items_table,
    refuse_other_settings,
    require_columns,
)

__all__ = ["MovieLens", "MovieLens100K"]


@dataclass(frozen=True)
class _Layout:
    events: str
    items: str
    columns: Mapping[str, str]
    delimiters: tuple[str, str]
    names: tuple[Sequence[str] | None, Sequence[str] | None] = (None, None)
    quote: str = ""


_CSV = {
    "user": "userId",
    "item": "movieId",
    "rating": "rating",
    "time": "timestamp",
    "title": "title",
}
_RECBOLE = {
    "user": "user_id:token",
    "item": "item_id:token",
    "rating": "rating:float",
    "time": "timestamp:float",
    "title": "movie_title:token_seq",
}
_YEAR = "release_year:token"
_EVENT_NAMES = ("user", "item", "rating", "time")
_GENRES = tuple(f"flag{i}" for i in range(22))
_LAYOUTS = (
    _Layout("u.data", "u.item", NAMES, ("\t", "|"), (_EVENT_NAMES, ("item", "title", *_GENRES))),
    _Layout(
        "ratings.dat",
        "movies.dat",
        NAMES,
        ("::", "::"),
        (_EVENT_NAMES, ("item", "title", "genres")),
    ),
    _Layout("ratings.csv", "movies.csv", _CSV, (",", ","), quote='"'),
    _Layout("*.inter", "*.item", _RECBOLE, ("\t", "\t")),
)


class MovieLens:
    """A MovieLens folder in the layout of 100K, 1M, 10M, 20M, 25M or latest, or of RecBole."""

    def __init__(self, data: Data) -> None:
        refuse_other_settings(data)
        check_location(data.path, "data.path")
        self._data = data

    def read(self, connection: Backend) -> RawData:
        """Return the raw tables of the first layout whose two files exist."""
        layout, events_file, items_file = _find_layout(
            local_path(self._data.path, "data.path", self._data.sha256)
        )
        events = _read(connection, layout, 0, events_file, _EVENT_NAMES)
        items = _read(connection, layout, 1, items_file, ("item", "title"))
        item = layout.columns["item"]
        title = layout.columns["title"]
        if _YEAR in items.columns:
            items = items.mutate(**{title: _with_year(items[title], items[_YEAR])})
        encoding = _encoding(items_file) if layout.names[1] else ""
        return RawData(
            interactions_table(events, layout.columns),
            items_table(items, item, title),
            encoding=encoding,
        )


class MovieLens100K:
    """MovieLens-100K, downloaded into the cache unless `data.path` names a folder that has it."""

    def __init__(self, data: Data) -> None:
        refuse_other_settings(data)
        if data.path:
            check_location(data.path, "data.path")
        self._data = data

    def read(self, connection: Backend) -> RawData:
        """Return the raw tables."""
        folder = self._data.path or movielens_100k()
        return MovieLens(self._data.model_copy(update={"path": folder})).read(connection)


def _find_layout(folder: Path) -> tuple[_Layout, Path, Path]:
    for layout in _LAYOUTS:
        events, items = (sorted(folder.glob(name)) for name in (layout.events, layout.items))
        if len(events) == len(items) == 1:
            return layout, check_path(events[0], "data.path"), check_path(items[0], "data.path")
    there = (
        sorted(p.name for p in folder.iterdir()) if folder.is_dir() else ["a file, not a folder"]
    )
    raise DataError(
        f"no MovieLens files in {folder}",
        value="it contains: " + (", ".join(there[:20]) or "nothing"),
        accepted="one of " + "; ".join(f"{x.events} and {x.items}" for x in _LAYOUTS),
        next_step="--set data.path=FOLDER",
    )


def _read(
    connection: Backend, layout: _Layout, part: int, file: Path, wanted: Sequence[str]
) -> ir.Table:
    """Return the columns `wanted` of events (part 0) or items (1), with any year column."""
    delimiter = layout.delimiters[part]
    names = layout.names[part]
    there = names or read_header(file, delimiter)
    columns = [layout.columns[name] for name in wanted]
    require_columns(columns, there, file)
    if part and _YEAR in there:
        columns.append(_YEAR)
    encoding = _encoding(file) if part else "utf-8"
    quote = layout.quote if part else ""
    return read_delimited(
        connection, file, delimiter, columns, names=names, quote=quote, encoding=encoding
    )


def _with_year(title: Column, year: Column) -> Column:
    return year.re_search(r"^\d{4}$").fill_null(False).ifelse(title.concat(" (", year, ")"), title)


def _encoding(file: Path) -> str:
    try:
        file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"
