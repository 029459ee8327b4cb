"""The road from raw data to report, and what a second start does again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from groundrec.app.stages.artefacts import Artefacts
from groundrec.core.recipe import load_recipe
from groundrec.core.runs import Run
from groundrec.core.track import Metrics
from groundrec.core.types import NO_ITEM, Slates
from groundrec.data.dataset import load
from groundrec.evaluate.metrics import metric_function
from groundrec.rank.slates import load_slates
from tests.app.conftest import FILMS, LENGTH, USERS, Tiny, slate_bytes, write_shop
from tests.commands import Result, command

METHODS = {
    "popularity",
    "item-knn",
    "co-occurrence",
    "sasrec",
    "language model",
    "LM + co-occurrence",
}
STAGES = [
    "prepare",
    *(f"signals/{s}" for s in ("popularity", "item-knn", "co-occurrence", "sasrec")),
    "train",
]
STAGES += ["recommend/valid", "recommend/test", "fuse", "evaluate"]
Resume = Callable[..., Result]


def strict_json(text: str) -> Any:
    """Return the value of a JSON text; NaN and infinities are no JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def stage_lines(text: str) -> dict[str, str]:
    """Return what the log says of each stage when it begins or is skipped."""
    lines = [line[2:].partition(":") for line in text.splitlines() if line[:2] in ("▪ ", "▸ ")]
    return {name: rest.strip() for name, _, rest in lines}


def summary(run: Path) -> dict[str, Any]:
    return strict_json((run / "evaluate" / "test.json").read_text(encoding="utf-8"))


def test_every_stage_ran_and_wrote_its_manifest_last(tiny: Tiny) -> None:
    assert list(stage_lines(tiny.result.err)) == STAGES
    for stage in STAGES:
        manifest = json.loads((tiny.run / stage / "manifest.json").read_text(encoding="utf-8"))
        assert manifest["stage"] == stage
        assert manifest["packages"].keys() >= {"torch", "transformers", "numpy"}
    assert json.loads((tiny.run / "status.json").read_text(encoding="utf-8"))["state"] == "finished"
    assert (tiny.run / "recipe.toml").read_bytes() == tiny.recipe.read_bytes()


def test_the_planted_film_is_found_by_words_and_by_co_occurrence(tiny: Tiny) -> None:
    methods = summary(tiny.run)["methods"]
    assert methods.keys() == METHODS
    hit_rate = {name: m["metrics"]["hr@1"]["mean"] for name, m in methods.items()}
    assert hit_rate["co-occurrence"] == 1
    assert hit_rate["language model"] > 0.5
    assert hit_rate["LM + co-occurrence"] >= hit_rate["language model"]
    assert hit_rate["popularity"] < 0.3


def test_every_answer_is_an_item_nobody_was_shown_twice(tiny: Tiny) -> None:
    for name, method in summary(tiny.run)["methods"].items():
        beyond = method["beyond"]
        assert (beyond["invalid"], beyond["unfilled"], beyond["repeat_rate"]) == (0, 0, 0), name


def test_the_report_names_every_method_and_stands_alone(tiny: Tiny) -> None:
    page = (tiny.run / "report.html").read_text(encoding="utf-8")
    assert [name for name in METHODS if name not in page] == []
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert (tiny.run / "report.png").read_bytes()[:4] == b"\x89PNG"


def test_per_query_values_average_to_the_reported_ones(tiny: Tiny) -> None:
    table = pq.read_table(tiny.run / "evaluate" / "per_query.parquet")
    assert table.num_rows == USERS
    for name, method in summary(tiny.run)["methods"].items():
        mean = table[f"{name} ndcg@10"].to_numpy().mean()
        assert mean == pytest.approx(method["metrics"]["ndcg@10"]["mean"])


def test_metrics_tell_losses_by_epoch(tiny: Tiny) -> None:
    rows = [
        strict_json(line)
        for line in (tiny.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    losses = [row["eval_loss"] for row in rows if "eval_loss" in row]
    assert len(losses) == 12
    assert min(losses) < 0.7 * losses[0]


def test_the_same_recipe_elsewhere_gives_the_same_bytes(tiny: Tiny, tmp_path: Path) -> None:
    again = command(
        "run", tiny.recipe, "--run-dir", tmp_path / "again", "--until", "fuse", "--quiet"
    )
    assert (again.code, again.err) == (0, "")
    assert slate_bytes(tmp_path / "again") == slate_bytes(tiny.run)
    assert not (tmp_path / "again" / "evaluate").exists()


def test_a_second_start_skips_every_stage_and_says_why(copied: Resume, tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*/manifest.json")}
    lines = stage_lines(copied().err)
    assert list(lines) == STAGES
    assert all(
        line.startswith("skipped, finished with the same inputs (") for line in lines.values()
    )
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_changed_epochs_redo_training_and_what_follows_from_it(
    copied: Resume, tmp_path: Path, tiny: Tiny
) -> None:
    lines = stage_lines(copied("--set", "train.epochs=1").err)
    redone = STAGES[STAGES.index("train") :]
    assert lines["train"] == "redone, because train.epochs was 12.0 and is 1.0"
    assert [s for s in STAGES if lines[s].startswith("redone, because ")] == redone
    assert all(lines[s].startswith("skipped") for s in STAGES if s not in redone)
    assert slate_bytes(tmp_path / "run") != slate_bytes(tiny.run)
    assert (
        json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))["train"][
            "epochs"
        ]
        == 1
    )


def test_other_metrics_redo_only_the_evaluation(copied: Resume) -> None:
    lines = stage_lines(copied("--set", "evaluate.ks=[10]").err)
    assert [s for s in STAGES if not lines[s].startswith("skipped")] == ["evaluate"]


def test_a_changed_raw_file_is_noticed(tmp_path: Path) -> None:
    recipe = write_shop(tmp_path)
    items = tmp_path / "items.csv"
    items.write_text(
        "item,title\n" + "".join(f"f{i},Old {i}\n" for i in range(FILMS)), encoding="utf-8"
    )
    start = (
        "run",
        recipe,
        "--run-dir",
        tmp_path / "run",
        "--until",
        "prepare",
        "--set",
        f"data.items={items}",
    )
    assert command(*start).code == 0
    items.write_text(
        "item,title\n" + "".join(f"f{i},A new title {i}\n" for i in range(FILMS)), encoding="utf-8"
    )
    again = command(*start, "--if-exists", "resume")
    assert stage_lines(again.err)["prepare"].startswith("redone, because files was ")
    titles = pq.read_table(tmp_path / "run" / "prepare" / "items.parquet")["title"].to_pylist()
    assert set(titles) == {f"A new title {i}" for i in range(FILMS)}


def test_a_changed_template_file_is_noticed(copied: Resume, tmp_path: Path) -> None:
    template = tmp_path / "own.toml"
    start = ("--until", "train", "--set", f"model.template={template}", "--set", "train.epochs=0.2")
    for words in ("Then:", "Next:"):
        template.write_text(
            f"item = '{{title}}, '\ntail = '{words}'\nanswer = \"{{title}}\\n\"\n", encoding="utf-8"
        )
        lines = stage_lines(copied(*start).err)
    assert lines["train"] == "redone, because template.tail was Then: and is Next:"
    assert stage_lines(copied(*start).err)["train"].startswith("skipped")


@pytest.mark.parametrize("mode", ["exhaustive", "beam"])
def test_batch_size_never_changes_a_slate(copied: Resume, tmp_path: Path, mode: str) -> None:
    found = []
    for size in (1, 8):
        settings = [f"recommend.mode={mode}", f"recommend.batch_size={size}", "recommend.beams=10"]
        result = copied("--until", "recommend", *(x for s in settings for x in ("--set", s)))
        assert result.code == 0, result.err
        found.append(load_slates(tmp_path / "run" / "recommend" / "test"))
    assert found[0].items.tolist() == found[1].items.tolist()
    np.testing.assert_allclose(found[0].scores, found[1].scores, atol=1e-4)
    assert (found[0].items != NO_ITEM).all()


@pytest.mark.parametrize("mode", ["exhaustive", "beam"])
def test_more_places_than_films_stay_empty_at_the_end(
    copied: Resume, tmp_path: Path, mode: str
) -> None:
    places = FILMS + 10
    settings = [f"recommend.mode={mode}", f"recommend.k={places}", f"recommend.beams={places}"]
    settings.append(f"evaluate.ks=[1, 10, {places}]")
    result = copied(*(x for s in settings for x in ("--set", s)))
    assert result.code == 0, result.err
    for slates in (
        load_slates(tmp_path / "run" / p) for p in ("recommend/test", "fuse/co-occurrence")
    ):
        assert_full_then_empty(slates, places, FILMS - (LENGTH - 1))
    hit_rate = {
        name: m["metrics"][f"hr@{places}"]["mean"]
        for name, m in summary(tmp_path / "run")["methods"].items()
    }
    assert set(hit_rate.values()) == {1.0}


def assert_full_then_empty(slates: Slates, places: int, filled: int) -> None:
    assert slates.items.shape == (USERS, places)
    assert (slates.items[:, :filled] >= 0).all()
    assert (slates.items[:, filled:] == NO_ITEM).all()
    assert np.isneginf(slates.scores[:, filled:]).all()
    assert all(len(set(row)) == filled for row in slates.items[:, :filled].tolist())


def test_a_run_without_signals_or_fusion_reports_the_language_model_alone(
    copied: Resume, tmp_path: Path
) -> None:
    result = copied("--set", "signals=[]", "--set", "fuse.signals=[]", "--json")
    assert result.code == 0, result.err
    assert strict_json(result.out)["methods"].keys() == {"language model"}


def test_json_is_all_that_is_printed_and_equals_what_is_written(
    copied: Resume, tmp_path: Path
) -> None:
    result = copied("--json")
    assert (result.code, result.err) == (0, "")
    assert strict_json(result.out) == summary(tmp_path / "run")


def test_a_new_run_is_begun_beside_the_old_one(copied: Resume, tmp_path: Path, tiny: Tiny) -> None:
    result = copied("--if-exists", "new", "--until", "prepare")
    assert result.code == 0
    assert (tmp_path / "run-2" / "prepare" / "manifest.json").exists()
    assert stage_lines(result.err) == {"prepare": ""}
    assert slate_bytes(tmp_path / "run") == slate_bytes(tiny.run)


def test_a_run_can_be_resumed_from_its_own_recipe(copied: Resume, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = command(
        "run",
        run / "recipe.toml",
        "--run-dir",
        run,
        "--if-exists",
        "resume",
        "--until",
        "recommend",
    )
    assert result.code == 0
    assert all(line.startswith("skipped") for line in stage_lines(result.err).values())


def test_every_kind_of_fusion_is_a_method_and_the_papers_choice_is_marked(
    copied: Resume, tmp_path: Path
) -> None:
    kinds = ["probability", "reweight", "reciprocal-rank", "z-score", "learned"]
    result = copied(
        "--set",
        f"fuse.kinds={kinds}",
        "--set",
        "fuse.signals=['popularity']",
        "--set",
        "fuse.per_metric=true",
    )
    assert result.code == 0, result.err
    methods = summary(tmp_path / "run")["methods"]
    fused = {name.removeprefix("LM + popularity ") for name in methods if name.startswith("LM + ")}
    assert fused == {
        "(per metric)",
        "(re-weighted, per metric)",
        "(reciprocal rank, per metric)",
        "(z-score, per metric)",
        "(learned)",
    }
    weights = strict_json((tmp_path / "run" / "fuse" / "weights.json").read_text(encoding="utf-8"))
    chosen = weights["search/popularity/reweight"]["paper"]
    assert chosen.keys() == {f"{m}@{k}" for m in ("hr", "ndcg", "mrr") for k in (1, 5, 10)}
    assert chosen["ndcg@10"] == weights["search/popularity/reweight"]["alpha"]
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "no single ranking has all their numbers" in page
    assert "γ = " in page


def test_every_seed_ranks_the_same_sample_of_queries(tiny: Tiny) -> None:
    """So that runs which differ in their seed are compared query by query."""

    def sampled(seed: int) -> list[list[int]]:
        words = ["recommend.test_queries=7", "recommend.valid_queries=9", f"seed={seed}"]
        x = Artefacts(load_recipe(tiny.recipe, words)[0], Run(tiny.run))
        return [x.queries(split).ids.tolist() for split in ("valid", "test")]

    assert sampled(0) == sampled(1)
    assert [len(ids) for ids in sampled(0)] == [9, 7]


WORDS_ALONE = ("signals=[]", "fuse.signals=[]")


def test_more_epochs_go_on_from_another_run_and_change_with_what_is_in_it(
    tiny: Tiny, tmp_path: Path
) -> None:
    on = [
        "run",
        tiny.recipe,
        "--run-dir",
        tmp_path / "on",
        "--until",
        "train",
        "--if-exists",
        "resume",
    ]
    for setting in (*WORDS_ALONE, "train.epochs=13", f"train.resume_from={tiny.run}"):
        on += ["--set", setting]
    result = command(*on)
    assert result.code == 0, result.err
    assert re.search(r"train.resume_from: checkpoint in \S+/checkpoint-\d+", result.err)
    assert "epoch 13: validation loss" in result.err
    assert "epoch 12: validation loss" not in result.err
    again = command(*on)
    assert stage_lines(again.err)["train"].startswith("skipped")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["train.epochs=12"], "train.epochs counts the epochs before the checkpoint too"),
        (["train.epochs=13", "train.batch_size=8"], "train.batch_size was 4 and is 8"),
        (["train.epochs=13", "seed=1"], "seed was 0 and is 1"),
        (["train.resume_from=nowhere"], "nothing to start from"),
    ],
)
def test_a_start_that_cannot_be_is_refused(
    tiny: Tiny, tmp_path: Path, settings: list[str], says: str
) -> None:
    on = ["run", tiny.recipe, "--run-dir", tmp_path / "on", "--until", "train"]
    for setting in (*WORDS_ALONE, f"train.resume_from={tiny.run}", *settings):
        on += ["--set", setting]
    result = command(*on)
    assert result.code == 2
    assert says in result.err
    assert not (tmp_path / "on" / "train").exists()


def test_a_run_is_not_its_own_start(copied: Resume, tmp_path: Path) -> None:
    model = tmp_path / "run" / "train" / "manifest.json"
    result = copied("--set", "train.epochs=13", "--set", f"train.resume_from={tmp_path / 'run'}")
    assert result.code == 2
    assert "cannot start from its own run" in result.err
    assert model.exists()


def test_the_epoch_with_the_best_ranking_is_the_one_that_ranks(tiny: Tiny, tmp_path: Path) -> None:
    settings = (*WORDS_ALONE, "train.select=ndcg", "train.epochs=4", "train.learning_rate=3e-3")
    start = ["run", tiny.recipe, "--run-dir", tmp_path, "--until", "recommend"]
    result = command(*start, *(word for setting in settings for word in ("--set", setting)))
    assert result.code == 0, result.err
    told = [row["ndcg@10"] for row in Metrics.read(tmp_path / "metrics.jsonl") if "ndcg@10" in row]
    assert len(told) == 4
    assert len(set(told)) > 1
    queries = load(tmp_path / "prepare").valid
    found = metric_function("ndcg@10")(load_slates(tmp_path / "recommend" / "valid"), queries)
    assert found.mean() == pytest.approx(max(told), abs=1e-6)
