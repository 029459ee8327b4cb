"""`groundrec compare`: known numbers in, the same numbers in every format and in the picture."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundrec.app.commands.typeset import Sheet, latex, markdown
from groundrec.app.stages.agreement import agreement, overlap
from groundrec.app.stages.artefacts import Artefacts
from groundrec.app.stages.gather import slates_by_method
from groundrec.core.files import read_json, write_json
from groundrec.core.recipe import load_recipe
from groundrec.core.runs import Run
from tests.app.conftest import USERS, Tiny
from tests.commands import command

LM, FUSED = "language model", "LM + co-occurrence"
METHODS = ["popularity", "item-knn", "co-occurrence", "sasrec", LM, FUSED]


def test_common_items_by_hand() -> None:
    a = np.array([[1, 2, 3, 4], [5, 6, -1, -1], [-1, -1, -1, -1]])
    b = np.array([[4, 3, 9, 8], [6, 5, -1, -1], [-1, -1, -1, -1]])
    assert overlap(a, b, 4) == (2 / 4 + 1) / 2  # the third query has nothing in either slate
    assert overlap(a, b, 2) == (0 + 1) / 2
    assert (
        overlap(a, np.array([[1, -1, -1, -1], [-1, -1, -1, -1], [7, -1, -1, -1]]), 4)
        == (1 / 4 + 0 + 0) / 3
    )
    assert np.isnan(overlap(a[2:], b[2:], 4))


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_common_items_are_those_of_sets(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (np.stack([rng.permutation(9)[:6] for _ in range(5)]) for _ in range(2))
    for slate in (a, b):
        slate[rng.integers(5), rng.integers(6) :] = -1
    sets = [({*x[:k]} - {-1}, {*y[:k]} - {-1}) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    shares = [len(x & y) / max(len(x), len(y)) for x, y in sets if x or y]
    if shares:
        assert overlap(a, b, k) == pytest.approx(np.mean(shares))
        assert overlap(a, b, k) == overlap(b, a, k)
        assert overlap(a, a, k) == 1


def test_tables_as_markdown_and_latex() -> None:
    sheet = Sheet(
        "50% of A_1", ["method", "HR@10"], [["a | b", "0.1–0.2 ▲"], ["c & d", "−1, p < 2"]]
    )
    assert markdown([sheet, sheet]).split("\n\n")[:2] == [
        "| method | HR@10 |\n| --- | ---: |\n| a \\| b | 0.1–0.2 ▲ |\n| c & d | −1, p < 2 |",
        "50% of A_1",
    ]
    lines = latex([sheet]).splitlines()
    assert lines[2] == r"\begin{tabular}{lr}"
    assert lines[6:8] == [r"a | b & 0.1--0.2 $\blacktriangle$ \\", r"c \& d & $-$1, p $<$ 2 \\"]
    assert r"\caption{50\% of A\_1}" in lines
    assert all(sign not in latex([Sheet("~^\\{}$#", ["a"], [])]) for sign in ("caption{~", "^\\"))


def test_what_two_runs_share(tiny: Tiny, tmp_path: Path) -> None:
    """A run and its copy agree wholly; two methods as much as their slates say."""
    shutil.copytree(tiny.run, tmp_path / "b")
    rows = [("a", LM), ("a", "popularity"), ("b", LM)]
    found = agreement({"a": tiny.run, "b": tmp_path / "b"}, rows, "ndcg@5", 5)
    slates = slates_by_method(Artefacts(load_recipe(tiny.recipe)[0], Run(tiny.run)))
    pairs = zip(
        slates[LM].items[:, :5].tolist(), slates["popularity"].items[:, :5].tolist(), strict=True
    )
    by_hand = np.mean([len({*x} & {*y}) / 5 for x, y in pairs])
    assert found.shared[0] == (1, pytest.approx(by_hand), 1)
    assert found.shared[1][0] == pytest.approx(by_hand)
    assert found.kinds == ("language", "signal", "language")
    report = json.loads((tiny.run / "evaluate" / "test.json").read_text(encoding="utf-8"))[
        "methods"
    ]
    whole = agreement({"a": tiny.run}, rows[:2], "ndcg@10", 99)
    assert whole.k == 10
    for (_, method), slices in zip(rows[:2], whole.slices, strict=True):
        assert {n: v.mean for n, v in slices.items()} == {
            n: v["mean"] for n, v in report[method]["slices"].items()
        }


def test_every_format_tells_the_same(tiny: Tiny) -> None:
    asked = ("compare", tiny.run, "--against", LM, "--bootstrap", "20")
    told = json.loads(command(*asked, "--format", "json").out)
    assert [row["method"] for row in told["rows"]] == [LM, *(m for m in METHODS if m != LM)]
    assert told["queries"] == USERS
    popularity = next(row for row in told["rows"] if row["method"] == "popularity")
    mean, paired = popularity["metrics"]["ndcg@10"]["mean"], popularity["versus"]["ndcg@10"]
    assert paired["difference"] == pytest.approx(
        mean - told["rows"][0]["metrics"]["ndcg@10"]["mean"]
    )
    assert paired["p"] < 0.05  # what the shop plants is nothing that popularity could know
    shown = command(*asked).out
    (line,) = re.findall(r"^\| popularity \|.* ▼ \|$", shown, re.MULTILINE)
    assert f"{mean:.3f} (" in line
    assert f"{USERS} test queries of {USERS} users" in shown
    assert "Differences from language model" in shown
    set_ = command(*asked, "--format", "latex").out
    assert set_.count(r"\begin{tabular}") == set_.count(r"\end{tabular}") == 4
    assert f"popularity & {mean:.3f} (" in set_
    assert r"HR@10" in set_


def test_one_method_is_beside_nothing(tiny: Tiny) -> None:
    shown = command("compare", tiny.run, "--method", LM, "--metric", "hr@5", "--bootstrap", "0").out
    assert "Differences" not in shown
    assert "▼:" not in shown
    assert re.search(r"^\| language model \| \d\.\d{3} \|$", shown, re.MULTILINE)


def test_metrics_are_all_where_all_are_asked_for(tiny: Tiny) -> None:
    told = json.loads(
        command("compare", tiny.run, "--metric", "all", "--format", "json", "--bootstrap", "0").out
    )
    metrics = {f"{name}@{k}" for name in ("hr", "ndcg", "mrr") for k in (1, 5, 10)}
    assert set(told["rows"][0]["metrics"]) == metrics
    assert told["rows"][0]["metrics"]["hr@1"]["low"] is None


def test_the_picture_has_every_method(tiny: Tiny, tmp_path: Path) -> None:
    shutil.copytree(tiny.run, tmp_path / "copy")
    file = tmp_path / "picture.svg"
    done = command("compare", tiny.run, tmp_path / "copy", "--picture", file, "--bootstrap", "20")
    assert done.code == 0, done.err
    assert f"copy: {FUSED}" in done.out
    drawn = file.read_text(encoding="utf-8")
    assert all(f"{run}: {method}" in drawn for run in (tiny.run.name, "copy") for method in METHODS)
    assert "NDCG@10, tail" in drawn
    assert "items in common" in drawn


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--format", "markdwon"), "did you mean 'markdown'"),
        (("--picture", "all.jpeg"), "a name ending in .png or .svg"),
        (("--against", "popularty"), "did you mean 'popularity'"),
        (("--metric", "hr@11"), "has not measured this"),
    ],
)
def test_what_cannot_be_compared_is_said(tiny: Tiny, words: tuple[str, str], said: str) -> None:
    done = command("compare", tiny.run, *words)
    assert done.code == 2
    assert said in done.err
    assert done.out == ""


def test_seeds_are_one_row_in_every_format(tiny: Tiny, tmp_path: Path) -> None:
    paths = []
    for seed in range(2):
        paths.append(tmp_path / f"shop+seed={seed}")
        shutil.copytree(tiny.run, paths[-1])
        write_json(
            paths[-1] / "config.json",
            {**(read_json(paths[-1] / "config.json") or {}), "seed": seed},
        )
    asked = ("compare", *paths, "--method", LM, "--bootstrap", "0")
    found = json.loads(command(*asked, "--format", "json").out)
    mean = found["rows"][0]["metrics"]["ndcg@10"]["mean"]
    (row,) = found["seeds"]
    assert row["seeds"] == [0, 1]
    assert row["metrics"]["ndcg@10"] == {"mean": pytest.approx(mean), "deviation": 0}
    cell = f"{mean:.3f} ± 0.000"
    shown = command(*asked).out
    assert f"| shop: 2 seeds: {LM} | {cell} |" in shown
    assert f"| shop+seed=1: {LM} |" in shown
    set_ = command(*asked, "--format", "latex").out
    assert f"shop: 2 seeds: {LM} & {mean:.3f} $\\pm$ 0.000" in set_


def test_one_failed_run_does_not_hide_the_others(tiny: Tiny, tmp_path: Path) -> None:
    shutil.copytree(tiny.run, tmp_path / "a")
    shutil.copytree(tiny.run, tmp_path / "b", ignore=shutil.ignore_patterns("evaluate"))
    asked = ("compare", "a", "b", "--root", tmp_path, "--bootstrap", "0")
    done = command(*asked)
    assert done.code == 0, done.err
    assert "| language model |" in done.out
    assert "not compared: b (finished) has no results" in done.err
    assert json.loads(command(*asked, "--format", "json").out)["unmeasured"] == {"b": "finished"}
    alone = command("compare", "b", "--root", tmp_path)
    assert alone.code == 2
    assert "none of these runs has measured anything yet: b (finished)" in alone.err
