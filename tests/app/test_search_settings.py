"""The search as a user sets it: modes, lists, an assistant, and the explanation of one item."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from groundrec.app.recommender import Recommender
from groundrec.app.stages.artefacts import Artefacts
from groundrec.app.stages.comparison import compare_runs
from groundrec.core.errors import SearchError
from groundrec.core.files import read_json
from groundrec.core.recipe import Recipe
from groundrec.core.runs import Run
from groundrec.core.track import Metrics
from groundrec.core.types import NO_ITEM
from groundrec.rank.search.masks import Guide, guide_totals
from groundrec.rank.slates import load_slates
from tests.app.conftest import Tiny, slate_bytes, title
from tests.commands import Result, command

Resume = Callable[..., Result]


def test_every_mode_finds_the_same_slates(tiny: Tiny, copied: Resume, tmp_path: Path) -> None:
    expected = load_slates(tiny.run / "recommend" / "test")
    for mode in ("exact", "beam"):
        settings = [
            f"recommend.mode={mode}",
            "recommend.beams=30",
            "recommend.tokens_per_pass=3",
            "recommend.batch_size=5",
        ]
        done = copied("--until", "recommend", *(a for s in settings for a in ("--set", s)))
        assert done.code == 0, done.err
        found = load_slates(tmp_path / "run" / "recommend" / "test")
        np.testing.assert_array_equal(found.items, expected.items)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
        work = read_json(tmp_path / "run" / "recommend" / "test" / "manifest.json")["result"]
        assert work["unproved"] == 0
        assert work["tokens"] > work["passes"] > 0
        told = [
            m
            for m in Metrics.read(tmp_path / "run" / "metrics.jsonl")
            if m["stage"] == "recommend/test"
        ]
        assert told[-1].items() >= work.items()
        assert ("100.0% proved" in done.err) == (mode == "exact")


def test_allow_and_deny_lists(tiny: Tiny) -> None:
    recommender = Recommender.load(tiny.run)
    history, some = [title(1), title(2)], [title(i) for i in (1, 3, 4, 9)]
    every = recommender.recommend(history, k=30)
    allowed = recommender.recommend(history, k=30, allow=some, deny=[title(9)])
    assert {r.title for r in allowed} == {title(3), title(4)}
    assert {r.title for r in recommender.recommend(history, k=30, deny=some)} == {
        r.title for r in every
    } - set(some)
    as_command = command(
        "recommend", tiny.run, *history, "--allow", title(3), "--allow", "f4", "--json"
    )
    assert [r["title"] for r in json.loads(as_command.out)] == [r.title for r in allowed]
    refused = command("recommend", tiny.run, *history, "--allow", title(1))
    assert refused.code == 2
    assert "everything allowed is in the history already" in refused.err


def test_lists_of_a_recipe_hold_for_every_method(
    tiny: Tiny, copied: Resume, tmp_path: Path
) -> None:
    allow, deny = tmp_path / "allow.txt", tmp_path / "deny.txt"
    allow.write_text("\n".join(title(i) for i in range(12)) + "\n\n")
    deny.write_text("f3\n" + title(4))
    settings = [f"recommend.allow={allow}", f"recommend.deny={deny}"]
    done = copied(*(a for s in settings for a in ("--set", s)))
    assert done.code == 0, done.err
    run = tmp_path / "run"
    names = Artefacts(
        Recipe.model_validate(read_json(run / "config.json")), Run(run)
    ).dataset.catalogue.titles
    may = {
        i
        for i, name in enumerate(names)
        if name in {title(i) for i in range(12)} - {title(3), title(4)}
    }
    for folder in ("recommend/test", "recommend/valid", "fuse/co-occurrence"):
        items = load_slates(run / folder).items
        assert set(np.unique(items)) - {NO_ITEM} <= may
        assert (items != NO_ITEM).any()
    deny.write_text(f"f3\n{title(4)}x")
    refused = copied(*(a for s in settings for a in ("--set", s)))
    assert refused.code == 2
    assert f"did you mean '{title(4)}'" in refused.err
    assert f"({deny}, line 2)" in refused.err
    deny.unlink()
    refused = copied(*(a for s in settings for a in ("--set", s)))
    assert refused.code == 2
    assert "recommend.deny: file not found" in refused.err


def test_a_query_to_which_no_item_is_left_gets_an_empty_slate(
    tiny: Tiny, copied: Resume, tmp_path: Path
) -> None:
    x = Artefacts(Recipe.model_validate(read_json(tiny.run / "config.json")), Run(tiny.run))
    seen = x.queries("test").history[0]
    allow = tmp_path / "allow.txt"
    allow.write_text("\n".join(x.dataset.catalogue.item_ids[item] for item in seen))
    done = copied("--set", f"recommend.allow={allow}", "--set", "recommend.assistant=co-occurrence")
    assert done.code == 0, done.err
    items = load_slates(tmp_path / "run" / "recommend" / "test").items
    assert (items[0] == NO_ITEM).all()
    assert (items[1:] != NO_ITEM).any()


def test_an_item_is_explained(tiny: Tiny) -> None:
    recommender = Recommender.load(tiny.run)
    history = [title(i) for i in range(4, 12)]
    first, *_, last = recommender.recommend(history, k=22)
    told = json.loads(
        command("explain-item", tiny.run, first.title, *history, "--beams", 2, "--json").out
    )
    assert "".join(told["pieces"]) == first.title + "\n"
    assert told["steps"][-1]["total"] == pytest.approx(first.score, abs=1e-4)
    assert told["rank"] == 1
    assert told["dropped_at"] == {"2": None}
    worst = recommender.explain(history, last.title, beams=[1]).path
    assert worst.rank == 22
    assert worst.dropped_at[1] is not None
    shown = command("explain-item", tiny.run, first.title, *history)
    assert shown.code == 0
    assert "rank 1 of the exact ranking" in shown.out
    assert repr(told["pieces"][0]) in shown.out
    assert "a beam of 50 finds it" in shown.out
    with pytest.raises(SearchError, match="is in the history already"):
        recommender.explain(history, history[0])


@pytest.mark.parametrize("mass", ["sum", "max"])
def test_an_assistant_takes_part_with_the_weight_chosen_on_validation(
    copied: Resume, tmp_path: Path, mass: str
) -> None:
    settings = ["mode=exact", "assistant=co-occurrence", f"assistant_mass={mass}", "k=10"]
    done = copied(
        "--until", "recommend", *(a for s in settings for a in ("--set", f"recommend.{s}"))
    )
    assert done.code == 0, done.err
    run = tmp_path / "run"
    curve, alpha = (
        read_json(run / "recommend" / "alpha" / "curve.json"),
        read_json(run / "recommend" / "alpha" / "manifest.json"),
    )
    means = {point["alpha"]: point["mean"] for point in curve}
    assert means[alpha["result"]["alpha"]] == max(means.values())

    x = Artefacts(Recipe.model_validate(read_json(run / "config.json")), Run(run))
    queries, ranker = x.queries("test"), x.ranker(guided=False)
    mask, signal = ranker.mask(queries), x.signal("co-occurrence").scores(queries)
    lm = ranker.search.all(ranker.prompts(queries), mask)
    weight = alpha["result"]["alpha"]
    with np.errstate(invalid="ignore"):
        truth = weight * lm + (1 - weight) * guide_totals(
            ranker.search.trie, Guide(signal, weight, mass), mask
        )
    found = load_slates(run / "recommend" / "test")
    for row, items, scores in zip(truth, found.items, found.scores, strict=True):
        assert (items != NO_ITEM).all()
        np.testing.assert_allclose(
            scores, np.sort(np.nan_to_num(row, nan=-np.inf))[::-1][:10], atol=1e-3
        )
        np.testing.assert_allclose(row[items], scores, atol=1e-3)


def test_an_assistant_that_is_not_fitted_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    settings = ("--set", "recommend.assistant=sasrek")
    refused = command("run", tiny.recipe, "--run-dir", tmp_path / "other", *settings)
    assert refused.code == 2
    assert "sasrek" in refused.err
    assert not (tmp_path / "other").exists()


def test_an_assistant_is_named_wherever_its_answers_are(
    tiny: Tiny, copied: Resume, tmp_path: Path
) -> None:
    guided = "language model + co-occurrence assistant"
    done = copied("--set", "recommend.assistant=co-occurrence", "--set", "recommend.alpha=0.5")
    assert done.code == 0, done.err
    run = tmp_path / "run"
    methods = read_json(run / "evaluate" / "test.json")["methods"]
    assert guided in methods
    assert "LM + co-occurrence assistant + co-occurrence" in methods
    assert "language model" not in methods
    assert guided in (run / "report.html").read_text(encoding="utf-8")
    recommend = command("recommend", run, title(1), "--json")
    assert {item["method"] for item in json.loads(recommend.out)} == {guided}
    assert f"answered by: {guided}" in command("recommend", run, title(1)).err
    rows = compare_runs({"plain": tiny.run, "guided": run}).rows
    assert [row.method for row in rows] == ["language model", guided]
    every = compare_runs({"guided": run, "plain": tiny.run}, ["all"]).rows
    assert {row.method for row in every if row.run == "guided"} >= {guided, "popularity"}
    assert {row.method for row in every if row.run == "plain"} >= {"language model"}
    asked = compare_runs({"guided": run}, ["language model"]).rows
    assert [row.method for row in asked] == [guided]


def test_a_run_that_did_not_name_its_assistant_is_compared_by_the_name_of_today(
    copied: Resume, tmp_path: Path
) -> None:
    done = copied("--set", "recommend.assistant=co-occurrence", "--set", "recommend.alpha=0.5")
    assert done.code == 0, done.err
    run = tmp_path / "run"
    file = run / "evaluate" / "per_query.parquet"
    table = pq.read_table(file)
    former = [name.replace(" + co-occurrence assistant", "") for name in table.column_names]
    assert former != table.column_names
    pq.write_table(table.rename_columns(former), file)
    shown = command("compare", run, "--bootstrap", 0)
    assert shown.code == 0, shown.err
    assert "| language model + co-occurrence assistant |" in shown.out


def test_both_groundings_are_methods_of_one_run_and_the_search_is_not_done_again(
    copied: Resume, tmp_path: Path
) -> None:
    settings = ["train.loss_on=answer", "train.epochs=25"]
    assert copied(*(x for s in settings for x in ("--set", s)), "--until", "recommend").code == 0
    before = slate_bytes(tmp_path / "run")
    settings += [
        "recommend.methods=['search', 'ground']",
        "ground.num_texts=2",
        "ground.max_new_tokens=20",
    ]
    result = copied(*(x for s in settings for x in ("--set", s)))
    assert result.code == 0, result.err
    after = slate_bytes(tmp_path / "run")
    assert {n: after[n] for n in before if n.startswith("recommend/")} == {
        n: b for n, b in before.items() if n.startswith("recommend/")
    }
    assert "▪ recommend/test: skipped" in result.err
    methods = json.loads((tmp_path / "run" / "evaluate" / "test.json").read_text(encoding="utf-8"))[
        "methods"
    ]
    assert methods.keys() >= {
        "language model",
        "grounded",
        "LM + co-occurrence",
        "grounded + co-occurrence",
    }
    assert methods["grounded"]["metrics"]["hr@1"]["mean"] > 0.4
    assert methods["grounded + co-occurrence"]["metrics"]["hr@1"]["mean"] > 0.9
    assert len(list((tmp_path / "run" / "embeddings").glob("*.npy"))) == 1
    again = copied(*(x for s in settings for x in ("--set", s)))
    assert "▪ recommend/ground/test: skipped" in again.err
