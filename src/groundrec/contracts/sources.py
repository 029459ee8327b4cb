"""The rules for sources of raw data. Knows nothing about particular sources."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from groundrec.contracts.rules import check_rules
from groundrec.core.config import Data
from groundrec.core.errors import DataError
from groundrec.data.raw.files import open_duckdb
from groundrec.data.sources.table import INTERACTIONS, ITEMS, MILLISECONDS, Source

__all__ = ["RULES", "Readings", "check_source"]


@dataclass(frozen=True)
class Readings:
    """The tables that a source returns for the same good data, read twice."""

    kind: Callable[[Data], Source]
    data: Data
    interactions: tuple[pa.Table, pa.Table]
    items: tuple[pa.Table, pa.Table]

    @classmethod
    def of(cls, kind: Callable[[Data], Source], data: Data) -> Readings:
        """Read the data twice with the engine for raw data."""
        with tempfile.TemporaryDirectory() as folder, open_duckdb(Path(folder)) as connection:
            raws = [kind(data).read(connection) for _ in range(2)]
            first, second = [
                (raw.interactions.to_pyarrow(), raw.items.to_pyarrow()) for raw in raws
            ]
        return cls(kind, data, (first[0], second[0]), (first[1], second[1]))


def check_source(kind: Callable[[Data], Source], data: Data) -> None:
    """Raise `AssertionError` for the first rule that a source breaks on good `data`."""
    check_rules(Readings.of(kind, data), RULES)


def has_the_columns(case: Readings) -> None:
    """The two tables have the columns, types and order of `INTERACTIONS` and `ITEMS`."""
    for table, columns in ((case.interactions[0], INTERACTIONS), (case.items[0], ITEMS)):
        found = {name: _name(table.schema.field(name).type) for name in table.column_names}
        assert list(found.items()) == list(columns.items()), f"{found} instead of {columns}"


def identifies_every_row(case: Readings) -> None:
    """User, item, time, row and file of good data are never null, and file and row are unique."""
    events = case.interactions[0]
    assert len(events), "no interactions"
    for name in ("user", "item_id", "time", "row", "file"):
        assert not events[name].null_count, f"{name} is null in {events[name].null_count} rows"
    locations = list(zip(events["file"].to_pylist(), events["row"].to_pylist(), strict=True))
    assert len(set(locations)) == len(locations), "two interactions with the same file and row"
    assert events["broken"].null_count == len(events), "good rows are marked as broken"


def keeps_time_in_seconds(case: Readings) -> None:
    """Times are whole seconds since 1970, UTC."""
    times = case.interactions[0]["time"].to_pylist()
    assert all(0 < t < MILLISECONDS for t in times), f"from {min(times)} to {max(times)}"


def has_a_title_for_each_item(case: Readings) -> None:
    """Every item with an interaction has a title."""
    items = case.items[0]
    events = case.interactions[0]
    titled = {
        i
        for i, title in zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True)
        if title
    }
    missing = set(events["item_id"].to_pylist()) - titled
    assert not missing, f"no title for {sorted(missing)[:5]}"


def reads_the_same_twice(case: Readings) -> None:
    """The same data gives the same rows."""
    for first, second in (case.interactions, case.items):
        assert _rows(first) == _rows(second), "two readings differ"


def refuses_a_missing_path(case: Readings) -> None:
    """A missing path raises `DataError` when the source is constructed, before anything is read."""
    if not isinstance(case.data.path, Path):
        return
    missing = case.data.model_copy(update={"path": case.data.path.with_name("nothing-is-here")})
    try:
        case.kind(missing)
    except DataError:
        return
    raise AssertionError(f"constructed for {missing.path}")


RULES = (
    has_the_columns,
    identifies_every_row,
    keeps_time_in_seconds,
    has_a_title_for_each_item,
    reads_the_same_twice,
    refuses_a_missing_path,
)


def _name(kind: pa.DataType) -> str:
    return {"double": "float64", "large_string": "string"}.get(str(kind), str(kind))


def _rows(table: pa.Table) -> list[str]:
    return sorted(map(repr, table.to_pylist()))
