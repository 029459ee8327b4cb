"""Spark beside DuckDB: the same data sets, counts, bad rows and refusals; and what is said where
Spark cannot start.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from groundrec.core.config import Data, Prepare
from groundrec.core.errors import GroundrecError, MissingDependency
from groundrec.data import engines
from groundrec.data.dataset import DatasetReader
from groundrec.data.prepare import prepare
from tests.data.amazon import Shape, write_amazon

on_spark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::DeprecationWarning",
)
"""For py4j, which leaves its sockets to be closed by the garbage collector."""


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyspark")
    settings = "--conf spark.driver.host=127.0.0.1 --conf spark.driver.bindAddress=127.0.0.1"
    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", f"--master local[2] {settings} pyspark-shell")


def both(data: Data, section: Prepare, folder: Path) -> dict[str, Any]:
    """Prepare on both engines, compare all that they made, and return the card."""
    cards = {}
    for engine in ("duckdb", "spark"):
        cards[engine] = prepare(
            data, section.model_copy(update={"engine": engine}), 0, folder / engine
        )
        assert cards[engine]["settings"].pop("engine") == engine
    readers = [DatasetReader(folder / engine) for engine in cards]
    assert readers[0].fingerprint == readers[1].fingerprint
    assert cards["duckdb"] == cards["spark"]
    assert _record(folder / "duckdb") == _record(folder / "spark")
    assert {p.name for p in (folder / "duckdb").iterdir()} == {
        p.name for p in (folder / "spark").iterdir()
    }
    return cards["spark"]


def _record(folder: Path) -> dict[str, Any]:
    record = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    return {name: record[name] for name in ("fingerprint", "events", "counts")}


@pytest.mark.slow
@on_spark
@pytest.mark.usefixtures("two_threads")
def test_a_small_catalogue_walks_back_to_the_same_data_set(tmp_path: Path) -> None:
    write_amazon(tmp_path, "Toys", Shape(users=150, items=60, reviews=2_000))
    data = Data(source="amazon", path=tmp_path, category="Toys")
    card = both(data, Prepare(protocol="d3"), tmp_path)
    assert card["window"]["st_year"] == 1996
    assert card["rows"]["outside_k_core"] > 0


@pytest.mark.slow
@on_spark
@pytest.mark.usefixtures("two_threads")
def test_more_than_ten_thousand_items_give_the_same_data_set(tmp_path: Path) -> None:
    write_amazon(
        tmp_path, "Books", Shape(users=20_000, items=14_000, reviews=400_000, recent=0.9, text=20)
    )
    card = both(
        Data(source="amazon", path=tmp_path, category="Books"), Prepare(protocol="d3"), tmp_path
    )
    assert card["items"] > 10_000
    assert card["window"]["st_year"] == 2017


@pytest.mark.slow
@on_spark
@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("protocol", ["global-time", "leave-one-out", "bigrec-game"])
def test_other_protocols_give_the_same_data_set_and_bad_rows(tmp_path: Path, protocol: str) -> None:
    reviews, _ = write_amazon(tmp_path, "Toys", Shape(users=150, items=60, reviews=2_000))
    with reviews.open("a", encoding="utf-8") as file:
        file.write(
            '\nno JSON\n{"reviewerID": "", "asin": "B000000001", "overall": 1.0, "unixReviewTime":'
            " 1}\n"
        )
        file.write(
            '{"reviewerID": "A", "asin": "B000000001", "overall": "x", "unixReviewTime": -1}\n'
        )
    section = Prepare(protocol=protocol, bad_rows="quarantine")
    card = both(Data(source="amazon", path=tmp_path, category="Toys"), section, tmp_path)
    assert card["rows"]["bad"] >= 3
    one, other = (
        pq.read_table(tmp_path / name / "quarantine.parquet") for name in ("duckdb", "spark")
    )
    assert one.to_pylist() == other.to_pylist()


def test_without_pyspark_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda _: None)
    with (
        pytest.raises(MissingDependency, match=r"pip install 'groundrec\[spark\]'"),
        engines.spark(tmp_path / "out"),
    ):
        pass
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("version", "found"), [(None, "Java none"), ("11.0.2", "Java 11.0.2")])
def test_without_java_17_what_is_needed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None, found: str
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda _: object())
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    if version:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "java").write_text(
            f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n"
        )
        (tmp_path / "bin" / "java").chmod(0o755)
    with pytest.raises(GroundrecError, match=f"{found}\n.*Java 17 or later\n.*openjdk") as error:
        engines.check_spark()
    assert "JAVA_HOME" in str(error.value)


def test_a_memory_limit_is_the_memory_of_the_driver(tmp_path: Path) -> None:
    limits = {"2GB": "2048m", "1.5GiB": "1536m", "1MB": "512m", "900MB": "900m"}
    assert {
        limit: engines.settings(tmp_path, limit)["spark.driver.memory"] for limit in limits
    } == limits
