"""The commands `groundrec recipes`: what they list, show and copy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from groundrec.core.recipe import load_recipe
from groundrec.core.recipe_files import packaged_files
from groundrec.core.track import log
from tests.commands import command

RECIPES = packaged_files()
ALL = RECIPES | packaged_files(".yaml")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_packaged_file_is_listed_with_one_line_about_it() -> None:
    rows = json.loads(command("recipes", "list", "--json").out)
    assert [row["name"] for row in rows] == list(ALL)
    about = {row["name"]: row["about"] for row in rows}
    assert all(about.values())
    assert all(about[name] == load_recipe(name)[0].about.strip().split("\n")[0] for name in RECIPES)
    lines = command("recipes", "list").out.splitlines()
    assert [line.split(None, 1) for line in lines] == [list(row.values()) for row in rows]


@pytest.mark.parametrize("name", ALL)
def test_a_packaged_file_is_shown_as_it_is(name: str) -> None:
    assert command("recipes", "show", name).out == ALL[name].read_text(encoding="utf-8")


@pytest.mark.parametrize("name", RECIPES)
def test_a_copy_is_the_same_recipe_and_the_next_command_runs_it(name: str) -> None:
    shown = command("recipes", "copy", name)
    file = RECIPES[name].name
    assert Path(file).read_bytes() == RECIPES[name].read_bytes()
    assert load_recipe(file)[0] == load_recipe(name)[0]
    assert shown.out.splitlines()[-1].split() == ["groundrec", "run", file]


def test_settings_for_accelerate_are_copied_too() -> None:
    shown = command("recipes", "copy", "accelerate/ddp")
    assert Path("ddp.yaml").read_bytes() == ALL["accelerate/ddp"].read_bytes()
    assert "accelerate launch --config_file ddp.yaml" in shown.out


@pytest.mark.parametrize(
    ("to", "path"),
    [("mine.toml", "mine.toml"), ("there", "there/demo.toml"), ("new/", "new/demo.toml")],
)
def test_a_copy_goes_to_a_file_or_into_a_folder(to: str, path: str) -> None:
    Path("there").mkdir()
    assert path in command("recipes", "copy", "demo", "--to", to).out
    assert Path(path).read_bytes() == RECIPES["demo"].read_bytes()


def test_a_copy_replaces_a_file_only_when_asked_to() -> None:
    Path("demo.toml").write_text("seed = 5\n", encoding="utf-8")
    refused = command("recipes", "copy", "demo")
    assert refused.code == 2
    assert "--overwrite" in refused.err
    assert Path("demo.toml").read_text(encoding="utf-8") == "seed = 5\n"
    assert command("recipes", "copy", "demo", "--overwrite").code == 0
    assert Path("demo.toml").read_bytes() == RECIPES["demo"].read_bytes()


@pytest.mark.parametrize("verb", ["show", "copy"])
@pytest.mark.parametrize("name", ["d3/basline", "../recipes/d3/baseline", "d3/baseline.toml"])
def test_an_unknown_name_is_answered_with_those_that_exist(verb: str, name: str) -> None:
    refused = command("recipes", verb, name)
    assert refused.code == 2
    assert "did you mean 'd3/baseline'?" in refused.err
    assert "next: groundrec recipes list" in refused.err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("recipe", ["demo", "recipes/demo.toml"])
@pytest.mark.parametrize("arguments", [["run", "--dry-run"], ["doctor"]])
def test_a_command_that_takes_a_recipe_takes_its_name(
    recipe: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(log, "warning", logged.append)
    verb, *options = arguments
    shown = command(verb, recipe, *options)
    assert shown.code in ((0, 1) if verb == "doctor" else (0,)), shown.err
    assert ["use its name, `demo`" in line for line in logged] == [True] * (recipe != "demo")
