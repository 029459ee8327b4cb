"""Data sets written as instructions: BIGRec's `train.json`, `valid.json` and `test.json`.

Each is a list of `{"instruction", "input", "output"}`: the input names the titles of a history in
quotation marks, the output names the next title. Neither users nor times are told, and an item is
known by its title alone. Knows nothing about how the texts were made.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from groundrec.core.errors import DataError
from groundrec.core.track import log
from groundrec.core.types import Catalogue
from groundrec.data.exchange.read_d3 import UNTIMED, finish, unusable
from groundrec.data.exchange.rejoin import Rows
from groundrec.data.protocols.windows import SPLITS
from groundrec.data.raw.files import Backend, engine

__all__ = ["bigrec", "quoted_titles"]

SAMPLES = "_5000"
"""Ends the names of the random samples that are published beside the splits; read where the split
is not there.
"""

BETWEEN = '", "'
BLOCK = 1 << 14
UNKNOWN = "The files name no users: every query is one of a user of its own."


def bigrec(folder: Path, out: Path, category: str = "") -> dict[str, Any]:
    """Import BIGRec's JSON files; `movies.dat` or `id2name.txt` beside them gives the catalogue and
    the items' ids.

    Without such a list, an item's id is its title. Of several items with one title, the first
    listed is meant.
    """
    if category:
        raise DataError(
            "this format has no categories", value=category, next_step="leave --category out"
        )
    files = {split: _file(folder, split) for split in SPLITS}
    items = _listed(folder)
    listed = len(items.titles)
    parts = {split: Rows() for split in SPLITS}
    with engine(out) as connection:
        around, unclear = _first_look(connection, files.values(), items.titles)
        for split, part in parts.items():
            for row, (text, target) in enumerate(_texts(connection, files[split]), 1):
                history = quoted_titles(text, unclear)
                if not history and text != around:
                    raise unusable(
                        files[split],
                        f"row {row}",
                        text[:200],
                        "an input that names titles in quotation marks",
                    )
                part.history.extend(map(items.number, history))
                part.lengths.append(len(history))
                part.targets.append(items.number(target))
    place = 0
    for part in parts.values():
        part.times.extend(range(place, place := place + len(part.lengths)))
        part.users.extend(map(str, part.times))
    return finish(
        items.catalogue(), parts, _told(files, items, listed), out, untold=("times", "users")
    )


def _first_look(
    connection: Backend, files: Iterable[Path], listed: Iterable[str]
) -> tuple[str, set[str]]:
    """Return the words around the titles of the first input that has some, and the titles with
    `BETWEEN` in them.
    """
    around = ""
    unclear = {title for title in listed if BETWEEN in title}
    for text, target in chain.from_iterable(_texts(connection, file) for file in files):
        around = around or (
            text[: text.find('"')] + text[text.rfind('"') + 1 :] if '"' in text else ""
        )
        if BETWEEN in target:
            unclear.add(target)
    return around, unclear


def quoted_titles(text: str, unclear: Collection[str] = ()) -> list[str]:
    """Return the titles that a text names as `"one", "two"`; `unclear` are titles with the mark
    between two in them.
    """
    begin = text.find('"')
    end = text.rfind('"')
    if end <= begin:
        return []
    pieces = text[begin + 1 : end].split(BETWEEN)
    titles = []
    while pieces:
        longest = (
            n for n in range(len(pieces), 1, -1) if unclear and BETWEEN.join(pieces[:n]) in unclear
        )
        taken = next(longest, 1)
        titles.append(BETWEEN.join(pieces[:taken]))
        del pieces[:taken]
    return titles


class _Items:
    """Items by title: those of a list first, then each title as it is met."""

    def __init__(self, ids: Sequence[str], titles: Sequence[str]) -> None:
        self.ids = list(ids)
        self.titles = list(titles)
        self._numbers = {title: number for number, title in reversed(list(enumerate(titles)))}

    def number(self, title: str) -> int:
        """Return the number of the first item with this title."""
        found = self._numbers.setdefault(title, len(self.titles))
        if found == len(self.titles):
            self.ids.append(title)
            self.titles.append(title)
        return found

    def catalogue(self) -> Catalogue:
        """Return all of them."""
        return Catalogue(tuple(self.ids), tuple(self.titles))


def _texts(connection: Backend, file: Path) -> Iterator[tuple[str, str]]:
    """Yield the input and the output's title of each row."""
    table = connection.read_json(
        str(file), format="array", columns={"input": "VARCHAR", "output": "VARCHAR"}
    )
    found = connection.raw_sql(connection.compile(table))
    rows = chain.from_iterable(iter(lambda: found.fetchmany(BLOCK), []))
    for row, (text, target) in enumerate(rows, 1):
        if not text or not target:
            raise unusable(
                file, f"row {row}", {"input": text, "output": target}, "an input and an output"
            )
        is_quoted = len(target) > 1 and target[0] == target[-1] == '"'
        yield text, target[1:-1] if is_quoted else target


def _file(folder: Path, split: str) -> Path:
    whole = folder / f"{split}.json"
    sample = folder / f"{split}{SAMPLES}.json"
    if whole.exists():
        return whole
    if sample.exists() and split != "train":
        log.info(f"{whole.name} is not there: {sample.name} is taken for the {split} split")
        return sample
    raise DataError(
        f"no {split}.json in {folder}",
        value="there is: "
        + (", ".join(sorted(p.name for p in folder.glob("*"))[:20]) or "nothing"),
        accepted=(
            "a folder with train.json, valid.json and test.json, the last two also as"
            f" valid{SAMPLES}.json"
        ),
        next_step="groundrec import FOLDER --format bigrec --out OUT",
    )


def _listed(folder: Path) -> _Items:
    """Return the items of a list beside the splits: `id::title::genres` or title, tab, number."""
    movies = folder / "movies.dat"
    names = folder / "id2name.txt"
    if movies.exists():
        rows = [line.split("::") for line in _lines(movies, "iso-8859-1") if "::" in line]
        return _Items([row[0] for row in rows], [row[1] for row in rows])
    return _named(names) if names.exists() else _Items((), ())


def _named(file: Path) -> _Items:
    """Return the items of `id2name.txt`; a title may hold tabs and line breaks."""
    ids = []
    titles = []
    held = ""
    for line in _lines(file, "utf-8"):
        title, tab, item_id = f"{held}{line}".rpartition("\t")
        if tab and item_id.strip().isdigit():
            ids.append(item_id.strip())
            titles.append(title)
            held = ""
        else:
            held = f"{held}{line}\n"
    if held.strip():
        raise unusable(file, f"row {len(ids) + 1}", held[:200], "a title, a tab and a number")
    return _Items(ids, titles)


def _lines(file: Path, encoding: str) -> list[str]:
    return file.read_bytes().decode(encoding, errors="replace").split("\n")


def _told(files: Mapping[str, Path], items: _Items, listed: int) -> dict[str, Any]:
    notes = [UNTIMED, UNKNOWN]
    if listed and (added := len(items.titles) - listed):
        notes.append(f"{added:,} titles are not in the list of items; they were added behind it.")
    if repeated := listed - len(set(items.titles[:listed])):
        notes.append(
            f"{repeated:,} items of the list have the title of an earlier one, which is the one"
            " that is meant."
        )
    settings = {"source": "bigrec", "files": {split: file.name for split, file in files.items()}}
    return {"settings": settings, "notes": notes}
