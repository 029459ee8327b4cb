from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from groundrec.contracts.sources import check_source
from groundrec.core.config import Data, Prepare
from groundrec.core.errors import ConfigError, DataError
from groundrec.core.registry import names, resolve
from groundrec.data.dataset import load
from groundrec.data.prepare import prepare
from groundrec.data.raw.files import open_duckdb
from tests.data.conftest import Event, WriteShop

EVENTS = [("1", "10", 881250949, 3.0), ("2", "9", 891717742, 4.5), ("1", "9", 881250950, 5.0)]
TITLES = {"9": "Amélie (2001)", "10": 'Say "Hi", You (1995)'}


def lines(*rows: str, encoding: str = "utf-8") -> bytes:
    return "".join(f"{row}\n" for row in rows).encode(encoding)


def joined(delimiter: str) -> list[str]:
    return [delimiter.join(map(str, (u, i, r, t))) for u, i, t, r in EVENTS]


FLAGS = "|".join("0" * 22)
LAYOUTS = {
    "100k": {
        "u.data": lines(*joined("\t")),
        "u.item": lines(*(f"{i}|{t}|{FLAGS}" for i, t in TITLES.items()), encoding="latin-1"),
    },
    "1m": {
        "ratings.dat": lines(*joined("::")),
        "movies.dat": lines(*(f"{i}::{t}::Drama" for i, t in TITLES.items()), encoding="latin-1"),
    },
    "10m": {
        "ratings.dat": lines(*joined("::")),
        "movies.dat": lines(*(f"{i}::{t}::Drama" for i, t in TITLES.items())),
    },
    "25m": {
        "ratings.csv": lines("userId,movieId,rating,timestamp", *joined(",")),
        "movies.csv": lines(
            "movieId,title,genres",
            "9,Amélie (2001),Drama|Comedy",
            '10,"Say ""Hi"", You (1995)",Drama',
        ),
    },
    "recbole": {
        "ml.inter": lines(
            "user_id:token\titem_id:token\trating:float\ttimestamp:float", *joined("\t")
        ),
        "ml.item": lines(
            "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
            "9\tAmélie\t2001\tDrama",
            '10\tSay "Hi", You\t1995\tDrama',
        ),
    },
}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def read(data: Data, scratch: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    with open_duckdb(scratch) as connection:
        raw = resolve("sources", data.source)(data).read(connection)
        return (
            raw.interactions.order_by("row").to_pyarrow().to_pylist(),
            raw.items.order_by("row").to_pyarrow().to_pylist(),
        )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_movielens_layout_reads_the_same(layout: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "ml", LAYOUTS[layout])
    events, items = read(Data(source="movielens", path=folder), tmp_path / "scratch")
    assert [(e["user"], e["item_id"], e["time"], e["rating"]) for e in events] == EVENTS
    assert {i["item_id"]: i["title"] for i in items} == TITLES
    header = layout in ("25m", "recbole")
    assert [e["row"] for e in events] == [n + header for n in (1, 2, 3)]


def test_a_recbole_year_that_is_no_year_is_left_out(tmp_path: Path) -> None:
    files = {
        **LAYOUTS["recbole"],
        "ml.item": lines(
            "item_id:token\tmovie_title:token_seq\trelease_year:token", "9\tLost\tnone"
        ),
    }
    _, items = read(
        Data(source="movielens", path=write(tmp_path / "ml", files)), tmp_path / "scratch"
    )
    assert items[0]["title"] == "Lost"


def test_a_folder_of_something_else_lists_what_was_looked_for_and_what_is_there(
    tmp_path: Path,
) -> None:
    folder = write(tmp_path / "ml", {"notes.txt": b"x"})
    with pytest.raises(
        DataError,
        match=r"it contains: notes.txt[\s\S]*u\.data and u\.item[\s\S]*\*\.inter and \*\.item",
    ):
        read(Data(source="movielens", path=folder), tmp_path / "scratch")


def day(seconds: int) -> str:
    return str(np.datetime64(seconds, "s").astype("datetime64[D]"))


def objects(*rows: dict[str, object]) -> bytes:
    return lines(*map(json.dumps, rows))


def literals(*rows: dict[str, object]) -> bytes:
    return lines(*(repr(row) for row in rows))


REVIEWS = [
    {"reviewerID": u, "asin": i, "unixReviewTime": t, "overall": r, "reviewText": "…" * 99}
    for u, i, t, r in EVENTS
]
NEWER = [
    {"user_id": u, "parent_asin": i, "asin": "x", "timestamp": 1000 * t + 7, "rating": r}
    for u, i, t, r in EVENTS
]
STEAM = [
    {"username": u, "product_id": i, "date": day(t), "hours": r, "text": "…"}
    for u, i, t, r in EVENTS
]


FOLDERS = {
    "amazon": {
        "Toys.json": objects(*REVIEWS),
        "meta_Toys.json": objects(*({"asin": i, "title": t} for i, t in TITLES.items())),
    },
    "recbole": LAYOUTS["recbole"],
    "steam": {
        "steam_reviews.json": objects(*STEAM),
        "steam_games.json": objects(*({"id": i, "title": t} for i, t in TITLES.items())),
    },
    "movielens": LAYOUTS["100k"],
    "movielens-100k": LAYOUTS["100k"],
}


def sample(source: str, folder: Path) -> Data:
    """Return settings for any registered source to read a small data set without a network."""
    if source == "table":
        (folder / "t.csv").write_bytes(
            lines("user,item,time,rating", *(f"{u},{i},{t},{r}" for u, i, t, r in EVENTS))
        )
        return Data(source=source, path=folder / "t.csv")
    category = "Toys" if source == "amazon" else None
    return Data(source=source, path=write(folder / "raw", FOLDERS[source]), category=category)


@pytest.mark.parametrize("source", names("sources"))
def test_contract_a_registered_source_keeps_every_rule(source: str, tmp_path: Path) -> None:
    check_source(resolve("sources", source), sample(source, tmp_path))


TABLE = [
    {"user": u, "item": i, "time": t, "rating": r, "title": TITLES[i]} for u, i, t, r in EVENTS
]
HEAD = ("user", "item", "time", "rating", "title")


def delimited(delimiter: str) -> bytes:
    rows = [
        delimiter.join('"' + str(row[c]).replace('"', '""') + '"' for c in HEAD) for row in TABLE
    ]
    return lines(delimiter.join(HEAD), *rows)


FORMATS = {
    "t.csv": delimited(","),
    "semicolon.csv": delimited(";"),
    "bom.csv": b"\xef\xbb\xbf" + delimited(","),
    "t.tsv": delimited("\t"),
    "t.csv.gz": gzip.compress(delimited(",")),
    "t.json": json.dumps(TABLE).encode(),
    "t.jsonl": lines(*map(json.dumps, TABLE)),
    "t.jsonl.gz": gzip.compress(lines(*map(json.dumps, TABLE))),
}


@pytest.mark.parametrize("name", [*FORMATS, "t.parquet"])
def test_every_table_format_reads_the_same(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "t.parquet":
        pq.write_table(pa.Table.from_pylist(TABLE), path)
    else:
        path.write_bytes(FORMATS[name])
    events, items = read(Data(source="table", path=path), tmp_path / "scratch")
    assert [(e["user"], e["item_id"], e["time"], e["rating"]) for e in events] == EVENTS
    assert {i["item_id"]: i["title"] for i in items} == TITLES


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1577836800", 1577836800),
        ("1577836800.9", 1577836800),
        ("1577836800999", 1577836800),
        ("2020-01-01", 1577836800),
        ("2020-01-01 00:00:00", 1577836800),
        ("2020-01-01T00:00:00Z", 1577836800),
        ("2020-01-01T02:00:00+02:00", 1577836800),
        ("yesterday", None),
        ("nan", None),
        ("inf", None),
    ],
)
def test_times_are_seconds_milliseconds_or_iso(
    text: str, seconds: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    (tmp_path / "t.csv").write_bytes(lines("user,item,time", f"1,1,{text}"))
    events, _ = read(Data(source="table", path=tmp_path / "t.csv"), tmp_path / "scratch")
    assert (events[0]["time"], events[0]["time_text"]) == (seconds, text)


def test_milliseconds_are_noticed(
    shop: WriteShop,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("groundrec"), "propagate", True)
    caplog.set_level(logging.INFO, "groundrec")
    events, _ = read(shop([(1, 1, 1577836800000), (1, 2, 1577836801999)]), tmp_path / "scratch")
    assert "events.csv: most times are above 1e11 and are read as milliseconds" in caplog.text
    assert [e["time"] for e in events] == [1577836800, 1577836801]


@pytest.mark.parametrize("most", [1577836800, 1577836800000])
def test_a_time_in_another_unit_than_most_is_none(
    most: int, shop: WriteShop, tmp_path: Path
) -> None:
    other = {1577836800: 1577836800000, 1577836800000: 1577836800}[most]
    events, _ = read(
        shop([(1, 1, most), (1, 2, most), (1, 3, other), (1, 4, "2020-01-01")]),
        tmp_path / "scratch",
    )
    assert [e["time"] for e in events] == [1577836800, 1577836800, None, 1577836800]
    assert events[2]["time_text"] == str(other)


def test_parquet_timestamps_are_seconds(tmp_path: Path) -> None:
    times = pa.array([1577836800_000_000], pa.timestamp("us"))
    pq.write_table(pa.table({"user": [1], "item": [1], "time": times}), tmp_path / "t.parquet")
    events, _ = read(Data(source="table", path=tmp_path / "t.parquet"), tmp_path / "scratch")
    assert (events[0]["user"], events[0]["time"]) == ("1", 1577836800)


def test_columns_are_renamed(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(lines("reviewer,asin,when", "u,a,5"))
    (tmp_path / "meta.csv").write_bytes(lines("asin,name", "a,Film"))
    columns = {"user": "reviewer", "item": "asin", "time": "when", "title": "name"}
    data = Data(
        source="table", path=tmp_path / "t.csv", items=tmp_path / "meta.csv", columns=columns
    )
    events, items = read(data, tmp_path / "scratch")
    assert (events[0]["user"], events[0]["item_id"], events[0]["time"]) == ("u", "a", 5)
    assert items[0]["title"] == "Film"


def test_without_titles_the_item_id_is_the_title(
    shop: WriteShop, regulars: list[Event], tmp_path: Path
) -> None:
    prepare(
        shop(regulars), Prepare(k_core=0, valid_share=0.25, test_share=0.25), 0, tmp_path / "out"
    )
    assert load(tmp_path / "out").catalogue.titles == ("1", "2", "3", "4", "5", "6")


def test_an_unknown_column_suggests_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(lines("user,itm,time", "1,1,1"))
    with pytest.raises(
        DataError,
        match=r"t\.csv has no such column \(did you mean 'itm'\?\): item[\s\S]*user, itm, time",
    ):
        read(Data(source="table", path=tmp_path / "t.csv"), tmp_path / "scratch")
    data = Data(source="table", path=tmp_path / "t.csv", columns={"itm": "itm"})
    with pytest.raises(DataError, match="did you mean 'item'"):
        read(data, tmp_path / "scratch")


@pytest.mark.parametrize("source", ["table", "movielens"])
def test_a_path_that_is_missing_says_what_is_there(source: str, tmp_path: Path) -> None:
    (tmp_path / "here.csv").write_text("x")
    with pytest.raises(
        DataError, match=r"no such file or folder[\s\S]*here\.csv[\s\S]*--set data.path"
    ):
        read(Data(source=source, path=tmp_path / "gone.csv"), tmp_path / "scratch")
    with pytest.raises(DataError, match=r"no raw data given[\s\S]*--set data.path"):
        read(Data(source=source), tmp_path / "scratch")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "the file is empty"),
        ("t.xlsx", b"x", "unknown file format"),
        ("t.csv", b"user,user,time\n1,1,1\n", "two columns have the same name"),
        ("t.csv", b"\n\n", "the file has no header line"),
        (
            "t.csv.gz",
            gzip.compress(b"user,item,time\n" + b"1,1,1\n" * 9999)[:-9],
            "a raw file is damaged",
        ),
        ("t.json", b'[{"user": 1,', "a raw file cannot be read"),
        ("t.parquet", b"PAR1 not really PAR1", "a raw file cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(Data(source="table", path=tmp_path / name), tmp_path / "scratch")
    assert not list((tmp_path / "scratch").glob(".spill*"))


def test_an_unknown_source_names_the_known() -> None:
    with pytest.raises(ConfigError, match="did you mean 'movielens'"):
        resolve("sources", "movielense")


def test_movielens_refuses_settings_it_would_ignore(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"`movielens` source does not use this setting: data\.columns"
    ):
        read(Data(source="movielens", path=tmp_path, columns={"user": "u"}), tmp_path / "scratch")
