"""RecBole's atomic files: `NAME.inter` and `NAME.item`, with columns such as `user_id:token`.

Knows nothing about a column beyond its name and type.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from groundrec.core.config import Data
from groundrec.core.errors import DataError
from groundrec.core.track import log
from groundrec.data.raw.fetch import check_location, local_path
from groundrec.data.raw.files import Backend, check_path
from groundrec.data.raw.tables import read_delimited, read_header
from groundrec.data.sources.table import (
    NAMES,
    RawData,
    in_milliseconds,
    interactions_table,
    items_table,
    refuse_other_settings,
    require_columns,
)

__all__ = ["RecBole"]

DEFAULT_COLUMNS = {
    **dict.fromkeys(NAMES, ""),
    "user": "user_id",
    "item": "item_id",
    "time": "timestamp",
    "rating": "rating",
}
TITLES = ("title", "name")
TAB = "\t"


class RecBole:
    """A folder with one `*.inter` and one `*.item` file, or both as `data.path` and `data.items`.

    The columns are `user_id`, `item_id`, `timestamp`, optionally `rating`, and a title: the items'
    first column whose name ends in `title` or `name`. `data.columns` overrides them.
    """

    def __init__(self, data: Data) -> None:
        refuse_other_settings(data, "items", "columns", "items_sha256")
        for path, setting in ((data.path, "data.path"), (data.items, "data.items")):
            if path or setting == "data.path":
                check_location(path, setting)
        self._data = data
        self._columns = {**DEFAULT_COLUMNS, **data.columns}

    def read(self, connection: Backend) -> RawData:
        """Return the raw tables."""
        events_file, items_file = self._files()
        there = read_header(events_file, TAB)
        names = [
            n
            for n in ("user", "item", "time", "rating")
            if n != "rating" or _typed(self._columns[n], there)
        ]
        columns = {
            name: _typed(self._columns[name], there) or self._columns[name] for name in names
        }
        require_columns(columns.values(), there, events_file)
        events = read_delimited(connection, events_file, TAB, list(columns.values()), quote="")
        item, title = self._item_columns(items_file)
        items = read_delimited(
            connection, items_file, TAB, list(dict.fromkeys((item, title))), quote=""
        )
        raw = interactions_table(
            events, columns, milliseconds=in_milliseconds(events, columns["time"])
        )
        return RawData(raw, items_table(items, item, title))

    def _item_columns(self, file: Path) -> tuple[str, str]:
        there = read_header(file, TAB)
        item = _typed(self._columns["item"], there) or self._columns["item"]
        named = self._columns["title"]
        ends = [c for c in there if c.partition(":")[0].endswith(TITLES)]
        title = (_typed(named, there) or named) if named else (ends or ["title"])[0]
        require_columns((item, title), there, file)
        log.info(f"{file.name}: titles are in the column {title}")
        return item, title

    def _files(self) -> tuple[Path, Path]:
        path = local_path(self._data.path, "data.path", self._data.sha256)
        if self._data.items:
            return path, local_path(self._data.items, "data.items", self._data.items_sha256)
        found = [sorted(path.glob(f"*.{kind}")) for kind in ("inter", "item")]
        if [len(files) for files in found] == [1, 1]:
            return check_path(found[0][0], "data.path"), check_path(found[1][0], "data.path")
        there = (
            sorted(p.name for p in path.iterdir()) if path.is_dir() else ["a file, not a folder"]
        )
        raise DataError(
            "no pair of RecBole's atomic files",
            value=f"{path} contains: " + (", ".join(there[:20]) or "nothing"),
            accepted="a folder with one *.inter and one *.item file, or both files by name",
            next_step="--set data.path=FOLDER/NAME.inter --set data.items=FOLDER/NAME.item",
        )


def _typed(name: str, there: Sequence[str]) -> str:
    """Return the column called `name`, with or without a type; empty if there is none."""
    return next((c for c in there if name and name in (c, c.partition(":")[0])), "")
