"""`groundrec train` and `groundrec evaluate`, each in its two forms, which do not mix."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from groundrec.app.commands.published_defaults import SCRIPTS, SETTINGS, ScriptName
from groundrec.core.files import read_json
from groundrec.core.inputs import step_folder
from tests.app.conftest import Tiny, slate_bytes, write_shop
from tests.commands import Result, command

FAST = ("--set", "signals=[]", "--set", "fuse.signals=[]", "--set", "train.max_examples=8")


def is_one_error(result: Result) -> bool:
    """Return whether a command ended with one error of four parts."""
    lines = result.err.splitlines()
    parts = [line.partition(":")[0] for line in lines]
    return (result.code, parts) == (2, ["error", "  accepted", "  next"])


def test_train_with_a_recipe_stops_after_training(tmp_path: Path) -> None:
    recipe = write_shop(tmp_path)
    done = command("train", recipe, *FAST, "--set", "train.epochs=1", "--run-dir", tmp_path / "run")
    assert done.code == 0, done.err
    assert (step_folder(tmp_path / "run", "train") / "manifest.json").is_file()
    assert not (tmp_path / "run" / "slates").exists()
    assert read_json(tmp_path / "run" / "job.json")["until"] == "train"
    again = command("train", recipe, *FAST, "--run-dir", tmp_path / "run")
    assert "add --if-exists resume" in again.err


def test_train_takes_the_options_of_run(tiny: Tiny, tmp_path: Path) -> None:
    shown = command("train", tiny.recipe, "--set", "train.epochs=3", "--dry-run", "--json")
    assert json.loads(shown.out)["train.epochs"] == {"value": 3, "from": "--set"}
    refused = command("train", tiny.recipe, "--run-dir", tmp_path / "new", "--grid", "seed=0,1")
    assert (refused.code, "add --detach" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to train"),
        (("tiny.toml", "--base_model", "scratch"), "a recipe does not mix with the flags"),
        (("tiny.toml", "--num-epochs=3"), "a recipe does not mix with the flags"),
        (("--base_model", "scratch", "--seed", "1"), "is this BIGRec's train.py or D3's"),
        (("--base_model", "scratch", "tiny.toml"), "a recipe does not mix with the flags"),
        (("tiny.toml", "--run-dri", "runs/a"), "did you mean '--run-dir'"),
        (("tiny.toml", "other.toml"), "one recipe at a time"),
    ],
)
def test_the_forms_of_train_do_not_mix(arguments: tuple[str, ...], message: str) -> None:
    refused = command("train", *arguments)
    assert is_one_error(refused), refused.err or refused.out
    assert message in refused.err


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_help_of_train_lists_every_word_with_its_default_and_setting(
    script: ScriptName,
) -> None:
    shown = command("train", "--help", width=120).out
    lines = {line.split()[0]: line.split() for line in shown.splitlines() if " --" in line}
    for word, default in SCRIPTS[script].words.items():
        line = lines[f"--{word}"]
        if isinstance(default, int | float) and not isinstance(default, bool):
            assert float(line[1]) == default
        assert len(line) > 1
        assert SETTINGS.get(word, line[-1]) in line or word in SCRIPTS[script].unused


def test_evaluate_measures_a_finished_run_again_without_redoing_it(
    tiny: Tiny, tmp_path: Path
) -> None:
    shutil.copytree(tiny.run, tmp_path / "run")
    before = slate_bytes(tmp_path / "run")
    shown = command("evaluate", tmp_path / "run", "--json")
    assert shown.code == 0, shown.err
    assert json.loads(shown.out) == read_json(step_folder(tiny.run, "evaluate") / "test.json")
    assert slate_bytes(tmp_path / "run") == before
    table = command("evaluate", tmp_path / "run").err
    assert "language model" in table
    assert table.count("▪") == tiny.result.err.count("▸")


def test_evaluate_finishes_a_run_that_stopped_after_an_earlier_stage(
    tiny: Tiny, tmp_path: Path
) -> None:
    shutil.copytree(tiny.run, tmp_path / "run")
    for name in ("evaluate", "fuse"):
        shutil.rmtree(step_folder(tmp_path / "run", name))
    job = read_json(tmp_path / "run" / "job.json")
    (tmp_path / "run" / "job.json").write_text(json.dumps({**job, "until": "recommend"}))
    done = command("evaluate", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out) == read_json(step_folder(tiny.run, "evaluate") / "test.json")
    assert slate_bytes(tmp_path / "run") == slate_bytes(tiny.run)
    assert read_json(tmp_path / "run" / "job.json")["until"] is None


def test_evaluate_sees_paths_from_where_the_run_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_shop(tmp_path)
    text = recipe.read_text(encoding="utf-8").replace(f"{tmp_path}/", "")
    recipe.write_text(text, encoding="utf-8")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    only = (*FAST, "--set", "train.epochs=1")
    assert command("train", "tiny.toml", *only, "--run-dir", "run").code == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    done = command("evaluate", "../run")
    assert done.code == 0, done.err
    assert (step_folder(tmp_path / "run", "evaluate") / "test.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to evaluate"),
        (("empty",), "not a run directory"),
        (("missing",), "not a run directory"),
        (("empty", "--input_dir", "empty"), "a run does not mix with result files"),
        (("empty", "-k", "5"), "this option is for result files: -k"),
        (("--input_dir", "empty", "--quiet"), "this option is for a run: --quiet"),
    ],
)
def test_what_cannot_be_evaluated_is_one_error(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    refused = command("evaluate", *arguments)
    assert is_one_error(refused), refused.err or refused.out
    assert message in refused.err
