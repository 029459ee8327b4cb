from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groundrec.core.config import Data, Prepare
from groundrec.core.errors import DataError
from groundrec.data.dataset import load
from groundrec.data.prepare import prepare
from groundrec.data.protocols.clean import clean, clean_title, k_core
from groundrec.data.raw.files import open_duckdb
from groundrec.data.sources.table import TableSource
from tests.data.conftest import Event, WriteShop

LOOSE = Prepare(k_core=0, valid_share=0.25, test_share=0.25)
QUARANTINE = LOOSE.model_copy(update={"bad_rows": "quarantine"})


@pytest.mark.parametrize(
    ("raw", "title"),
    [
        ("Benny &amp; Joon", "Benny & Joon"),
        ("Benny &amp;amp; Joon", "Benny & Joon"),
        ("  Toy \t Story\r\n(1995) ", "Toy Story (1995)"),
        ("Am\x00élie\x07", "Amélie"),
        ("a \x00 b", "a b"),
        ("Don&#39;t&nbsp;Look", "Don't Look"),
        ("&#x200;", "Ȁ"),
        ("&nbsp;\x1b", ""),
        ("東京物語", "東京物語"),
        ("AT&T", "AT&T"),
    ],
)
def test_clean_title(raw: str, title: str) -> None:
    assert clean_title(raw) == title
    assert clean_title(title) == title


def brute_core(events: list[tuple[str, str]], k: int) -> list[tuple[str, str]]:
    while True:
        users, items = Counter(u for u, _ in events), Counter(i for _, i in events)
        kept = [(u, i) for u, i in events if users[u] >= k and items[i] >= k]
        if kept == events:
            return events
        events = kept


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    pairs=st.lists(
        st.tuples(st.sampled_from("abcdef"), st.sampled_from("uvwxyz")), min_size=1, max_size=40
    ),
    k=st.integers(0, 4),
)
def test_k_core_is_the_brute_force_core(
    shop: WriteShop, tmp_path: Path, pairs: list[tuple[str, str]], k: int
) -> None:
    data = shop((u, i, n) for n, (u, i) in enumerate(pairs))
    with open_duckdb(tmp_path / "engine") as connection:
        core = (
            k_core(TableSource(data).read(connection).interactions, k)
            .select("user", "item_id")
            .to_pyarrow()
        )
    found = [tuple(row.values()) for row in core.to_pylist()]
    assert Counter(found) == Counter(brute_core(pairs, k))


def test_titles_are_cleaned_in_the_catalogue(
    shop: WriteShop, regulars: list[Event], tmp_path: Path
) -> None:
    titles = {str(i): f"Film &amp;amp;  {i}" for i in range(1, 7)}
    prepare(shop(regulars, titles), LOOSE, 0, tmp_path / "out")
    assert load(tmp_path / "out").catalogue.titles[0] == "Film & 1"


BAD = [
    (
        (1, 1, "soon"),
        r"events\.csv, line 26, column time: not a time.*: 'soon' in user=1, item=1, time=soon",
    ),
    ((1, 1, -5), "line 26, column time: .*'-5'"),
    ((1, 1, "1e15"), "line 26, column time: .*'1e15'"),
    ((1, 1, ""), "line 26, column time: .*None"),
    (("", 1, 5), "line 26, column user: the user is missing"),
    ((1, "", 5), "line 26, column item: the item id is missing"),
]


@pytest.mark.parametrize(("row", "message"), BAD)
def test_a_bad_row_is_named_and_can_be_set_aside(
    shop: WriteShop, regulars: list[Event], tmp_path: Path, row: Event, message: str
) -> None:
    data = shop([*regulars, row])
    with pytest.raises(DataError, match=message) as error:
        prepare(data, LOOSE, 0, tmp_path / "out")
    assert "(1 bad row in total)" in str(error.value)
    assert "--set prepare.bad_rows=quarantine" in str(error.value)
    assert not (tmp_path / "out" / "dataset.json").exists()
    card = prepare(data, QUARANTINE, 0, tmp_path / "out")
    assert card["rows"]["bad"] == 1
    assert card["events"] == len(regulars)
    (aside,) = pq.read_table(tmp_path / "out" / "quarantine.parquet").to_pylist()
    assert (aside["file"], aside["line"]) == ("events.csv", 26)
    assert (aside["user"] or "", aside["item"] or "", aside["time"] or "") == tuple(map(str, row))


def test_a_rating_that_is_no_number_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "rated.csv"
    path.write_text("user,item,time,rating\n1,1,1,5\n1,2,2,good\n")
    with pytest.raises(DataError, match="line 3, column rating: not a number: 'good'"):
        prepare(Data(source="table", path=path), LOOSE, 0, tmp_path / "out")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"1,2", "Expected Number of Columns: 3 Found: 2: 1,2"),
        (b"1,2,3,4", "Expected Number of Columns: 3 Found: 4: 1,2,3,4"),
        (b"1,\xff\xfe,3", "Invalid unicode"),
        (b'1,"2"x,3', "Value with unterminated quote found"),
        (b"1," + b"x" * 10_000_000 + b",3", "Maximum line size"),
    ],
    ids=["short", "long", "not UTF-8", "quotes", "ten megabytes"],
)
def test_a_line_that_makes_no_row_is_a_bad_row(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "events.csv"
    good = [
        b"%d,%d,%d" % (user, item, 1000 * item + user)
        for user in range(1, 5)
        for item in range(1, 7)
    ]
    path.write_bytes(
        b"\n".join([b"user,item,time", *good[:3], b"", line, line, *good[3:], b"9,9,soon"])
    )
    data = Data(source="table", path=path)
    with pytest.raises(
        DataError,
        match=rf"csv, line 6: this line cannot be parsed.*{reason[:20]}.*\(3 bad rows in total",
    ):
        prepare(data, LOOSE, 0, tmp_path / "out")
    card = prepare(data, QUARANTINE, 0, tmp_path / "out")
    assert (card["rows"]["read"], card["rows"]["bad"], card["events"]) == (27, 3, 24)
    aside = pq.read_table(tmp_path / "out" / "quarantine.parquet").to_pylist()
    assert [(row["line"], row["column"], row["time"]) for row in aside] == [
        (6, None, None),
        (7, None, None),
        (29, "time", "soon"),
    ]
    assert aside[0]["broken"].startswith(reason)


def test_a_quote_that_never_ends_loses_no_row_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text('user,item,time\n1,1,1\n1,"2,2\n1,3,3\n1,4,4\n')
    with pytest.raises(DataError, match=r"events\.csv, line 3: this line cannot be parsed"):
        prepare(Data(source="table", path=path), LOOSE, 0, tmp_path / "out")


def test_an_item_without_a_title_is_a_bad_row(
    shop: WriteShop, regulars: list[Event], tmp_path: Path
) -> None:
    titles = {str(i): f"Film {i}" for i in range(1, 7)}
    with pytest.raises(
        DataError,
        match=r"items\.csv, line 7, column title: the item has no title: ' &nbsp;' in item=6",
    ):
        prepare(shop(regulars, {**titles, "6": " &nbsp;"}), LOOSE, 0, tmp_path / "out")
    del titles["6"]
    data = shop(regulars, titles)
    with pytest.raises(
        DataError, match=r"events\.csv, line 7, column title.*item=6.*\(4 bad rows in total\)"
    ):
        prepare(data, LOOSE, 0, tmp_path / "out")
    assert prepare(data, QUARANTINE, 0, tmp_path / "out")["items"] == 5


def test_one_item_with_two_titles_is_refused(
    shop: WriteShop, regulars: list[Event], tmp_path: Path
) -> None:
    data = shop(regulars, {str(i): f"Film {i}" for i in range(1, 7)})
    assert data.items is not None
    with data.items.open("a") as file:
        file.write("2,Another film\n3,Film &#51;\n")
    with pytest.raises(
        DataError,
        match=r"line 8, column title: this item id already has another title: 'Another film'",
    ):
        prepare(data, LOOSE, 0, tmp_path / "out")
    card = prepare(data, QUARANTINE, 0, tmp_path / "out")
    assert card["rows"]["bad_items"] == 1
    assert load(tmp_path / "out").catalogue.titles == tuple(f"Film {i}" for i in range(1, 7))


def test_min_rating_without_ratings_is_refused(
    shop: WriteShop, regulars: list[Event], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no interaction has a rating"):
        prepare(shop(regulars), LOOSE.model_copy(update={"min_rating": 3.0}), 0, tmp_path / "out")


def test_a_file_with_only_a_header_has_no_interactions(shop: WriteShop, tmp_path: Path) -> None:
    with (
        open_duckdb(tmp_path / "engine") as connection,
        pytest.raises(DataError, match="no interactions"),
    ):
        clean(TableSource(shop([])).read(connection), LOOSE, tmp_path)
