"""Files in the formats of published code, by hand, from data sets that were not made by the
published protocols.
"""

from __future__ import annotations

import csv
import logging
import shutil
from pathlib import Path

import pytest

from groundrec.core.config import Data, Prepare
from groundrec.core.errors import ArtifactError
from groundrec.core.types import Catalogue
from groundrec.data.dataset import SPLITS, DatasetReader, load, save
from groundrec.data.exchange.write_d3 import d3
from groundrec.data.prepare import prepare
from tests.data.conftest import Event, WriteShop

LAST = Prepare(protocol="leave-one-out", k_core=0)
TAKEN = [(1, 5), (2, ""), (3, 3.5), (4, 2)]


def read(file: Path) -> list[str]:
    return file.read_bytes().decode().splitlines()


def test_d3_of_a_rated_table_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "rated.csv"
    rows = [
        f"u{u},{item},{100 * place + u},{rating}"
        for u in (1, 2, 3)
        for place, (item, rating) in enumerate(TAKEN)
    ]
    table.write_text(
        "user,item,time,rating\n" + "\n".join(rows) + '\n"u,1",1,5,5\n"u,1",2,6,4.5\n',
        encoding="utf-8",
    )
    titles = tmp_path / "titles.csv"
    titles.write_text(
        'item,title\n1,"It\'s ""1"""\n2,"Two, or 2"\n3,Three\n4,Four\n', encoding="utf-8"
    )
    prepare(Data(source="table", path=table, items=titles), LAST, 0, tmp_path / "out")
    monkeypatch.setattr(logging.getLogger("groundrec"), "propagate", True)
    files = d3(DatasetReader(tmp_path / "out"), tmp_path / "files")
    assert [file.relative_to(tmp_path / "files").as_posix() for file in files] == [
        "train/table.csv",
        "valid/table.csv",
        "test/table.csv",
        "info/table.txt",
    ]
    head, first = (
        (tmp_path / "files" / "test" / "table.csv").read_bytes().decode().split("\r\n")[:2]
    )
    assert (
        head
        == "user_id,item_asins,item_asin,history_item_id,item_id,history_item_title,item_title,"
        "history_rating,rating,history_timestamp,timestamp"
    )
    assert (
        first == "u1,\"['1', '2', '3']\",4,\"[0, 1, 2]\",3,"
        "\"['It\\'s \"\"1\"\"', 'Two, or 2', 'Three']\",Four,"
        '"[5.0, None, 3.5]",2.0,"[1, 101, 201]",301'
    )
    train = list(csv.reader(read(tmp_path / "files" / "train" / "table.csv")))[1:]
    assert {tuple(row) for row in train if row[0] == "u,1"} == {
        (
            "u,1",
            "['1']",
            "2",
            "[0]",
            "1",
            "['It\\'s \"1\"']",
            "Two, or 2",
            "[5.0]",
            "4.5",
            "[5]",
            "6",
        )
    }
    assert (
        tmp_path / "files" / "info" / "table.txt"
    ).read_text() == 'It\'s "1"\t0\nTwo, or 2\t1\nThree\t2\nFour\t3\n'


def test_d3_has_a_row_for_each_target_and_none_without_a_history(
    shop: WriteShop,
    regulars: list[Event],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepare(shop([*regulars, (1, 7, 6001)]), LAST, 0, tmp_path / "out")
    monkeypatch.setattr(logging.getLogger("groundrec"), "propagate", True)
    d3(DatasetReader(tmp_path / "out"), tmp_path / "files")
    rows = list(csv.DictReader(read(tmp_path / "files" / "test" / "table.csv")))
    assert {row["item_asin"] for row in rows if row["user_id"] == "1"} == {"6", "7"}
    assert {row["item_asins"] for row in rows if row["user_id"] == "1"} == {
        "['1', '2', '3', '4', '5']"
    }
    assert "4 queries without a history were skipped" in caplog.text


def test_a_data_set_without_ratings_and_times_cannot_be_written_as_d3(
    shop: WriteShop, regulars: list[Event], tmp_path: Path
) -> None:
    prepare(shop(regulars), LAST, 0, tmp_path / "out")
    whole = load(tmp_path / "out")
    save(whole.catalogue, {name: whole.split(name) for name in SPLITS}, {}, tmp_path / "out")
    assert not (tmp_path / "out" / "events.parquet").exists()
    with pytest.raises(ArtifactError, match="has no events: no ratings and times of its histories"):
        d3(DatasetReader(tmp_path / "out"), tmp_path / "files")


@pytest.mark.parametrize(
    ("name", "message"),
    [("test", "do not match"), ("valid", "do not match"), ("events", "does not match")],
)
def test_files_of_another_data_set_are_refused_and_nothing_is_written(
    shop: WriteShop, regulars: list[Event], tmp_path: Path, name: str, message: str
) -> None:
    prepare(shop(regulars), LAST, 0, tmp_path / "out")
    prepare(shop([*regulars, (1, 9, 7001)]), LAST, 0, tmp_path / "other")
    shutil.copy(tmp_path / "other" / f"{name}.parquet", tmp_path / "out")
    with pytest.raises(ArtifactError, match=message):
        d3(DatasetReader(tmp_path / "out"), tmp_path / "files")
    assert not [file for file in (tmp_path / "files").rglob("*") if file.is_file()]


def test_titles_of_one_data_set_do_not_pass_for_those_of_another(
    shop: WriteShop, regulars: list[Event], tmp_path: Path
) -> None:
    prepare(shop(regulars), LAST, 0, tmp_path / "out")
    whole = load(tmp_path / "out")
    renamed = Catalogue(
        whole.catalogue.item_ids, tuple(f"{title}!" for title in whole.catalogue.titles)
    )
    save(renamed, {name: whole.split(name) for name in SPLITS}, {}, tmp_path / "other")
    shutil.copy(tmp_path / "other" / "items.parquet", tmp_path / "out")
    with pytest.raises(ArtifactError, match="do not match"):
        d3(DatasetReader(tmp_path / "out"), tmp_path / "files")
