"""Import data sets that are already prepared, split and numbered: `d3` and `minionerec`.

    train|valid|test/<name>.csv    one row per target, lists as Python prints them
    info/<name>.txt                title, tab, item number; `minionerec` has a semantic id first

Knows nothing about raw interactions.
"""

from __future__ import annotations

import ast
import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from groundrec.core.errors import DataError, did_you_mean
from groundrec.core.types import Catalogue
from groundrec.data.exchange.importing import NO_TIMES_NOTE, save_import, unusable_row
from groundrec.data.exchange.rejoin import ImportedRows, rejoin
from groundrec.data.protocols.windows import SPLITS
from groundrec.data.raw.files import read_lines

__all__ = ["d3", "minionerec"]

REQUIRED = ("user_id", "history_item_id", "item_id", "history_item_title", "item_title")
TIME_COLUMNS = (
    "item_asins",
    "item_asin",
    "history_rating",
    "rating",
    "history_timestamp",
    "timestamp",
)
NAME = re.compile(r"(.+)_(\d+)_(\d+)-(\d+)-(\d+)-(\d+)")
WINDOW = ("st_year", "st_month", "ed_year", "ed_month")


class _NumberedItems:
    """The titles of the items by number, and their ids, filled in while reading rows."""

    def __init__(self, titles: Sequence[str]) -> None:
        self.titles = titles
        self.ids: list[str | None] = [None] * len(titles)

    def set_id(self, number: int, item_id: str) -> bool:
        """Set an item's id; return whether it had none or the same one before."""
        before = self.ids[number]
        self.ids[number] = item_id
        return before in (None, item_id)

    def catalogue(self) -> Catalogue:
        """Return the catalogue; an item that no row names has its number as its id."""
        ids = [
            str(number) if item_id is None else item_id for number, item_id in enumerate(self.ids)
        ]
        if repeated := [item_id for item_id, times in Counter(ids).items() if times > 1]:
            raise DataError(
                "two item numbers have the same id",
                value=repeated[0],
                accepted="a different id for each item number",
                next_step="fix the item ids in the CSV files",
            )
        return Catalogue(tuple(ids), tuple(self.titles))


def d3(
    folder: Path,
    out: Path,
    category: str = "",
    files: Mapping[str, Path] | None = None,
    *,
    allow_leaks: bool = False,
) -> dict[str, Any]:
    """Import the files of D3's `process.py`; an item's id is its `asin`.

    `files` are those of the splits and of `info`, which may have any names and folders.
    """
    files = files or _files(folder, category)
    items = _NumberedItems(_titles(files["info"], semantic_ids=False))
    ratings = {}
    parts = {split: ImportedRows() for split in SPLITS}
    for split, part in parts.items():
        for row in _Row.of(files[split], items.titles, TIME_COLUMNS):
            row.append_to(part)
            row.append_times_to(part, ratings)
            row.set_item_ids(items)
    entries = _card_entries("d3", files["info"].stem)
    joined = rejoin(parts, list(ratings))
    return save_import(items.catalogue(), parts, entries, out, joined, allow_leaks=allow_leaks)


def minionerec(
    folder: Path, out: Path, category: str = "", *, allow_leaks: bool = False
) -> dict[str, Any]:
    """Import MiniOneRec's files; an item's id is its number, semantic ids are ignored."""
    files = _files(folder, category)
    items = _NumberedItems(_titles(files["info"], semantic_ids=True))
    times = count()
    parts = {split: ImportedRows() for split in SPLITS}
    for split, part in parts.items():
        for row in _Row.of(files[split], items.titles, ()):
            row.append_to(part)
            part.times.append(next(times))
    entries = {**_card_entries("minionerec", files["info"].stem), "notes": [NO_TIMES_NOTE]}
    return save_import(
        items.catalogue(), parts, entries, out, unknown=("times",), allow_leaks=allow_leaks
    )


class _Row:
    """One row of a CSV file; a wrong cell raises `DataError` with its file and line."""

    def __init__(
        self, file: Path, line: int, cells: Mapping[str, str], titles: Sequence[str]
    ) -> None:
        self._file = file
        self._line = line
        self._cells = cells
        self._titles = titles
        self.history = [
            self._item("history_item_id", number) for number in self._list("history_item_id")
        ]
        self.item = self._item("item_id", self._value("item_id"))
        if cells["item_title"] != titles[self.item]:
            raise self._wrong(
                "item_title", f"the title that item {self.item} has in info/, {titles[self.item]!r}"
            )
        if cells["history_item_title"] != repr([titles[number] for number in self.history]):
            raise self._wrong(
                "history_item_title", f"the titles that items {self.history} have in info/"
            )

    @classmethod
    def of(cls, file: Path, titles: Sequence[str], more: Sequence[str]) -> Iterator[_Row]:
        """Yield the rows of a file that has the columns of every format, and `more`."""
        reader = csv.reader(line.decode() for line in read_lines(file))
        try:
            header = next(reader, [])
            _require((*REQUIRED, *more), header, file)
            for line, cells in _numbered(reader):
                if len(cells) != len(header):
                    raise unusable_row(
                        file,
                        f"line {line}",
                        f"{len(cells)} cells",
                        f"{len(header)}, as in the first line",
                    )
                yield cls(file, line, dict(zip(header, cells, strict=True)), titles)
        except (UnicodeDecodeError, csv.Error) as error:
            raise unusable_row(
                file, f"line {reader.line_num + 1}", error, "UTF-8 text in CSV"
            ) from None

    def append_to(self, part: ImportedRows) -> None:
        """Append user, history and target."""
        part.users.append(self._cells["user_id"])
        part.targets.append(self.item)
        part.lengths.append(len(self.history))
        part.history.extend(self.history)

    def append_times_to(self, part: ImportedRows, ratings: dict[str, int]) -> None:
        """Append times, and ratings by their codes in `ratings`, which grows."""
        part.times.append(self._time("timestamp", self._value("timestamp")))
        part.past_times.extend(
            self._time("history_timestamp", t) for t in self._as_long("history_timestamp")
        )
        for column, values in (
            (part.ratings, [self._value("rating")]),
            (part.past_ratings, self._as_long("history_rating")),
        ):
            texts = ("" if value is None else str(value) for value in values)
            column.extend(ratings.setdefault(text, len(ratings)) for text in texts)

    def set_item_ids(self, items: _NumberedItems) -> None:
        """Set the ids of the row's items."""
        # comparing the printed list first saves parsing it where all ids are known already
        named = [("item_asin", self.item, self._cells["item_asin"])]
        if self._cells["item_asins"] != repr([items.ids[number] for number in self.history]):
            named += [
                ("item_asins", *pair)
                for pair in zip(self.history, self._as_long("item_asins"), strict=True)
            ]
        for column, number, item_id in named:
            if not items.set_id(number, str(item_id)):
                raise self._wrong(column, f"the id that item {number} has in other rows")

    def _as_long(self, column: str) -> list[Any]:
        values = self._list(column)
        if len(values) != len(self.history):
            raise self._wrong(column, f"a list as long as history_item_id, {len(self.history)}")
        return values

    def _list(self, column: str) -> list[Any]:
        values = self._value(column)
        if not isinstance(values, list):
            raise self._wrong(column, "a list as Python prints it")
        return values

    def _value(self, column: str) -> Any:
        """Return a cell's value, read as JSON or a Python literal; any other text as it is."""
        cell = self._cells[column]
        try:
            return json.loads(cell)
        except ValueError:
            pass
        try:
            return ast.literal_eval(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return cell

    def _item(self, column: str, number: Any) -> int:
        if type(number) is not int or not 0 <= number < len(self._titles):
            raise self._wrong(
                column, f"item numbers from 0 to {len(self._titles) - 1}, as in info/"
            )
        return number

    def _time(self, column: str, time: Any) -> int:
        if type(time) is not int or time < 0:
            raise self._wrong(column, "whole seconds since 1970")
        return time

    def _wrong(self, column: str, accepted: str) -> DataError:
        return unusable_row(
            self._file, f"line {self._line}, column {column}", self._cells[column][:200], accepted
        )


def _numbered(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield each row with the line it starts on."""
    line = reader.line_num + 1
    for cells in reader:
        yield line, cells
        line = reader.line_num + 1


def _require(columns: Sequence[str], header: Sequence[str], file: Path) -> None:
    for name in columns:
        if name not in header:
            raise DataError(
                f"{file.name} has no such column{did_you_mean(name, header)}",
                value=name,
                accepted=", ".join(header),
                next_step=("groundrec import FOLDER --format … with the format of these files"),
            )


def _titles(file: Path, *, semantic_ids: bool) -> list[str]:
    """Return the titles of an info file by number; a title may hold tabs and line breaks."""
    titles: list[str] = []
    pending: list[str] = []  # lines of a title that has line breaks
    for number, line in enumerate(read_lines(file), 1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise unusable_row(file, f"line {number}", error, "UTF-8 text") from None
        rest, _, end = text.rstrip("\r\n").rpartition("\t")
        if end != str(len(titles)):
            pending.append(text)
            continue
        title = "".join([*pending, rest])
        titles.append(title.partition("\t")[2] if semantic_ids else title)
        pending = []
    if pending or not titles:
        raise unusable_row(
            file,
            f"line {len(titles) + 1}",
            "".join(pending)[:200],
            f"a title, a tab and the number {len(titles)}",
        )
    return titles


def _files(folder: Path, category: str) -> dict[str, Path]:
    """Return the file of each split and of the titles, for one category or full file name."""
    all_files = {
        part: sorted((folder / part).glob("*.txt" if part == "info" else "*.csv"))
        for part in (*SPLITS, "info")
    }
    matches = {
        part: [
            file
            for file in files
            if not category or file.stem == category or file.stem.startswith(f"{category}_")
        ]
        for part, files in all_files.items()
    }
    if all(len(files) == 1 for files in matches.values()):
        return {part: files[0] for part, files in matches.items()}
    available = sorted({file.stem for files in all_files.values() for file in files})
    raise DataError(
        f"need exactly one file in each of {', '.join(all_files)}"
        f"{did_you_mean(category, available)}",
        value=", ".join(f"{part}/: {len(files)}" for part, files in matches.items())
        + f" in {folder}",
        accepted=", ".join(available)
        or "a folder with .csv files in train/, valid/ and test/, and .txt files in info/",
        next_step="groundrec import FOLDER --format … --category NAME",
    )


def _card_entries(source: str, name: str) -> dict[str, Any]:
    """Return what a file's name says about the data set: category, k-core and window."""
    match = NAME.fullmatch(name)
    if not match:
        return {"settings": {"source": source, "category": name}}
    settings = {"source": source, "category": match[1], "k_core": int(match[2])}
    return {
        "settings": settings,
        "window": dict(zip(WINDOW, map(int, match.groups()[2:]), strict=True)),
    }
