"""The published settings, two optimiser steps of each on a tiny model of the architecture they
name.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

import groundrec
from groundrec.app.stages.names import title
from groundrec.core.recipe import load_recipe
from groundrec.text.tokens import train_tokenizer
from tests.commands import command
from tests.data.amazon import WORDS, Shape, write_amazon

RECIPES = Path(groundrec.__file__).parent / "recipes"
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "intermediate_size": 32,
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads"), 2),
}
SHORT = (
    *(
        "train.max_examples=8",
        "train.batch_size=4",
        "train.micro_batch_size=2",
        "train.epochs=1",
        "evaluate.bootstrap=20",
    ),
    *(
        "recommend.valid_queries=4",
        "recommend.test_queries=4",
        "sequential.epochs=1",
        "sequential.hidden=8",
    ),
)


def write_model(folder: Path, kind: type[PreTrainedModel]) -> Path:
    """Write random weights of an architecture, with a tokenizer that knows the made-up titles'
    words.
    """
    tokenizer = train_tokenizer([" ".join(WORDS)] * 3, 400)
    shape = (LlamaConfig if kind is LlamaForCausalLM else Qwen2Config)(
        vocab_size=len(tokenizer), **SMALL
    )
    kind(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_movielens(folder: Path) -> Path:
    """Write forty people's ratings of sixty films in the layout of MovieLens-10M."""
    folder.mkdir()
    rng = random.Random(0)
    films = [
        f"{film}::The {rng.choice(WORDS)} {rng.choice(WORDS)} {film} (1990)::Drama"
        for film in range(60)
    ]
    (folder / "movies.dat").write_text("\n".join(films) + "\n", encoding="iso-8859-1")
    rows = [
        f"{user}::{film}::{rng.choice([2, 3.5, 5])}::{10**9 + step * 86400 + user * 60}"
        for user in range(40)
        for step, film in enumerate(rng.sample(range(60), 16))
    ]
    (folder / "ratings.dat").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def done(recipe: str, run: Path, *settings: str) -> dict[str, object]:
    """Return the metrics of every method of a run that took two steps."""
    overrides = [word for setting in (*SHORT, *settings) for word in ("--set", setting)]
    result = command("run", RECIPES / recipe, "--run-dir", run, *overrides)
    assert result.code == 0, result.err
    said = [
        json.loads(line)
        for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert max(row.get("step", 0) for row in said if row["stage"] == "train") == 2
    return json.loads((run / "evaluate" / "test.json").read_text(encoding="utf-8"))["methods"]


SEARCHES = {"baseline", "d3", "temperature", "without-assistant"}
"""What the other recipes of D3 change is the category or the model."""


def of_d3() -> list[Any]:
    names = sorted(path.stem for path in (RECIPES / "d3").iterdir())
    return [
        pytest.param(name, marks=[] if name in SEARCHES else [pytest.mark.slow]) for name in names
    ]


@pytest.mark.parametrize("name", of_d3())
def test_d3(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(RECIPES / "d3" / f"{name}.toml")[0]
    category = recipe.data.category or ""
    write_amazon(tmp_path, category, Shape(users=60, items=40, reviews=900))
    model = write_model(tmp_path / "qwen", Qwen2ForCausalLM)
    places = f"data.path={tmp_path}", f"model.base_model={model}"
    methods = done(f"d3/{name}.toml", tmp_path / "run", *places, "prepare.d3.min_items=1")
    assert title(recipe, "search") in methods
    assert ("assistant" in title(recipe, "search")) == (recipe.recommend.assistant is not None)


@pytest.mark.parametrize("name", ["movie", "game"])
def test_bigrec(name: str, tmp_path: Path) -> None:
    model = write_model(tmp_path / "llama", LlamaForCausalLM)
    if name == "game":
        write_amazon(tmp_path / "ml", "Video_Games", Shape(users=200, items=60, reviews=3000))
    else:
        write_movielens(tmp_path / "ml")
    places = f"data.path={tmp_path / 'ml'}", f"model.base_model={model}"
    methods = done(f"bigrec/{name}.toml", tmp_path / "run", *places, "ground.max_new_tokens=8")
    assert "grounded" in methods


def test_bigrec_on_two_domains(tmp_path: Path) -> None:
    """What the first recipe trains on both ranks films there, and games under the second."""
    model, games = write_model(tmp_path / "llama", LlamaForCausalLM), tmp_path / "games"
    write_amazon(tmp_path / "amazon", "Video_Games", Shape(users=200, items=60, reviews=3000))
    write_movielens(tmp_path / "ml")
    options = ("--category", "Video_Games", "--protocol", "bigrec-game", "--out", games)
    assert command("prepare", "amazon", "--path", tmp_path / "amazon", *options).code == 0
    common = f"model.base_model={model}", "ground.max_new_tokens=8"
    trained, ranked = tmp_path / "multi", tmp_path / "multi-game"
    settings = (
        f"data.path={tmp_path / 'ml'}",
        f"train.extra_datasets.game={games}",
        "train.max_examples=4",
    )
    assert "grounded" in done("bigrec/multi.toml", trained, *common, *settings)
    settings = *common, f"data.path={tmp_path / 'amazon'}", f"train.resume_from={trained}"
    overrides = [word for setting in (*SHORT, *settings) for word in ("--set", setting)]
    result = command("run", RECIPES / "bigrec/multi-game.toml", "--run-dir", ranked, *overrides)
    assert result.code == 0, result.err
    assert (
        "grounded"
        in json.loads((ranked / "evaluate" / "test.json").read_text(encoding="utf-8"))["methods"]
    )
    inputs, domains = (
        json.loads((run / "train" / "manifest.json").read_text())["inputs"]
        for run in (ranked, trained)
    )
    assert inputs["dataset"] == domains["domains"]["game"]["dataset"]
    assert inputs["template"] == domains["domains"]["game"]["template"] != domains["template"]
    one, other = (
        load_file(run / "train" / "adapter_model.safetensors") for run in (ranked, trained)
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(one[name].any() for name in one if "lora_B" in name), "something was learned"


def named_settings() -> list[tuple[Path, str]]:
    """Return every setting that the description of a published recipe names, with each of its
    values.
    """
    found = []
    for path in sorted(p for folder in ("d3", "bigrec") for p in (RECIPES / folder).iterdir()):
        for key, values in re.findall(r"--set ([\w.]+)=(.*)", load_recipe(path)[0].about):
            words = [value for value in values.split(", ") if not value.startswith("or ")]
            found += [(path, f"{key}={value}") for value in words]
    return found


@pytest.mark.parametrize(("path", "setting"), named_settings(), ids=lambda x: getattr(x, "stem", x))
def test_what_a_description_says_can_be_set_can_be_set(path: Path, setting: str) -> None:
    assert load_recipe(path, [setting])[0] != load_recipe(path)[0]
