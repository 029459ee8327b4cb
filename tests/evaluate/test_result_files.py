"""Result files of the originals: hand-computed cases, titles that repeat, and files that are
something else.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest

from groundrec.core.errors import DataError
from groundrec.evaluate.result_files import ResultFile, find_result_files, read_result_file
from tests.commands import command

ROWS = [
    {"output": '"Zelda"', "predict": ['"Zelda"\n', '"Mario"', "Tetris"]},
    {"output": ["Doom"], "predict": ["Mario", "Mario", " Doom "]},
    {"output": "Pong", "predict": ["Mario", "Doom", "Nonsense"]},
    {"output": "Tetris", "predict": ["Mario", "Tetris", "Tetris"]},
]
TITLES = ["Zelda", "Mario", "Mario", "Tetris", "Tetris", "Doom", "Pong"]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    (tmp_path / "book_result" / "seed0").mkdir(parents=True)
    file = tmp_path / "book_result" / "seed0" / "book.json"
    file.write_text(json.dumps(ROWS), encoding="utf-8")
    (tmp_path / "book_result" / "notes.txt").write_text("no result", encoding="utf-8")
    return file


def test_metrics_by_title_are_those_of_the_first_place_that_names_it(results: Path) -> None:
    found = read_result_file(results).by_title([1, 3])
    assert found["hr@1"].tolist() == [1, 0, 0, 0]
    assert found["hr@3"].tolist() == [1, 1, 0, 1]
    assert found["mrr@3"].tolist() == pytest.approx([1, 1 / 3, 0, 1 / 2])
    assert found["ndcg@3"].tolist() == pytest.approx([1, 1 / 2, 0, 1 / math.log2(3)])


def test_at_worst_a_title_stands_for_all_its_items_the_one_meant_the_last(results: Path) -> None:
    result, bearers = read_result_file(results), Counter(TITLES)
    assert result.at_worst([3], bearers)["mrr@3"].tolist() == [1, 0, 0, 0]
    wide = ResultFile(
        (("Mario", "Tetris", "a", "b", "c"), ("Mario", "Mario", "Doom", "d", "e")),
        ("Tetris", "Doom"),
    )
    assert wide.at_worst([5], bearers)["mrr@5"].tolist() == pytest.approx([1 / 4, 1 / 4])
    assert (
        wide.at_worst([5], Counter(set(TITLES)))["mrr@5"].tolist()
        == wide.by_title([5])["mrr@5"].tolist()
    )


def test_what_is_to_be_known_of_the_titles(results: Path) -> None:
    result, bearers = read_result_file(results), Counter(TITLES)
    assert result.unknown(bearers) == 1 / 12
    assert result.repeated() == pytest.approx(2 / 12)
    assert result.shared(bearers) == 1 / 4


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{", "is not a result"),
        ("{}", "is not a result: dict"),
        ("[]", "is not a result: an empty list"),
        ('[{"output": "A"}]', ", row 1 is not a result"),
        (
            '[{"output": "A", "predict": ["A"]}, {"output": "A", "predict": []}]',
            r", row 2 is not a result: predict = \[\]",
        ),
        ('[{"output": 3, "predict": ["A"]}]', ", row 1 is not a result"),
        ('[{"output": "A", "predict": [1]}]', ", row 1 is not a result"),
    ],
)
def test_a_file_that_is_something_else_is_named(tmp_path: Path, text: str, value: str) -> None:
    (tmp_path / "other.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=value):
        read_result_file(tmp_path / "other.json")


def test_a_folder_is_read_with_all_below_it_and_an_empty_one_is_refused(
    results: Path, tmp_path: Path
) -> None:
    assert find_result_files(tmp_path / "book_result") == [results]
    assert find_result_files(results) == [results]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no result files"):
        find_result_files(tmp_path / "empty")


def test_the_command_scores_a_folder(results: Path, tmp_path: Path) -> None:
    titles = tmp_path / "id2name.txt"
    titles.write_text(
        "".join(f"{title}\t{i}\n" for i, title in enumerate(TITLES)), encoding="utf-8"
    )
    asked = ("evaluate", "--input_dir", tmp_path / "book_result")
    told = json.loads(command(*asked, "--catalogue", titles, "--json").out)[str(results)]
    assert told["metrics"]["by title"]["hr@3"]["mean"] == 0.75
    assert told["metrics"]["at worst"]["hr@3"]["mean"] == 0.25
    assert told["targets of several items"] == 0.25
    assert told["metrics"]["by title"].keys() == {
        f"{m}@{k}" for m in ("hr", "ndcg", "mrr") for k in (1, 3)
    }
    plain = command(*asked, width=120)
    assert "0.7500" in plain.out
    assert "at worst" not in plain.out
    refused = command(*asked, "-k", "10")
    assert refused.code == 2
    assert "a cut-off larger than the lists: 10" in refused.err
