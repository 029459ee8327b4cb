"""`groundrec train`: the originals' command line, word for word."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from groundrec.app.commands.published_flags import parse_flags, write_recipe
from groundrec.core.errors import ConfigError
from groundrec.core.recipe import load_recipe
from groundrec.data.dataset import load
from tests.commands import command

LINE = (
    "--base_model modelscope:skyline2006/llama-7b --train_data_path {train} --val_data_path {valid}"
    " --output_dir {out} --batch_size 128 --micro_batch_size 4 --num_epochs 3 --learning_rate 1e-4"
    " --cutoff_len 512 --lora_r 8 --lora_alpha 16 --lora_dropout 0.05 --lora_target_modules"
    " '[q_proj,v_proj]' --train_on_inputs --group_by_length --resume_from_checkpoint '' --seed 7"
    " --sample 1024"
)


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Return the whole command line, with a little data."""
    for split in ("train", "valid", "test"):
        rows = [
            {"instruction": "", "input": f'They liked: "Film {n}"', "output": f'"Film {n + 1}"'}
            for n in range(4)
        ]
        (tmp_path / f"{split}.json").write_text(json.dumps(rows))
    line = LINE.format(
        train=f'["{tmp_path}/train.json"]', valid=tmp_path / "valid.json", out=tmp_path / "out"
    )
    return shlex.split(line.replace(f'["{tmp_path}/train.json"]', f"'[\"{tmp_path}/train.json\"]'"))


def test_every_word_becomes_its_setting(words: list[str], tmp_path: Path) -> None:
    recipe, _ = load_recipe(write_recipe(parse_flags(words)), [])
    t = recipe.train
    assert recipe.model.base_model == "modelscope:skyline2006/llama-7b"
    assert (t.batch_size, t.micro_batch_size, t.epochs, t.learning_rate, t.cutoff_len) == (
        128,
        4,
        3,
        1e-4,
        512,
    )
    assert (t.method, t.lora_r, t.lora_alpha, t.lora_dropout) == ("lora", 8, 16, 0.05)
    assert (t.lora_target_modules, t.train_on_inputs, t.max_examples) == (
        ["q_proj", "v_proj"],
        True,
        1024,
    )
    assert (recipe.seed, recipe.model.template, recipe.signals) == (7, "auto", [])
    assert len(load(tmp_path / "out-data").train) == 4


def test_the_dry_run_shows_them_and_writes_nothing(words: list[str], tmp_path: Path) -> None:
    found = command("train", *words, "--dry-run", width=200)
    assert (found.code, "skyline2006" in found.out, (tmp_path / "out-data").exists()) == (
        0,
        True,
        False,
    )


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("--input_dir out", "groundrec explain input_dir"),
        ("--num_epoch 3", "num_epochs"),
        ("--val_data_path ['a.json','b.json']", "files of one folder"),
        ("--train_data_path ['a.json','b.json']", "several domains"),
        ("--train_data_path ['m/train/a.csv','g/train/a.csv']", "one file of D3"),
        ("three", "--flag value"),
    ],
)
def test_a_word_without_a_setting_says_what_to_do(words: list[str], more: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_flags([*words, *more.split()] if more != "three" else [more, *words])


def test_resuming_and_all_examples_are_told_by_value(words: list[str], tmp_path: Path) -> None:
    assert not parse_flags(words).resume
    for own in ("True", f"{tmp_path}/out", f"{tmp_path}/out/model/checkpoints/checkpoint-5"):
        asked = parse_flags([*words, f"--resume_from_checkpoint={own}", "--sample=-1"])
        assert asked.resume
        assert "train.resume_from" not in asked.settings
    assert "train.max_examples" not in asked.settings
    asked = parse_flags([*words, "--resume_from_checkpoint", f"{tmp_path}/adapters"])
    assert (asked.resume, asked.settings["train.resume_from"]) == (False, f'"{tmp_path}/adapters"')


def of_domains(words: list[str], folder: Path, *names: str) -> list[str]:
    """Return the command line for the data of these domains, each with a folder of its own."""
    for name in names:
        (folder / name).mkdir()
        for split in ("train", "valid", "test"):
            text = (folder / f"{split}.json").read_text().replace("Film", name.title())
            (folder / name / f"{split}.json").write_text(text)
    lists = {
        s: json.dumps([f"{folder}/{name}/{s}.json" for name in names]) for s in ("train", "valid")
    }
    return [*words, "--train_data_path", lists["train"], "--val_data_path", lists["valid"]]


def test_several_files_are_several_domains_each_imported(words: list[str], tmp_path: Path) -> None:
    asked = parse_flags(of_domains(words, tmp_path, "movie", "game", "my wares"))
    recipe, _ = load_recipe(write_recipe(asked), [])
    assert (recipe.model.domain, recipe.train.max_examples) == ("movie", 1024)
    assert recipe.data.dataset == tmp_path / "out-data"
    assert recipe.train.extra_datasets == {
        name: tmp_path / f"out-data-{name}" for name in ("game", "my_wares")
    }
    places = [recipe.data.dataset, *recipe.train.extra_datasets.values()]
    titles = [load(place).catalogue.titles for place in places]
    assert [t[0] for t in titles] == ["Movie 0", "Game 0", "My Wares 0"]


def test_their_dry_run_shows_each_domain_and_writes_nothing(
    words: list[str], tmp_path: Path
) -> None:
    found = command("train", *of_domains(words, tmp_path, "movie", "game"), "--dry-run", width=250)
    assert found.code == 0
    assert [line.split()[1] for line in found.out.splitlines() if "not there yet" in line] == [
        "movie",
        "game",
    ]
    assert not list(tmp_path.glob("out*"))


def test_a_domain_whose_validation_is_left_out_is_refused(words: list[str], tmp_path: Path) -> None:
    both = of_domains(words, tmp_path, "movie", "game")
    with pytest.raises(ConfigError, match="files of one folder"):
        parse_flags([*both, "--val_data_path", f"{tmp_path}/movie/valid.json"])
