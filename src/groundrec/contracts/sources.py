"""What every source of raw data promises. Knows nothing about which sources there are."""

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
    """What a source says of the same good data, twice."""

    kind: Callable[[Data], Source]
    data: Data
    interactions: tuple[pa.Table, pa.Table]
    items: tuple[pa.Table, pa.Table]

    @classmethod
    def of(cls, kind: Callable[[Data], Source], data: Data) -> Readings:
        """Return both readings, by the engine that reads raw data."""
        with tempfile.TemporaryDirectory() as folder, open_duckdb(Path(folder)) as connection:
            raws = [kind(data).read(connection) for _ in range(2)]
            first, second = [
                (raw.interactions.to_pyarrow(), raw.items.to_pyarrow()) for raw in raws
            ]
        return cls(kind, data, (first[0], second[0]), (first[1], second[1]))


def check_source(kind: Callable[[Data], Source], data: Data) -> None:
    """Raise `AssertionError` at the first rule that a source breaks on `data`, of which every row
    is good.
    """
    check_rules(Readings.of(kind, data), RULES)


def has_the_columns(case: Readings) -> None:
    """The two tables have the columns of `INTERACTIONS` and `ITEMS`, of these types and in this
    order.
    """
    for table, columns in ((case.interactions[0], INTERACTIONS), (case.items[0], ITEMS)):
        found = {name: _name(table.schema.field(name).type) for name in table.column_names}
        assert list(found.items()) == list(columns.items()), f"{found} instead of {columns}"


def names_every_row(case: Readings) -> None:
    """User, item, time, row and file of good data are never null, and no two interactions have the
    same place.
    """
    events = case.interactions[0]
    assert len(events), "no interactions"
    for name in ("user", "item_id", "time", "row", "file"):
        assert not events[name].null_count, f"{name} is null in {events[name].null_count} rows"
    places = list(zip(events["file"].to_pylist(), events["row"].to_pylist(), strict=True))
    assert len(set(places)) == len(places), "two interactions with the same file and row"
    assert events["broken"].null_count == len(events), "good rows are called broken"


def keeps_time_in_seconds(case: Readings) -> None:
    """Times are whole seconds since 1970, UTC."""
    times = case.interactions[0]["time"].to_pylist()
    assert all(0 < t < MILLISECONDS for t in times), f"from {min(times)} to {max(times)}"


def knows_a_title_for_each_item(case: Readings) -> None:
    """Every item that somebody took has a title."""
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
    """The same data give the same rows."""
    for first, second in (case.interactions, case.items):
        assert _rows(first) == _rows(second), "two readings differ"


def refuses_what_is_not_there(case: Readings) -> None:
    """A path that does not exist is a `DataError` when the source is built, before anything is
    read.
    """
    if not isinstance(case.data.path, Path):
        return
    nowhere = case.data.model_copy(update={"path": case.data.path.with_name("nothing-is-here")})
    try:
        case.kind(nowhere)
    except DataError:
        return
    raise AssertionError(f"built for {nowhere.path}")


RULES = (
    has_the_columns,
    names_every_row,
    keeps_time_in_seconds,
    knows_a_title_for_each_item,
    reads_the_same_twice,
    refuses_what_is_not_there,
)


def _name(kind: pa.DataType) -> str:
    return {"double": "float64", "large_string": "string"}.get(str(kind), str(kind))


def _rows(table: pa.Table) -> list[str]:
    return sorted(map(repr, table.to_pylist()))
