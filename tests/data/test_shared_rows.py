"""Rows of validation and test that stand in train too: counted as a slow count does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundrec.core.errors import DataError
from groundrec.core.files import write_json
from groundrec.core.registry import resolve
from groundrec.core.types import Queries, Ragged
from groundrec.data.shared_rows import LONG_HISTORY, SHARED, shared_rows
from tests.commands import command

rows = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.integers(0, 2),
        st.lists(st.integers(0, 1), max_size=6),
        st.lists(st.integers(0, 1), min_size=1, max_size=2),
    ),
    max_size=30,
)


def queries(rows: list[tuple[str, int, list[int], list[int]]]) -> Queries:
    columns = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
    return Queries(
        np.arange(len(rows), dtype=np.int64),
        np.array(columns[0], np.str_),
        np.array(columns[1], np.int64),
        Ragged.of(columns[2]),
        Ragged.of(columns[3]),
    )


@settings(max_examples=200, deadline=None)
@given(rows, rows, rows, st.booleans(), st.booleans())
def test_rows_are_found_as_one_by_one(train, valid, test, users: bool, times: bool) -> None:
    def key(row):
        user, time, history, targets = row
        return users and user, times and time, tuple(history), tuple(targets)

    splits = {"train": queries(train), "valid": queries(valid), "test": queries(test)}
    found = shared_rows(splits, users_known=users, times_known=times)
    trained = {key(row) for row in train}
    for name, part in (("valid", valid), ("test", test)):
        assert found[name].tolist() == [
            number
            for number, row in enumerate(part)
            if key(row) in trained and (users or len(row[2]) >= LONG_HISTORY)
        ]


def leaky(folder: Path, history: int) -> Path:
    """Write BIGRec's files: 3 rows of validation and 2 of test stand in train too."""
    folder.mkdir()
    films = [f"Film {n}" for n in range(60)]

    def row(first: int) -> dict[str, str]:
        seen = ", ".join(f'"{film}"' for film in films[first : first + history])
        output = f'"{films[first + history]}"'
        return {"instruction": "Next?", "input": f"Seen: {seen}", "output": output}

    parts = {"train": range(20), "valid": range(17, 25), "test": (5, 6, 30, 31)}
    for split, firsts in parts.items():
        (folder / f"{split}.json").write_text(json.dumps([row(first) for first in firsts]))
    return folder


def test_rows_that_stand_in_train_are_refused_unless_asked_for(tmp_path: Path) -> None:
    raw = leaky(tmp_path / "raw", 6)
    call = ("import", raw, "--format", "bigrec", "--out", tmp_path / "out")
    refused = command(*call)
    assert refused.code == 2
    assert "3 of 8 rows of valid and 2 of 4 rows of test stand in train too" in refused.err
    assert "valid, row 1: … Film 20, Film 21, Film 22 → Film 23" in refused.err
    assert "--allow-leaks" in refused.err
    assert not (tmp_path / "out" / "dataset.json").exists()
    made = command(*call, "--allow-leaks")
    assert made.code == 0, made.err
    assert "3 of 8 rows of valid and 2 of 4 rows of test stand in train too" in made.err
    card = json.loads(command("card", tmp_path / "out", "--json").out)
    assert [card["leakage"][key] for key in SHARED.values()] == [3, 2]
    assert "valid rows that stand in train" in made.out


def test_the_card_counts_them_in_data_sets_imported_before(tmp_path: Path) -> None:
    out = tmp_path / "out"
    resolve("imports", "bigrec")(leaky(tmp_path / "raw", 6), out, allow_leaks=True)
    record = json.loads((out / "dataset.json").read_text())
    for key in SHARED.values():
        del record["card"]["leakage"][key]
    write_json(out / "dataset.json", record)
    card = json.loads(command("card", out, "--json").out)
    assert [card["leakage"][key] for key in SHARED.values()] == [3, 2]


def test_short_histories_of_unknown_people_are_no_leak(tmp_path: Path) -> None:
    card = resolve("imports", "bigrec")(leaky(tmp_path / "raw", 4), tmp_path / "out")
    assert [card["leakage"][key] for key in SHARED.values()] == [0, 0]


def test_known_users_tell_rows_with_short_histories_apart(tmp_path: Path) -> None:
    header = (
        "user_id,history_item_title,item_title,history_item_id,item_id,history_item_sid,item_sid"
    )
    row = "{},\"['A']\",B,[0],1,\"['<a_0>']\",<a_1>"
    for split, users in (("train", "uv"), ("valid", "u"), ("test", "w")):
        (tmp_path / split).mkdir()
        lines = [header, *(row.format(user) for user in users)]
        (tmp_path / split / "Toys.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "info").mkdir()
    (tmp_path / "info" / "Toys.txt").write_text("<a_0>\tA\t0\n<a_1>\tB\t1\n")
    with pytest.raises(DataError, match=r"1 of 1 rows of valid stand in train too, [^:]*user"):
        resolve("imports", "minionerec")(tmp_path, tmp_path / "out")
