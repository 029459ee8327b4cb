from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundrec.core.errors import ArtifactError
from groundrec.core.types import Catalogue, Queries, Ragged
from groundrec.data import dataset as module
from groundrec.data.dataset import SPLITS, describe, load, save

CATALOGUE = Catalogue(("a", "b", "c"), ("Film", "Film", "Té & 'x'"))


def queries(rows: list[tuple[str, int, list[int], list[int]]], first: int = 0) -> Queries:
    return Queries(
        np.arange(first, first + len(rows)),
        np.array([r[0] for r in rows], dtype=np.str_),
        np.array([r[1] for r in rows], dtype=np.int64),
        Ragged.of(r[2] for r in rows),
        Ragged.of(r[3] for r in rows),
    )


PLANTED = {
    "train": queries([("ann", 5, [], [0]), ("ann", 9, [0], [2, 1]), ("bo", 6, [], [1])]),
    "valid": queries([("ann", 11, [0, 2, 1], [0])], 3),
    "test": queries([("bo", 12, [1], [2])], 4),
}


def as_rows(part: Queries) -> list[tuple[object, ...]]:
    return [(q.id, q.user, q.time, q.history.tolist(), q.targets.tolist()) for q in part]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(CATALOGUE, PLANTED, {"note": "planted"}, tmp_path / "prepare")
    return tmp_path / "prepare"


def test_what_was_saved_is_loaded(folder: Path) -> None:
    loaded = load(folder)
    assert loaded.catalogue == CATALOGUE
    assert loaded.card == {"note": "planted"}
    for name in SPLITS:
        part = loaded.split(name)
        assert as_rows(part) == as_rows(PLANTED[name])
        assert (part.ids.dtype, part.times.dtype, part.history.values.dtype) == (
            np.int64,
            np.int64,
            np.int32,
        )
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["dataset.json", "items.parquet", *(f"{s}.parquet" for s in SPLITS)]
    )


ROWS = st.lists(
    st.tuples(
        st.text("ab\u00e9, ", min_size=1),
        st.integers(0, 9),
        *[st.lists(st.integers(0, 2), max_size=4)] * 2,
    ),
    max_size=9,
)


@settings(deadline=None, max_examples=30)
@given(rows=ROWS, row_group=st.integers(1, 4))
def test_row_groups_do_not_show(
    tmp_path_factory: pytest.TempPathFactory, rows: list, row_group: int
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROW_GROUP", row_group)
        saved = save(CATALOGUE, {**PLANTED, "train": queries(rows)}, {}, folder)
    assert as_rows(load(folder).train) == as_rows(queries(rows))
    assert load(folder).fingerprint == saved.fingerprint


def test_types_on_disk(folder: Path) -> None:
    items = pq.read_schema(folder / "items.parquet")
    assert [str(items.field(n).type) for n in ("item", "item_id", "title")] == [
        "int32",
        "string",
        "string",
    ]
    train = pq.read_schema(folder / "train.parquet")
    assert train.names == ["query_id", "user", "time", "history", "targets"]
    assert [str(t) for t in train.types[:3]] == ["int64", "string", "int64"]
    assert all(str(t.value_type) == "int32" for t in train.types[3:])


def test_the_fingerprint_is_of_the_contents(tmp_path: Path) -> None:
    prints = [save(CATALOGUE, PLANTED, {"run": i}, tmp_path / str(i)).fingerprint for i in range(2)]
    assert prints[0] == prints[1]
    other = {**PLANTED, "test": queries([("bo", 12, [1], [0])], 4)}
    assert save(CATALOGUE, other, {}, tmp_path / "2").fingerprint != prints[0]
    moved = {
        **PLANTED,
        "train": queries([("ann", 5, [], [0]), ("ann", 9, [0, 2], [1]), ("bo", 6, [], [1])]),
    }
    assert save(CATALOGUE, moved, {}, tmp_path / "3").fingerprint != prints[0]


def test_describe_counts_each_split() -> None:
    train = describe(PLANTED)["train"]
    assert (train["queries"], train["targets"], train["users"], train["history_max"]) == (
        3,
        4,
        2,
        1,
    )
    assert (train["first"], train["last"]) == ("1970-01-01T00:00:05Z", "1970-01-01T00:00:09Z")


def test_a_missing_or_half_written_record_is_refused(folder: Path) -> None:
    text = (folder / "dataset.json").read_text()
    (folder / "dataset.json").write_text(text[: len(text) // 2])
    with pytest.raises(ArtifactError, match="missing or incomplete"):
        load(folder)
    (folder / "dataset.json").unlink()
    with pytest.raises(ArtifactError, match="missing or incomplete"):
        load(folder)


def test_files_of_another_data_set_are_refused(folder: Path, tmp_path: Path) -> None:
    save(CATALOGUE, {**PLANTED, "test": queries([("bo", 12, [1], [0])], 4)}, {}, tmp_path / "other")
    shutil.copy(tmp_path / "other" / "test.parquet", folder)
    with pytest.raises(ArtifactError, match=r"do not match dataset\.json"):
        load(folder)


@pytest.mark.parametrize("name", ["items", *SPLITS])
def test_a_missing_or_cut_file_is_refused(folder: Path, name: str) -> None:
    file = folder / f"{name}.parquet"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ArtifactError, match="cannot be read"):
        load(folder)
    file.unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        load(folder)


def test_a_save_that_dies_leaves_the_older_data_set_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load(folder).fingerprint

    def full(queries: Queries, file: Path) -> None:
        file.write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(module, "_write_queries", full)
    with pytest.raises(OSError, match="disk full"):
        save(Catalogue(("z",), ("Z",)), PLANTED, {}, folder)
    assert load(folder).fingerprint == before
    assert not list(folder.glob(".*"))


def test_a_save_that_dies_at_the_end_leaves_no_record(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, value: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(module, "write_json", full)
    with pytest.raises(OSError, match="disk full"):
        save(CATALOGUE, PLANTED, {}, folder)
    with pytest.raises(ArtifactError, match="missing"):
        load(folder)


def test_the_record_is_readable_json(folder: Path) -> None:
    record = json.loads((folder / "dataset.json").read_text())
    assert record["counts"]["items"] == 3
    assert record["counts"]["valid"]["queries"] == 1
