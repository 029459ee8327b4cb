"""Runs beside each other: the same queries in the same order, differences query by query, settings
that differ.
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from groundrec.app.jobs.job import Job
from groundrec.app.stages.comparison import compare_runs
from groundrec.app.stages.seeds import over_seeds
from groundrec.core.errors import ArtifactError, ConfigError
from groundrec.core.files import read_json, write_json
from groundrec.core.recipe import Recipe
from groundrec.evaluate.statistics import compare_to_reference, intervals
from tests.app.conftest import USERS, Tiny
from tests.commands import command

LM = "language model"
QUERIES = 60
Values = dict[str, Any]
Measured = Callable[..., Path]


@pytest.fixture
def measured(tmp_path: Path) -> Measured:
    """Return a function that makes a run directory with these values per query, and nothing else in
    it.
    """

    def make(
        folder: str, columns: Values, ids: Any = None, data: str = "shop", **recipe: Any
    ) -> Path:
        run = tmp_path / folder
        for stage in ("evaluate", "prepare"):
            (run / stage).mkdir(parents=True)
            write_json(run / stage / "manifest.json", {"result": {"dataset": data}})
        write_json(run / "config.json", Recipe.model_validate(recipe).model_dump(mode="json"))
        ids = np.arange(QUERIES) if ids is None else ids
        table = {"query_id": ids, "user": [f"u{i // 3}" for i in ids], **columns}
        pq.write_table(pa.table(table), run / "evaluate" / "per_query.parquet")
        return run

    return make


def drawn(seed: int, share: float = 0.5) -> Any:
    return (np.random.default_rng(seed).random(QUERIES) < share).astype(float)


def test_differences_are_those_of_the_same_queries(measured: Measured) -> None:
    """The second run has its rows in another order: row by row, the difference would be another."""
    a, b = drawn(1), drawn(2, 0.8)
    order = np.random.default_rng(3).permutation(QUERIES)
    runs = {
        "a": measured("a", {f"{LM} ndcg@10": a}),
        "b": measured("b", {f"{LM} ndcg@10": b[order]}, order),
    }
    found = compare_runs(runs)
    users = np.array([f"u{i // 3}" for i in range(QUERIES)])
    first, second = found.rows
    assert (found.queries, found.users, found.left_out) == (QUERIES, QUERIES // 3, 0)
    assert first.versus == {}
    assert first.metrics["ndcg@10"] == intervals({"x": a}, users)["x"]
    assert second.metrics["ndcg@10"] == intervals({"x": b}, users)["x"]
    paired, expected = second.versus["ndcg@10"], intervals({"x": b - a}, users)["x"]
    assert paired.difference == pytest.approx((b - a).mean())
    assert (paired.low, paired.high) == (expected.low, expected.high)
    assert paired.p == compare_to_reference({"a": a, "b": b}, "a", users)["b"].adjusted
    assert paired.low < paired.difference < paired.high


def test_only_queries_that_all_have_ranked_count(measured: Measured) -> None:
    a = np.arange(QUERIES, dtype=float)
    runs = {
        "a": measured("a", {f"{LM} ndcg@10": a}),
        "b": measured("b", {f"{LM} ndcg@10": a[10:40] + 1}, np.arange(10, 40)),
        "c": measured("c", {f"{LM} ndcg@10": a[20:] + 2}, np.arange(20, QUERIES)),
    }
    found = compare_runs(runs)
    assert (found.queries, found.left_out) == (20, 40)
    assert [row.metrics["ndcg@10"].mean for row in found.rows] == [29.5, 30.5, 31.5]
    assert [row.versus["ndcg@10"].difference for row in found.rows[1:]] == [1, 2]


def test_a_run_beside_itself_differs_in_nothing(measured: Measured) -> None:
    values = {f"{LM} ndcg@10": drawn(1), f"{LM} hr@10": drawn(2)}
    found = compare_runs({"a": measured("a", values), "b": measured("b", values)})
    assert list(found.rows[0].metrics) == ["ndcg@10", "hr@10"]
    for paired in found.rows[1].versus.values():
        assert (paired.difference, paired.low, paired.high, paired.p) == (0, 0, 0, 1)
    assert found.rows[0].settings == found.rows[1].settings == {}


def test_settings_that_differ_are_shown_and_names_are_not_settings(measured: Measured) -> None:
    values = {f"{LM} ndcg@10": drawn(1)}
    runs = {
        "a": measured("a", values, name="a", train={"epochs": 2}),
        "b": measured("b", values, name="b", seed=7),
    }
    assert [row.settings for row in compare_runs(runs).rows] == [
        {"seed": 0, "train.epochs": 2},
        {"seed": 7, "train.epochs": Recipe().train.epochs},
    ]


def test_settings_that_were_swept_are_shown_even_where_they_are_the_same(
    measured: Measured,
) -> None:
    values = {f"{LM} ndcg@10": drawn(1)}
    runs = {name: measured(name, values, seed=seed) for seed, name in enumerate("ab")}
    swept = ["train.epochs", "seed"]
    assert [row.settings for row in compare_runs({"a": runs["a"]}, swept=swept).rows] == [
        {"seed": 0, "train.epochs": Recipe().train.epochs}
    ]
    assert [row.settings["seed"] for row in compare_runs(runs, swept=swept).rows] == [0, 1]


def test_a_sweep_is_one_table_with_what_was_swept_as_columns(tiny: Tiny, tmp_path: Path) -> None:
    """Three of four cells; the last has measured nothing yet, and its settings are there all the
    same.
    """
    for epochs, seed in (("12.0", "0"), ("12.0", "1"), ("24.0", "0")):
        cell = {"train.epochs": epochs, "seed": seed}
        run = tmp_path / f"shop+epochs={epochs}+seed={seed}"
        measured = (epochs, seed) != ("24.0", "0")
        shutil.copytree(
            tiny.run, run, ignore=None if measured else shutil.ignore_patterns("evaluate")
        )
        config = read_json(run / "config.json")
        config |= {"seed": int(seed), "train": {**config["train"], "epochs": float(epochs)}}
        write_json(run / "config.json", config)
        settings = tuple(f"{key}={value}" for key, value in cell.items())
        Job(settings, None, str(tmp_path), sweep="shop", grid=cell).save(run)
    shown = command("runs", "--root", tmp_path, "compare", "shop", width=200).out
    together, alone = shown.split("\n\n")
    assert together.splitlines()[1].split()[:5] == [
        "shop+epochs=12.0:",
        "2",
        "seeds",
        "12.0",
        "1.0000",
    ]
    head, *rows = alone.splitlines()
    assert head.split() == ["run", "seed", "train.epochs", "ndcg@10", "hr@10", "mrr@10"]
    cells = [row.split()[:4] for row in rows if row.startswith("shop")]
    assert [(seed, epochs) for _, seed, epochs, _ in cells] == [
        ("0", "12.0"),
        ("1", "12.0"),
        ("0", "24.0"),
    ]
    assert cells[-1][3] == "finished"
    assert (
        "seed  train.epochs" in command("runs", "--root", tmp_path, "compare", "shop", width=80).out
    ), "in a narrow one"
    assert "(" not in [row for row in rows if row.startswith("shop")][-1]


def test_methods_are_rows_and_all_are_those_that_all_have(measured: Measured) -> None:
    both = {f"{LM} ndcg@10": drawn(1), "LM + sasrec ndcg@10": drawn(2)}
    runs = {"a": measured("a", {**both, "sasrec ndcg@10": drawn(3)}), "b": measured("b", both)}
    found = compare_runs(runs, ["all"])
    assert [(row.run, row.method) for row in found.rows] == [
        ("a", LM),
        ("a", "LM + sasrec"),
        ("b", LM),
        ("b", "LM + sasrec"),
    ]
    assert len(found.rows[-1].versus) == 1


def test_what_cannot_be_compared_is_refused(measured: Measured) -> None:
    values = {f"{LM} ndcg@10": drawn(1)}
    a = measured("a", values)
    other = measured("other", values, data="another shop", prepare={"k_core": 9})
    apart = measured("apart", values, np.arange(100, 100 + QUERIES))
    with pytest.raises(ArtifactError, match="different data sets"):
        compare_runs({"a": a, "other": other})
    reseeded = measured("reseeded", values, data="the shop, its moments in another order", seed=1)
    assert compare_runs({"a": a, "reseeded": reseeded}).queries == QUERIES
    with pytest.raises(ArtifactError, match="no query was ranked by all"):
        compare_runs({"a": a, "apart": apart})
    with pytest.raises(ConfigError, match=r"a has no such method \(did you mean 'language model'"):
        compare_runs({"a": a}, ["languag model"])
    with pytest.raises(ConfigError, match="a has not measured this"):
        compare_runs({"a": a}, metrics=["ndcg@11"])
    (a / "evaluate" / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="has measured nothing yet"):
        compare_runs({"a": a})


def test_the_command_shows_finished_runs_and_names_the_others(tiny: Tiny, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(tiny.run, tmp_path / name)
    shutil.copytree(tiny.run, tmp_path / "c", ignore=shutil.ignore_patterns("evaluate"))
    root = ("runs", "--root", tmp_path)
    done = command(*root, "compare", "a", "b", "c", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert [(row["run"], row["method"]) for row in found["rows"]] == [("a", LM), ("b", LM)]
    assert found["rows"][1]["versus"]["ndcg@10"]["p"] == 1
    assert found["queries"] == USERS
    assert found["unmeasured"] == {"c": "finished"}
    shown = command(
        *root, "compare", "a", "b", "c", "--metric", "hr@5", "--method", "LM + co-occurrence"
    ).out
    assert "hr@5" in shown
    assert f"{USERS} queries of {USERS} users" in shown
    assert "+0.0000 (+0.0000…+0.0000) p 1.000" in shown
    nothing = command(*root, "compare", "c")
    assert nothing.code == 2
    assert "measured anything yet" in nothing.err


def test_the_best_of_a_finished_run_is_its_main_metric(tiny: Tiny, tmp_path: Path) -> None:
    shutil.copytree(tiny.run, tmp_path / "a")
    listed = json.loads(command("runs", "--root", tmp_path, "--json").out)
    methods = json.loads((tiny.run / "evaluate" / "test.json").read_text(encoding="utf-8"))[
        "methods"
    ]
    best = max(methods, key=lambda name: methods[name]["metrics"]["ndcg@10"]["mean"])
    value = methods[best]["metrics"]["ndcg@10"]["mean"]
    assert listed[0]["best"] == {"metric": "ndcg@10", "value": value, "method": best}
    assert (listed[0]["state"], listed[0]["name"]) == ("finished", "a")
    shutil.rmtree(tmp_path / "a" / "evaluate")
    again = json.loads(command("runs", "--root", tmp_path, "show", "a", "--json").out)
    assert again["best"]["metric"] == "validation loss"
    assert 0 < again["best"]["value"] < 1


def test_runs_that_differ_in_their_seed_alone_are_one_row(measured: Measured) -> None:
    """Three seeds of one recipe, one of them twice; another recipe's seeds stay apart."""
    values = [drawn(seed) for seed in range(5)]
    runs = {
        f"s+seed={seed}": measured(f"s{seed}", {f"{LM} ndcg@10": values[seed]}, seed=seed)
        for seed in range(3)
    }
    copy = {f"{LM} ndcg@10": values[4]}
    runs["copy"] = measured("copy", copy, seed=2, name="another name")
    other = {f"{LM} ndcg@10": values[3]}
    runs["other"] = measured("other", other, seed=7, train={"epochs": 1})
    (row,) = over_seeds(compare_runs(runs, [LM], ["ndcg@10"], samples=0))
    means = [statistics.mean(x.tolist()) for x in values[:3]]
    assert row.runs == ("s+seed=0", "s+seed=1", "s+seed=2")
    assert row.seeds == (0, 1, 2)
    assert row.name == "s: 3 seeds"
    assert row.metrics["ndcg@10"].mean == pytest.approx(statistics.mean(means))
    assert row.metrics["ndcg@10"].deviation == pytest.approx(statistics.stdev(means))
    assert over_seeds(compare_runs({"a": runs["s+seed=0"], "b": runs["other"]}, [LM])) == ()
    assert over_seeds(compare_runs({"a": runs["s+seed=2"], "b": runs["copy"]}, [LM])) == ()
