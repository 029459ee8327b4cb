"""Published reviews, in the layouts they come in."""

from __future__ import annotations

import gzip
import json
import logging
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from groundrec.core.config import Data, Prepare
from groundrec.core.errors import ConfigError, DataError
from groundrec.data.prepare import prepare
from tests.data.sources.test_table import (
    EVENTS,
    NEWER,
    REVIEWS,
    STEAM,
    TITLES,
    day,
    lines,
    literals,
    objects,
    read,
    write,
)

EXPECTED = [(user, item, time, rating) for user, item, time, rating in EVENTS]
OLDER_META = objects(*({"asin": i, "title": t, "description": ["x"]} for i, t in TITLES.items()))
NEWER_META = objects(*({"parent_asin": i, "title": t} for i, t in TITLES.items()))
LITERAL_META = literals(
    *({"asin": i, "title": t, "related": {"also_bought": ["1"]}} for i, t in TITLES.items())
)
LAYOUTS = {
    "2018": {"Toys.json": objects(*REVIEWS), "meta_Toys.json": OLDER_META},
    "2018 zipped": {
        "Toys.json.gz": gzip.compress(objects(*REVIEWS)),
        "meta_Toys.json.gz": gzip.compress(OLDER_META),
    },
    "2018 5-core": {
        "Toys_5.json": objects(*REVIEWS),
        "Toys.json": b"{}\n",
        "meta_Toys.json": OLDER_META,
    },
    "2014": {
        "reviews_Toys_5.json.gz": gzip.compress(objects(*REVIEWS)),
        "meta_Toys.json.gz": gzip.compress(LITERAL_META),
    },
    "2023": {
        "Toys.jsonl.gz": gzip.compress(objects(*NEWER)),
        "meta_Toys.jsonl.gz": gzip.compress(NEWER_META),
    },
}


def told(events: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    return [(e["user"], e["item_id"], e["time"], e["rating"]) for e in events]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_amazon_layout_reads_the_same(layout: str, tmp_path: Path) -> None:
    folder = write(
        tmp_path / "raw", {**LAYOUTS[layout], "Books.json": b"{}", "meta_Books.json": b"{}"}
    )
    events, items = read(Data(source="amazon", path=folder, category="Toys"), tmp_path / "scratch")
    assert told(events) == EXPECTED
    assert {i["item_id"]: i["title"] for i in items} == TITLES
    assert [e["row"] for e in events] == [1, 2, 3]


def test_files_can_be_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "raw", {"some.json": objects(*REVIEWS), "more.json": OLDER_META})
    data = Data(source="amazon", path=folder / "some.json", items=folder / "more.json")
    events, items = read(data, tmp_path / "scratch")
    assert (told(events), len(items)) == (EXPECTED, 2)


def test_the_layout_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("groundrec"), "propagate", True)
    caplog.set_level(logging.INFO, "groundrec")
    for layout in ("2018", "2023"):
        folder = write(tmp_path / layout, LAYOUTS[layout])
        read(Data(source="amazon", path=folder, category="Toys"), tmp_path / "scratch")
    assert (
        "Toys.json and meta_Toys.json: Amazon reviews in the layout of 2014 and 2018" in caplog.text
    )
    assert (
        "Toys.jsonl.gz and meta_Toys.jsonl.gz: Amazon reviews in the layout of 2023" in caplog.text
    )


def test_a_missing_or_null_title_is_null(tmp_path: Path) -> None:
    meta = objects(
        {"asin": "1"}, {"asin": "2", "title": None}, {"title": "no id"}, {"asin": "4", "title": "x"}
    )
    folder = write(tmp_path / "raw", {"Toys.json": objects(*REVIEWS), "meta_Toys.json": meta})
    _, items = read(Data(source="amazon", path=folder, category="Toys"), tmp_path / "scratch")
    assert [(i["item_id"], i["title"]) for i in items] == [
        ("1", None),
        ("2", None),
        (None, "no id"),
        ("4", "x"),
    ]


@pytest.mark.parametrize(
    ("layout", "field", "unit"), [("2018", "unixReviewTime", 1000), ("2023", "timestamp", 0.001)]
)
def test_a_time_in_the_other_unit_is_no_time(
    layout: str, field: str, unit: float, tmp_path: Path
) -> None:
    """These layouts have one unit each, whatever most of the rows say."""
    rows = [
        {**row, field: int(row[field] * unit)} for row in {"2018": REVIEWS, "2023": NEWER}[layout]
    ]
    name = next(iter(LAYOUTS[layout]))
    content = gzip.compress(objects(*rows)) if name.endswith(".gz") else objects(*rows)
    folder = write(tmp_path / "raw", {**LAYOUTS[layout], name: content})
    events, _ = read(Data(source="amazon", path=folder, category="Toys"), tmp_path / "scratch")
    assert [(e["time"], e["time_text"]) for e in events] == [
        (None, str(row[field])) for row in rows
    ]


def test_a_category_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    folder = write(tmp_path / "raw", {**LAYOUTS["2018"], "meta_Books.json": b"{}"})
    with pytest.raises(DataError, match=r"did you mean 'Books'\?\): Book\n  accepted: Books, Toys"):
        read(Data(source="amazon", path=folder, category="Book"), tmp_path / "scratch")
    with pytest.raises(DataError, match=r"data\.category is not set[\s\S]*Books, Toys"):
        read(Data(source="amazon", path=folder), tmp_path / "scratch")
    with pytest.raises(DataError, match=r"no raw data given[\s\S]*--set data\.items"):
        read(Data(source="amazon", path=folder / "Toys.json"), tmp_path / "scratch")


def test_reviews_of_something_else_are_refused_with_the_fields_there_are(tmp_path: Path) -> None:
    files = {"Toys.json": objects({"user": 1, "asin": 2}), "meta_Toys.json": OLDER_META}
    with pytest.raises(
        DataError, match=r"Toys\.json contains no Amazon reviews: user, asin[\s\S]*reviewerID.*2023"
    ):
        read(
            Data(source="amazon", path=write(tmp_path / "raw", files), category="Toys"),
            tmp_path / "scratch",
        )


def test_a_source_refuses_settings_it_would_ignore(tmp_path: Path) -> None:
    folder = write(tmp_path / "raw", LAYOUTS["2018"])
    with pytest.raises(
        ConfigError, match=r"`amazon` source does not use this setting: data\.columns"
    ):
        read(
            Data(source="amazon", path=folder, category="Toys", columns={"item": "x"}),
            tmp_path / "scratch",
        )
    with pytest.raises(
        ConfigError, match=r"`table` source does not use this setting: data\.category"
    ):
        read(Data(source="table", path=folder / "Toys.json", category="Toys"), tmp_path / "scratch")


GAMES = [{"id": i, "app_name": t, "title": t} for i, t in TITLES.items()]


@pytest.mark.parametrize("written", [objects, literals], ids=["JSON", "Python"])
def test_steam_reads_the_same_from_json_and_from_literals(written: Any, tmp_path: Path) -> None:
    rows = [{**STEAM[0], "user_id": "7656"}, *STEAM[1:]]
    games = [*GAMES, {"id": "11", "app_name": "Only a name", "title": None}]
    files = {
        "steam_reviews.json": written(*rows),
        "steam_games.json.gz": gzip.compress(written(*games)),
    }
    events, items = read(
        Data(source="steam", path=write(tmp_path / "raw", files)), tmp_path / "scratch"
    )
    midnight = [time - time % 86400 for _, _, time, _ in EVENTS]
    assert told(events) == [
        ("7656" if n == 0 else user, item, midnight[n], hours)
        for n, (user, item, _, hours) in enumerate(EVENTS)
    ]
    assert {i["item_id"]: i["title"] for i in items} == {**TITLES, "11": "Only a name"}
    assert [e["time_text"] for e in events] == [day(time) for _, _, time, _ in EVENTS]


def test_steam_names_what_it_looked_for(tmp_path: Path) -> None:
    folder = write(tmp_path / "raw", {"steam_reviews.json": objects(*STEAM)})
    with pytest.raises(DataError, match=r"need exactly one file \*games\*\.json"):
        read(Data(source="steam", path=folder), tmp_path / "scratch")


def atomic(head: str, *rows: str) -> bytes:
    return lines(head.replace(" ", "\t"), *("\t".join(map(str, row)) for row in rows))


INTER = atomic(
    "user_id:token item_id:token rating:float timestamp:float",
    *((u, i, r, t) for u, i, t, r in EVENTS),
)


@pytest.mark.parametrize(
    "head",
    [
        "item_id:token title:token_seq",
        "item_id:token movie_title:token_seq",
        "item_id:token app_name:token",
    ],
)
def test_recbole_finds_the_title_by_its_name(head: str, tmp_path: Path) -> None:
    files = {"games.inter": INTER, "games.item": atomic(head, *TITLES.items())}
    events, items = read(
        Data(source="recbole", path=write(tmp_path / "raw", files)), tmp_path / "scratch"
    )
    assert told(events) == EXPECTED
    assert {i["item_id"]: i["title"] for i in items} == TITLES


def test_recbole_columns_can_be_named(tmp_path: Path) -> None:
    inter = atomic("who:token what:token when:float", *((u, i, 1000 * t) for u, i, t, _ in EVENTS))
    item = atomic(
        "what:token title:token heading:token_seq", *((i, "x", t) for i, t in TITLES.items())
    )
    folder = write(tmp_path / "raw", {"a.inter": inter, "a.item": item, "b.inter": b""})
    columns = {"user": "who", "item": "what", "time": "when", "title": "heading"}
    data = Data(source="recbole", path=folder / "a.inter", items=folder / "a.item", columns=columns)
    events, items = read(data, tmp_path / "scratch")
    assert told(events) == [(user, item, time, None) for user, item, time, _ in EVENTS]
    assert {i["item_id"]: i["title"] for i in items} == TITLES
    with pytest.raises(
        DataError,
        match=r"no such column[\s\S]*headline[\s\S]*what:token, title:token, heading:token_seq",
    ):
        read(
            data.model_copy(update={"columns": {**columns, "title": "headline"}}),
            tmp_path / "scratch",
        )
    with pytest.raises(
        DataError,
        match=r"no pair of RecBole's atomic files: .* contains: a\.inter, a\.item, b\.inter",
    ):
        read(Data(source="recbole", path=folder), tmp_path / "scratch")


BAD_REVIEWS = {
    "not JSON": (b"<html>", None, "not an object: <html>"),
    "cut short": (json.dumps(REVIEWS[0]).encode()[:60], None, "not an object"),
    "not UTF-8": (objects(REVIEWS[0])[:-1].replace(b'"1"', b'"\xff"'), None, "not UTF-8"),
    "a list for an id": (
        objects({**REVIEWS[0], "asin": ["10"]})[:-1],
        None,
        "asin is neither text nor a number",
    ),
    "a word for a rating": (objects({**REVIEWS[0], "overall": "good"})[:-1], "rating", "good"),
    "a word for a time": (objects({**REVIEWS[0], "unixReviewTime": "soon"})[:-1], "time", "soon"),
    "a list for a time": (objects({**REVIEWS[0], "unixReviewTime": [5]})[:-1], "time", "[5]"),
    "a negative time": (objects({**REVIEWS[0], "unixReviewTime": -5})[:-1], "time", "-5"),
    "milliseconds": (
        objects({**REVIEWS[0], "unixReviewTime": 1500000000000})[:-1],
        "time",
        "1500000000000",
    ),
    "no user": (objects({**REVIEWS[0], "reviewerID": None})[:-1], "user", None),
    "ten megabytes": (b"x" * 10_000_000, None, "not an object: xxx"),
}


@pytest.mark.parametrize("what", BAD_REVIEWS)
def test_a_bad_review_is_named_counted_and_set_aside(what: str, tmp_path: Path) -> None:
    line, column, shown = BAD_REVIEWS[what]
    rows = [
        {**REVIEWS[0], "reviewerID": f"u{u}", "unixReviewTime": 10**9 + 9 * u + t}
        for u in range(9)
        for t in range(5)
    ]
    content = objects(*rows[:2]) + b"\n" + line + b"\n" + objects(*rows[2:])
    folder = write(tmp_path / "raw", {"Toys.json": content, "meta_Toys.json": OLDER_META})
    data = Data(source="amazon", path=folder, category="Toys")
    section = Prepare(k_core=0, protocol="leave-one-out")
    place = r"Toys\.json, line 4" + (f", column {column}" if column else "")
    with pytest.raises(
        DataError, match=rf"{place}: [\s\S]*{re.escape(str(shown))}[\s\S]*\(1 bad row in total\)"
    ):
        prepare(data, section, 0, tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()
    card = prepare(data, section.model_copy(update={"bad_rows": "quarantine"}), 0, tmp_path / "out")
    assert (card["rows"]["read"], card["rows"]["bad"], card["rows"]["kept"]) == (46, 1, 45)
    (aside,) = pq.read_table(tmp_path / "out" / "quarantine.parquet").to_pylist()
    assert (aside["file"], aside["line"], aside["column"]) == ("Toys.json", 4, column)
    assert str(shown) in str(aside[column or "broken"])


def test_a_bad_line_of_the_metadata_is_set_aside_too(tmp_path: Path) -> None:
    meta = b"oops\n" + OLDER_META
    rows = [
        {**REVIEWS[0], "reviewerID": f"u{u}", "unixReviewTime": 10**9 + 9 * u + t}
        for u in range(9)
        for t in range(5)
    ]
    folder = write(tmp_path / "raw", {"Toys.json": objects(*rows), "meta_Toys.json": meta})
    data = Data(source="amazon", path=folder, category="Toys")
    with pytest.raises(
        DataError,
        match=r"meta_Toys\.json, line 1: this line cannot be parsed: 'not an object: oops'",
    ):
        prepare(data, Prepare(k_core=0), 0, tmp_path / "out")
    section = Prepare(k_core=0, protocol="leave-one-out", bad_rows="quarantine")
    assert prepare(data, section, 0, tmp_path / "out")["rows"]["bad_items"] == 1


@pytest.mark.parametrize("bad_rows", ["fail", "quarantine"])
@pytest.mark.parametrize("which", ["Toys.json.gz", "meta_Toys.json.gz"])
def test_a_file_cut_short_is_an_error_and_leaves_no_data_set(
    which: str, bad_rows: str, tmp_path: Path
) -> None:
    """A broken file is rejected, whatever happens to bad rows; an older data set remains."""
    rows = [
        {**REVIEWS[0], "reviewerID": f"u{u}", "unixReviewTime": 10**9 + u + 99 * t}
        for u in range(99)
        for t in range(5)
    ]
    files = {
        "Toys.json.gz": gzip.compress(objects(*rows)),
        "meta_Toys.json.gz": gzip.compress(OLDER_META),
    }
    folder = write(tmp_path / "raw", files)
    data, section = (
        Data(source="amazon", path=folder, category="Toys"),
        Prepare(k_core=0, bad_rows=bad_rows),
    )
    prepare(data, section, 0, tmp_path / "out")
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    (folder / which).write_bytes(files[which][:-20])
    with pytest.raises(DataError, match="a raw file is damaged"):
        prepare(data, section, 0, tmp_path / "out")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    with pytest.raises(DataError, match="a raw file is damaged"):
        prepare(data, section, 0, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
