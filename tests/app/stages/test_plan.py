"""What a changed setting redoes is what the setting declares, for every setting there is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from groundrec.app.stages.made_from import COMMON, Finished
from groundrec.app.stages.plan import plan
from groundrec.app.stages.stages import STAGES
from groundrec.core.affects import STAGES as STAGE_NAMES
from groundrec.core.affects import affected, declared
from groundrec.core.files import write_json
from groundrec.core.inputs import Outcome
from groundrec.core.recipe import Recipe
from groundrec.core.registry import BUILT_IN, resolve
from groundrec.core.runs import Run
from groundrec.rank.groundings import find_grounding
from tests.app.conftest import Tiny
from tests.commands import command

BASE = {
    "signals": sorted(BUILT_IN["signals"]),
    "recommend.methods": ["search", "ground"],
    "recommend.assistant": "gru4rec",
    "ground.weights": "tuned",
}
"""A recipe in which every built-in signal and grounding takes part."""

LISTS = {
    "signals": ["popularity", "item-knn", "co-occurrence", "sasrec", "gru4rec"],
    "lora_target_modules": ["k_proj"],
    "evaluate.ks": [1, 10],
    "recommend.methods": ["search"],
    "fuse.signals": ["sasrec"],
    "fuse.kinds": ["z-score"],
    "external.rows": ["test"],
    "train.lora_target_modules": ["k_proj"],
}
TEXTS = {
    "data.source": "recbole",
    "data.sha256": "0" * 64,
    "data.items_sha256": "0" * 64,
    "data.columns": {"item": "asin"},
    "prepare.protocol": "leave-one-out",
    "prepare.engine": "spark",
    "prepare.memory_limit": "2GB",
    "prepare.min_rating": 3.0,
    "prepare.max_history": 7,
    "prepare.like_above": 4.0,
    "model.base_model": "elsewhere",
    "model.template": "d3",
    "model.instruction": 1,
    "model.domain": "game",
    "answers.kind": "mine",
    "objective.kind": "mine",
    "train.max_examples": 7,
    "recommend.memory_limit": "2GB",
    "recommend.workers": 2,
    "recommend.assistant": "sasrec",
    "recommend.alpha": 0.5,
    "recommend.test_queries": 10,
    "fuse.metric": "hr@10",
}
BESIDE = {
    "prepare.like_above": {"prepare.protocol": "bigrec-movie"},
    "model.domain": {"model.template": "bigrec", "model.domain": "movie"},
    "model.instruction": {"model.template": "d3"},
    "train.method": {"model.base_model": "elsewhere"},
    "train.average": {"train.patience": 0},
    "train.tree_attention": {"train.packing": "tree"},
    "train.loss_on": {"recommend.methods": ["search"]},
    "recommend.workers": {"recommend.engine": "ray"},
    "ground.weights": {"model.base_model": "elsewhere"},
    "recommend.mode": {"recommend.beams": 60},
    "track.watch": {"track.board": "tensorboard"},
    "track.model": {"track.board": "wandb"},
}
"""Settings without which another one may not be changed: before and after."""

NONE = {
    *("name", "about", "prepare.engine", "prepare.memory_limit"),
    *("train.gradient_checkpointing", "train.tree_attention"),
    *("recommend.tokens_per_pass", "recommend.batch_size", "recommend.memory_limit"),
    *("recommend.shard_size", "recommend.engine", "recommend.workers"),
    *("track.board", "track.mode", "track.project", "track.watch", "track.model"),
}


def other_value(setting: str, value: Any, schema: dict[str, Any]) -> Any:
    """Return another value that the schema accepts for a setting."""
    known = {**LISTS, **TEXTS}
    if setting in known:
        return known[setting]
    if "enum" in schema:
        return next(one for one in schema["enum"] if one != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1 if value + 1 <= schema.get("maximum", value + 1) else value - 1
    if isinstance(value, float):
        return value / 2 if value else 0.25
    return "another"


def schema_of(setting: str) -> dict[str, Any]:
    whole = Recipe.model_json_schema()
    node = whole
    for name in setting.split("."):
        if "$ref" in node:
            node = whole["$defs"][node["$ref"].rpartition("/")[2]]
        node = node["properties"][name]
    return node


def value_of(recipe: Recipe, setting: str) -> Any:
    value: Any = recipe
    for name in setting.split("."):
        value = getattr(value, name)
    return value


def finish(recipe: Recipe, path: Path) -> Run:
    """Return a run directory in which every step is finished, without any work."""
    run = Run(path)
    for steps in STAGES.values():
        for step in steps(recipe):
            inputs = step.inputs(recipe, Finished(run), run)
            run.step(step.name, inputs, lambda _: {"dataset": "a digest"})
    return run


def reads(step: str, setting: str) -> bool:
    """Return whether the signal or grounding of a step reads a setting, by its own word."""
    stage, _, name = step.partition("/")
    if stage == "signals":
        names = (*resolve("signals", name).settings, "seed")
    elif stage == "recommend":
        method = name.partition("/")[0] if "/" in name else "search"
        alpha = ("fuse",) if name == "alpha" else ()
        names = (*COMMON, *find_grounding(method).settings, *alpha)
    else:
        return True
    return any(setting == one or setting.startswith(f"{one}.") for one in names)


def expected(recipe: Recipe, setting: str, steps: list[str]) -> set[str]:
    """Return the steps that a change redoes by the declarations: those it names, and all that read
    their output.
    """
    names = affected(recipe, setting)
    redone: set[str] = set()
    for step in steps:  # in order, so that what a step reads has been decided before it
        stage, _, name = step.partition("/")
        own = stage in names or f"{stage}/{name.rpartition('/')[2]}" in names
        if (own and reads(step, setting)) or redone & set(upstream(recipe, step, steps)):
            redone.add(step)
    return redone


def upstream(recipe: Recipe, step: str, steps: list[str]) -> Iterator[str]:
    stage, _, name = step.partition("/")
    assistant = f"signals/{recipe.recommend.assistant}"
    if stage in ("signals", "train"):
        yield "prepare"
    elif stage == "recommend":
        yield "train"
        if name in ("alpha", "valid", "test"):
            yield assistant
        if name in ("valid", "test"):
            yield "recommend/alpha"
    elif stage in ("fuse", "evaluate"):
        yield from (s for s in steps if s.startswith("recommend/") and s != "recommend/alpha")
        yield from (f"signals/{s}" for s in recipe.fuse.signals)
    if stage == "evaluate":
        yield "fuse"
        yield from (s for s in steps if s.startswith("signals/"))


@pytest.fixture
def places(tmp_path: Path, tiny: Tiny) -> dict[str, Any]:
    """Return values of settings that name something on disk."""
    listed = tmp_path / "list.txt"
    listed.write_text("f1\n", encoding="utf-8")
    weights = tmp_path / "weights"
    weights.mkdir()
    write_json(weights / "config.json", {})
    (weights / "model.safetensors").touch()
    return {
        "data.path": tmp_path / "events.csv",
        "data.items": tmp_path / "items.csv",
        "data.dataset": tmp_path / "dataset",
        "external.path": tmp_path / "scores.npz",
        "recommend.allow": listed,
        "recommend.deny": listed,
        "train.resume_from": weights,
        "train.extra_datasets": {"game": tiny.run / "prepare"},
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], Run]:
    """Return a function from settings to a run whose steps are finished; made once for each."""
    runs: dict[str, Run] = {}

    def of(settings: dict[str, Any]) -> Run:
        key = json.dumps(settings, sort_keys=True, default=str)
        if key not in runs:
            path = tmp_path_factory.mktemp("finished") / "run"
            runs[key] = finish(Recipe.of(settings), path)
            assert {outcome.kind for outcome in plan(Recipe.of(settings), runs[key])} == {"skip"}
        return runs[key]

    return of


@pytest.mark.parametrize("setting", [setting for setting, _ in declared()])
def test_a_changed_setting_redoes_what_it_declares(
    setting: str, finished: Callable[[dict[str, Any]], Run], places: dict[str, Any]
) -> None:
    beside = {**BASE, **BESIDE.get(setting, {})}
    run = finished(beside)
    old = value_of(Recipe.of(beside), setting)
    new = places[setting] if setting in places else other_value(setting, old, schema_of(setting))
    after = Recipe.of({**beside, setting: new})
    assert value_of(after, setting) != old
    outcomes = {outcome.step: outcome for outcome in plan(after, run)}
    redone = {step for step, outcome in outcomes.items() if outcome.kind != "skip"}
    there = [step for step in outcomes if (run.path / step / "manifest.json").exists()]
    assert redone & set(there) == expected(after, setting, there), outcomes
    assert (affected(after, setting) == []) == (setting in NONE)


def test_conditions_of_declarations_are_settings_and_hold_when_they_are_set() -> None:
    conditions = {a for _, names in declared() for a in names if " if " in a}
    assert conditions == {"train if train.select=ndcg", "fuse if fuse.per_metric=true"}
    usual = Recipe.of({})
    by_ndcg = Recipe.of({"train.select": "ndcg"})
    assert "train" not in affected(usual, "recommend.score")
    assert "train" in affected(by_ndcg, "recommend.score")
    assert affected(usual, "evaluate.ks") == ["evaluate"]
    assert affected(Recipe.of({"fuse.per_metric": True}), "evaluate.ks") == ["evaluate", "fuse"]


def test_every_declaration_names_a_stage_or_a_step_of_one() -> None:
    steps = {"recommend/valid", "recommend/test", "recommend/alpha"}
    for setting, names in declared():
        assert {name.partition(" if ")[0] for name in names} <= {*STAGE_NAMES, *steps}, setting
    assert tuple(STAGES) == STAGE_NAMES


def test_test_queries_leave_validation_and_training_alone(tmp_path: Path) -> None:
    run = finish(Recipe(), tmp_path / "run")
    outcomes = plan(Recipe.of({"recommend.test_queries": 10}), run)
    redone = [outcome.step for outcome in outcomes if outcome.kind != "skip"]
    assert redone == ["recommend/test", "fuse", "evaluate"]


def test_a_signals_setting_refits_that_signal_and_what_mixes_it(tmp_path: Path) -> None:
    run = finish(Recipe(), tmp_path / "run")
    outcomes = plan(Recipe.of({"item_knn.decay": 0.5}), run)
    redone = [str(outcome) for outcome in outcomes if outcome.kind != "skip"]
    assert redone == [
        "▸ signals/item-knn: redone, because item_knn.decay was 0.8 and is 0.5",
        "▸ evaluate: redone, because `signals/item-knn` was redone",
    ]


def test_the_command_prints_the_plan_and_does_nothing(tiny: Tiny) -> None:
    before = {p: p.stat().st_mtime_ns for p in tiny.run.rglob("*")}
    asked = ("run", tiny.recipe, "--run-dir", tiny.run, "--plan")
    whole = command(*asked)
    assert whole.code == 0, whole.err
    lines = whole.out.splitlines()[1:]
    assert lines
    assert all(line.startswith("▪ ") for line in lines)
    changed = command(*asked, "--set", "train.epochs=3", "--until", "recommend", "--json")
    outcomes = [Outcome(**row) for row in json.loads(changed.out)]
    assert [(o.step, o.kind) for o in outcomes if o.kind != "skip"] == [
        ("train", "redo"),
        ("recommend/valid", "redo"),
        ("recommend/test", "redo"),
    ]
    assert outcomes[-1].reason == "`train` was redone"
    assert {p: p.stat().st_mtime_ns for p in tiny.run.rglob("*")} == before


def test_the_plan_of_a_new_run_starts_every_step(tiny: Tiny, tmp_path: Path) -> None:
    planned = command("run", tiny.recipe, "--run-dir", tmp_path / "new", "--plan", "--json")
    assert {row["kind"] for row in json.loads(planned.out)} == {"start"}
    assert not (tmp_path / "new").exists()


def test_a_plan_refuses_another_data_set_as_the_run_would(tiny: Tiny) -> None:
    asked = ("run", tiny.recipe, "--run-dir", tiny.run, "--plan", "--set", "prepare.k_core=2")
    refused = command(*asked)
    assert refused.code == 2
    assert "prepare.k_core was 0 and is 2" in refused.err
