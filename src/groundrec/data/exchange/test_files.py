"""Test files of the published inference scripts: BIGRec's JSON rows, and D3's CSV rows.

Rows are kept as they are: nothing is matched with a catalogue. Knows nothing about prompts.
"""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from groundrec.core.errors import DataError
from groundrec.data.exchange.importing import unusable_row
from groundrec.data.exchange.read_bigrec import quoted_titles
from groundrec.data.raw.files import read_lines

__all__ = ["Form", "TestFile", "TestRow", "quoted_list", "read_test_file"]

Form = Literal["bigrec", "d3"]
ACCEPTED = 'BIGRec\'s test.json, a list of {"instruction", "input", "output"}, or D3\'s test/….csv'


@dataclass(frozen=True)
class TestRow:
    """One row: the titles of its history, and the fields that a result keeps."""

    history: tuple[str, ...]
    fields: dict[str, Any]
    number: int
    """Its place in the whole file, also where this file is one of several parts of it."""

    __test__ = False  # no test of pytest's


@dataclass(frozen=True)
class TestFile:
    """The rows of a test file, and which script's form it has."""

    form: Form
    rows: tuple[TestRow, ...]

    __test__ = False


def read_test_file(file: Path, titles: Sequence[str] = ()) -> TestFile:
    """Return the rows of a test file; raise `DataError` for the first that cannot be used.

    `titles` are the catalogue's, where it is known: a title may contain what separates titles.
    """
    if not file.is_file():
        raise DataError("test file not found", value=file, accepted=ACCEPTED)
    if file.suffix == ".csv":
        return TestFile("d3", tuple(_csv_rows(file)))
    return TestFile("bigrec", tuple(_json_rows(file, titles)))


def quoted_list(titles: Sequence[str]) -> str:
    """Return titles in quotation marks, as both scripts list them."""
    return ", ".join(f'"{title}"' for title in titles)


def _json_rows(file: Path, titles: Sequence[str]) -> list[TestRow]:
    try:
        rows = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError("not a test file", value=f"{file}: {error}", accepted=ACCEPTED) from None
    if not isinstance(rows, list):
        raise DataError(
            "not a test file", value=f"{file}: {type(rows).__name__}", accepted=ACCEPTED
        )
    ambiguous = {title for title in titles if '", "' in title}
    found = []
    for number, row in enumerate(rows):
        texts = [row.get(key) for key in ("instruction", "input")] if isinstance(row, dict) else []
        if not texts or not all(isinstance(text, str) for text in texts):
            value = json.dumps(row, ensure_ascii=False)[:200]
            raise unusable_row(file, f"row {number + 1}", value, "an instruction and an input")
        found.append(TestRow(tuple(quoted_titles(row["input"], ambiguous)), row, number))
    return found


def _csv_rows(file: Path) -> list[TestRow]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(line.decode() for line in read_lines(file))
    found = []
    try:
        for place, row in enumerate(reader):
            history, target = row.get("history_item_title"), row.get("item_title")
            titles = _literal_list(history or "")
            if titles is None or target is None:
                raise unusable_row(
                    file,
                    f"line {reader.line_num}",
                    (history or "")[:200],
                    "history_item_title, a list as Python prints it, and item_title",
                )
            # Without a name: the number that pandas writes, which the parts of a file keep.
            number = (row.get("") or "").strip()
            fields = {"input": quoted_list(titles), "output": f'"{target}"\n'}
            found.append(TestRow(titles, fields, int(number) if number.isdigit() else place))
    except (UnicodeDecodeError, csv.Error) as error:
        raise unusable_row(
            file, f"line {reader.line_num + 1}", error, "UTF-8 text in CSV"
        ) from None
    return found


def _literal_list(text: str) -> tuple[str, ...] | None:
    """Return the texts of a printed list; None for anything else."""
    try:
        values = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        return None
    return tuple(values)
