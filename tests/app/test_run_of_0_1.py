"""A run directory that version 0.1 made is opened, resumed, compared and answers.

It is built from a run of today by the layout of that version: other folders, other names of
settings, and inputs that held whole sections.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from groundrec.core.aliases import NAMES, VALUES
from groundrec.core.files import digest, read_json, write_json
from tests.app.conftest import FILMS, Tiny, slate_bytes, title
from tests.app.test_run import stage_lines
from tests.commands import command

FOLDERS = {
    "prepare": "dataset",
    "train": "model",
    "recommend/valid": "slates/valid",
    "recommend/test": "slates/test",
    "fuse": "fusion",
    "evaluate": "eval",
}
MEANS = ("methods", "memory_limit", "engine", "workers")
"""Settings of [recommend] that inputs did not hold."""

SIGNAL_SECTIONS = ("sequential", "neighbours", "co_occurrence", "popularity", "external")
NEW = ("answers", "objective")
"""Sections that did not exist."""


def old_names(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under the names and values of version 0.1."""
    former = {new: old for old, new in NAMES.items()}
    values = {(name, new): old for name, olds in VALUES.items() for old, new in olds.items()}
    found: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        old = former.get(name, name).rpartition(".")[2]
        if isinstance(value, dict):
            value = old_names(value, f"{name}.")
        found[old] = values.get((name, value), value) if isinstance(value, str) else value
    return found


def old_inputs(step: str, config: dict[str, Any], run: Path) -> dict[str, Any]:
    """Return what version 0.1 recorded as inputs of a step, given its configuration."""

    def sections(*names: str) -> dict[str, Any]:
        found = {name: config[name] for name in names}
        if "recommend" in found:
            kept = config["recommend"].items()
            found["recommend"] = {key: value for key, value in kept if key not in MEANS}
        return {"seed": config["seed"], **json.loads(json.dumps(found))}

    def fingerprints(*steps: str) -> dict[str, str]:
        return {FOLDERS.get(s, s): fingerprint(FOLDERS.get(s, s), run) for s in steps}

    now = read_json(run / step / "manifest.json")["inputs"]
    dataset = {"dataset": now.get("dataset")}
    ranked = [s for s in FOLDERS if s.startswith("recommend/")]
    ranked += [f"signals/{name}" for name in config["signals"]]
    if step == "prepare":
        return {**sections("data", "prepare"), "files": now["files"]}
    if step.startswith("signals/"):
        return {**dataset, **sections(*SIGNAL_SECTIONS)}
    if step == "train":
        found = {**dataset, "template": now["template"], **sections("model", "train")}
        found["train"].pop("also")
        return {**found, "base": now["base"]}
    if step.startswith("recommend/"):
        cutoff = {"cutoff_len": config["train"]["cutoff_len"], "lists": []}
        return {**fingerprints("train"), **cutoff, **sections("recommend")}
    if step == "fuse":
        return {**fingerprints(*ranked), **sections("fuse", "recommend")}
    return {**fingerprints("fuse", *ranked), **sections("evaluate", "signals")}


def fingerprint(folder: str, run: Path) -> str:
    return read_json(run / folder / "manifest.json")["fingerprint"]


@pytest.fixture
def old_run(tiny: Tiny, tmp_path: Path) -> Path:
    """Return a finished run in the layout of version 0.1."""
    run = tmp_path / "run"
    shutil.copytree(tiny.run, run)
    config = read_json(run / "config.json")
    config = old_names({key: value for key, value in config.items() if key not in NEW})
    config["model"]["template"] = "list"  # what `auto` stands for here; it did not exist
    write_json(run / "config.json", config)
    signals = [f"signals/{name}" for name in config["signals"]]
    order = ["prepare", *signals, "train", "recommend/valid", "recommend/test", "fuse", "evaluate"]
    for step in order:
        folder = FOLDERS.get(step, step)
        inputs = old_inputs(step, config, run)
        manifest = read_json(run / step / "manifest.json")
        manifest |= {"stage": folder, "inputs": inputs, "fingerprint": digest(folder, inputs)}
        (run / folder).parent.mkdir(exist_ok=True)
        if folder != step:
            (run / step).rename(run / folder)
        write_json(run / folder / "inputs.json", inputs)
        write_json(run / folder / "manifest.json", manifest)
    (run / "recommend").rmdir()
    return run


def resumed(recipe: Path, run: Path, *arguments: str) -> dict[str, str]:
    """Return what is said of each step when the run is resumed."""
    words = [word for argument in arguments for word in ("--set", argument)]
    result = command("run", recipe, "--run-dir", run, "--if-exists", "resume", *words)
    assert result.code == 0, result.err
    return stage_lines(result.err)


def test_resumed_with_its_settings_it_skips_every_step(old_run: Path, tiny: Tiny) -> None:
    files = {p: p.read_bytes() for p in old_run.rglob("*.parquet")}
    lines = resumed(tiny.recipe, old_run)
    assert len(lines) == 10
    assert all(line.startswith("skipped") for line in lines.values()), lines
    assert {p: p.read_bytes() for p in old_run.rglob("*.parquet")} == files


def test_a_recipe_under_the_old_names_skips_every_step_too(old_run: Path, tiny: Tiny) -> None:
    recipe = old_run.parent / "old.toml"
    text = tiny.recipe.read_text(encoding="utf-8")
    for new, old in (
        ('loss_on = "branching"', 'learn = "choices"'),
        ('mode = "exhaustive"', 'mode = "all"'),
        ("example_users", "people"),
    ):
        assert new in text
        text = text.replace(new, old)
    recipe.write_text(text, encoding="utf-8")
    lines = resumed(recipe, old_run)
    assert all(line.startswith("skipped") for line in lines.values()), lines


def test_a_changed_setting_redoes_what_it_affects_in_folders_of_today(
    old_run: Path, tiny: Tiny, tmp_path: Path
) -> None:
    before = slate_bytes(tiny.run)
    lines = resumed(tiny.recipe, old_run, "recommend.score=full")
    redone = [step for step, line in lines.items() if not line.startswith("skipped")]
    assert redone == ["recommend/valid", "recommend/test", "fuse", "evaluate"]
    assert lines["recommend/test"] == (
        "redone, because recommend.score was renormalised and is full"
    )
    assert not list((old_run / "slates").rglob("*.parquet"))
    assert not (old_run / "fusion").exists()
    resumed(tiny.recipe, old_run)
    assert slate_bytes(old_run) == before


def test_it_is_compared_listed_and_described(old_run: Path, tiny: Tiny) -> None:
    both = command("runs", "compare", tiny.run, old_run, "--json")
    assert both.code == 0, both.err
    rows = json.loads(both.out)["rows"]
    assert rows[0]["metrics"] == rows[1]["metrics"]
    assert command("compare", old_run).code == 0
    state = json.loads(command("runs", "show", old_run, "--json").out)
    assert state["state"] == "finished"
    cards = [command("card", run, "--json") for run in (old_run, tiny.run)]
    assert cards[0].code == 0, cards[0].err
    told, expected = (json.loads(card.out) for card in cards)
    assert "/model/" in told["title_lengths"].pop("unit")
    assert "/train/" in expected["title_lengths"].pop("unit")
    assert told == expected


def test_it_answers_and_can_be_trained_from(old_run: Path, tiny: Tiny, tmp_path: Path) -> None:
    history = [title(film) for film in range(3, 8)]
    answers = [
        command("recommend", run, *history, "-k", 3, "--json") for run in (old_run, tiny.run)
    ]
    assert answers[0].code == 0, answers[0].err
    assert answers[0].out == answers[1].out
    assert FILMS > 8
    more = command(
        *("run", tiny.recipe, "--run-dir", tmp_path / "more", "--until", "train"),
        *("--set", f"train.resume_from={old_run}", "--set", "train.epochs=13"),
    )
    assert more.code == 0, more.err


def test_its_data_set_is_not_replaced(old_run: Path, tiny: Tiny) -> None:
    refused = command(
        *("run", tiny.recipe, "--run-dir", old_run, "--if-exists", "resume"),
        *("--set", "prepare.k_core=2"),
    )
    assert refused.code == 2
    assert "prepare.k_core was 0 and is 2" in refused.err
