"""Result files of BIGRec and D3, scored by title: lists of `{"output": title, "predict": [titles,
best first]}`.

Such files name no items, only titles, and titles repeat. Two readings are therefore given of every
metric. By title: a list hits where it first names the target's title; a title that it names again
keeps its place and counts no more. At worst: every title stands for all items that bear it, and the
item that was meant is the last of them. The truth of a list of items lies between. Blanks, line
breaks and quotation marks around a title do not count.

BIGRec's files hold what the model wrote, before it is grounded: here only a title written to the
letter is a hit. Knows nothing about models, and nothing about how the lists were made.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundrec.core.errors import DataError
from groundrec.core.registry import names
from groundrec.core.types import NO_ITEM, Queries, Ragged, Slates
from groundrec.evaluate.metrics import per_query

__all__ = ["ResultFile", "find_result_files", "read_result_file", "strip_title"]

AROUND = ' \t\r\n"'


@dataclass(frozen=True)
class ResultFile:
    """What one file tells: each query's titles, best first, and the title that was taken."""

    lists: tuple[tuple[str, ...], ...]
    targets: tuple[str, ...]

    @property
    def width(self) -> int:
        """Titles in the longest list."""
        return max(map(len, self.lists))

    def by_title(self, ks: Sequence[int]) -> dict[str, NDArray[np.float64]]:
        """Return every metric per query, `{"ndcg@10": [Q], …}`: the target's title is what has to
        be named.
        """
        place = [row.index(target) if target in row else -1 for row, target in self._pairs()]
        return self._measured(np.array(place), ks)

    def at_worst(self, ks: Sequence[int], bearers: Counter[str]) -> dict[str, NDArray[np.float64]]:
        """Return the same where each title stands for all the items that bear it, the one that was
        meant the last.
        """
        place = [
            (
                sum(max(1, bearers[title]) for title in dict.fromkeys(row[: row.index(target) + 1]))
                - 1
                + _again(row, target)
                if target in row
                else -1
            )
            for row, target in self._pairs()
        ]
        return self._measured(np.array(place), ks)

    def unknown(self, known: Counter[str]) -> float:
        """Return the share of places that hold no title of the catalogue."""
        named = [title for row in self.lists for title in row]
        return sum(title not in known for title in named) / max(len(named), 1)

    def repeated(self) -> float:
        """Return the share of places that hold a title which stands above in the same list."""
        named = sum(map(len, self.lists))
        return 1 - sum(len(set(row)) for row in self.lists) / max(named, 1)

    def shared(self, bearers: Counter[str]) -> float:
        """Return the share of targets whose title several items bear."""
        return sum(bearers[target] > 1 for target in self.targets) / len(self.targets)

    def _pairs(self) -> Iterable[tuple[tuple[str, ...], str]]:
        return zip(self.lists, self.targets, strict=True)

    def _measured(
        self, place: NDArray[np.int64], ks: Sequence[int]
    ) -> dict[str, NDArray[np.float64]]:
        """Return the metrics of slates whose only known item is the target, at `place`, or nowhere
        where -1.
        """
        rows = np.arange(len(place))
        items = np.full((len(place), self.width), NO_ITEM, np.int32)
        inside = (place >= 0) & (place < self.width)
        items[rows[inside], place[inside]] = 0
        slates = Slates(rows, items, np.zeros(items.shape, np.float32))
        nothing = Ragged.of([[]] * len(place))
        one = Ragged.of([[0]] * len(place))
        queries = Queries(rows, rows.astype(np.str_), rows, nothing, one)
        return per_query(slates, queries, ks, names("metrics"))


def _again(row: tuple[str, ...], target: str) -> int:
    """Return how many places before the target hold a title that stands above them."""
    before = row[: row.index(target)]
    return len(before) - len(set(before))


def strip_title(title: str) -> str:
    """Return a title without blanks, line breaks and quotation marks around it."""
    return title.strip(AROUND)


def find_result_files(folder: Path) -> list[Path]:
    """Return the JSON files in a folder and below it, or the one file; raise `DataError` where
    there are none.
    """
    files = [folder] if folder.is_file() else sorted(folder.rglob("*.json"))
    if not files:
        raise DataError(
            "no result files",
            value=folder,
            accepted="a folder with JSON files of BIGRec or D3, or one such file",
            next_step="groundrec evaluate --input_dir FOLDER",
        )
    return files


def read_result_file(file: Path) -> ResultFile:
    """Return what a file tells; raise `DataError` where it is no result file, or holds no row."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unusable(file, "", error) from None
    if not isinstance(rows, list) or not rows:
        raise _unusable(
            file, "", f"{type(rows).__name__} of {len(rows) if isinstance(rows, list) else 0} rows"
        )
    pairs = [_row(file, number, row) for number, row in enumerate(rows, 1)]
    return ResultFile(tuple(titles for titles, _ in pairs), tuple(target for _, target in pairs))


def _row(file: Path, number: int, row: Any) -> tuple[tuple[str, ...], str]:
    output, predict = (
        row.get(key) if isinstance(row, dict) else None for key in ("output", "predict")
    )
    output = output[0] if isinstance(output, list) and output else output
    predict = [predict] if isinstance(predict, str) else predict
    if (
        not isinstance(output, str)
        or not isinstance(predict, list)
        or not all(isinstance(p, str) for p in predict)
    ):
        raise _unusable(file, f", row {number}", json.dumps(row, ensure_ascii=False)[:200])
    if not predict:
        raise _unusable(file, f", row {number}", "predict = []")
    return tuple(map(strip_title, predict)), strip_title(output)


def _unusable(file: Path, place: str, value: object) -> DataError:
    return DataError(
        f"{file}{place} is no result",
        value=value,
        accepted='a list of {"output": title, "predict": [titles, best first]}',
        next_step="move other files elsewhere, or name one file",
    )
