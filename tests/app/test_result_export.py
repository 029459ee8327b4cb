"""What a run recommends as result files, read by the published formulas and by our own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from groundrec.core.files import read_json
from tests.app.conftest import FILMS, Tiny, title
from tests.app.published import calc
from tests.app.test_bad_input import assert_clear
from tests.commands import command


def test_every_method_is_exported_and_the_published_formulas_give_our_numbers(
    tiny: Tiny, tmp_path: Path
) -> None:
    out = tmp_path / "results"
    done = command("export", tiny.run, "--format", "results", "--out", out)
    assert done.code == 0, done.err
    report = read_json(tiny.run / "evaluate" / "test.json")["methods"]
    files = {name: name.replace(" + ", "-").replace(" ", "-") + ".json" for name in report}
    assert {path.name for path in out.iterdir()} == set(files.values())
    told = json.loads(command("evaluate", "--input_dir", out, "-k", 1, "-k", 5, "--json").out)
    for name, metrics in report.items():
        rows = json.loads((out / files[name]).read_text(encoding="utf-8"))
        assert rows[0].keys() == {"input", "output", "predict", "predict_score"}
        found = calc(rows, [1, 5])
        ours = told[str(out / files[name])]["metrics"]["by title"]
        for place, k in enumerate((1, 5)):
            for metric, values in found.items():
                mean = metrics["metrics"][f"{metric}@{k}"]["mean"]
                assert values[place] == pytest.approx(mean)
                assert ours[f"{metric}@{k}"]["mean"] == pytest.approx(mean)
        assert {text.strip('"') for row in rows for text in row["predict"]} <= {
            title(film) for film in range(FILMS)
        }


def test_one_method_can_be_asked_for_and_no_other_than_there_are(
    tiny: Tiny, tmp_path: Path
) -> None:
    asked = ("export", tiny.run, "--format", "results", "--out", tmp_path / "out")
    told = command(*asked, "--method", "language model", "--json")
    assert json.loads(told.out) == [str(tmp_path / "out" / "language-model.json")]
    wrong = command(*asked, "--overwrite", "--method", "language modl")
    assert_clear(wrong)
    assert "did you mean 'language model'" in wrong.err
    assert_clear(command(*asked))  # files are there
    assert_clear(command(*asked, "--overwrite", "--template", "x.toml"))
    of_data = ("export", tiny.run, "--format", "d3", "--out", tmp_path / "d3")
    assert_clear(command(*of_data, "--method", "popularity"))


def test_a_place_without_an_item_is_an_empty_text(tiny: Tiny, tmp_path: Path) -> None:
    allow = tmp_path / "allow.txt"
    allow.write_text("\n".join(title(film) for film in range(4)), encoding="utf-8")
    run = tmp_path / "run"
    done = command(
        *("run", tiny.recipe, "--run-dir", run, "--set", f"recommend.allow={allow}"),
        *("--set", "train.epochs=1", "--set", "recommend.k=5", "--set", "evaluate.ks=[5]"),
        *("--set", "fuse.signals=[]", "--set", "fuse.metric=ndcg@5"),
    )
    assert done.code == 0, done.err
    out = tmp_path / "out"
    command("export", run, "--format", "results", "--out", out, "--method", "popularity")
    rows = json.loads((out / "popularity.json").read_text(encoding="utf-8"))
    assert {len(row["predict"]) for row in rows} == {5}
    assert "" in rows[0]["predict"]
    told = json.loads(command("evaluate", "--input_dir", out, "--json").out)
    (scores,) = told.values()
    report = read_json(run / "evaluate" / "test.json")["methods"]["popularity"]["metrics"]
    assert scores["metrics"]["by title"]["ndcg@5"]["mean"] == report["ndcg@5"]["mean"]
