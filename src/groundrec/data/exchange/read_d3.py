"""Data sets that others have prepared, split and numbered already: `d3` and `minionerec`.

    train|valid|test/<name>.csv    one row per target, lists as Python prints them
    info/<name>.txt                title, tab, item number; `minionerec` has a semantic id and a tab before

An importer reads a folder, checks every row, and saves a data set with exactly those splits: a row
that cannot be used is an error with its file and line, never left out, for a part of a published
split is another split. Knows nothing about raw interactions.
"""

from __future__ import annotations

import ast
import csv
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from groundrec.core.errors import DataError, did_you_mean
from groundrec.core.types import Catalogue
from groundrec.data.dataset import describe, report_full_disk, save
from groundrec.data.events import Events
from groundrec.data.exchange.rejoin import Rows, queries_of, rejoin
from groundrec.data.protocols.windows import SPLITS, Windows
from groundrec.data.raw.files import lines_of
from groundrec.data.summary import leakage, summarize

__all__ = ["UNTIMED", "Importer", "d3", "finish", "minionerec", "unusable"]

NEEDED = ("user_id", "history_item_id", "item_id", "history_item_title", "item_title")
TIMED = ("item_asins", "item_asin", "history_rating", "rating", "history_timestamp", "timestamp")
NAME = re.compile(r"(.+)_(\d+)_(\d+)-(\d+)-(\d+)-(\d+)")
WINDOW = ("st_year", "st_month", "ed_year", "ed_month")
SAYS = {"times": ("moment", "time_span", "first", "last"), "users": ("user", "density", "events")}
"""Words in the keys of a card that say something of times or users."""

UNTIMED = (
    "The files say no times: a query's time is its place among all rows, train before valid before"
    " test."
)


class Importer(Protocol):
    """What the registry's seam `imports` holds."""

    def __call__(self, folder: Path, out: Path, category: str = "") -> dict[str, Any]:
        """Save the data set of `folder`, of `category` where there are several, into `out`; return
        its card.
        """
        ...


class _Items:
    """The titles of the items, by number, and their ids as rows tell them."""

    def __init__(self, titles: Sequence[str]) -> None:
        self.titles = titles
        self.ids: list[str | None] = [None] * len(titles)

    def name(self, number: int, item_id: str) -> bool:
        """Note an item's id and return whether it is the one it had before."""
        before = self.ids[number]
        self.ids[number] = item_id
        return before in (None, item_id)

    def catalogue(self) -> Catalogue:
        """Return the items; one that no row names has its number for an id."""
        ids = [
            str(number) if item_id is None else item_id for number, item_id in enumerate(self.ids)
        ]
        if twice := [item_id for item_id, times in Counter(ids).items() if times > 1]:
            raise DataError(
                "two item numbers have the same id",
                value=twice[0],
                accepted="an id for each number",
            )
        return Catalogue(tuple(ids), tuple(self.titles))


def d3(folder: Path, out: Path, category: str = "") -> dict[str, Any]:
    """Import the files of D3's `process.py`; an item's id is its `asin`, its number that of the
    `info` file.
    """
    files = _files(folder, category)
    items = _Items(_titles(files["info"], semantic_ids=False))
    ratings = {}
    parts = {split: Rows() for split in SPLITS}
    for split, part in parts.items():
        for row in _Row.of(files[split], items.titles, TIMED):
            row.add_to(part)
            row.add_times_to(part, ratings)
            row.name_items(items)
    told = _told("d3", files["info"].stem)
    return finish(items.catalogue(), parts, told, out, rejoin(parts, list(ratings)))


def minionerec(folder: Path, out: Path, category: str = "") -> dict[str, Any]:
    """Import MiniOneRec's files; an item's id is its number, and semantic ids are left out."""
    files = _files(folder, category)
    items = _Items(_titles(files["info"], semantic_ids=True))
    place = count()
    parts = {split: Rows() for split in SPLITS}
    for split, part in parts.items():
        for row in _Row.of(files[split], items.titles, ()):
            row.add_to(part)
            part.times.append(next(place))
    told = {**_told("minionerec", files["info"].stem), "notes": [UNTIMED]}
    return finish(items.catalogue(), parts, told, out, untold=("times",))


def finish(
    catalogue: Catalogue,
    parts: Mapping[str, Rows],
    told: Mapping[str, Any],
    out: Path,
    joined: tuple[Events, Mapping[str, Windows]] | None = None,
    untold: Collection[str] = (),
) -> dict[str, Any]:
    """Save what was imported and return its card: what is `told` of it, and what can be measured.

    `untold` are `times` or `users` where numbers stand for them, of which nothing is said.
    """
    if empty := [split for split, part in parts.items() if not part.users]:
        raise DataError(
            f"the {empty[0]} split has no rows", accepted="a row in each of train, valid and test"
        )
    queries = queries_of(parts)
    rows = sum(map(len, queries.values()))
    counts = {split: _known(found, untold) for split, found in describe(queries).items()}
    card = {
        "rows": {"read": rows, "kept": rows},
        **_known(summarize(catalogue, queries), untold),
        "splits": counts,
        "leakage": _known(leakage(queries), untold),
        **told,
    }
    events, splits = joined or (None, queries)
    with report_full_disk(out):
        save(catalogue, splits, card, out, events)
    return card


def _known(found: Mapping[str, Any], untold: Collection[str]) -> dict[str, Any]:
    """Return the entries that tell nothing of what is `untold`."""
    words = [word for name in untold for word in SAYS[name]]
    return {key: value for key, value in found.items() if not any(word in key for word in words)}


class _Row:
    """One row of a CSV file, its cells read when asked for; what is wrong raises `DataError` with
    file and line.
    """

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
        """Yield the rows of a file that has the columns every format has, and `more`."""
        reader = csv.reader(line.decode() for line in lines_of(file))
        try:
            header = next(reader, [])
            _require((*NEEDED, *more), header, file)
            for line, cells in _numbered(reader):
                if len(cells) != len(header):
                    raise unusable(
                        file,
                        f"line {line}",
                        f"{len(cells)} cells",
                        f"{len(header)}, as in the first line",
                    )
                yield cls(file, line, dict(zip(header, cells, strict=True)), titles)
        except (UnicodeDecodeError, csv.Error) as error:
            raise unusable(
                file, f"line {reader.line_num + 1}", error, "UTF-8 text in CSV"
            ) from None

    def add_to(self, part: Rows) -> None:
        """Append user, history and target."""
        part.users.append(self._cells["user_id"])
        part.targets.append(self.item)
        part.lengths.append(len(self.history))
        part.history.extend(self.history)

    def add_times_to(self, part: Rows, ratings: dict[str, int]) -> None:
        """Append times, and ratings as the numbers that `ratings` gives them."""
        part.times.append(self._time("timestamp", self._value("timestamp")))
        part.past_times.extend(
            self._time("history_timestamp", t) for t in self._as_long("history_timestamp")
        )
        for to, values in (
            (part.ratings, [self._value("rating")]),
            (part.past_ratings, self._as_long("history_rating")),
        ):
            texts = ("" if value is None else str(value) for value in values)
            to.extend(ratings.setdefault(text, len(ratings)) for text in texts)

    def name_items(self, items: _Items) -> None:
        """Note the ids of the row's items."""
        named = [("item_asin", self.item, self._cells["item_asin"])]
        if self._cells["item_asins"] != repr([items.ids[number] for number in self.history]):
            named += [
                ("item_asins", *pair)
                for pair in zip(self.history, self._as_long("item_asins"), strict=True)
            ]
        for column, number, item_id in named:
            if not items.name(number, str(item_id)):
                raise self._wrong(column, f"the one id that item {number} has in other rows")

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
        """Return a number, text or list as Python prints it; text that is none of these is itself."""
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
                column, f"item numbers from 0 to {len(self._titles) - 1}, those of info/"
            )
        return number

    def _time(self, column: str, time: Any) -> int:
        if type(time) is not int or time < 0:
            raise self._wrong(column, "whole seconds since 1970")
        return time

    def _wrong(self, column: str, accepted: str) -> DataError:
        return unusable(
            self._file, f"line {self._line}, column {column}", self._cells[column][:200], accepted
        )


def unusable(file: Path, place: str, value: object, accepted: str) -> DataError:
    """Return the error of a row that cannot be used."""
    return DataError(
        f"{file.name}, {place}: this row cannot be used",
        value=value,
        accepted=accepted,
        next_step=f"mend {file}: an import leaves no row out",
    )


def _numbered(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield each row with the line it begins at."""
    line = reader.line_num + 1
    for cells in reader:
        yield line, cells
        line = reader.line_num + 1


def _require(columns: Sequence[str], there: Sequence[str], file: Path) -> None:
    for name in columns:
        if name not in there:
            raise DataError(
                f"{file.name} has no such column{did_you_mean(name, there)}",
                value=name,
                accepted=", ".join(there),
                next_step=(
                    "groundrec import FOLDER --format … with the format that these files have"
                ),
            )


def _titles(file: Path, *, semantic_ids: bool) -> list[str]:
    """Return the titles of an info file by number; a title may hold tabs and line breaks."""
    titles: list[str] = []
    held: list[str] = []
    for number, line in enumerate(lines_of(file), 1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise unusable(file, f"line {number}", error, "UTF-8 text") from None
        rest, _, end = text.rstrip("\r\n").rpartition("\t")
        if end != str(len(titles)):
            held.append(text)
            continue
        title = "".join([*held, rest])
        titles.append(title.partition("\t")[2] if semantic_ids else title)
        held = []
    if held or not titles:
        raise unusable(
            file,
            f"line {len(titles) + 1}",
            "".join(held)[:200],
            f"a title, a tab and the number {len(titles)}",
        )
    return titles


def _files(folder: Path, category: str) -> dict[str, Path]:
    """Return the one file of each split and of the titles, of `category` or whose whole name is
    `category`.
    """
    named = {
        part: sorted((folder / part).glob("*.txt" if part == "info" else "*.csv"))
        for part in (*SPLITS, "info")
    }
    found = {
        part: [
            f
            for f in files
            if not category or f.stem == category or f.stem.startswith(f"{category}_")
        ]
        for part, files in named.items()
    }
    if all(len(files) == 1 for files in found.values()):
        return {part: files[0] for part, files in found.items()}
    there = sorted({file.stem for files in named.values() for file in files})
    raise DataError(
        f"not one file for each of {', '.join(named)}{did_you_mean(category, there)}",
        value=", ".join(f"{part}/: {len(files)}" for part, files in found.items())
        + f" in {folder}",
        accepted=", ".join(there)
        or "a folder with train/, valid/ and test/ of .csv files and info/ of .txt files",
        next_step="groundrec import FOLDER --format … --category NAME",
    )


def _told(source: str, name: str) -> dict[str, Any]:
    """Return what a file's name tells of how the data set was made: category, k and window."""
    told = NAME.fullmatch(name)
    if not told:
        return {"settings": {"source": source, "category": name}}
    settings = {"source": source, "category": told[1], "k_core": int(told[2])}
    return {
        "settings": settings,
        "window": dict(zip(WINDOW, map(int, told.groups()[2:]), strict=True)),
    }
