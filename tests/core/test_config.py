"""Recipes: values, where they came from, and what is wrong with those that are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from groundrec.core.errors import ConfigError, GroundrecError, closest
from groundrec.core.recipe import Recipe, load_recipe, settings

FILE = """
seed = 3
[train]
epochs = 5
learning_rate = 1e-3
[data]
columns = { item = "asin", user = "who" }
[model.scratch]
hidden = 64
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(FILE, encoding="utf-8")
    return path


def test_an_empty_recipe_is_all_defaults() -> None:
    recipe, origin = load_recipe(None)
    assert recipe == Recipe()
    assert origin.keys() == {key for key, *_ in settings(recipe)}
    assert set(origin.values()) == {"default"}


def test_each_setting_knows_where_it_came_from(recipe_file: Path) -> None:
    recipe, origin = load_recipe(recipe_file, ["train.epochs=7", "recommend.k=60", "recommend.beams=60"])
    assert (recipe.seed, recipe.train.epochs, recipe.recommend.k, recipe.model.scratch.hidden) == (3, 7, 60, 64)
    given = {key: where for key, where in origin.items() if where != "default"}
    assert given == {
        "seed": "mine.toml",
        "train.epochs": "--set",
        "train.learning_rate": "mine.toml",
        "data.columns": "mine.toml",
        "model.scratch.hidden": "mine.toml",
        "recommend.k": "--set",
        "recommend.beams": "--set",
    }


@pytest.mark.parametrize("override", ['data.columns={item="sku"}', "data.columns.item=sku"])
def test_a_table_that_is_overridden_says_so(recipe_file: Path, override: str) -> None:
    recipe, origin = load_recipe(recipe_file, [override])
    assert recipe.data.columns["item"] == "sku"
    assert origin["data.columns"] == "--set"


def test_a_section_that_is_overridden_is_replaced_and_says_so(recipe_file: Path) -> None:
    recipe, origin = load_recipe(recipe_file, ["train={epochs=9}"])
    assert (recipe.train.epochs, recipe.train.learning_rate) == (9, Recipe().train.learning_rate)
    assert (origin["train.epochs"], origin["train.learning_rate"]) == ("--set", "default")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("train.epochs=2", 2),
        ("train.epochs= 2.5", 2.5),
        ("model.base_model=some/folder", "some/folder"),
        ('model.base_model="some folder"', "some folder"),
        ("model.base_model=a=b", "a=b"),
        ("evaluate.ks=[1, 2]", [1, 2]),
        ("recommend.exclude_seen=false", False),
        ('train.lora_target_modules="all-linear"', "all-linear"),
    ],
)
def test_an_override_is_a_toml_value_or_else_a_word(text: str, value: object) -> None:
    recipe, _ = load_recipe(None, [text])
    found = {key: v for key, v, _ in settings(recipe)}[text.partition("=")[0]]
    assert found == value


def test_the_last_override_counts() -> None:
    assert load_recipe(None, ["seed=1", "seed=2"])[0].seed == 2


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Recipe().train.epochs = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("train.epoch=1", "'train.epochs'"),
        ("k_core=1", "'prepare.k_core'"),
        ("data.k_core=1", "'prepare.k_core'"),
        ("epochs=1", "'train.epochs' or 'sequential.epochs'"),
        ("model.scratch.hiden=1", "'model.scratch.hidden'"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_one(override: str, meant: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(None, [override])
    assert caught.value.what == f"unknown setting (did you mean {meant}?)"
    assert caught.value.value == override.partition("=")[0]


def test_a_name_like_no_other_is_answered_with_all_there_are() -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(None, ["fuse.zzz=1"])
    assert (caught.value.what, caught.value.accepted) == ("unknown setting", "signals, kinds, metric, grid, paper")


def test_errors_say_what_value_accepted_and_next() -> None:
    error = GroundrecError("no such thing", value="x", accepted="y, z", next_step="groundrec list")
    assert str(error) == "no such thing: x\n  accepted: y, z\n  next: groundrec list"
    assert str(GroundrecError("no such thing")) == "no such thing"
    assert str(GroundrecError("not a count", value=0)) == "not a count: 0"


def test_the_closest_word_is_offered_only_where_it_is_close() -> None:
    assert closest("sasrek", ["popularity", "sasrec"]) == " (did you mean 'sasrec'?)"
    assert closest("xyz", ["popularity", "sasrec"]) == ""
