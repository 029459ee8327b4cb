"""Exports in other formats are read back unchanged, except for what the formats cannot express."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from groundrec.core.config import D3, Data, Prepare
from groundrec.core.errors import ArtifactError, ConfigError, DataError
from groundrec.core.registry import resolve
from groundrec.core.types import Catalogue, PreparedDataset
from groundrec.data.dataset import DatasetReader, load, save
from groundrec.data.exchange.write_others import bigrec, minionerec, recbole
from groundrec.data.prepare import prepare
from tests.data.amazon import Shape, write_amazon
from tests.shops import planted_shop, queries_of

D3_FEW = Prepare(protocol="d3", d3=D3(min_items=30))
PROTOCOLS = [
    Prepare(protocol=name)
    for name in ("global-time", "leave-one-out", "bigrec-game", "bigrec-movie")
]
ODD = [
    "tab\there",
    "two\nlines",
    "carriage\rreturn",
    "\r\n",
    'Say "hi", "you"',
    "东京, 物语",
    "7",
    "Tom &amp; Jerry",
]
SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Return made-up reviews whose every item has a title."""
    folder = tmp_path_factory.mktemp("raw")
    write_amazon(folder, "Toys", Shape(users=120, items=60, reviews=2_500, odd=0))
    return Data(source="amazon", path=folder, category="Toys")


def odd_shop(folder: Path) -> Path:
    """Save a shop with odd titles, a query without a history and one with two targets."""
    rows = [("ann", 5, [], [0]), ("ann", 6, [0], [1, 2]), ("bo", 6, [4, 4, 5], [6])]
    parts = {"train": queries_of(rows), "valid": queries_of([("bo", 7, [3], [7])], 3)}
    parts["test"] = queries_of([("cy", 9, list(range(8)), [3])], 4)
    catalogue = Catalogue(tuple(f"B{n}" for n in range(len(ODD))), tuple(ODD))
    save(catalogue, parts, {}, folder)
    return folder


def rows_of(dataset: PreparedDataset) -> Iterator[tuple[str, str, list[str], str]]:
    """Yield split, user, history and target of each row, items by their titles."""
    titles = dataset.catalogue.titles
    for split in SPLITS:
        for query in dataset.split(split):
            for target in query.targets:
                yield split, query.user, [titles[item] for item in query.history], titles[target]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@pytest.mark.parametrize("name", ["bigrec", "minionerec"])
@pytest.mark.parametrize("protocol", ["d3", "bigrec-game", "global-time", "odd"])
def test_what_was_exported_is_imported_but_for_what_the_files_do_not_say(
    name: str, protocol: str, raw: Data, tmp_path: Path
) -> None:
    """Neither format knows times, `bigrec` no users either; a query of several targets is a row for
    each.
    """
    if protocol == "odd":
        odd_shop(tmp_path / "out")
    else:
        prepare(
            raw, D3_FEW if protocol == "d3" else Prepare(protocol=protocol), 0, tmp_path / "out"
        )
    before, export = load(tmp_path / "out"), resolve("formats", name)
    export(DatasetReader(tmp_path / "out"), tmp_path / "files")
    resolve("imports", name)(tmp_path / "files", tmp_path / "imported", "")
    after = load(tmp_path / "imported")
    skip = 1 if name == "bigrec" else 0
    assert [(r[0], *r[1 + skip :]) for r in rows_of(after)] == [
        (r[0], *r[1 + skip :]) for r in rows_of(before)
    ]
    assert after.catalogue.titles == before.catalogue.titles
    times = [time for split in SPLITS for time in after.split(split).times.tolist()]
    assert times == list(range(len(times)))
    export(DatasetReader(tmp_path / "imported"), tmp_path / "again")
    assert sorted(contents(tmp_path / "again").values()) == sorted(
        contents(tmp_path / "files").values()
    )
    resolve("imports", name)(tmp_path / "again", tmp_path / "third", "")
    assert load(tmp_path / "third").fingerprint == after.fingerprint


@pytest.mark.parametrize("section", PROTOCOLS, ids=lambda section: section.protocol)
def test_atomic_files_are_prepared_to_an_equal_data_set(
    section: Prepare, raw: Data, tmp_path: Path
) -> None:
    prepare(raw, section, 0, tmp_path / "out")
    recbole(DatasetReader(tmp_path / "out"), tmp_path / "files")
    prepare(Data(source="recbole", path=tmp_path / "files"), section, 0, tmp_path / "again")
    assert load(tmp_path / "again").fingerprint == load(tmp_path / "out").fingerprint
    events, again = (DatasetReader(tmp_path / name).events()[0] for name in ("out", "again"))
    assert np.array_equal(events.time, again.time)
    assert np.array_equal(events.items, again.items)


def test_atomic_files_of_d3_differ_in_the_numbers_of_items_alone(raw: Data, tmp_path: Path) -> None:
    """D3 numbers items by the order of the raw file, which a data set does not keep."""
    prepare(raw, D3_FEW, 0, tmp_path / "out")
    recbole(DatasetReader(tmp_path / "out"), tmp_path / "files")
    prepare(Data(source="recbole", path=tmp_path / "files"), D3_FEW, 0, tmp_path / "again")
    before, after = load(tmp_path / "out"), load(tmp_path / "again")
    ids = [
        [dataset.catalogue.item_ids[i] for i in dataset.test.history.values]
        for dataset in (before, after)
    ]
    assert ids[0] == ids[1]
    assert before.test.users.tolist() == after.test.users.tolist()
    assert sorted(zip(*_columns(before), strict=True)) == sorted(zip(*_columns(after), strict=True))
    assert before.fingerprint != after.fingerprint


def _columns(dataset: PreparedDataset) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return dataset.catalogue.item_ids, dataset.catalogue.titles


def write_reviews(folder: Path, title: str, user: str = "ann", rating: str = "4.0") -> None:
    """Prepare a shop of ten items and two users, one of them and one title odd, in `folder /
    "out"`.
    """
    rows = [
        [who, f"i{n}", rating, str(100 + n), title if n == 3 else f"T{n}"]
        for who in (user, "bo")
        for n in range(20)
    ]
    with (folder / "events.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["user", "item", "rating", "time", "title"], *rows])
    section = Prepare(protocol="bigrec-movie")
    prepare(Data(source="table", path=folder / "events.csv"), section, 0, folder / "out")


def test_an_atomic_file_has_typed_headers_and_a_line_for_each_interaction(tmp_path: Path) -> None:
    write_reviews(tmp_path, "two\nlines\tand a tab")
    inter, item = recbole(DatasetReader(tmp_path / "out"), tmp_path / "files")
    lines = inter.read_text().splitlines()
    assert lines[:3] == [
        "user_id:token\titem_id:token\trating:float\ttimestamp:float",
        "ann\ti0\t1\t100",
        "ann\ti1\t1\t101",
    ]
    assert len(lines) == 41
    assert item.read_text().splitlines()[4] == "i3\ttwo lines and a tab"
    assert item.read_text().startswith("item_id:token\ttitle:token_seq\n")


def test_an_interaction_without_a_rating_has_an_empty_cell_and_none_has_no_column(
    tmp_path: Path,
) -> None:
    rows = [
        f"{u},i{n},{'4' if some and n % 2 else ''},{n}"
        for some in (1, 0)
        for u in "abc"
        for n in range(6)
    ]
    for name, lines in (("some", rows[:18]), ("none", rows[18:])):
        file = tmp_path / f"{name}.csv"
        file.write_text("user,item,rating,time\n" + "".join(f"{line}\n" for line in lines))
        section = Prepare(protocol="leave-one-out", k_core=0)
        prepare(Data(source="table", path=file), section, 0, tmp_path / name)
        inter, _ = recbole(DatasetReader(tmp_path / name), tmp_path / f"{name} files")
        first, second, third = inter.read_text().splitlines()[:3]
        expected = ("a\ti0\t\t0", "a\ti1\t4.0\t1") if name == "some" else ("a\ti0\t0", "a\ti1\t1")
        assert (second, third) == expected
        assert ("rating:float" in first) == (name == "some")
        prepare(
            Data(source="recbole", path=tmp_path / f"{name} files"), section, 0, tmp_path / "again"
        )
        assert load(tmp_path / "again").fingerprint == load(tmp_path / name).fingerprint


def test_a_name_that_an_atomic_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    write_reviews(tmp_path, "fine", user="an\tn")
    with pytest.raises(DataError, match=r"a user contains a tab or a line break: 'an\\tn'"):
        recbole(DatasetReader(tmp_path / "out"), tmp_path / "files")
    assert not (tmp_path / "files").exists()


def test_interactions_that_are_not_kept_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="has no events: no ratings and times"):
        recbole(DatasetReader(odd_shop(tmp_path / "out")), tmp_path / "files")


def test_minionerec_has_its_columns_and_an_id_of_one_token(tmp_path: Path) -> None:
    files = minionerec(DatasetReader(odd_shop(tmp_path / "out")), tmp_path / "files")
    with files[0].open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *(
            "user_id",
            "history_item_title",
            "item_title",
            "history_item_id",
            "item_id",
            "history_item_sid",
            "item_sid",
        )
    ]
    assert list(rows[0].values()) == ["ann", "[]", "tab\there", "[]", "0", "[]", "<a_0>"]
    last = [
        "bo",
        repr([ODD[4], ODD[4], ODD[5]]),
        "7",
        "[4, 4, 5]",
        "6",
        "['<a_4>', '<a_4>', '<a_5>']",
        "<a_6>",
    ]
    assert list(rows[-1].values()) == last
    assert files[-1].read_text(encoding="utf-8").endswith("<a_7>\tTom &amp; Jerry\t7\n")


def test_bigrec_has_the_published_structure_in_words_of_ours(tmp_path: Path) -> None:
    files = {
        file.name: file
        for file in bigrec(DatasetReader(odd_shop(tmp_path / "out")), tmp_path / "files")
    }
    assert files.keys() == {
        *(f"{s}.json" for s in SPLITS),
        "valid_5000.json",
        "test_5000.json",
        "id2name.txt",
    }
    rows = json.loads(files["train.json"].read_text())
    assert [row["output"] for row in rows] == [f'"{ODD[n]}"' for n in (0, 1, 2, 6)]
    assert rows[3]["input"] == f'So far, this person chose: "{ODD[4]}", "{ODD[4]}", "{ODD[5]}"\n '
    assert rows[0]["input"] == "So far, this person chose: \n "
    assert files["train.json"].read_text() == json.dumps(rows, indent=4)
    assert files["test_5000.json"].read_text() == files["test.json"].read_text()


BROKEN: dict[str, tuple[str | None, str]] = {
    "missing": (None, "the template cannot be read"),
    "no TOML": ("input = ", "is not valid TOML"),
    "no place for titles": (
        'input = "Seen: "',
        r"exactly once and no quotation mark, [^\n]*: input",
    ),
    "quotation marks": ("input = 'Seen \"so\": {titles}'", "no quotation mark"),
    "an unknown name": ('prompt = "x"', "Extra inputs are not permitted: prompt"),
    "no text": ("instruction = 3", "valid string: instruction"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_words_that_cannot_be_used_are_refused(what: str, tmp_path: Path) -> None:
    text, message = BROKEN[what]
    if text:
        (tmp_path / "words.toml").write_text(text)
    reader = DatasetReader(odd_shop(tmp_path / "out"))
    with pytest.raises(ConfigError, match=message) as error:
        bigrec(reader, tmp_path / "files", tmp_path / "words.toml")
    assert error.value.next_step
    assert not (tmp_path / "files").exists()


@pytest.mark.parametrize("name", ["bigrec", "minionerec", "recbole", "d3"])
def test_a_damaged_data_set_is_not_exported(name: str, raw: Data, tmp_path: Path) -> None:
    prepare(raw, D3_FEW, 0, tmp_path / "out")
    record = tmp_path / "out" / "dataset.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "fingerprint": "0"}))
    with pytest.raises(ArtifactError, match="do not match dataset"):
        resolve("formats", name)(DatasetReader(tmp_path / "out"), tmp_path / "files")
    assert contents(tmp_path / "files") == {}


def test_a_planted_shop_comes_back_from_every_format_that_keeps_splits(tmp_path: Path) -> None:
    shop = planted_shop()
    save(shop.catalogue, {name: shop.split(name) for name in SPLITS}, {}, tmp_path / "out")
    for name in ("bigrec", "minionerec"):
        resolve("formats", name)(DatasetReader(tmp_path / "out"), tmp_path / name)
        card: dict[str, Any] = resolve("imports", name)(
            tmp_path / name, tmp_path / f"{name} again", ""
        )
        assert card["items"] == 12
        assert [r[2:] for r in rows_of(load(tmp_path / f"{name} again"))] == [
            r[2:] for r in rows_of(shop)
        ]
