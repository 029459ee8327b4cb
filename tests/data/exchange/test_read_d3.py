"""Data sets that others have prepared: what is written is what is read, and a bad row is named."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groundrec.core.config import Data, Prepare
from groundrec.core.errors import DataError
from groundrec.core.registry import resolve
from groundrec.core.types import PreparedDataset
from groundrec.data.dataset import DatasetReader, load
from groundrec.data.exchange.read_bigrec import bigrec, quoted_titles
from groundrec.data.exchange.read_d3 import d3, minionerec
from groundrec.data.prepare import prepare
from groundrec.data.shared_rows import SHARED
from tests.data.amazon import Shape, write_amazon

ODD = [
    "It's 5 o'clock",
    'Say "hi"',
    "both ' and \"",
    "tab\there",
    "two\nlines",
    "carriage\rreturn",
    "东京, 物语",
    "7",
]
WALKS = {"ann": [0, 1, 2, 3, 4], "bo": [3, 4, 3, 5, 6], "cy": [7, 0, 1]}
D3_COLUMNS = [
    "user_id",
    *("item_asins", "item_asin", "history_item_id", "item_id", "history_item_title", "item_title"),
    *("history_rating", "rating", "history_timestamp", "timestamp"),
]


def rows_of(most: int = 10) -> list[list[Any]]:
    """Return the rows of every user, by time: the second to last of all are valid, the last is
    test.
    """
    rows = []
    for user, walk in WALKS.items():
        events = [(item, float(item % 5), 100 * n + len(user)) for n, item in enumerate(walk)]
        for n in range(1, len(events)):
            before, (item, rating, time) = events[max(0, n - most) : n], events[n]
            items, ratings, times = (list(column) for column in zip(*before, strict=True))
            asins, titles = [f"B{i}" for i in items], [ODD[i] for i in items]
            rows.append(
                [
                    user,
                    asins,
                    f"B{item}",
                    items,
                    item,
                    titles,
                    ODD[item],
                    ratings,
                    rating,
                    times,
                    time,
                ]
            )
    return sorted(rows, key=lambda row: row[-1])


def split_of(rows: list[list[Any]]) -> dict[str, list[list[Any]]]:
    return {"train": rows[:-3], "valid": rows[-3:-1], "test": rows[-1:]}


def write_d3(
    folder: Path, name: str = "Toys_5_2017-10-2018-11", rows: list[list[Any]] | None = None
) -> Path:
    for part, some in split_of(rows or rows_of()).items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        with (folder / part / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([D3_COLUMNS, *some])
    (folder / "info").mkdir(exist_ok=True)
    content = "".join(f"{title}\t{number}\n" for number, title in enumerate(ODD))
    (folder / "info" / f"{name}.txt").write_bytes(content.encode())
    return folder


def told(dataset: PreparedDataset) -> dict[str, list[tuple[str, int, list[int], list[int]]]]:
    return {
        split: [
            (q.user, q.time, q.history.tolist(), q.targets.tolist()) for q in dataset.split(split)
        ]
        for split in ("train", "valid", "test")
    }


def expected(most: int = 10) -> dict[str, list[tuple[str, int, list[int], list[int]]]]:
    return {
        name: [(r[0], r[-1], r[3], [r[4]]) for r in rows]
        for name, rows in split_of(rows_of(most)).items()
    }


def test_d3_is_read_as_it_was_written(tmp_path: Path) -> None:
    card = d3(write_d3(tmp_path / "raw"), tmp_path / "out")
    dataset = load(tmp_path / "out")
    assert told(dataset) == expected()
    assert dataset.catalogue.titles == tuple(ODD)
    assert dataset.catalogue.item_ids == tuple(f"B{n}" for n in range(len(ODD)))
    assert dataset.test.ids.tolist() == [9]
    assert (card["users"], card["items"], card["events"]) == (3, 8, 13)
    assert card["settings"] == {"source": "d3", "category": "Toys", "k_core": 5}
    assert card["window"] == {"st_year": 2017, "st_month": 10, "ed_year": 2018, "ed_month": 11}


@pytest.mark.parametrize("most", [2, 10])
def test_d3_rows_are_windows_over_the_events_they_tell_of(most: int, tmp_path: Path) -> None:
    d3(write_d3(tmp_path / "raw", rows=rows_of(most)), tmp_path / "out")
    events, query_ids = DatasetReader(tmp_path / "out").events()
    walked = {
        name: events.items[events.user == n].tolist()
        for n, name in enumerate(events.users.tolist())
    }
    assert walked == WALKS
    assert [events.ratings[r] for r in events.rating] == [f"{float(i % 5)}" for i in events.items]
    assert sorted(query_ids.tolist()) == [-1, -1, -1, *range(10)]
    assert told(load(tmp_path / "out")) == expected(most)


def test_d3_rows_that_are_no_windows_are_queries_all_the_same(tmp_path: Path) -> None:
    """A sample of the rows, or histories that were shuffled: the splits stand, the events cannot be
    told.
    """
    rows = rows_of()
    del rows[[row[0] for row in rows].index("ann") + 3]
    d3(write_d3(tmp_path / "raw", rows=rows), tmp_path / "out")
    assert [row[0] for part in told(load(tmp_path / "out")).values() for row in part] == [
        r[0] for r in rows
    ]
    with pytest.raises(Exception, match="has no events: no ratings and times"):
        DatasetReader(tmp_path / "out").events()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (
            "history_item_id",
            "[0, 99]",
            r"column history_item_id: this row cannot be used: \[0, 99\][\s\S]*from 0 to 7",
        ),
        (
            "history_item_id",
            "__import__('os')",
            r"column history_item_id[\s\S]*__import__\('os'\)[\s\S]*a list as Python prints it",
        ),
        ("item_id", "-1", "column item_id"),
        ("item_id", "2.0", "column item_id"),
        ("item_title", "Another", r"column item_title[\s\S]*Another[\s\S]*the title that item"),
        (
            "history_item_title",
            "['Another']",
            r"column history_item_title[\s\S]*Another[\s\S]*the titles that items",
        ),
        ("item_asin", "B77", r"column item_asin[\s\S]*the id that item"),
        ("item_asins", "['B77']", r"column item_asins[\s\S]*the id that item"),
        (
            "history_timestamp",
            "[]",
            r"column history_timestamp[\s\S]*a list as long as history_item_id, 1",
        ),
        ("timestamp", "soon", r"column timestamp[\s\S]*whole seconds since 1970"),
        ("timestamp", "-5", r"column timestamp[\s\S]*whole seconds since 1970"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(
    column: str, value: str, message: str, tmp_path: Path
) -> None:
    rows = rows_of()
    at = next(n for n, row in enumerate(rows[:-3]) if "\n" in row[6]) + 1
    rows.insert(at, list(next(row for row in rows if len(row[3]) == 1)))
    rows[at][D3_COLUMNS.index(column)] = value
    folder = write_d3(tmp_path / "raw", rows=rows)
    lines = sum(str(cell).count("\n") for row in rows[:at] for cell in (row[6],)) + at + 2
    with pytest.raises(DataError, match=rf"Toys_5_2017-10-2018-11\.csv, line {lines}, {message}"):
        d3(folder, tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_what_is_no_csv_is_named(tmp_path: Path) -> None:
    folder = write_d3(tmp_path / "raw")
    file = folder / "valid" / "Toys_5_2017-10-2018-11.csv"
    good = file.read_bytes()
    for bad, message in (
        (good + b"\xff,\r\n", r"csv, line 4: this row cannot be used: .*decode[\s\S]*UTF-8"),
        (good + b"ann,1\r\n", r"csv, line 4: this row cannot be used: 2 cells[\s\S]*accepted: 11"),
        (
            good.replace(b",item_title,", b",item_tittle,"),
            r"no such column \(did you mean 'item_tittle'",
        ),
        (good.splitlines(True)[0], "the valid split has no rows"),
    ):
        file.write_bytes(bad)
        with pytest.raises(DataError, match=message):
            d3(folder, tmp_path / "out")
    for part in ("train", "valid", "test"):
        (folder / part / file.name).write_bytes(good.splitlines(True)[0])
    with pytest.raises(DataError, match="the train split has no rows"):
        d3(folder, tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_two_numbers_with_one_id_are_refused(tmp_path: Path) -> None:
    rows = [
        [*row[:1], [a.replace("B6", "B5") for a in row[1]], row[2].replace("B6", "B5"), *row[3:]]
        for row in rows_of()
    ]
    with pytest.raises(DataError, match="two item numbers have the same id: B5"):
        d3(write_d3(tmp_path / "raw", rows=rows), tmp_path / "out")


def test_an_info_file_with_a_gap_is_named(tmp_path: Path) -> None:
    folder = write_d3(tmp_path / "raw")
    file = folder / "info" / "Toys_5_2017-10-2018-11.txt"
    file.write_text(file.read_text(encoding="utf-8").replace("\t3\n", "\t4\n"), encoding="utf-8")
    with pytest.raises(DataError, match=r"txt, line 4: [\s\S]*a title, a tab and the number 3"):
        d3(folder, tmp_path / "out")


def test_one_category_of_several_is_named(tmp_path: Path) -> None:
    folder = write_d3(write_d3(tmp_path / "raw"), "Books_5_2017-10-2018-11")
    with pytest.raises(
        DataError,
        match=r"train/: 2[\s\S]*Books_5_2017-10-2018-11, Toys_5_2017-10-2018-11[\s\S]*--category",
    ):
        d3(folder, tmp_path / "out")
    assert d3(folder, tmp_path / "out", "Books")["settings"]["category"] == "Books"
    assert d3(folder, tmp_path / "out", "Toys_5_2017-10-2018-11")["settings"]["category"] == "Toys"
    with pytest.raises(DataError, match="did you mean 'Books_5_2017-10-2018-11'"):
        d3(folder, tmp_path / "out", "Book_5_2017-10-2018-11")
    with pytest.raises(DataError, match=r"in train/, valid/ and test/"):
        d3(tmp_path / "none", tmp_path / "out")


def write_minionerec(folder: Path) -> Path:
    names = [
        "user_id",
        "history_item_title",
        "item_title",
        "history_item_id",
        "item_id",
        "history_item_sid",
        "item_sid",
    ]
    for part, rows in split_of(rows_of()).items():
        (folder / part).mkdir(parents=True)
        with (folder / part / "Toys.csv").open("w", encoding="utf-8", newline="") as file:
            sids = ([[f"<a_{i}><b_0>" for i in row[3]], f"<a_{row[4]}><b_0>"] for row in rows)
            told = [[r[0], r[5], r[6], r[3], r[4], *sid] for r, sid in zip(rows, sids, strict=True)]
            csv.writer(file).writerows([names, *told])
    (folder / "info").mkdir()
    content = "".join(f"<a_{number}><b_0>\t{title}\t{number}\n" for number, title in enumerate(ODD))
    (folder / "info" / "Toys.txt").write_bytes(content.encode())
    return folder


def test_minionerec_is_read_as_it_was_written(tmp_path: Path) -> None:
    card = minionerec(write_minionerec(tmp_path / "raw"), tmp_path / "out")
    dataset = load(tmp_path / "out")
    places = iter(range(10))
    assert told(dataset) == {
        name: [(user, next(places), history, targets) for user, _, history, targets in rows]
        for name, rows in expected().items()
    }
    assert dataset.catalogue.titles == tuple(ODD)
    assert "no times" in card["notes"][0]
    assert "time_span" not in card
    assert set(card["leakage"]) == {
        "test_queries_of_users_unseen_in_train",
        "test_targets_unseen_in_train",
        *SHARED.values(),
    }


def instruction(history: list[str], target: str) -> dict[str, str]:
    named = ", ".join(f'"{title}"' for title in history)
    return {
        "instruction": "Say a film.",
        "input": f"The user watched before:{named}\n ",
        "output": f'"{target}"',
    }


def write_bigrec(
    folder: Path, titles: list[str], names: tuple[str, ...] = ("train", "valid", "test")
) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in zip(names, split_of(rows_of()).values(), strict=True):
        told = [instruction([titles[i] for i in row[3]], titles[row[4]]) for row in rows]
        (folder / f"{name}.json").write_text(json.dumps(told, indent=4))
    return folder


FILMS = [
    "Toy Story (1995)",
    'Say "hi", "you" (1999)',
    '"Great Performances" Cats (1998)',
    "Amélie (2001)",
    "Café, The",
    "x",
    "Mis\x85take",
    "Last",
]


def test_bigrec_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = write_bigrec(tmp_path / "raw", FILMS)
    (folder / "movies.dat").write_bytes(
        "".join(f"{7 * n}::{t}::Drama\n" for n, t in enumerate(FILMS)).encode("latin-1")
    )
    card = bigrec(folder, tmp_path / "out")
    dataset = load(tmp_path / "out")
    assert {n: [row[2:] for row in rows] for n, rows in told(dataset).items()} == {
        n: [row[2:] for row in rows] for n, rows in expected().items()
    }
    assert dataset.catalogue.titles == tuple(FILMS)
    assert dataset.catalogue.item_ids == tuple(str(7 * n) for n in range(8))
    assert len(set(dataset.train.users.tolist() + dataset.test.users.tolist())) == 8
    assert set(card["leakage"]) == {"test_targets_unseen_in_train", *SHARED.values()}
    assert "users" not in card


def test_bigrec_without_a_list_knows_items_by_their_titles(tmp_path: Path) -> None:
    bigrec(
        write_bigrec(tmp_path / "raw", FILMS, ("train", "valid_5000", "test_5000")),
        tmp_path / "out",
    )
    dataset = load(tmp_path / "out")
    assert dataset.catalogue.item_ids == dataset.catalogue.titles
    titles = dataset.catalogue.titles
    assert [[titles[i] for i in [*q.history, *q.targets]] for q in dataset.train] == [
        [FILMS[i] for i in [*row[3], row[4]]] for row in split_of(rows_of())["train"]
    ]


def test_bigrec_titles_that_repeat_or_are_not_listed_are_told(tmp_path: Path) -> None:
    folder = write_bigrec(tmp_path / "raw", FILMS)
    (folder / "id2name.txt").write_text(
        "".join(f"{t}\t{n}\n" for n, t in enumerate([*FILMS[:5], FILMS[0]]))
    )
    card = bigrec(folder, tmp_path / "out")
    assert card["notes"][2:] == [
        "3 titles are not in the list of items and were added after it.",
        "1 items of the list share the title of an earlier one: the title refers to the earlier.",
    ]
    assert load(tmp_path / "out").catalogue.item_ids[4:7] == (
        "4",
        "5",
        load(tmp_path / "out").catalogue.titles[6],
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"input": "none", "output": '"x"'},
            r"train\.json, row 8: this row cannot be used: none[\s\S]*in quotation",
        ),
        ({"input": 'a: "x"'}, r"train\.json, row 8: [\s\S]*an input and an output"),
    ],
)
def test_a_bigrec_row_that_cannot_be_used_is_named(
    row: dict[str, str], message: str, tmp_path: Path
) -> None:
    folder = write_bigrec(tmp_path / "raw", FILMS)
    rows = json.loads((folder / "train.json").read_text())
    (folder / "train.json").write_text(json.dumps([*rows, row]))
    with pytest.raises(DataError, match=message):
        bigrec(folder, tmp_path / "out")
    (folder / "train.json").write_text(json.dumps(rows)[:-9])
    with pytest.raises(DataError, match="a raw file cannot be read"):
        bigrec(folder, tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_bigrec_says_what_is_missing(tmp_path: Path) -> None:
    folder = write_bigrec(tmp_path / "raw", FILMS, ("train", "valid", "exam"))
    with pytest.raises(DataError, match=r"no test\.json in [\s\S]*exam\.json[\s\S]*valid_5000"):
        bigrec(folder, tmp_path / "out")
    with pytest.raises(DataError, match="has no categories"):
        bigrec(folder, tmp_path / "out", "Books")


TITLES = st.text(st.sampled_from('ab", '), min_size=1, max_size=6).filter(
    lambda t: '", "' not in t and t.strip('", ') == t
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(titles=st.lists(TITLES, min_size=1, max_size=6))
def test_quoted_titles_are_taken_apart(titles: list[str]) -> None:
    assert quoted_titles(instruction(titles, "x")["input"]) == titles


def test_a_title_with_the_mark_between_two_is_kept_together_where_it_is_known() -> None:
    text = 'a: "one", "two", "three"'
    assert quoted_titles(text) == ["one", "two", "three"]
    assert quoted_titles(text, {'one", "two'}) == ['one", "two', "three"]
    assert quoted_titles(text, {'one", "two', 'one", "two", "three'}) == ['one", "two", "three']
    assert quoted_titles("nothing") == []


@pytest.mark.parametrize("name", ["d3", "minionerec", "bigrec"])
def test_contract_an_importer_saves_what_it_returns(name: str, tmp_path: Path) -> None:
    writers = {
        "d3": write_d3,
        "minionerec": write_minionerec,
        "bigrec": lambda folder: write_bigrec(folder, FILMS),
    }
    card = resolve("imports", name)(writers[name](tmp_path / "raw"), tmp_path / "out", "")
    again = resolve("imports", name)(tmp_path / "raw", tmp_path / "again", "")
    dataset = load(tmp_path / "out")
    assert json.loads(json.dumps(card)) == dataset.card
    assert again == card
    assert load(tmp_path / "again").fingerprint == dataset.fingerprint
    assert (card["rows"], card["items"]) == ({"read": 10, "kept": 10}, len(dataset.catalogue))


def test_what_was_exported_is_imported_as_it_was(tmp_path: Path) -> None:
    """Odd titles, repeated pairs and equal times included: the same data set, and from it the same
    files.
    """
    write_amazon(tmp_path / "raw", "Books", Shape(users=60, items=50, reviews=3000))
    data = Data(source="amazon", path=tmp_path / "raw", category="Books")
    prepare(data, Prepare(protocol="d3"), 0, tmp_path / "prepared")
    export = resolve("formats", "d3")
    files = export(DatasetReader(tmp_path / "prepared"), tmp_path / "files")
    d3(tmp_path / "files", tmp_path / "imported")
    assert load(tmp_path / "imported").fingerprint == load(tmp_path / "prepared").fingerprint
    again = export(DatasetReader(tmp_path / "imported"), tmp_path / "again")
    assert [f.relative_to(tmp_path / "again") for f in again] == [
        f.relative_to(tmp_path / "files") for f in files
    ]
    assert [f.read_bytes() for f in again] == [f.read_bytes() for f in files]
