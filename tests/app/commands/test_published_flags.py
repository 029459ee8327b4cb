"""`groundrec train` with the words of the originals' training scripts, word for word."""

from __future__ import annotations

import json
import re
import shlex
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundrec.app.commands.published_flags import ParsedFlags, parse_flags
from groundrec.app.commands.published_train import recipe_of, write_recipe
from groundrec.core.errors import ConfigError, DataError
from groundrec.core.recipe import Recipe, load_recipe
from groundrec.data.dataset import load
from tests.app.published import write_d3_data
from tests.commands import command

LINE = (
    "--base_model modelscope:skyline2006/llama-7b --train_data_path {train} --val_data_path {valid}"
    " --output_dir {out} --batch_size 128 --micro_batch_size 4 --num_epochs 3 --learning_rate 1e-4"
    " --cutoff_len 512 --lora_r 8 --lora_alpha 16 --lora_dropout 0.05 --lora_target_modules"
    " '[q_proj,v_proj]' --train_on_inputs --group_by_length --resume_from_checkpoint '' --seed 7"
    " --sample 1024"
)
INT, FLOAT, BOOL, TEXT, LIST = "int", "float", "bool", "str", "list"
BOTH = [
    ("base_model", TEXT, ""),
    ("output_dir", TEXT, "./lora-alpaca"),
    ("sample", INT, -1),
    ("seed", INT, 0),
    ("batch_size", INT, 128),
    ("micro_batch_size", INT, 4),
    ("num_epochs", INT, 3),
    ("learning_rate", FLOAT, 3e-4),
    ("cutoff_len", INT, 512),
    ("train_on_inputs", BOOL, True),
    ("group_by_length", BOOL, False),
    ("wandb_project", TEXT, ""),
    ("wandb_run_name", TEXT, ""),
    ("wandb_watch", TEXT, ""),
    ("wandb_log_model", TEXT, ""),
    ("resume_from_checkpoint", TEXT, ""),
]
TABLES: dict[str, list[tuple[str, str, Any]]] = {
    "bigrec": [
        *BOTH,
        ("train_data_path", LIST, [""]),
        ("val_data_path", LIST, [""]),
        ("lora_r", INT, 8),
        ("lora_alpha", INT, 16),
        ("lora_dropout", FLOAT, 0.05),
        ("lora_target_modules", LIST, ["q_proj", "v_proj"]),
    ],
    "d3": [
        *BOTH,
        ("train_file", TEXT, ""),
        ("eval_file", TEXT, ""),
        ("local_rank", INT, 0),
        ("deepspeed", TEXT, "./deepspeed.json"),
        ("category", TEXT, ""),
        ("K", INT, 0),
        ("version", TEXT, "base"),
    ],
}
"""The parameters of both scripts, written down from their signatures."""
TRAINER = {"schedule": "linear", "warmup_steps": 20, "weight_decay": 0.0}
"""What both leave to transformers' Trainer, or give it."""
DIRECT = {
    "batch_size": "batch_size",
    "micro_batch_size": "micro_batch_size",
    "num_epochs": "epochs",
    "learning_rate": "learning_rate",
    "cutoff_len": "cutoff_len",
    "group_by_length": "group_by_length",
    "lora_r": "lora_r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "lora_target_modules": "lora_target_modules",
}
VALUES = {
    "base_model": st.sampled_from(["./llama", "hf:ORG/NAME"]),
    "output_dir": st.sampled_from(["./out/a", "out/b"]),
    "sample": st.sampled_from([-1, 1, 64, 1024]),
    "seed": st.integers(0, 9),
    "batch_size": st.sampled_from([16, 64]),
    "micro_batch_size": st.sampled_from([1, 8]),
    "num_epochs": st.integers(1, 50),
    "learning_rate": st.sampled_from([1e-4, 5e-5, 0.001]),
    "cutoff_len": st.sampled_from([128, 1024]),
    "lora_r": st.sampled_from([4, 64]),
    "lora_alpha": st.sampled_from([8, 32]),
    "lora_dropout": st.sampled_from([0.0, 0.1]),
    "lora_target_modules": st.sampled_from([["q_proj"], ["k_proj", "o_proj"]]),
    "train_on_inputs": st.booleans(),
    "group_by_length": st.booleans(),
    "wandb_project": st.sampled_from(["", "mine"]),
    "wandb_run_name": st.sampled_from(["", "first"]),
    "wandb_watch": st.sampled_from(["", "false", "gradients", "all"]),
    "wandb_log_model": st.sampled_from(["", "false", "true"]),
    "resume_from_checkpoint": st.sampled_from(["", "None", "XXX", "elsewhere/adapters"]),
    "train_data_path": st.just(["data/movie/train.json"]),
    "val_data_path": st.just(["data/movie/valid.json"]),
    "train_file": st.just("train/Books.csv"),
    "eval_file": st.just("valid/Books.csv"),
    "local_rank": st.integers(0, 7),
    "deepspeed": st.just("ds.json"),
    "category": st.sampled_from(["Books", "Video_Games"]),
    "K": st.just(0),
    "version": st.just("base"),
}


def fire_like(arguments: list[str], table: list[tuple[str, str, Any]]) -> dict[str, Any]:
    """Return the parameters that fire would call a function of this table with."""
    found = {name: default for name, _, default in table}
    kinds = {name: kind for name, kind, _ in table}
    rest = list(arguments)
    while rest:
        name, equals, text = rest.pop(0)[2:].partition("=")
        name = name.replace("-", "_")
        if not equals and (not rest or rest[0].startswith("--")):
            if name not in found and name.startswith("no") and name[2:] in found:
                found[name[2:]] = False
            else:
                found[name] = True
            continue
        text = text if equals else rest.pop(0)
        kind = kinds[name]
        if kind == LIST:
            found[name] = re.findall(r"[^\[\]\",' ]+", text)
        elif kind == BOOL:
            found[name] = text == "True"
        else:
            found[name] = {INT: int, FLOAT: float, TEXT: str}[kind](text)
    return found


def expected(script: str, called: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that the script trains with when it is called like this."""
    lora = script == "bigrec"
    found: dict[str, Any] = {
        DIRECT[name]: value for name, value in called.items() if name in DIRECT
    }
    found |= {"method": "lora" if lora else "full", "patience": 5 if lora else 1, **TRAINER}
    # D3's script never hands the word to what encodes its rows.
    found["train_on_inputs"] = called["train_on_inputs"] if lora else False
    sample = called["sample"] if called["sample"] > -1 else None
    found["max_examples"] = sample
    found["validation_queries"] = "all" if lora or sample is None else sample
    found["select"] = "loss"
    path = called["resume_from_checkpoint"]
    found["resume_from"] = Path(path) if path not in ("", "None", "XXX") else None
    return found


def boards(called: dict[str, Any]) -> tuple[str, bool, bool]:
    """Return the board, whether it watches gradients, and whether it gets the model."""
    if not called["wandb_project"]:
        return "none", False, False
    watches = called["wandb_watch"] in ("gradients", "all")
    return "wandb", watches, called["wandb_log_model"] == "true"


@st.composite
def command_lines(draw: st.DrawFn, script: str) -> list[str]:
    """Draw some of a script's words, in any order and any of fire's ways to write them."""
    names = [name for name, *_ in TABLES[script]]
    chosen = draw(st.permutations(draw(st.lists(st.sampled_from(names), unique=True))))
    if "base_model" not in chosen:
        chosen = ["base_model", *chosen]
    words = []
    for name in chosen:
        value = draw(VALUES[name])
        flag = name.replace("_", "-") if draw(st.booleans()) else name
        text = f"[{','.join(value)}]" if isinstance(value, list) else str(value)
        if value is True and draw(st.booleans()):
            words.append([f"--{flag}"])
        elif value is False and draw(st.booleans()):
            words.append([f"--no{name}"])
        elif draw(st.booleans()):
            words.append([f"--{flag}={text}"])
        else:
            words.append([f"--{flag}", text])
    return [word for pair in words for word in pair]


def resolved(words: list[str]) -> tuple[ParsedFlags, Recipe]:
    """Return what the words decide, as a recipe without data."""
    parsed = parse_flags(words)
    texts = [f"{key}={json.dumps(value)}" for key, value in parsed.resolved.items()]
    return parsed, load_recipe(None, texts)[0]


@pytest.mark.parametrize("script", TABLES)
@given(data=st.data())
def test_any_words_in_any_order_are_what_the_scripts_own_parser_reads(
    script: str, data: st.DataObject
) -> None:
    words = data.draw(command_lines(script))
    called = fire_like(words, TABLES[script])
    parsed, recipe = resolved([*words, "--script", script])
    train = recipe.train.model_dump()
    assert {name: train[name] for name in expected(script, called)} == expected(script, called)
    assert (recipe.seed, parsed.out) == (called["seed"], Path(called["output_dir"]))
    assert recipe.model.base_model == called["base_model"]
    assert recipe.model.domain == (called.get("category") or None)
    track = recipe.track
    assert (track.board, track.watch > 0, track.model) == boards(called)
    assert parsed.script.name == script


@pytest.mark.parametrize("script", TABLES)
def test_the_table_of_a_script_is_its_signature(script: str) -> None:
    words = parse_flags(["--base_model", "m", "--script", script]).script.words
    assert dict(words) == {name: default for name, _, default in TABLES[script]}


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the whole command line, with a little data, typed in an own folder."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path, "Film")
    line = LINE.format(
        train=f'["{tmp_path}/train.json"]', valid=tmp_path / "valid.json", out=tmp_path / "out"
    )
    return shlex.split(line.replace(f'["{tmp_path}/train.json"]', f"'[\"{tmp_path}/train.json\"]'"))


def write_rows(folder: Path, name: str, **sizes: int) -> None:
    """Write BIGRec's files into a folder, or those named, of so many rows each."""
    sizes = sizes or {"train": 4, "valid": 4, "test": 4}
    for start, (stem, size) in zip(count(0, 100), sizes.items(), strict=False):
        rows = [
            {
                "instruction": "",
                "input": "They liked: "
                + ", ".join(f'"{item} {name} {item}"' for item in range(n, n + 5)),
                "output": f'"{n + 5} {name} {n + 5}"',
            }
            for n in range(start, start + size)
        ]
        (folder / f"{stem}.json").write_text(json.dumps(rows), encoding="utf-8")


def test_every_word_becomes_its_setting(words: list[str], tmp_path: Path) -> None:
    recipe, _ = load_recipe(write_recipe(parse_flags(words)), [])
    t = recipe.train
    assert recipe.model.base_model == "modelscope:skyline2006/llama-7b"
    assert (t.method, t.lora_r, t.lora_target_modules) == ("lora", 8, ["q_proj", "v_proj"])
    assert (t.epochs, t.learning_rate, t.schedule, t.max_examples) == (3, 1e-4, "linear", 1024)
    assert (recipe.seed, recipe.model.template, recipe.signals) == (7, "auto", [])
    assert recipe.data.dataset
    assert len(load(recipe.data.dataset).train) == 4


def test_a_named_file_is_read_itself(words: list[str], tmp_path: Path) -> None:
    write_rows(tmp_path, "Named", train_50=5, valid_5000=6, test_5000=7)
    named = ["--train_data_path", '["train_50.json"]', "--val_data_path", "valid_5000.json"]
    (asked,) = parse_flags([*words, *named, "--test_data_path", "test_5000.json"]).data
    dataset = load(asked.import_once())
    assert [len(dataset.train), len(dataset.valid), len(dataset.test)] == [5, 6, 7]
    assert all("Named" in title for title in dataset.catalogue.titles)


def test_rows_in_two_splits_are_trained_on_where_asked(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "valid.json").write_bytes((tmp_path / "train.json").read_bytes())
    (refused,) = parse_flags(words).data
    with pytest.raises(DataError, match="--allow-leaks"):
        refused.import_once()
    (asked,) = parse_flags([*words, "--allow-leaks"]).data
    assert load(asked.import_once()).card["leakage"]
    with pytest.raises(DataError):
        refused.import_once()


def test_d3s_named_files_are_read_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_d3_data(Path("data"), "Books_5_2017-10-2018-11", train=9, valid=5, test=5)
    write_d3_data(Path("data"), "Books_9_2017-10-2018-11", train=7, valid=4, test=3)
    line = "--base_model m --train_file data/train/Books_9_2017-10-2018-11.csv"
    (asked,) = parse_flags(line.split()).data
    dataset = load(asked.import_once())
    assert [len(dataset.train), len(dataset.valid), len(dataset.test)] == [7, 4, 3]
    other = "--eval_file data/valid/Books_5_2017-10-2018-11.csv"
    (asked,) = parse_flags(f"{line} {other}".split()).data
    assert len(load(asked.import_once()).valid) == 5
    assert recipe_of(parse_flags(line.split()), [])[0].model.domain == "Books"


def test_the_dry_run_shows_them_and_writes_nothing(words: list[str], tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    found = command("train", *words, "--dry-run", width=200)
    assert (found.code, "skyline2006" in found.out) == (0, True), found.err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("--input_dir out", "groundrec explain input_dir"),
        ("--num_epoch 3", "num_epochs"),
        ("--val_data_path ['no.json','b.json']", "file not found: --val_data_path no.json"),
        ("--train_data_path ['train.json','valid.json']", "several domains"),
        ("--version base", "BIGRec's train.py or D3's"),
        ("--train_data_path train.csv", "BIGRec's train.py or D3's"),
        ("--script d4", "no such script"),
        ("--script bigrec --version base", "D3's train.py has"),
        ("--sample few", "a whole number"),
        ("--wandb_watch often", "gradients, all"),
        ("--base_model None", "no model"),
        ("three", "--flag value"),
    ],
)
def test_a_word_that_cannot_be_meant_says_what_to_do(
    words: list[str], more: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        _ = parse_flags([*words, *more.split()] if more != "three" else [more, *words]).data


def test_k_of_the_training_script_is_not_the_k_core() -> None:
    assert "prepare.k_core" not in parse_flags(["--base_model", "m", "--K", "0"]).resolved
    with pytest.raises(ConfigError, match="not the k-core"):
        parse_flags(["--base_model", "m", "--K", "5"])


def test_words_that_launchers_add_tell_no_script_apart(words: list[str]) -> None:
    assert parse_flags([*words, "--local-rank=1"]).script.name == "bigrec"


def test_d3s_script_trains_adapters_where_asked(words: list[str]) -> None:
    _, recipe = resolved(["--base_model", "m", "--script", "d3", "--lora_r", "4"])
    assert (recipe.train.method, recipe.train.lora_r, recipe.train.patience) == ("lora", 4, 1)


def test_a_list_of_one_is_its_word(words: list[str], tmp_path: Path) -> None:
    _, recipe = resolved(
        [*words, "--base_model", '["./llama"]', "--lora-target-modules=all-linear"]
    )
    assert recipe.model.base_model == "./llama"
    assert recipe.train.lora_target_modules == "all-linear"


def test_what_to_resume_is_told_by_value(words: list[str], tmp_path: Path) -> None:
    for nothing in ("", "None", "False", "XXX"):
        asked = parse_flags([*words, "--resume_from_checkpoint", nothing])
        assert (asked.checkpoint, asked.is_elsewhere) == ("", False)
    for own in ("True", f"{tmp_path}/out", f"{tmp_path}/out/train/checkpoints/checkpoint-5"):
        asked = parse_flags([*words, f"--resume_from_checkpoint={own}", "--sample=-1"])
        assert asked.checkpoint
        assert "train.resume_from" not in asked.resolved
    assert "train.max_examples" not in asked.resolved
    asked = parse_flags([*words, "--resume_from_checkpoint", f"{tmp_path}/adapters"])
    assert asked.resolved["train.resume_from"] == f"{tmp_path}/adapters"


def of_domains(words: list[str], folder: Path, *names: str) -> list[str]:
    """Return the command line for the data of these domains, each with a folder of its own."""
    for name in names:
        (folder / name).mkdir()
        write_rows(folder / name, name.title())
    lists = {
        s: json.dumps([f"{folder}/{name}/{s}.json" for name in names]) for s in ("train", "valid")
    }
    return [*words, "--train_data_path", lists["train"], "--val_data_path", lists["valid"]]


def test_several_files_are_several_domains_each_imported(words: list[str], tmp_path: Path) -> None:
    asked = parse_flags(of_domains(words, tmp_path, "movie", "game", "my wares"))
    recipe, _ = load_recipe(write_recipe(asked), [])
    assert (recipe.model.domain, recipe.train.max_examples) == ("movie", 1024)
    assert list(recipe.train.extra_datasets) == ["game", "my_wares"]
    assert recipe.data.dataset
    places = [recipe.data.dataset, *recipe.train.extra_datasets.values()]
    titles = [load(place).catalogue.titles for place in places]
    assert [t[0] for t in titles] == ["0 Movie 0", "0 Game 0", "0 My Wares 0"]


def test_their_dry_run_shows_each_domain_and_writes_nothing(
    words: list[str], tmp_path: Path
) -> None:
    lines = of_domains(words, tmp_path, "movie", "game")
    before = sorted(tmp_path.iterdir())
    found = command("train", *lines, "--dry-run", width=250)
    assert found.code == 0, found.err
    assert [line.split()[1] for line in found.out.splitlines() if "not there yet" in line] == [
        "movie",
        "game",
    ]
    assert sorted(tmp_path.iterdir()) == before


def test_a_domain_whose_validation_is_left_out_is_refused(words: list[str], tmp_path: Path) -> None:
    both = of_domains(words, tmp_path, "movie", "game")
    with pytest.raises(ConfigError, match="one each"):
        _ = parse_flags([*both, "--val_data_path", f"{tmp_path}/movie/valid.json"]).data
