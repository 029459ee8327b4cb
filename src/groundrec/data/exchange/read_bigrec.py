"""Import data sets written as instructions: BIGRec's `train.json`, `valid.json` and `test.json`.

Each is a list of `{"instruction", "input", "output"}`: the input contains the titles of a history
in quotation marks, the output the next title. The files have neither users nor times, and identify
items by title. The words around the titles are inferred and kept on the card, so that prompts are
the user's own rows, byte for byte; rows that are worded differently are counted. Knows nothing
about templates.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

from groundrec.core.errors import DataError
from groundrec.core.track import log
from groundrec.core.types import Catalogue
from groundrec.data.exchange.importing import NO_TIMES_NOTE, save_import, unusable_row
from groundrec.data.exchange.infer_words import infer_words
from groundrec.data.exchange.rejoin import ImportedRows
from groundrec.data.exchange.row_words import InputForm, Row, RowWords
from groundrec.data.protocols.windows import SPLITS
from groundrec.data.raw.files import Backend, open_duckdb

__all__ = ["bigrec", "quoted_titles"]

SAMPLE_SUFFIX = "_5000"
"""Suffix of the published random samples; read where the full split is missing."""

SEPARATOR = '", "'
BLOCK = 1 << 14
SAMPLED = 120
"""Number of rows from which the words are inferred."""

NO_USERS_NOTE = "The files contain no users: every query has a user of its own."


def bigrec(
    folder: Path,
    out: Path,
    category: str = "",
    files: Mapping[str, Path] | None = None,
    *,
    allow_leaks: bool = False,
) -> dict[str, Any]:
    """Import BIGRec's JSON files, with the catalogue of `movies.dat` or `id2name.txt` if present.

    Without such a list, an item's id is its title. If several items share a title, the title refers
    to the first one listed. `files` are the splits' files, which may have any names and folders.
    """
    if category:
        raise DataError(
            "this format has no categories",
            value=category,
            accepted="a folder with the files of one data set",
            next_step="leave --category out",
        )
    files = files or {split: _file(folder, split) for split in SPLITS}
    items = _listed(folder)
    listed = len(items.titles)
    parts = {split: ImportedRows() for split in SPLITS}
    with open_duckdb(out) as connection:
        reader = _RowReader.of(connection, files.values(), items.titles)
        for split, part in parts.items():
            for number, row in enumerate(_rows(connection, files[split]), 1):
                history, target = reader.titles(row, files[split], number)
                part.history.extend(map(items.number, history))
                part.lengths.append(len(history))
                part.targets.append(items.number(target))
                reader.compare(row, items.titles, part, files[split], number)
    next_time = 0
    for part in parts.values():
        part.times.extend(range(next_time, next_time + len(part.lengths)))
        part.users.extend(map(str, part.times))
        next_time += len(part.lengths)
    entries = _card_entries(files, items, listed)
    entries |= reader.card_entries(next_time)
    return save_import(
        items.catalogue(),
        parts,
        entries,
        out,
        unknown=("times", "users"),
        allow_leaks=allow_leaks,
    )


class _RowReader:
    """Takes rows apart by the words that their files share, and counts the rows that differ."""

    def __init__(self, words: RowWords | None, constant: str, titles: Collection[str]) -> None:
        self.words = words
        self._constant = constant
        separators = {SEPARATOR, *([words.form.separator] if words else [])}
        self._known = set(titles)
        self._ambiguous = {title for title in titles if any(s in title for s in separators)}
        self._differing = 0
        self._first = ""

    @classmethod
    def of(cls, connection: Backend, files: Iterable[Path], listed: Collection[str]) -> _RowReader:
        """Return the reader of the files, whose rows it reads once to learn their words."""
        draw = Random(0)
        sample: list[Row] = []
        outputs: dict[str, None] = {}
        shortest = ""
        for count, row in enumerate(chain.from_iterable(_rows(connection, f) for f in files), 1):
            outputs[row.output] = None
            if not shortest or len(row.input) < len(shortest):
                shortest = row.input
            # Every row is in the sample with the same probability.
            if len(sample) < SAMPLED:
                sample.append(row)
            elif (place := draw.randrange(count)) < SAMPLED:
                sample[place] = row
        words = infer_words(sample, outputs, listed, shortest)
        target = words.target if words else _without_quotes
        titles = filter(None, map(target, outputs))
        return cls(words, _around_titles(row.input for row in sample), {*listed, *titles})

    def titles(self, row: Row, file: Path, number: int) -> tuple[list[str], str]:
        """Return the titles of a row's history, and that of its target."""
        words = self.words
        history = words.histories(row.input, self._ambiguous) if words else None
        if history is None:
            history = quoted_titles(row.input, self._ambiguous)
            mixed = any('"' in title and title not in self._known for title in history)
            if (mixed and words) or (not history and row.input != self._constant):
                raise unusable_row(
                    file,
                    f"row {number}",
                    row.input[:200],
                    "an input with titles in quotation marks, or titles that are known and"
                    " separated by the same text as in most rows",
                )
        target = words.target(row.output) if words else None
        return history, target or _without_quotes(row.output)

    def compare(
        self, row: Row, titles: Sequence[str], part: ImportedRows, file: Path, number: int
    ) -> None:
        """Count the row that was read last, if words and titles do not give it back exactly."""
        if not self.words:
            return
        length = part.lengths[-1]
        history = part.history[len(part.history) - length :]
        rebuilt = self.words.row([titles[item] for item in history], titles[part.targets[-1]])
        if rebuilt == row:
            return
        self._differing += 1
        if not self._first:
            what, written, ours = next(
                (name, a, b) for name, a, b in zip(Row._fields, row, rebuilt, strict=True) if a != b
            )
            self._first = f"{file.name}, row {number}: {what} {written!r} instead of {ours!r}"

    def card_entries(self, rows: int) -> dict[str, Any]:
        """Return what the card keeps of the words, and say what they do not give back."""
        if not self.words:
            log.warning(
                "the words around the titles could not be inferred: recipes use the template that"
                " model.template names"
            )
            return {}
        entries = self.words.as_card() | {"rows_that_differ": self._differing}
        if self._differing:
            log.warning(
                f"{self._differing:,} of {rows:,} rows are worded differently from the others, and"
                f" prompts will not repeat their words. The first: {self._first}"
            )
            entries["first_that_differs"] = self._first
        return {"words": entries}


def _without_quotes(output: str) -> str:
    is_quoted = len(output) > 1 and output[0] == output[-1] == '"'
    return output[1:-1] if is_quoted else output


def _around_titles(inputs: Iterable[str]) -> str:
    """Return the text around the titles of an input: that of an empty history."""
    text = next((text for text in inputs if '"' in text), "")
    return text[: text.find('"')] + text[text.rfind('"') + 1 :]


def quoted_titles(text: str, ambiguous: Collection[str] = ()) -> list[str]:
    """Return the titles in a text such as `"one", "two"`, none if it has no two quotation marks.

    `ambiguous` are the titles that contain the separator themselves; the longest match wins.
    """
    start = text.find('"') + 1
    stop = text.rfind('"')
    if not 0 < start <= stop:
        return []
    return InputForm(text[:start], SEPARATOR, text[stop:]).titles(text, ambiguous) or []


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


def _rows(connection: Backend, file: Path) -> Iterator[Row]:
    """Yield the rows of a file; one without an instruction has an empty one."""
    columns = dict.fromkeys(Row._fields, "VARCHAR")
    table = connection.read_json(str(file), format="array", columns=columns)
    cursor = connection.raw_sql(connection.compile(table))
    rows = chain.from_iterable(iter(lambda: cursor.fetchmany(BLOCK), []))
    for number, (instruction, text, target) in enumerate(rows, 1):
        if not text or not target:
            raise unusable_row(
                file, f"row {number}", {"input": text, "output": target}, "an input and an output"
            )
        yield Row(instruction or "", text, target)


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
    if not listed:
        notes.append(_warn_of_missing_list(files, len(items.titles)))
    if listed and (added := len(items.titles) - listed):
        notes.append(f"{added:,} titles are not in the list of items and were added after it.")
    if repeated := listed - len(set(items.titles[:listed])):
        notes.append(
            f"{repeated:,} items of the list share the title of an earlier one: the title refers to"
            " the earlier."
        )
    settings = {"source": "bigrec", "files": {split: file.name for split, file in files.items()}}
    return {"settings": settings, "notes": notes}


def _warn_of_missing_list(files: Mapping[str, Path], items: int) -> str:
    """Warn that the catalogue holds only what stands in the rows; return the card's note."""
    note = (
        f"There is no list of items: the catalogue is the {items:,} titles of the rows of"
        f" {', '.join(file.name for file in files.values())}. Items that no row names are missing,"
        " so every item is ranked against fewer others, and scores come out higher than against"
        " the whole catalogue."
    )
    log.warning(
        f"{note}\n  next: put the list, movies.dat or id2name.txt (title, tab, number), into"
        f" {files['train'].parent} and import again with --overwrite"
    )
    return note
