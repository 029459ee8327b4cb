"""The words of imported instruction rows: inferred from the file, and given back byte for byte."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groundrec.core.errors import DataError
from groundrec.data.dataset import load
from groundrec.data.exchange.read_bigrec import bigrec
from groundrec.data.exchange.row_words import Row, RowWords
from groundrec.data.protocols.windows import SPLITS

GAMES = ("Chess", "Go", "Nine, Men's Morris", 'The "Royal" Game of Ur', "{title}", "Ludo", "A, B")


def write_rows(
    folder: Path, words: RowWords, catalogue: Sequence[str], *, rows: int = 40, listed: bool = True
) -> dict[str, list[dict[str, str]]]:
    """Write files of random histories of a catalogue in the given words; return their rows."""
    draw = random.Random(1)
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for split in SPLITS:
        histories = [draw.choices(catalogue, k=draw.randint(0, 4)) for _ in range(rows)]
        written[split] = [
            words.row(history, draw.choice(catalogue))._asdict() for history in histories
        ]
        (folder / f"{split}.json").write_text(json.dumps(written[split]), encoding="utf-8")
    if listed:
        lines = (f"{title}\t{number}\n" for number, title in enumerate(catalogue))
        (folder / "id2name.txt").write_text("".join(lines), encoding="utf-8")
    return written


def given_back(folder: Path) -> dict[str, list[dict[str, str]]]:
    """Return the rows that the words and queries of an imported data set stand for."""
    dataset = load(folder)
    kept: Any = dataset.card["words"]
    words = RowWords.of_card(kept)
    titles = dataset.catalogue.titles
    return {
        split: [
            words.row([titles[i] for i in query.history], titles[query.targets[0]])._asdict()
            for query in dataset.split(split)
        ]
        for split in SPLITS
    }


WORDS = {
    "published": RowWords(
        ("Say what comes next.",), "Before came:", ('"', '"'), ", ", "\n ", ('"', '"')
    ),
    "blank before the quotes": RowWords(
        ("Next?",), "Before came: ", ('"', '"'), ", ", ".", ('"', '"')
    ),
    "no quotes": RowWords(("Next?",), "Seen so far: ", ("", ""), "; ", ".", ("", "")),
    "a list": RowWords(("Next?",), "Seen:", ("\n- ", ""), "", "\nNext:", ("", "\n")),
    "brackets": RowWords(
        ("{instruction} of {title}?",), "{instruction} <", ("[", "]"), " > ", ">", ("Take [", "]!")
    ),
    "nothing around": RowWords(("Next?",), "", ("", ""), " | ", "", ("", "")),
    "Chinese": RowWords(("下一个是什么？",), "看过的有", ("《", "》"), "、", "。", ("《", "》")),
}


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("name", WORDS)
def test_the_words_of_a_file_are_kept(name: str, listed: bool, tmp_path: Path) -> None:
    words = WORDS[name]
    titles = [*GAMES, 'Two", "in one', "line\nbreak", *(f"Game {n}" for n in range(20))]
    written = write_rows(tmp_path / "raw", words, titles, listed=listed)
    if name == "nothing around":
        # An empty input is no row: nothing is left to tell.
        written = write_rows(tmp_path / "raw", words, titles, listed=listed)
        for split, rows in written.items():
            written[split] = [row for row in rows if row["input"]]
            (tmp_path / "raw" / f"{split}.json").write_text(json.dumps(written[split]))
    card = bigrec(tmp_path / "raw", tmp_path / "out")
    assert card["words"]["rows_that_differ"] == 0
    assert given_back(tmp_path / "out") == written
    assert set(load(tmp_path / "out").catalogue.titles) <= {*titles}


texts = st.text(st.sampled_from("ab \"',.\n:{}[]é題"), max_size=8)
marks = st.sampled_from([('"', '"'), ("", ""), ("[", "]"), ("'", "'"), ("<< ", " >>"), ("*", "")])
titles = st.text(st.sampled_from('abcdEF ",\n{}é題'), min_size=1, max_size=9)
words_of = st.builds(
    RowWords,
    st.tuples(texts),
    texts,
    marks,
    st.sampled_from([", ", "; ", "\n", " | ", ",", '", "', " then "]),
    texts,
    marks,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    words=words_of,
    catalogue=st.lists(titles, min_size=5, max_size=40, unique=True),
    listed=st.booleans(),
    odd=st.lists(st.tuples(st.integers(0, 29), st.sampled_from(Row._fields)), max_size=3),
)
def test_every_row_is_given_back_or_counted(
    words: RowWords, catalogue: list[str], listed: bool, odd: list[tuple[int, str]]
) -> None:
    """Whatever the words and titles: rows are equal to the file's, byte for byte, or counted.

    Some rows are worded differently. Files whose words cannot be told have none on their card.
    """
    with tempfile.TemporaryDirectory() as folder:
        raw, out = Path(folder) / "raw", Path(folder) / "out"
        written = write_rows(raw, words, catalogue, rows=30, listed=listed)
        for number, part in odd:
            row = written["train"][number]
            row[part] = f"Otherwise: {row[part]}"
        for split, rows in written.items():
            written[split] = [row for row in rows if row["input"]] or [
                {"instruction": "i", "input": '"a"', "output": "b"}
            ]
            (raw / f"{split}.json").write_text(json.dumps(written[split]), encoding="utf-8")
        try:
            card = bigrec(raw, out)
        except DataError as error:
            if "this row cannot be used" not in error.what:
                raise
            return
        if "words" in card:
            rebuilt = given_back(out)
            pairs = [(a, b) for s in SPLITS for a, b in zip(written[s], rebuilt[s], strict=True)]
            assert card["words"]["rows_that_differ"] == sum(a != b for a, b in pairs)
