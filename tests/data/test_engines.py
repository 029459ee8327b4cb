"""Spark beside DuckDB: the same data sets, counts, bad rows and refusals; and what is said where Spark cannot start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from amazon import Shape, write_amazon

from groundrec.core.config import Data, Prepare
from groundrec.data.dataset import Reader
from groundrec.data.prepare import prepare

on_spark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning"
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
        cards[engine] = prepare(data, section.model_copy(update={"engine": engine}), 0, folder / engine)
        assert cards[engine]["settings"].pop("engine") == engine
    readers = [Reader(folder / engine) for engine in cards]
    assert readers[0].fingerprint == readers[1].fingerprint
    assert cards["duckdb"] == cards["spark"]
    assert _record(folder / "duckdb") == _record(folder / "spark")
    assert {p.name for p in (folder / "duckdb").iterdir()} == {p.name for p in (folder / "spark").iterdir()}
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
