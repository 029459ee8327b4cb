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
from groundrec.data.exchange.title_lists import read_titles
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
    assert "not scored: lists shorter than the cut-off 10" in refused.err


def written(file: Path, rows: list[dict[str, object]]) -> Path:
    file.write_text(json.dumps(rows), encoding="utf-8")
    return file


def test_of_files_of_two_lengths_the_short_one_is_named_and_the_other_scored(
    tmp_path: Path,
) -> None:
    wide = written(tmp_path / "a.json", [{"output": "A", "predict": list("ABCDE")}] * 3)
    short = written(tmp_path / "b.json", [{"output": "A", "predict": list("ABC")}] * 3)
    told = command("evaluate", "--input_dir", tmp_path, "-k", 5)
    assert told.code == 2
    assert str(wide.name) in told.out
    assert str(short.name) not in told.out
    assert f"not scored: lists shorter than the cut-off 5: {short}: row 1 has 3" in told.err
    assert command("evaluate", "--input_dir", tmp_path, "-k", 3).code == 0


def test_a_row_with_fewer_titles_is_no_list_of_misses(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"output": "A", "predict": list("BCDEA")}] * 2
    cut = written(tmp_path / "cut.json", [*rows, {"output": "A", "predict": ["B"]}])
    told = command("evaluate", "--input_dir", cut, "-k", 5)
    assert told.code == 2
    assert "row 3 has 1" in told.err
    default = json.loads(command("evaluate", "--input_dir", cut, "--json").out)
    assert default[str(cut)]["metrics"]["by title"].keys() == {"hr@1", "ndcg@1", "mrr@1"}


def test_files_of_different_numbers_of_rows_are_told(tmp_path: Path) -> None:
    written(tmp_path / "a.json", [{"output": "A", "predict": ["A"]}] * 3)
    written(tmp_path / "b.json", [{"output": "A", "predict": ["A"]}] * 2)
    told = command("evaluate", "--input_dir", tmp_path)
    assert "files of different numbers of rows measure different queries" in told.err


def test_without_resamples_there_is_no_interval(results: Path) -> None:
    told = command("evaluate", "--input_dir", results, "--bootstrap", 0)
    assert "nan" not in told.out
    assert "interval" not in told.out


@pytest.mark.parametrize("title", ["A\tB", "A\u2028B", "\ufeffA".lstrip("\ufeff"), "A\nB"])
def test_a_list_of_titles_means_the_same_everywhere(tmp_path: Path, title: str) -> None:
    """Tabs, line separators, line breaks and a byte order mark do not change what a title is."""
    titles = tmp_path / "info.txt"
    titles.write_text(f"\ufeff{title}\t0\nC\t1\n", encoding="utf-8")
    assert read_titles(titles) == [title, "C"]
    file = written(tmp_path / "r.json", [{"output": title, "predict": [title]}])
    told = json.loads(command("evaluate", "--input_dir", file, "--catalogue", titles, "--json").out)
    assert told[str(file)]["not in the catalogue"] == 0


def test_a_list_of_movies_is_read_by_its_double_colons(tmp_path: Path) -> None:
    movies = tmp_path / "movies.dat"
    movies.write_bytes("1::Amélie (2001)::Comedy\n2::Heat (1995)::Crime\n".encode("iso-8859-1"))
    assert read_titles(movies) == ["Amélie (2001)", "Heat (1995)"]
    empty = tmp_path / "empty.txt"
    empty.write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match="not a list of titles"):
        read_titles(empty)
