"""Recipes are found as files and by the names they are packaged under, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from groundrec.core.errors import ConfigError
from groundrec.core.recipe import Recipe, load_recipe, whole_text
from groundrec.core.recipe_files import find_recipe, packaged_files
from groundrec.core.track import log

NAMES = list(packaged_files())


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the warnings that are logged from here on."""
    lines: list[str] = []
    monkeypatch.setattr(log, "warning", lines.append)
    return lines


@pytest.mark.parametrize("name", NAMES)
def test_a_packaged_recipe_is_found_by_its_name(name: str, logged: list[str]) -> None:
    path = find_recipe(name)
    assert path.as_posix().endswith(f"groundrec/recipes/{name}.toml")
    assert path.is_file()
    assert load_recipe(name) == load_recipe(path)
    assert Recipe.of({"seed": 8}, name) == load_recipe(name, ["seed=8"])[0]
    assert logged == []


def test_a_file_is_preferred_to_a_packaged_recipe_of_the_same_name(empty_folder: Path) -> None:
    (empty_folder / "demo").write_text("seed = 5\n", encoding="utf-8")
    assert find_recipe("demo") == Path("demo")
    assert load_recipe("demo")[0] == Recipe(seed=5)


def test_a_folder_does_not_hide_a_packaged_recipe(empty_folder: Path) -> None:
    (empty_folder / "demo").mkdir()
    assert load_recipe("demo")[0].name == "demo"


@pytest.mark.parametrize("name", ["demo", "d3/baseline"])
def test_the_former_path_of_a_recipe_still_works_and_says_the_name(
    name: str, logged: list[str]
) -> None:
    assert find_recipe(f"recipes/{name}.toml") == packaged_files()[name]
    assert len(logged) == 1
    assert f"use its name, `{name}`" in logged[0]


def test_a_file_at_the_former_path_is_used(empty_folder: Path, logged: list[str]) -> None:
    (empty_folder / "recipes").mkdir()
    (empty_folder / "recipes" / "demo.toml").write_text("seed = 5\n", encoding="utf-8")
    assert load_recipe("recipes/demo.toml")[0].seed == 5
    assert logged == []


@pytest.mark.parametrize(
    "name",
    [
        "../recipes/demo.toml",
        "d3/../demo",
        "./d3/../demo",
        "recipes/../demo.toml",
        "/demo",
        "/recipes/demo.toml",
        "demo.toml",
        "accelerate/ddp",
        "../core/words/data",
        "",
    ],
)
def test_only_a_name_leads_into_the_package(name: str) -> None:
    with pytest.raises(ConfigError, match="no such recipe"):
        find_recipe(name)


def test_an_unknown_recipe_is_answered_with_the_nearest_names(empty_folder: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load_recipe("d3/basline")
    assert str(error.value).splitlines()[0] == (
        "no such recipe (did you mean 'd3/baseline'?): d3/basline"
    )
    assert error.value.accepted.startswith("d3/baseline, ")
    assert error.value.next_step == "groundrec recipes list"
    (empty_folder / "my-shop.toml").touch()
    with pytest.raises(ConfigError, match=r"did you mean 'my-shop\.toml'.*(\n|.)*my-shop\.toml"):
        load_recipe("my-shp.toml")


def test_a_recipe_extends_a_packaged_one_by_name(empty_folder: Path) -> None:
    (empty_folder / "mine.toml").write_text(
        'extends = "demo"\nname = "mine"\n[train]\nepochs = 2\n', encoding="utf-8"
    )
    recipe, origin = load_recipe("mine.toml")
    assert recipe == Recipe.of({"name": "mine", "train.epochs": 2}, "demo")
    assert (origin["train.epochs"], origin["data.source"]) == ("mine.toml", "demo.toml")
    (empty_folder / "kept.toml").write_bytes(whole_text("mine.toml"))
    assert "extends" not in (empty_folder / "kept.toml").read_text(encoding="utf-8")
    assert load_recipe("kept.toml")[0] == recipe


def test_a_recipe_extends_the_file_beside_it_rather_than_a_packaged_one(
    empty_folder: Path,
) -> None:
    (folder := empty_folder / "shop").mkdir()
    (folder / "demo").write_text("seed = 5\n", encoding="utf-8")
    (folder / "mine.toml").write_text('extends = "demo"\n', encoding="utf-8")
    assert load_recipe(folder / "mine.toml")[0] == Recipe(seed=5)


RAW_RECIPE = """
[data]
source = "amazon"
path = "raw"
category = "Toys_and_Games"

[prepare]
protocol = "d3"
d3.st_year = 2017

[train]
epochs = 7
"""


def test_a_finished_data_set_replaces_how_one_is_prepared(
    empty_folder: Path, logged: list[str]
) -> None:
    (empty_folder / "raw.toml").write_text(RAW_RECIPE, encoding="utf-8")
    (empty_folder / "mine.toml").write_text('extends = "raw.toml"\ndata.dataset = "ready"\n')
    recipe, origin = load_recipe("mine.toml")
    assert recipe == Recipe.of({"data.dataset": "ready", "train.epochs": 7})
    assert (origin["data.dataset"], origin["data.source"]) == ("mine.toml", "default")
    assert logged == [
        "mine.toml names a finished data set, so these settings of the recipe do not apply:"
        " data.source, data.path, data.category, prepare.protocol, prepare.d3.st_year;"
        ' model.domain = "Toys_and_Games" keeps the words of that category in prompts'
    ]
    (empty_folder / "whole.toml").write_bytes(whole_text("mine.toml"))
    assert load_recipe("whole.toml")[0] == recipe
    assert load_recipe("raw.toml", ['data.dataset="ready"'])[0] == recipe
    assert Recipe.of({"data.dataset": "ready"}, "raw.toml") == recipe


def test_raw_data_replaces_a_finished_data_set(empty_folder: Path, logged: list[str]) -> None:
    (empty_folder / "ready.toml").write_text('data.dataset = "ready"\ntrain.epochs = 7\n')
    (empty_folder / "again.toml").write_text('extends = "ready.toml"\n' + RAW_RECIPE)
    recipe, _ = load_recipe("again.toml")
    assert (recipe.data.dataset, recipe.data.source) == (None, "amazon")
    assert logged == [
        "again.toml names raw data, so these settings of the recipe do not apply: data.dataset"
    ]


def test_both_in_one_place_contradict_each_other(empty_folder: Path) -> None:
    text = RAW_RECIPE.replace("[data]", '[data]\ndataset = "ready"')
    (empty_folder / "both.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"data\.source, data\.path[^\n]*prepare\.d3\.st_year"):
        load_recipe("both.toml")
    for settings in (
        {"data.dataset": "ready", "data.source": "amazon", "prepare.k_core": 3},
        {"data.dataset": "ready", "prepare.k_core": 3},
    ):
        with pytest.raises(ConfigError, match=r"no other setting applies: [^\n]*prepare\.k_core"):
            Recipe.of(settings)
