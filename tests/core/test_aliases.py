"""Old names and values of settings mean what the current ones mean."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundrec.core import aliases
from groundrec.core.aliases import NAMES, VALUES, current_name, former_name, upgrade
from groundrec.core.errors import ConfigError
from groundrec.core.glossary import find
from groundrec.core.recipe import Recipe, load_recipe, settings, whole_text
from groundrec.core.track import log

OLD_SETTINGS = {
    "neighbours.last": st.integers(1, 50),
    "neighbours.decay": st.floats(0.01, 1),
    "neighbours.smoothing": st.floats(0.001, 0.9),
    "popularity.recent_days": st.floats(0.5, 400),
    "co_occurrence.last": st.integers(1, 50),
    "evaluate.people": st.integers(0, 50),
    "fuse.paper": st.booleans(),
    "ground.longest": st.integers(2, 4096),
    "ground.texts": st.integers(1, 20),
    "prepare.d3.least_items": st.integers(1, 10**6),
    "recommend.mode": st.just("all"),
    "recommend.width": st.integers(1, 400),
    "train.also": st.dictionaries(st.sampled_from(["game", "book"]), st.just("some/folder")),
    "train.learn": st.sampled_from(["answer", "choices"]),
}
"""Every old name, and every setting with an old value, with values that are valid for it."""

NEW_VALUES = {"all": "exhaustive", "choices": "branching"}


def nested(setting: str, value: Any) -> dict[str, Any]:
    """Return a tree of sections that holds one setting."""
    for part in reversed(setting.split(".")):
        value = {part: value}
    return value


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    """Return a function that returns the lines logged so far, as in a new process."""
    monkeypatch.setattr(aliases, "_logged", set())
    monkeypatch.setattr(log, "propagate", True)
    with caplog.at_level(logging.WARNING, "groundrec"):
        yield lambda: [record.message for record in caplog.records]


def test_every_old_name_is_tested_here_and_leads_to_a_setting() -> None:
    current = {setting for setting, *_ in settings(Recipe())}
    assert {current_name(setting) for setting in OLD_SETTINGS} <= current
    renamed = {former_name(setting) for setting in current} - {None}
    assert renamed | {"recommend.mode"} == set(OLD_SETTINGS)
    assert set(VALUES) <= current
    assert set(NAMES.values()) <= current | {setting.rpartition(".")[0] for setting in current}


@given(st.data(), st.sampled_from(list(OLD_SETTINGS)))
def test_an_old_name_gives_the_same_recipe_as_the_current_one(
    data: st.DataObject, setting: str
) -> None:
    old = data.draw(OLD_SETTINGS[setting])
    new = NEW_VALUES.get(old, old) if isinstance(old, str) else old
    expected = Recipe.of({current_name(setting): new})
    assert Recipe.of({setting: old}) == expected
    assert Recipe.of(nested(setting, old)) == expected
    assert Recipe.model_validate(nested(setting, old)) == expected
    if not isinstance(old, dict):
        assert load_recipe(None, [f"{setting}={json.dumps(old)}"])[0] == expected


@pytest.mark.parametrize("setting", [s for s in OLD_SETTINGS if current_name(s) != s])
def test_an_old_name_is_found_by_its_whole_and_its_last_part(setting: str) -> None:
    assert find(setting)[0] == [current_name(setting)]
    assert current_name(setting) in find(setting.rpartition(".")[2])[0]


def test_files_with_old_names_are_read_and_extended(tmp_path: Path, warnings: Any) -> None:
    base = '[train.also]\ngame = "g"\n[recommend]\nmode = "all"\n[neighbours]\nlast = 3\n'
    (tmp_path / "base.toml").write_text(base, encoding="utf-8")
    top = 'extends = "base.toml"\n[item_knn]\ndecay = 0.5\n'
    (tmp_path / "top.toml").write_text(top, encoding="utf-8")
    recipe, origin = load_recipe(tmp_path / "top.toml", ["neighbours.smoothing=0.1"])
    assert recipe.train.extra_datasets == {"game": Path("g")}
    assert recipe.recommend.mode == "exhaustive"
    assert recipe.item_knn.model_dump() == {"last_n": 3, "decay": 0.5, "smoothing": 0.1}
    assert origin["train.extra_datasets"] == origin["item_knn.last_n"] == "base.toml"
    assert (origin["item_knn.decay"], origin["item_knn.smoothing"]) == ("top.toml", "--set")
    said = warnings()
    assert said == [
        "train.also is now train.extra_datasets",
        "recommend.mode = all is now recommend.mode = exhaustive",
        "neighbours.last is now item_knn.last_n",
        "neighbours is now item_knn",
    ]
    load_recipe(tmp_path / "top.toml", ["train.also.book=b"])
    assert warnings() == said, "each is logged once"
    (tmp_path / "whole.toml").write_bytes(whole_text(tmp_path / "top.toml"))
    assert load_recipe(tmp_path / "whole.toml", ["item_knn.smoothing=0.1"])[0] == recipe


def test_the_config_of_an_old_run_is_read_without_a_warning(warnings: Any) -> None:
    recipe = Recipe.of({"train.loss_on": "branching", "item_knn.last_n": 7})
    config = recipe.model_dump(mode="json")
    for setting in OLD_SETTINGS:
        *sections, name = current_name(setting).split(".")
        target = config
        for section in sections:
            target = target[section]
        value = target.pop(name)
        old = {new: old for old, new in NEW_VALUES.items()}.get(str(value), value)
        target[setting.rpartition(".")[2]] = old
    config["neighbours"] = config.pop("item_knn")
    config["popularity"] = config.pop("recent_popularity")
    assert Recipe.model_validate(config) == recipe
    assert upgrade(config) == recipe.model_dump(mode="json")
    assert warnings() == []


@pytest.mark.parametrize(
    "given",
    [
        {"train.also": {}, "train.extra_datasets": {}},
        {"neighbours.last": 3, "item_knn.last_n": 3},
        {"train": {"learn": "answer", "loss_on": "answer"}},
    ],
)
def test_a_setting_given_by_both_names_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="is given twice, once by its old name") as caught:
        Recipe.of(given)
    assert caught.value.accepted in ("train.extra_datasets", "item_knn.last_n", "train.loss_on")
    assert caught.value.next_step == f"remove {str(caught.value.value).partition(', ')[0]}"


def test_a_section_or_an_override_given_by_both_names_is_refused(tmp_path: Path) -> None:
    both = tmp_path / "both.toml"
    both.write_text("[neighbours]\nlast = 3\n[item_knn]\ndecay = 0.5\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="item_knn is given twice"):
        load_recipe(both)
    with pytest.raises(ConfigError, match=r"evaluate\.example_users is given twice"):
        load_recipe(None, ["evaluate.people=1", "evaluate.example_users=2"])


def test_nothing_but_renamed_settings_is_upgraded() -> None:
    recorded = {
        "seed": 3,
        "signals": ["popularity", "item-knn"],
        "data": {"columns": {"last": "last", "a.b": "also"}},
        "train": {"also": ["games"], "learn": "choices"},
        "template": {"also": "all"},
        "files": [["also", 1, 2]],
    }
    upgraded = upgrade(recorded)
    assert upgraded.pop("train") == {"extra_datasets": ["games"], "loss_on": "branching"}
    assert upgraded == {key: value for key, value in recorded.items() if key != "train"}
    assert upgrade({"last": 3, "decay": 1}, "item_knn") == {"last_n": 3, "decay": 1}
