"""Interactions as numbers: any parts give the same, cores are cores, order is that of the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from unittest import mock

import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundrec.data.protocols import coded as module
from groundrec.data.protocols.coded import CodedEvents, by_first_appearance, encode_events
from groundrec.data.raw.files import Backend, from_arrow, open_duckdb, stream_batches

pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")
Row = tuple[str, str, str, int]
ROWS = st.lists(
    st.tuples(
        st.sampled_from("abcdé"),
        st.sampled_from(["x", "y", "zz"]),
        st.sampled_from(["5", ""]),
        st.integers(0, 9),
    ),
    min_size=1,
    max_size=40,
)


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with open_duckdb(tmp_path_factory.mktemp("engine")) as opened:
        yield opened


def table_of(
    connection: Backend, rows: list[Row], order: list[int] | None = None, bad: int | None = None
) -> ir.Table:
    """Return the rows as a table of the engine; with `order`, shuffled, and `row` says where each
    belongs.
    """
    order = order or list(range(len(rows)))
    columns = {
        "user": [rows[i][0] for i in order],
        "item_id": [rows[i][1] for i in order],
        "rating": [rows[i][2] for i in order],
        "time": [rows[i][3] for i in order],
        "row": order,
        "bad": pa.array([int(i == bad) for i in order], pa.int8()),
    }
    return from_arrow(connection, pa.table(columns))


def told(found: CodedEvents) -> list[Row]:
    users, items, ratings = (
        values.to_pylist() for values in (found.users, found.items, found.ratings)
    )
    return [
        (users[u], items[i], ratings[r], t)
        for u, i, r, t in zip(
            *map(np.ndarray.tolist, (found.user, found.item, found.rating, found.time)), strict=True
        )
    ]


@settings(deadline=None, max_examples=40)
@given(rows=ROWS, part=st.integers(1, 50), waiting=st.integers(0, 9), data=st.data())
def test_parts_and_their_order_do_not_show(
    connection: Backend, rows: list[Row], part: int, waiting: int, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(rows))))

    def in_parts(table: ir.Table) -> Iterator[pa.RecordBatch]:
        (whole,) = stream_batches(table)
        yield from (whole.slice(a, part) for a in range(0, len(whole), part))

    with mock.patch.multiple(
        module, MAX_UNMERGED=waiting, INITIAL_CAPACITY=2, stream_batches=in_parts
    ):
        found, shuffled = (
            encode_events(table_of(connection, rows)),
            encode_events(table_of(connection, rows, order)),
        )
    assert found
    assert shuffled
    assert told(found) == told(shuffled) == rows
    assert found.users.to_pylist() == list(dict.fromkeys(user for user, *_ in rows))


def test_the_first_bad_row_ends_it(connection: Backend) -> None:
    assert encode_events(table_of(connection, [("a", "x", "5", 1)] * 3, bad=1)) is None


@settings(deadline=None, max_examples=40)
@given(rows=ROWS, k=st.integers(0, 4), data=st.data())
def test_core_and_events_are_those_of_plain_python(
    connection: Backend, rows: list[Row], k: int, data: st.DataObject
) -> None:
    found = encode_events(table_of(connection, rows))
    assert found
    kept = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    core = found.core(np.array(kept), k)
    left = [row for row, keep in zip(rows, kept, strict=True) if keep]
    while True:
        users, items = (Counter(row[i] for row in left) for i in (0, 1))
        smaller = [row for row in left if users[row[0]] >= k and items[row[1]] >= k]
        if smaller == left:
            break
        left = smaller
    assert [row for row, inside in zip(rows, core, strict=True) if inside] == left
    events = found.events(core, np.arange(len(found.items), dtype=np.int32))
    places = {user: place for place, user in enumerate(dict.fromkeys(row[0] for row in left))}
    expected = sorted(left, key=lambda row: (places[row[0]], row[3]))
    items = found.items.to_pylist()
    assert expected == [
        (str(events.users[u]), items[i], events.ratings[r], t)
        for u, i, r, t in zip(events.user, events.items, events.rating, events.time, strict=True)
    ]


@given(codes=st.lists(st.integers(0, 6), max_size=30))
def test_first_seen(codes: list[int]) -> None:
    numbers, seen = by_first_appearance(np.array(codes, np.int32), 7)
    assert seen.tolist() == list(dict.fromkeys(codes))
    assert [seen[n] for n in numbers] == codes


def test_streamed_parts_are_whole_and_in_order(connection: Backend) -> None:
    table = from_arrow(connection, pa.table({"n": np.arange(300_000)}))
    parts = list(stream_batches(table, 50_000))
    assert len(parts) > 1
    assert pa.Table.from_batches(parts)["n"].to_pylist() == list(range(300_000))
