"""Score result files of BIGRec and D3: lists of `{"output": title, "predict": [titles]}`.

Such files name titles, not items, and titles repeat. Every metric is therefore given in two
readings. By title: the hit is where a list first names the target's title; a title that it repeats
still takes up its position but never counts again. At worst: a title stands for all the items that
share it, and the target is the last of them. The true value, of a list of items, lies in between.
Whitespace and quotation marks around a title are ignored.

BIGRec's files contain what the model generated, before grounding: here only an exact title is a
hit. Knows nothing about models, nor how the lists were made.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from groundrec.core.errors import DataError
from groundrec.core.registry import names
from groundrec.core.types import NO_ITEM, Queries, Ragged, Slates
from groundrec.evaluate.metrics import per_query

__all__ = ["ResultFile", "find_result_files", "metrics_at", "read_result_file", "strip_title"]

IGNORED_AROUND = ' \t\r\n"'


@dataclass(frozen=True)
class ResultFile:
    """The contents of one file: each query's recommended titles, best first, and its target."""

    lists: tuple[tuple[str, ...], ...]
    targets: tuple[str, ...]
    texts: tuple[str, ...] = ()
    """The first text of each row as it was written, without the quotation marks around it."""

    @property
    def width(self) -> int:
        """Return the length of the longest list."""
        return max(map(len, self.lists))

    @property
    def shortest(self) -> int:
        """Return the length of the shortest list."""
        return min(map(len, self.lists))

    @property
    def shortest_row(self) -> str:
        """Return which row, counted from 1, has the shortest list, in words."""
        lengths = [len(row) for row in self.lists]
        return f"row {lengths.index(self.shortest) + 1} has {self.shortest}"

    def by_title(self, ks: Sequence[int]) -> dict[str, NDArray[np.float64]]:
        """Return every metric per query, `{"ndcg@10": [Q], …}`, where naming the title is a hit."""
        position = [row.index(target) if target in row else -1 for row, target in self._pairs()]
        return metrics_at(np.array(position), self.width, ks)

    def at_worst(
        self, ks: Sequence[int], items_per_title: Counter[str]
    ) -> dict[str, NDArray[np.float64]]:
        """Return the same if each title stands for all its items and the target comes last."""
        position = [_worst_position(row, target, items_per_title) for row, target in self._pairs()]
        return metrics_at(np.array(position), self.width, ks)

    def unknown(self, known: Counter[str]) -> float:
        """Return the share of positions, but empty ones, whose title is not in the catalogue."""
        named = [title for row in self.lists for title in row if title]
        return sum(title not in known for title in named) / max(len(named), 1)

    def repeated(self) -> float:
        """Return the share of positions whose title occurs earlier in the same list."""
        lists = [[title for title in row if title] for row in self.lists]
        return 1 - sum(len(set(row)) for row in lists) / max(sum(map(len, lists)), 1)

    def shared(self, items_per_title: Counter[str]) -> float:
        """Return the share of targets whose title belongs to several items."""
        return sum(items_per_title[target] > 1 for target in self.targets) / len(self.targets)

    def _pairs(self) -> Iterable[tuple[tuple[str, ...], str]]:
        return zip(self.lists, self.targets, strict=True)


def metrics_at(
    position: NDArray[np.int64], width: int, ks: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    """Return the metrics of slates of `width` with the target at `position` [Q], -1 for nowhere."""
    rows = np.arange(len(position))
    # every target is item 0, all else is empty: only the target's position matters
    items = np.full((len(position), width), NO_ITEM, np.int32)
    inside = (position >= 0) & (position < width)
    items[rows[inside], position[inside]] = 0
    slates = Slates(rows, items, np.zeros(items.shape, np.float32))
    no_history = Ragged.of([[]] * len(position))
    targets = Ragged.of([[0]] * len(position))
    queries = Queries(rows, rows.astype(np.str_), rows, no_history, targets)
    return per_query(slates, queries, ks, names("metrics"))


def _worst_position(row: tuple[str, ...], target: str, items_per_title: Counter[str]) -> int:
    """Return where the target is if all the items of its own and of earlier titles precede it."""
    if target not in row:
        return -1
    earlier = row[: row.index(target)]
    repeated = len(earlier) - len(set(earlier))
    titles = {*earlier, target}
    return sum(max(1, items_per_title[title]) for title in titles) - 1 + repeated


def strip_title(title: str) -> str:
    """Return a title without whitespace and quotation marks around it."""
    return title.strip(IGNORED_AROUND)


def find_result_files(folder: Path) -> list[Path]:
    """Return the JSON files in a folder and its subfolders, or the one file given.

    Raises `DataError` if there is none.
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
    """Return the contents of a result file; raise `DataError` if it is not one or has no rows."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unusable(file, "", error) from None
    if not isinstance(rows, list) or not rows:
        value = "an empty list" if isinstance(rows, list) else type(rows).__name__
        raise _unusable(file, "", value)
    read = [_row(file, number, row) for number, row in enumerate(rows, 1)]
    return ResultFile(
        tuple(titles for titles, _, _ in read),
        tuple(target for _, target, _ in read),
        tuple(text for _, _, text in read),
    )


def _row(file: Path, number: int, row: object) -> tuple[tuple[str, ...], str, str]:
    """Return the recommended titles, the target and the first text of one row."""
    fields = row if isinstance(row, dict) else {}
    output = fields.get("output")
    predict = fields.get("predict")
    if isinstance(output, list) and output:
        output = output[0]
    if isinstance(predict, str):
        predict = [predict]
    titles: list[str] = predict if isinstance(predict, list) else []
    if (
        not isinstance(output, str)
        or not isinstance(predict, list)
        or not all(isinstance(title, str) for title in titles)
    ):
        raise _unusable(file, f", row {number}", json.dumps(row, ensure_ascii=False)[:200])
    if not titles:
        raise _unusable(file, f", row {number}", "predict = []")
    return tuple(map(strip_title, titles)), strip_title(output), titles[0].strip('"')


def _unusable(file: Path, location: str, value: object) -> DataError:
    return DataError(
        f"{file}{location} is not a result",
        value=value,
        accepted='a list of {"output": title, "predict": [titles, best first]}',
        next_step="move other files elsewhere, or name a single result file",
    )
