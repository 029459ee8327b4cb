"""Import data sets written as instructions: BIGRec's `train.json`, `valid.json` and `test.json`.

Each is a list of `{"instruction", "input", "output"}`: the input contains the titles of a history
in quotation marks, the output the next title. The files have neither users nor times, and identify
items by title. Knows nothing about how the texts were made.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from groundrec.core.errors import DataError
from groundrec.core.track import log
from groundrec.core.types import Catalogue
from groundrec.data.exchange.importing import NO_TIMES_NOTE, save_import, unusable_row
from groundrec.data.exchange.rejoin import ImportedRows
from groundrec.data.protocols.windows import SPLITS
from groundrec.data.raw.files import Backend, open_duckdb

__all__ = ["bigrec", "quoted_titles"]

SAMPLE_SUFFIX = "_5000"
"""Suffix of the published random samples; read where the full split is missing."""

SEPARATOR = '", "'
BLOCK = 1 << 14
NO_USERS_NOTE = "The files contain no users: every query has a user of its own."


def bigrec(folder: Path, out: Path, category: str = "") -> dict[str, Any]:
    """Import BIGRec's JSON files, with the catalogue of `movies.dat` or `id2name.txt` if present.

    Without such a list, an item's id is its title. If several items share a title, the title refers
    to the first one listed.
    """
    if category:
        raise DataError(
            "this format has no categories",
            value=category,
            accepted="a folder with the files of one data set",
            next_step="leave --category out",
        )
    files = {split: _file(folder, split) for split in SPLITS}
    items = _listed(folder)
    listed = len(items.titles)
    parts = {split: ImportedRows() for split in SPLITS}
    with open_duckdb(out) as connection:
        around_titles, ambiguous = _first_pass(connection, files.values(), items.titles)
        for split, part in parts.items():
            for row, (text, target) in enumerate(_texts(connection, files[split]), 1):
                history = quoted_titles(text, ambiguous)
                if not history and text != around_titles:
                    raise unusable_row(
                        files[split],
                        f"row {row}",
                        text[:200],
                        "an input with titles in quotation marks",
                    )
                part.history.extend(map(items.number, history))
                part.lengths.append(len(history))
                part.targets.append(items.number(target))
    next_time = 0
    for part in parts.values():
        part.times.extend(range(next_time, next_time + len(part.lengths)))
        part.users.extend(map(str, part.times))
        next_time += len(part.lengths)
    return save_import(
        items.catalogue(),
        parts,
        _card_entries(files, items, listed),
        out,
        unknown=("times", "users"),
    )


def _first_pass(
    connection: Backend, files: Iterable[Path], listed: Iterable[str]
) -> tuple[str, set[str]]:
    """Return the text around the titles of an input, and the titles that contain `SEPARATOR`.

    An input without titles, of an empty history, consists of that text alone.
    """
    around = ""
    ambiguous = {title for title in listed if SEPARATOR in title}
    for text, target in chain.from_iterable(_texts(connection, file) for file in files):
        if not around and '"' in text:
            around = text[: text.find('"')] + text[text.rfind('"') + 1 :]
        if SEPARATOR in target:
            ambiguous.add(target)
    return around, ambiguous


def quoted_titles(text: str, ambiguous: Collection[str] = ()) -> list[str]:
    """Return the titles in a text such as `"one", "two"`.

    `ambiguous` are the titles that contain the separator themselves; the longest match wins.
    """
    begin = text.find('"')
    end = text.rfind('"')
    if end <= begin:
        return []
    pieces = text[begin + 1 : end].split(SEPARATOR)
    titles = []
    while pieces:
        lengths = range(len(pieces), 1, -1) if ambiguous else ()
        taken = next((n for n in lengths if SEPARATOR.join(pieces[:n]) in ambiguous), 1)
        titles.append(SEPARATOR.join(pieces[:taken]))
        del pieces[:taken]
    return titles


class _ItemsByTitle:
    """Items by title: those of the list first, then new titles in order of appearance."""

    def __init__(self, ids: Sequence[str], titles: Sequence[str]) -> None:
        self.ids = list(ids)
        self.titles = list(titles)
        self._numbers = {title: number for number, title in reversed(list(enumerate(titles)))}

    def number(self, title: str) -> int:
        """Return the number of the first item with this title, added if it is new."""
        number = self._numbers.setdefault(title, len(self.titles))
        if number == len(self.titles):
            self.ids.append(title)
            self.titles.append(title)
        return number

    def catalogue(self) -> Catalogue:
        """Return all items."""
        return Catalogue(tuple(self.ids), tuple(self.titles))


def _texts(connection: Backend, file: Path) -> Iterator[tuple[str, str]]:
    """Yield the input and the target title of each row."""
    table = connection.read_json(
        str(file), format="array", columns={"input": "VARCHAR", "output": "VARCHAR"}
    )
    cursor = connection.raw_sql(connection.compile(table))
    rows = chain.from_iterable(iter(lambda: cursor.fetchmany(BLOCK), []))
    for row, (text, target) in enumerate(rows, 1):
        if not text or not target:
            raise unusable_row(
                file, f"row {row}", {"input": text, "output": target}, "an input and an output"
            )
        is_quoted = len(target) > 1 and target[0] == target[-1] == '"'
        yield text, target[1:-1] if is_quoted else target


def _file(folder: Path, split: str) -> Path:
    whole = folder / f"{split}.json"
    sample = folder / f"{split}{SAMPLE_SUFFIX}.json"
    if whole.exists():
        return whole
    if sample.exists() and split != "train":
        log.info(f"{whole.name} is missing: {sample.name} is used as the {split} split")
        return sample
    raise DataError(
        f"no {split}.json in {folder}",
        value="it contains: "
        + (", ".join(sorted(p.name for p in folder.glob("*"))[:20]) or "nothing"),
        accepted=(
            "a folder with train.json, valid.json and test.json, or samples such as"
            f" valid{SAMPLE_SUFFIX}.json for the last two"
        ),
        next_step="groundrec import FOLDER --format bigrec --out OUT",
    )


def _listed(folder: Path) -> _ItemsByTitle:
    """Return the items of a list in the same folder: `id::title::genres` or title, tab, number."""
    movies = folder / "movies.dat"
    names = folder / "id2name.txt"
    if movies.exists():
        rows = [line.split("::") for line in _lines(movies, "iso-8859-1") if "::" in line]
        return _ItemsByTitle([row[0] for row in rows], [row[1] for row in rows])
    return _named(names) if names.exists() else _ItemsByTitle((), ())


def _named(file: Path) -> _ItemsByTitle:
    """Return the items of `id2name.txt`; a title may hold tabs and line breaks."""
    ids = []
    titles = []
    pending = ""  # the start of a title that has line breaks
    for line in _lines(file, "utf-8"):
        title, tab, item_id = f"{pending}{line}".rpartition("\t")
        if tab and item_id.strip().isdigit():
            ids.append(item_id.strip())
            titles.append(title)
            pending = ""  # the start of a title that has line breaks
        else:
            pending = f"{pending}{line}\n"
    if pending.strip():
        raise unusable_row(
            file, f"row {len(ids) + 1}", pending[:200], "a title, a tab and a number"
        )
    return _ItemsByTitle(ids, titles)


def _lines(file: Path, encoding: str) -> list[str]:
    return file.read_bytes().decode(encoding, errors="replace").split("\n")


def _card_entries(files: Mapping[str, Path], items: _ItemsByTitle, listed: int) -> dict[str, Any]:
    """Return the card's settings and notes; `listed` is the number of items in the list."""
    notes = [NO_TIMES_NOTE, NO_USERS_NOTE]
    if listed and (added := len(items.titles) - listed):
        notes.append(f"{added:,} titles are not in the list of items and were added after it.")
    if repeated := listed - len(set(items.titles[:listed])):
        notes.append(
            f"{repeated:,} items of the list share the title of an earlier one: the title refers to"
            " the earlier."
        )
    settings = {"source": "bigrec", "files": {split: file.name for split, file in files.items()}}
    return {"settings": settings, "notes": notes}
