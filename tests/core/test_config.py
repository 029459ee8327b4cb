"""Recipes: values, where they came from, and what is wrong with those that are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from groundrec.core.errors import ConfigError, GroundrecError, did_you_mean
from groundrec.core.recipe import Recipe, load_recipe, settings, whole_text

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


def write(folder: Path, **recipes: str) -> Path:
    """Write recipes by their names, and return the path of the first."""
    for name, text in recipes.items():
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return folder / f"{next(iter(recipes))}.toml"


def test_a_recipe_extends_another(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        top='extends = "middle.toml"\nsignals = ["popularity"]\n[fuse]\nsignals = []\n',
        middle='extends = "base.toml"\n[train]\nepochs = 9\n',
        base=(
            'seed = 3\nsignals = ["popularity", "sasrec"]\n[train]\nepochs = 5\nlearning_rate ='
            " 1e-3\n"
        ),
    )
    recipe, origin = load_recipe(path, ["train.batch_size=4"])
    assert (recipe.seed, recipe.signals, recipe.train.epochs) == (3, ["popularity"], 9)
    assert (recipe.train.learning_rate, recipe.train.batch_size) == (1e-3, 4)
    names = [
        origin[key]
        for key in ("seed", "signals", "train.epochs", "train.batch_size", "train.patience")
    ]
    assert names == ["base.toml", "top.toml", "middle.toml", "--set", "default"]
    assert Recipe.of({"train.batch_size": 4}, path) == recipe


def test_what_a_run_keeps_of_a_recipe_needs_no_other_file(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        top='extends = "base.toml"\nname = "top"\n',
        base='[data]\nsource = "table"\n[data.columns]\nuser = "Käufer"\n',
    )
    (kept := tmp_path / "elsewhere").mkdir()
    (kept / "recipe.toml").write_bytes(whole_text(path))
    assert load_recipe(kept / "recipe.toml")[0] == load_recipe(path)[0]
    assert whole_text(tmp_path / "base.toml") == (tmp_path / "base.toml").read_bytes()


@pytest.mark.parametrize(
    ("recipes", "says"),
    [
        (
            {"a": 'extends = "b.toml"', "b": 'extends = "a.toml"'},
            "b.toml does not extend another recipe",
        ),
        ({"a": 'extends = "a.toml"'}, "does not extend this one in turn"),
        ({"a": 'extends = ["b.toml"]', "b": ""}, "a recipe file or a packaged recipe"),
        ({"a": 'extends = "c.toml"', "b": ""}, "no such recipe"),
        ({"a": 'extends = "b.toml"', "b": "seeds = 3"}, "unknown setting"),
    ],
)
def test_what_cannot_be_extended_is_refused(
    tmp_path: Path, recipes: dict[str, str], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        load_recipe(write(tmp_path, **recipes))


def test_an_empty_recipe_is_all_defaults() -> None:
    recipe, origin = load_recipe(None)
    assert recipe == Recipe()
    assert origin.keys() == {key for key, *_ in settings(recipe)}
    assert set(origin.values()) == {"default"}


def test_each_setting_knows_where_it_came_from(recipe_file: Path) -> None:
    recipe, origin = load_recipe(
        recipe_file, ["train.epochs=7", "recommend.k=60", "recommend.beams=60"]
    )
    assert (recipe.seed, recipe.train.epochs, recipe.recommend.k, recipe.model.scratch.hidden) == (
        3,
        7,
        60,
        64,
    )
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
    assert (caught.value.what, caught.value.accepted) == (
        "unknown setting",
        "signals, kinds, metric, grid, per_metric",
    )


def test_errors_say_what_value_accepted_and_next() -> None:
    error = GroundrecError("no such thing", value="x", accepted="y, z", next_step="groundrec list")
    assert str(error) == "no such thing: x\n  accepted: y, z\n  next: groundrec list"
    assert str(GroundrecError("no such thing")) == "no such thing"
    assert str(GroundrecError("not a count", value=0)) == "not a count: 0"


def test_the_closest_word_is_offered_only_where_it_is_close() -> None:
    assert did_you_mean("sasrek", ["popularity", "sasrec"]) == " (did you mean 'sasrec'?)"
    assert did_you_mean("xyz", ["popularity", "sasrec"]) == ""


@pytest.mark.parametrize("name", ["", ".", "..", "...", "a/b", "../a", "a\\b"])
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be that of a run directory"):
        Recipe.of({"name": name})


@pytest.mark.parametrize("name", ["a.b", ".a", "书 1", "a-b_c"])
def test_other_names_are_those_of_folders(name: str) -> None:
    assert Recipe.of({"name": name}).name == name
