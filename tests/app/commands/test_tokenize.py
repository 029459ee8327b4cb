"""`groundrec tokenize`: texts and examples as the model of a run sees them."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.app.conftest import write_shop
from tests.commands import command

TEXTS = ("Film 1 (1971)", "Film", "东京物语 🎬")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run whose language model has been trained a little."""
    folder = tmp_path_factory.mktemp("trained")
    only = (
        "--set",
        "signals=[]",
        "--set",
        "fuse.signals=[]",
        "--set",
        "train.max_examples=8",
        "--set",
        "train.epochs=1",
    )
    result = command(
        "run", write_shop(folder), "--run-dir", folder / "run", "--until", "train", *only
    )
    assert result.code == 0, result.err
    return folder / "run"


def shown(trained: Path, *arguments: object) -> dict[str, Any]:
    result = command("tokenize", trained, *arguments, "--json")
    assert result.code == 0, result.err
    return json.loads(result.out)


def test_texts_in_any_script_come_back(trained: Path) -> None:
    rows = shown(trained, *TEXTS)["batch"]
    assert [row["decoded"] for row in rows] == list(TEXTS)
    assert all(
        row["comes_back"] and len(row["ids"]) == len(row["pieces"]) == len(row["places"])
        for row in rows
    )
    assert rows[1]["places"][0][0] == 0
    assert rows[1]["places"][-1][1] == len("Film")


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_is_filled_on_the_side_asked_for(trained: Path, side: str) -> None:
    bare, found = shown(trained, *TEXTS)["batch"], shown(trained, *TEXTS, "--pad", side)
    pad = found["tokenizer"]["special"]["pad_token"][1]
    longest = max(len(row["ids"]) for row in bare)
    for before, row in zip(bare, found["batch"], strict=True):
        fill, ones = [pad] * (longest - len(before["ids"])), [1] * len(before["ids"])
        zeros = [0] * len(fill)
        assert row["ids"] == (fill + before["ids"] if side == "left" else before["ids"] + fill)
        assert row["attention_mask"] == (zeros + ones if side == "left" else ones + zeros)


def test_truncation_keeps_the_other_end_and_counts(trained: Path) -> None:
    whole = shown(trained, TEXTS[2])["batch"][0]["ids"]
    right = shown(trained, TEXTS[2], "--truncate", 3)["batch"][0]
    left = shown(trained, TEXTS[2], "--truncate", 3, "--cut", "left")["batch"][0]
    assert (right["ids"], left["ids"]) == (whole[:3], whole[-3:])
    assert right["cut_off"] == left["cut_off"] == len(whole) - 3
    assert command("tokenize", trained, "a", "--cut", "middle").code == 2


def test_the_vocabulary_is_looked_up_both_ways(trained: Path) -> None:
    number = shown(trained, "F")["batch"][0]["ids"][0]
    found = shown(
        trained,
        "--look-up",
        "F",
        "--look-up",
        number,
        "--look-up",
        "no such piece",
        "--decode",
        number,
    )
    assert [entry["id"] for entry in found["vocabulary"]] == [number, number, None]
    assert found["vocabulary"][1]["text"] == found["decoded"] == "F"
    assert "batch" not in found
    missing = command("tokenize", trained, "--decode", 10**6)
    assert (missing.code, "no such id" in missing.err) == (2, True)


def test_lines_of_standard_input_are_texts(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo\n"))
    assert [row["text"] for row in shown(trained)["batch"]] == ["one", "two"]


def test_an_example_says_what_is_learned(trained: Path) -> None:
    row = shown(trained, "--example", 3)["example"]
    answered = "".join(f"{title}\n" for title in [*row["history"], row["target"]])
    assert row["text"].endswith(answered)
    assert sum(row["learned"]) == len(row["ids"]) - row["learned"].index(1)
    assert row["learned"][0] == 0
    lines = command("tokenize", trained, "--example", 3).out.splitlines()
    assert sum(line.startswith("* ") for line in lines) == sum(row["learned"])
    assert command("tokenize", trained, "--example", 10**6).code == 2


def test_a_folder_without_a_tokenizer_is_an_error(trained: Path) -> None:
    found = command("tokenize", trained / "prepare", "text")
    assert (found.code, "holds no tokenizer" in found.err) == (2, True)
