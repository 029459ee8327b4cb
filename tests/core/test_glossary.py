"""Every setting has its texts in both languages, and is found by every name it is known by."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest

from groundrec.core import glossary
from groundrec.core.errors import ConfigError
from groundrec.core.glossary import (
    FOLDER,
    ORIGINALS,
    REQUIRED,
    entries,
    find,
    flags,
    text_file,
    texts_of,
)
from groundrec.core.recipe import Recipe, settings

SETTINGS = [setting for setting, *_ in settings(Recipe())]
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def location(setting: str) -> str:
    """Return where the texts of a setting belong."""
    file, keys = text_file(setting), setting.split(".")
    return f"src/groundrec/core/words/{file.name}: [{'.'.join(keys[1:] or keys)}]"


def lacking(setting: str) -> list[str]:
    """Return what the texts of a setting lack."""
    texts = texts_of(setting)
    lacks = [key for key in REQUIRED if not str(texts.get(key, "")).strip()]
    return lacks + [
        f"Chinese in {key}"
        for key in ("zh", "zh_cost")
        if key not in lacks and not CHINESE.search(texts[key])
    ]


def test_every_setting_has_its_texts() -> None:
    found = [
        f"{location(setting)} lacks {', '.join(lacks)}"
        for setting in SETTINGS
        if (lacks := lacking(setting))
    ]
    assert not found, "\n" + "\n".join(found)


def test_a_missing_text_is_reported_with_its_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        glossary,
        "_read",
        lambda _: {"d3": {"st_year": {"cost": "None.", "zh": "year", "zh_cost": "无"}}},
    )
    glossary.texts_of.cache_clear()
    try:
        assert (
            location("prepare.d3.st_year") == "src/groundrec/core/words/prepare.toml: [d3.st_year]"
        )
        assert lacking("prepare.d3.st_year") == ["Chinese in zh"]
        assert lacking("prepare.d3.ed_year") == ["cost", "zh", "zh_cost"]
        assert location("seed") == "src/groundrec/core/words/recipe.toml: [seed]"
    finally:
        glossary.texts_of.cache_clear()


def leaves(node: dict[str, Any], prefix: str) -> list[str]:
    """Return the settings that a file has texts for."""
    if REQUIRED[0] in node and isinstance(node[REQUIRED[0]], str):
        return [prefix]
    return [
        leaf
        for name, inner in node.items()
        for leaf in leaves(inner, f"{prefix}.{name}" if prefix else name)
    ]


def test_there_are_no_texts_for_settings_that_do_not_exist() -> None:
    files = [file for file in FOLDER.glob("*.toml") if file.stem != ORIGINALS]
    read = [(file.stem, tomllib.loads(file.read_text(encoding="utf-8"))) for file in files]
    there = [leaf for name, node in read for leaf in leaves(node, "" if name == "recipe" else name)]
    assert set(there) - set(SETTINGS) == set()
    known = {*REQUIRED, "called"}
    assert {setting: extra for setting in there if (extra := set(texts_of(setting)) - known)} == {}


def test_english_texts_hold_no_chinese_and_the_two_differ() -> None:
    for en, zh in zip(entries("en"), entries("zh"), strict=True):
        assert not CHINESE.search(en.meaning + en.cost + en.accepted), en.setting
        assert en.setting == zh.setting
        assert en.meaning != zh.meaning


def test_settings_named_in_the_texts_exist() -> None:
    sections = {setting.partition(".")[0] for setting in SETTINGS if "." in setting}
    for entry in [*entries("en"), *entries("zh")]:
        named = re.findall(r"`([a-z_]+\.[a-z_.]+)`", entry.meaning + entry.cost)
        mine = [name for name in named if name.partition(".")[0] in sections]
        assert set(mine) <= {*SETTINGS}, entry.setting


def test_flags_refer_to_existing_settings_and_are_none_themselves() -> None:
    called = {name for setting in SETTINGS for name in texts_of(setting).get("called", {})}
    for flag in flags("en"):
        assert set(flag.see) <= set(SETTINGS)
        assert flag.name not in called
        assert find(flag.name)[1] == [flag.name]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("cutoff_len", ["train.cutoff_len"]),
        ("--cutoff-len", ["train.cutoff_len"]),
        ("num_epochs", ["train.epochs"]),
        ("sample", ["train.max_examples"]),
        ("logits_file", ["external.path", "recommend.assistant", "fuse.signals"]),
        ("K", ["prepare.k_core"]),
        ("k", ["recommend.k"]),
        ("ST_YEAR", ["prepare.d3.st_year"]),
        ("val_set_size", ["prepare.valid_share", "recommend.valid_queries"]),
        ("epochs", ["train.epochs", "sequential.epochs"]),
        ("signals", ["signals"]),
        ("fuse.signals", ["fuse.signals"]),
        ("item_knn", ["item_knn.last_n", "item_knn.decay", "item_knn.smoothing"]),
        ("neighbours", ["item_knn.last_n", "item_knn.decay", "item_knn.smoothing"]),
        ("neighbours.last", ["item_knn.last_n"]),
        ("train.also", ["train.extra_datasets"]),
        ("also", ["train.extra_datasets"]),
        ("popularity", ["recent_popularity.days"]),
    ],
)
def test_a_setting_is_found_by_its_names(word: str, expected: list[str]) -> None:
    assert find(word)[0] == expected


ALPACA_LORA = (
    "base_model data_path output_dir batch_size micro_batch_size num_epochs learning_rate"
    " cutoff_len val_set_size lora_r lora_alpha lora_dropout lora_target_modules train_on_inputs"
    " add_eos_token group_by_length resume_from_checkpoint prompt_template_name"
)
BIGREC = (
    "train_data_path val_data_path sample seed lora_weights test_data_path result_json_data"
    " num_beams input_dir"
)
D3 = (
    "train_file eval_file info_file category logits_file K temperature guidance_scale"
    " length_penalty st_year st_month ed_year ed_month local_rank deepspeed version"
    " wandb_project wandb_run_name wandb_watch wandb_log_model"
)


@pytest.mark.parametrize("word", f"{ALPACA_LORA} {BIGREC} {D3}".split())
def test_every_published_flag_that_decides_a_result_is_known(word: str) -> None:
    assert sum(map(len, find(word))) > 0


@pytest.mark.parametrize(
    ("word", "meant"),
    [("cuttof_len", "cutoff_len"), ("num_epoch", "num_epochs"), ("beam", "beams")],
)
def test_a_misspelled_name_gets_the_closest_one_suggested(word: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean '{meant}'"):
        find(word)


def test_accepted_values_are_stated() -> None:
    en, zh = ({entry.setting: entry.accepted for entry in entries(lang)} for lang in ("en", "zh"))
    assert en["prepare.d3.st_month"] == "an integer, at least 1, at most 12"
    assert zh["prepare.d3.st_month"] == "整数，不小于 1，不大于 12"
    assert en["prepare.bad_rows"] == "`fail`, `quarantine`"
    assert en["train.lora_target_modules"] == "a list, or `all-linear`"
    assert en["recommend.alpha"] == "a number, at least 0, at most 1, or unset"
    assert zh["data.path"] == "路径，或文本，或不填"
