"""`groundrec card` and `groundrec import`: a table, JSON, and one picture."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest

from groundrec.data.dataset import save
from tests.app.conftest import Tiny
from tests.commands import command
from tests.shops import planted_shop


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Return the folder of a data set without a card."""
    dataset = planted_shop()
    save(
        dataset.catalogue,
        {name: dataset.split(name) for name in ("train", "valid", "test")},
        {},
        tmp_path / "shop",
    )
    return tmp_path / "shop"


def size_of(picture: Path) -> tuple[int, int]:
    head = picture.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


def test_a_data_set_without_a_card_is_measured(shop: Path) -> None:
    card = json.loads(command("card", shop, "--json").out)
    assert (card["users"], card["items"], card["events"], card["duplicate_titles"]) == (
        24,
        12,
        24 * 8,
        0,
    )
    assert card["title_lengths"] == {"unit": "words", "median": 2, "p95": 2, "longest": 2}
    assert card["items_no_target_in_train"] == 0


def test_the_table_says_what_the_card_holds(shop: Path) -> None:
    shown = command("card", shop, width=160).out
    for line in (
        "users │ 24",
        "items │ 12",
        "interactions │ 192",
        "title length in words │ median 2, 95% at most 2",
    ):
        what, value = line.split(" │ ")
        assert any(what in row and value in row for row in shown.splitlines()), line
    assert (shop / "card.png").exists()


def test_a_run_is_counted_in_tokens_of_its_own_model(tiny: Tiny, tmp_path: Path) -> None:
    run = shutil.copytree(tiny.run, tmp_path / "run")
    card = json.loads(command("card", run, "--json", "--picture", tmp_path / "other.png").out)
    assert card["title_lengths"]["unit"] == f"tokens of {run / 'train' / 'tokenizer.json'}"
    assert 1 <= card["title_lengths"]["median"] <= card["title_lengths"]["longest"]
    assert card["rows"]["read"] > 0
    shown = command("card", run / "prepare", "--tokenizer", run / "train", width=200)
    assert "rows read" in shown.out
    assert "tokens of" in shown.out
    assert not (run / "prepare" / "other.png").exists()
    assert size_of(tmp_path / "other.png") == size_of(run / "prepare" / "card.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("card", "nowhere"), "no finished data set"),
        (("card", "{shop}", "--tokenizer", "nowhere"), "tokenizer not found: nowhere"),
        (("import", "{shop}", "--format", "d4", "--out", "out"), "did you mean 'd3'"),
        (("import", "{shop}", "--format", "bigrec", "--out", "{shop}/out"), "no train.json in"),
    ],
)
def test_what_is_wrong_is_said(arguments: tuple[str, ...], message: str, shop: Path) -> None:
    result = command(*(a.replace("{shop}", str(shop)) for a in arguments))
    assert (result.code, result.out) == (2, "")
    assert message in result.err


def test_an_import_shows_the_card(tmp_path: Path) -> None:
    rows = [
        {"input": f'Seen: "Film {n}", "Film {n + 1}"\n ', "output": f'"Film {n + 2}"'}
        for n in range(6)
    ]
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    result = command("import", tmp_path, "--format", "bigrec", "--out", tmp_path / "out", width=160)
    assert result.code == 0, result.err
    assert "rows read" in result.out
    assert "The files contain no users" in result.out
    again = ("import", tmp_path, "--format", "bigrec", "--out", tmp_path / "out")
    assert "add --overwrite" in command(*again).err
    assert command(*again, "--overwrite").code == 0
    card = json.loads(command("card", tmp_path / "out", "--json").out)
    assert (card["rows"], card["items"]) == ({"read": 18, "kept": 18}, 8)
    width, height = size_of(tmp_path / "out" / "card.png")
    assert width / height == pytest.approx(2 * 460 / 320, rel=0.01)
