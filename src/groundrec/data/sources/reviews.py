"""Published reviews with one object per line: Amazon's of 2014, 2018 and 2023, and Steam's.

Of a review, only user, item, time and rating are read, never the text. Knows nothing about splits
or histories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ibis
import ibis.expr.types as ir

from groundrec.core.config import Data
from groundrec.core.errors import DataError, did_you_mean
from groundrec.core.track import log
from groundrec.data.raw.fetch import check_location, local_path
from groundrec.data.raw.files import Backend
from groundrec.data.raw.lines import first_fields, read_objects, scan_objects
from groundrec.data.sources.table import (
    FastScan,
    RawData,
    interactions_table,
    items_table,
    refuse_other_settings,
)

__all__ = ["Amazon", "Steam"]

SUFFIXES = (".json", ".json.gz", ".jsonl", ".jsonl.gz")
AMAZON_REVIEWS = ("{}_5", "{}", "reviews_{}_5", "reviews_{}")
"""Names of a category's reviews, in order of preference; `_5` is the published 5-core."""


@dataclass(frozen=True)
class _Layout:
    years: str
    columns: Mapping[str, str]
    milliseconds: bool


LAYOUTS = (
    _Layout(
        "2014 and 2018",
        {"user": "reviewerID", "item": "asin", "time": "unixReviewTime", "rating": "overall"},
        False,
    ),
    _Layout(
        "2023",
        {"user": "user_id", "item": "parent_asin", "time": "timestamp", "rating": "rating"},
        True,
    ),
)


class Amazon:
    """Amazon's reviews and metadata: `data.category` of a folder, or two files."""

    def __init__(self, data: Data) -> None:
        refuse_other_settings(data, "items", "category", "items_sha256")
        check_location(data.path, "data.path")
        self._data = data
        self._files = (
            _of_category(data) if isinstance(data.path, Path) and data.path.is_dir() else None
        )
        if not self._files:
            check_location(data.items, "data.items")

    def read(self, connection: Backend) -> RawData:
        """Return the raw tables; log their files and layout."""
        events_file, items_file = self._files or _both(self._data)
        layout = _layout(events_file)
        log.info(
            f"{events_file.name} and {items_file.name}: Amazon reviews in the layout of"
            f" {layout.years}"
        )
        fields = list(layout.columns.values())

        def named(table: ir.Table) -> ir.Table:
            return interactions_table(table, layout.columns, milliseconds=layout.milliseconds)

        item = next(
            (f for f in ("parent_asin", "asin") if f in first_fields(items_file)),
            layout.columns["item"],
        )
        items = read_objects(connection, items_file, (item, "title"), ids=(item,))
        scan = scan_objects(connection, events_file, fields, ids=fields[:2])
        return RawData(
            lambda: named(read_objects(connection, events_file, fields, ids=fields[:2])),
            items_table(items, item, "title"),
            None if scan is None else FastScan(named(scan), events_file.stat().st_size),
        )


class Steam:
    """Steam's reviews and games: a folder with a `*reviews*` and a `*games*` file, or both files.

    A review's user is `user_id`, else `username`; its time is a day; `hours` serves as the rating.
    """

    def __init__(self, data: Data) -> None:
        refuse_other_settings(data, "items", "items_sha256")
        check_location(data.path, "data.path")
        self._data = data
        self._files = None
        if isinstance(data.path, Path) and data.path.is_dir():
            self._files = (_one(data.path, "*reviews*"), _one(data.path, "*games*"))
        else:
            check_location(data.items, "data.items")

    def read(self, connection: Backend) -> RawData:
        """Return the raw tables."""
        events_file, items_file = self._files or _both(self._data)
        ids = ("user_id", "username", "product_id")
        events = read_objects(connection, events_file, (*ids, "date", "hours"), ids)
        events = events.mutate(user=ibis.coalesce(events["user_id"], events["username"]))
        items = read_objects(connection, items_file, ("id", "title", "app_name"), ("id",))
        items = items.mutate(title=ibis.coalesce(items["title"], items["app_name"]))
        columns = {"user": "user", "item": "product_id", "time": "date", "rating": "hours"}
        return RawData(interactions_table(events, columns), items_table(items, "id", "title"))


def _both(data: Data) -> tuple[Path, Path]:
    events = local_path(data.path, "data.path", data.sha256)
    return events, local_path(data.items, "data.items", data.items_sha256)


def _layout(file: Path) -> _Layout:
    there = first_fields(file)
    for layout in LAYOUTS:
        if there.keys() >= {layout.columns["user"], layout.columns["item"], layout.columns["time"]}:
            return layout
    raise DataError(
        f"{file.name} contains no Amazon reviews",
        value=", ".join(there) or "no JSON object in the first lines",
        accepted="; ".join(f"{', '.join(x.columns.values())} ({x.years})" for x in LAYOUTS),
        next_step='--set data.source="table" for files of your own',
    )


def _of_category(data: Data) -> tuple[Path, Path]:
    """Return the files with reviews and metadata of `data.category`."""
    assert isinstance(data.path, Path)
    found = {p.name for p in data.path.iterdir()}
    pairs = []
    for patterns in (AMAZON_REVIEWS, ("meta_{}",)):
        names = [pattern.format(data.category) + end for pattern in patterns for end in SUFFIXES]
        pairs.append(next((data.path / name for name in names if name in found), None))
    if data.category and pairs[0] and pairs[1]:
        return pairs[0], pairs[1]
    categories = sorted(
        {
            name.removeprefix("meta_").partition(".json")[0]
            for name in found
            if name.startswith("meta_")
        }
    )
    raise DataError(
        "no reviews and metadata of this category in"
        f" {data.path}{did_you_mean(data.category or '', categories)}",
        value=data.category or "data.category is not set",
        accepted=", ".join(categories)
        or "a folder with files like Books.json.gz and meta_Books.json.gz",
        next_step="--set data.category=…, or both files: --set data.path=… --set data.items=…",
    )


def _one(folder: Path, pattern: str) -> Path:
    found = sorted(p for end in SUFFIXES for p in folder.glob(pattern + end))
    if len(found) == 1:
        return found[0]
    raise DataError(
        f"need exactly one file {pattern}.json in {folder}",
        value=", ".join(p.name for p in found) or "none",
        accepted="one file of reviews and one of games, plain or .gz",
        next_step="--set data.path=REVIEWS --set data.items=GAMES",
    )
