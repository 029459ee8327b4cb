"""Run directories: what is finished, what is resumed, what is begun anew, and what survives a
crash.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundrec.core import runs
from groundrec.core.environment import environment
from groundrec.core.errors import ArtifactError
from groundrec.core.files import atomic_write, digest, read_json, write_json
from groundrec.core.recipe import Recipe, load_recipe
from groundrec.core.runs import Run
from groundrec.core.track import log
from tests.commands import keeping_the_log

INPUTS = {"seed": 0, "train": {"epochs": 3, "method": "full"}}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda v: st.lists(v) | st.dictionaries(st.text(), v),
)


@pytest.fixture
def said() -> Iterator[list[str]]:
    """Return what is logged, as it grows."""
    messages: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: messages.append(record.getMessage())
    with keeping_the_log():
        log.addHandler(listener)
        log.setLevel(logging.INFO)
        yield messages


class Worker:
    """Work that writes one more line to a file each time it is called."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails, self.calls = fails, 0

    def __call__(self, folder: Path) -> dict[str, Any]:
        self.calls += 1
        with (folder / "lines.txt").open("a", encoding="utf-8") as file:
            file.write(f"{self.calls}\n")
        if self.fails:
            raise ValueError("no luck")
        return {"calls": self.calls}


def lines(run: Run) -> list[str]:
    return (run.path / "stage" / "lines.txt").read_text(encoding="utf-8").split()


# -- files -----------------------------------------------------------------------------------------


def test_a_block_that_ends_well_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old", encoding="utf-8")
    with atomic_write(path) as part:
        part.write_text("new", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == "old"
    assert path.read_text(encoding="utf-8") == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(error), atomic_write(path) as part:  # noqa: PT012
        part.write_text("half", encoding="utf-8")
        raise error
    assert path.read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    path, circle = tmp_path / "value.json", []
    circle.append(circle)
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Circular"):
        write_json(path, circle)
    assert read_json(path) == {"a": 1}


@given(json_values)
@settings(max_examples=50, deadline=None)
def test_json_comes_back(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert read_json(path) == value


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b'{"a": "\xe6\x9d'])
def test_json_that_was_cut_short_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "value.json"
    path.write_bytes(content)
    assert read_json(path) is None
    assert read_json(tmp_path / "nothing.json") is None
    assert read_json(path / "value.json") is None


def test_a_digest_is_the_same_in_every_process_and_ignores_the_order_of_keys() -> None:
    value = {"b": [1, 2.5, None], "a": {"y": "ü", "x": True}}
    turned = {"a": {"x": True, "y": "ü"}, "b": [1, 2.5, None]}
    code = f"from groundrec.core.files import digest; print(digest('stage', {turned}))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert digest("stage", value) == other.stdout.strip() == "f64a2b4b5d1b2fe7"


@given(json_values, json_values)
@settings(max_examples=50, deadline=None)
def test_digests_differ_where_values_do(a: Any, b: Any) -> None:
    assert (digest(a) == digest(b)) == (
        json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    )


# -- stages ----------------------------------------------------------------------------------------


def test_a_finished_stage_is_skipped_with_its_reason(tmp_path: Path, said: list[str]) -> None:
    run, work = Run(tmp_path), Worker()
    folder = run.step("stage", INPUTS, work)
    manifest = read_json(folder / "manifest.json")
    assert manifest["result"] == {"calls": 1}
    assert manifest["inputs"] == INPUTS
    assert run.fingerprint("stage") == digest("stage", INPUTS)
    run.step("stage", json.loads(json.dumps(INPUTS)), work)
    assert work.calls == 1
    assert (
        said[-1] == f"▪ stage: skipped, finished with the same inputs ({digest('stage', INPUTS)})"
    )


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({"seed": 1, "train": INPUTS["train"]}, "seed was 0 and is 1"),
        ({"seed": 0, "train": {"epochs": 4, "method": "full"}}, "train.epochs was 3 and is 4"),
        ({"seed": 0, "train": {"epochs": 3}}, "train.method was full and is None"),
        ({**INPUTS, "files": []}, "files was None and is []"),
    ],
)
def test_other_inputs_redo_a_stage_from_nothing(
    tmp_path: Path, said: list[str], inputs: dict[str, Any], reason: str
) -> None:
    run, work = Run(tmp_path), Worker()
    run.step("stage", INPUTS, work)
    run.step("stage", inputs, work)
    assert lines(run) == ["2"]
    assert f"▸ stage: redone, because {reason}" in said
    assert run.fingerprint("stage") == digest("stage", inputs) != digest("stage", INPUTS)


def test_a_failed_stage_is_no_output_and_is_resumed_with_what_it_left(
    tmp_path: Path, said: list[str]
) -> None:
    run, work = Run(tmp_path), Worker(fails=True)
    with pytest.raises(ValueError, match="no luck"):
        run.step("stage", INPUTS, work)
    with pytest.raises(ArtifactError, match="has not finished `stage`"):
        run.fingerprint("stage")
    status = read_json(tmp_path / "status.json")
    assert (status["stage"], status["state"], status["error"]) == (
        "stage",
        "failed",
        "ValueError: no luck",
    )
    work.fails = False
    run.step("stage", INPUTS, work)
    assert lines(run) == ["1", "2"]
    assert "▸ stage: resumed, started with the same inputs" in said
    status = read_json(tmp_path / "status.json")
    assert status["state"] == "finished"
    assert "error" not in status


def test_a_stage_begun_with_other_inputs_is_begun_anew(tmp_path: Path, said: list[str]) -> None:
    run, work = Run(tmp_path), Worker(fails=True)
    with pytest.raises(ValueError, match="no luck"):
        run.step("stage", INPUTS, work)
    work.fails = False
    run.step("stage", {**INPUTS, "seed": 7}, work)
    assert lines(run) == ["2"]
    assert "▸ stage: restarted, because seed was 0 and is 7" in said


def test_a_removal_cut_short_never_looks_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, work = Run(tmp_path), Worker()
    run.step("stage", INPUTS, work)

    def crash(folder: Path, **_: Any) -> None:
        (folder / "lines.txt").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(runs.shutil, "rmtree", crash)
    with pytest.raises(KeyboardInterrupt):
        run.step("stage", {**INPUTS, "seed": 1}, work)
    monkeypatch.undo()
    run.step("stage", INPUTS, work)
    assert lines(run) == ["2"]


def test_a_manifest_that_was_cut_short_is_none(tmp_path: Path) -> None:
    run, work = Run(tmp_path), Worker()
    manifest = run.step("stage", INPUTS, work) / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:40])
    run.step("stage", INPUTS, work)
    assert work.calls == 2
    assert read_json(manifest)["inputs"] == INPUTS


def test_a_stage_can_be_required_to_be_made_from_some_inputs(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(ArtifactError, match="has not finished `stage`"):
        run.require("stage", {"seed": 0})
    run.step("stage", INPUTS, Worker())
    run.require("stage", {"seed": 0})
    run.require("stage", INPUTS)
    for other, reason in (
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"files": [1]}, r"files was None and is \[1\]"),
    ):
        with pytest.raises(
            ArtifactError, match=f"`stage` of this run was made from other settings: {reason}"
        ):
            run.require("stage", other)


def test_paths_and_tuples_in_inputs_compare_as_what_json_makes_of_them(tmp_path: Path) -> None:
    run, work = Run(tmp_path), Worker()
    for _ in range(2):
        run.step("stage", {"path": tmp_path, "ks": (1, 2)}, work)
    assert work.calls == 1


def test_the_environment_names_what_a_result_depends_on() -> None:
    found = environment()
    assert found["packages"].keys() >= {"torch", "transformers", "tokenizers", "numpy", "duckdb"}
    assert found["argv"] == sys.argv


# -- directories -----------------------------------------------------------------------------------


def opened(path: Path, if_exists: runs.IfExists = "fail", **values: Any) -> Run:
    return Run.open(path, Recipe.model_validate(values), None, if_exists)


def test_a_run_directory_is_never_reused_silently(tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert opened(path).path == path
    assert opened(path, "resume", seed=5).path == path
    assert read_json(path / "config.json")["seed"] == 5
    with pytest.raises(ArtifactError, match="in use"):
        opened(path)
    assert [opened(path, "new").path.name for _ in range(2)] == ["run-2", "run-3"]


def test_a_run_that_has_prepared_other_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    whole = Recipe().model_dump(mode="json")
    opened(path).step("prepare", {"data": whole["data"], "prepare": whole["prepare"]}, Worker())
    with pytest.raises(ArtifactError, match=r"another data set: prepare\.k_core was 5 and is 3"):
        opened(path, "resume", prepare={"k_core": 3})
    assert read_json(path / "config.json")["prepare"]["k_core"] == 5
    assert opened(path, "new", prepare={"k_core": 3}).path.name == "run-2"


def without(sections: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return recipe sections as they were written before the settings `section.….name` existed."""
    sections = json.loads(json.dumps(sections))
    for name in names:
        *parents, last = name.split(".")
        section = sections
        for parent in parents:
            section = section[parent]
        del section[last]
    return sections


NEWER = ("data.sha256", "prepare.bad_rows", "prepare.d3.min_items", "prepare.max_history")


@pytest.mark.parametrize(
    "names", [[name] for name in NEWER] + [NEWER, ["prepare.d3", "data.columns"]]
)
def test_a_run_older_than_a_setting_is_resumed_and_its_stages_are_skipped(
    tmp_path: Path, said: list[str], names: list[str]
) -> None:
    whole, work = Recipe().model_dump(mode="json"), Worker()
    now = {"data": whole["data"], "prepare": whole["prepare"], "files": []}
    before = without(now, *names)
    opened(tmp_path / "run").step("prepare", before, work)
    run = opened(tmp_path / "run", "resume")
    run.step("prepare", now, work)
    run.require("prepare", now)
    assert work.calls == 1
    assert run.fingerprint("prepare") == digest("prepare", before)
    assert "skipped, finished with the same inputs" in said[-1]


def test_a_run_older_than_a_setting_that_is_now_given_is_refused_with_its_default(
    tmp_path: Path,
) -> None:
    whole = Recipe().model_dump(mode="json")
    before = without(
        {"data": whole["data"], "prepare": whole["prepare"]},
        "prepare.d3.min_items",
        "prepare.bad_rows",
    )
    opened(tmp_path / "run").step("prepare", before, Worker())
    with pytest.raises(
        ArtifactError, match=r"another data set: prepare\.d3\.min_items was 10000 and is 7"
    ):
        opened(tmp_path / "run", "resume", prepare={"d3": {"min_items": 7}})
    with pytest.raises(ArtifactError, match=r"prepare\.bad_rows was fail and is quarantine"):
        opened(tmp_path / "run", "resume", prepare={"bad_rows": "quarantine"})


def test_a_stage_that_had_begun_before_a_setting_existed_is_resumed(
    tmp_path: Path, said: list[str]
) -> None:
    run, work = Run(tmp_path), Worker(fails=True)
    now = {"train": Recipe().model_dump(mode="json")["train"]}
    with pytest.raises(ValueError, match="no luck"):
        run.step("stage", without(now, "train.average"), work)
    work.fails = False
    run.step("stage", now, work)
    assert lines(run) == ["1", "2"]
    assert "▸ stage: resumed, started with the same inputs" in said


def test_a_run_that_has_prepared_nothing_takes_any_data(tmp_path: Path) -> None:
    opened(tmp_path / "run")
    assert opened(tmp_path / "run", "resume", prepare={"k_core": 3}).path == tmp_path / "run"


def test_an_empty_folder_is_taken_and_a_full_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert opened(tmp_path / "empty").path == tmp_path / "empty"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("…", encoding="utf-8")
    with pytest.raises(ArtifactError, match="not empty"):
        opened(tmp_path / "full", "resume")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.tex"]


def test_the_recipe_is_kept_as_it_was_given(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text("# why\nseed = 0\n", encoding="utf-8")
    run = Run.open(tmp_path / "run", Recipe(), recipe, "fail")
    assert (run.path / "recipe.toml").read_text(encoding="utf-8") == "# why\nseed = 0\n"


@pytest.mark.parametrize("extends", [False, True])
def test_the_recipe_of_a_run_is_what_was_run(tmp_path: Path, extends: bool) -> None:
    (tmp_path / "base.toml").write_text("train.epochs = 9\n", encoding="utf-8")
    file = tmp_path / "mine.toml"
    head = 'extends = "base.toml"\n' if extends else ""
    file.write_text(f"{head}# why\nseed = 3\n", encoding="utf-8")
    recipe, _ = load_recipe(file, ["train.batch_size=7", "recommend.methods=['search']"])
    run = Run.open(tmp_path / "run", recipe, file, "fail")
    assert load_recipe(run.path / "recipe.toml")[0] == recipe
    assert load_recipe(run.path / "recipe-given.toml")[0] == load_recipe(file)[0]
    resumed = Run.open(run.path, recipe, run.path / "recipe.toml", "resume")
    assert load_recipe(resumed.path / "recipe.toml")[0] == recipe
    assert (run.path / "recipe-given.toml").exists()
    Run.open(run.path, load_recipe(file)[0], file, "resume")
    assert load_recipe(run.path / "recipe.toml")[0] == load_recipe(file)[0]
    assert not (run.path / "recipe-given.toml").exists()


def test_a_run_of_python_has_a_recipe_that_can_be_read(tmp_path: Path) -> None:
    recipe = Recipe.of({"recommend.valid_queries": None, "seed": 4, "data.columns": {"user": "u"}})
    run = Run.open(tmp_path / "run", recipe, None, "fail")
    assert load_recipe(run.path / "recipe.toml")[0] == Recipe.of(
        {"seed": 4, "data.columns": {"user": "u"}}
    )


def test_an_earlier_versions_run_keeps_its_recipe_beside_what_is_run(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("seed = 3\n", encoding="utf-8")
    recipe, _ = load_recipe(file, ["seed=5"])
    run = Run.open(tmp_path / "run", recipe, file, "fail")
    (run.path / "recipe.toml").write_text("seed = 3\n", encoding="utf-8")
    (run.path / "recipe-given.toml").unlink()
    Run.open(run.path, recipe, run.path / "recipe.toml", "resume")
    assert load_recipe(run.path / "recipe.toml")[0] == recipe
    assert (run.path / "recipe-given.toml").read_text(encoding="utf-8") == "seed = 3\n"


@pytest.mark.parametrize("if_exists", ["fail", "resume", "new"])
def test_a_models_folder_is_no_run_directory(tmp_path: Path, if_exists: runs.IfExists) -> None:
    write_json(tmp_path / "config.json", {"model_type": "llama", "hidden_size": 8})
    with pytest.raises(ArtifactError, match="not a run directory"):
        Run.open(tmp_path, Recipe(), None, if_exists)
    assert read_json(tmp_path / "config.json")["model_type"] == "llama"


def test_a_run_killed_while_it_was_made_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, value: Any) -> None:
        path.with_name(f".{path.name}.7.part").write_text("{", encoding="utf-8")
        raise KeyboardInterrupt

    recipe = tmp_path / "a.toml"
    recipe.write_text('name = "a"\n', encoding="utf-8")
    monkeypatch.setattr(runs, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        Run.open(tmp_path / "run", load_recipe(recipe)[0], recipe, "resume")
    monkeypatch.undo()
    Run.open(tmp_path / "run", load_recipe(recipe)[0], recipe, "resume")
    assert (tmp_path / "run" / "recipe.toml").read_bytes() == recipe.read_bytes()
