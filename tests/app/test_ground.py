"""Grounding and outside scores from the command line: what embeds, and what is refused before
anything is mixed.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from groundrec.app.stages.artefacts import Artefacts, open_run
from groundrec.app.stages.comparison import compare_runs
from groundrec.core.recipe import load_recipe
from groundrec.core.runs import Run
from groundrec.core.types import NO_ITEM
from groundrec.data.dataset import save
from groundrec.models import language
from groundrec.rank.ground.nearest import embed
from groundrec.rank.slates import load_slates
from tests.app.conftest import FILMS, Tiny
from tests.app.test_bad_input import assert_clear
from tests.commands import command

WRITING = (
    "train.loss_on=answer",
    "train.epochs=1",
    'recommend.methods=["ground"]',
    "ground.num_texts=1",
)
WRITING += ("ground.max_new_tokens=8", "signals=[]", "fuse.signals=[]", "recommend.valid_queries=4")


def words(*settings: object) -> list[object]:
    return [word for setting in settings for word in ("--set", setting)]


def test_a_run_that_grounds_answers_by_grounding(tiny: Tiny, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = command("run", tiny.recipe, "--run-dir", run, *words(*WRITING))
    assert done.code == 0, done.err
    x = open_run(run)
    query = x.queries("test")[0]
    names = x.dataset.catalogue
    history = [names.item_ids[item] for item in query.history]
    asked = ("recommend", run, *history, "-k", 3)
    shown = command(*asked)
    assert "answered by: grounded" in shown.err
    items = json.loads(command(*asked, "--json").out)
    slates = load_slates(run / "recommend" / "ground" / "test").items[0]
    expected = [names.item_ids[item] for item in slates[:3] if item != NO_ITEM]
    assert [item["item_id"] for item in items] == expected
    searched = command(*asked, "--method", "search")
    assert "answered by: language model" in searched.err
    denied = json.loads(command(*asked, "--deny", expected[0], "--json").out)
    assert [item["item_id"] for item in denied][:2] == expected[1:3]
    wrong = command(*asked, "--method", "serch")
    assert_clear(wrong)
    assert "did you mean 'search'" in wrong.err
    assert [row.method for row in compare_runs({"run": run}).rows] == ["grounded"]


def test_the_model_before_tuning_embeds_where_base_weights_are_asked_for(
    tiny: Tiny, tmp_path: Path
) -> None:
    base = shutil.copytree(
        tiny.run / "train", tmp_path / "base", ignore=shutil.ignore_patterns("checkpoints")
    )
    asked = (*WRITING, f"model.base_model={base}", "ground.weights=base")
    done = command("run", tiny.recipe, "--run-dir", tmp_path / "run", *words(*asked))
    assert done.code == 0, done.err
    x = Artefacts(load_recipe(tiny.recipe, [str(word) for word in asked])[0], Run(tmp_path / "run"))
    (kept,) = (x.run.path / "embeddings").glob("*.npy")
    titles = list(dict.fromkeys(x.dataset.catalogue.titles))
    for folder, same in ((base, True), (x.run.path / "train", False)):
        lm = language.load(folder)
        encoder = x.encoder(lm.tokenizer)
        own = embed(lm.model.eval(), [encoder.tokenize(title, 512) for title in titles])
        assert np.allclose(np.load(kept), own, atol=1e-5) == same
    slates = load_slates(x.run.path / "recommend" / "ground" / "test")
    filled = slates.items[slates.items[:, 0] != NO_ITEM]
    assert len(filled)
    assert filled.max() < FILMS


def test_a_grid_of_gammas_without_validation_queries_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    """Before anything is ranked: the only queries left to choose gamma on would be those of the
    test.
    """
    data = Artefacts(load_recipe(tiny.recipe)[0], Run(tiny.run)).dataset
    none = data.valid.take(np.empty(0, np.int64))
    save(
        data.catalogue,
        {"train": data.train, "valid": none, "test": data.test},
        data.card,
        tmp_path / "data",
    )
    text = tiny.recipe.read_text(encoding="utf-8")
    recipe = tmp_path / "unchosen.toml"
    rest = text[text.index("[model.scratch]") :]
    recipe.write_text(
        f'name = "x"\n[data]\ndataset = "{tmp_path / "data"}"\n{rest}', encoding="utf-8"
    )
    asked = words(
        *WRITING[:4],
        'signals=["popularity"]',
        'fuse.signals=["popularity"]',
        'fuse.kinds=["reweight"]',
    )
    done = command("run", recipe, "--run-dir", tmp_path / "run", *asked)
    assert_clear(done)
    assert "no validation queries to choose the weight of a signal on" in done.err
    assert "--set fuse.signals=[]" in done.err
    untold = command(
        "run",
        recipe,
        "--run-dir",
        tmp_path / "run",
        "--if-exists",
        "resume",
        *words("fuse.signals=[]"),
    )
    assert_clear(untold)
    assert "no validation queries to choose the epoch on" in untold.err
    assert [path.name for path in (tmp_path / "run").glob("*/manifest.json")] == ["manifest.json"]
    assert (tmp_path / "run" / "prepare" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ({"dataset": "another"}, "made for another data set"),
        ({"scores": np.nan}, "scores that are not finite"),
        ({"scores": 1.0}, "every item has the same score"),
        ({"query_ids": 10**6}, "queries without scores"),
    ],
    ids=["another data set", "not finite", "constant", "other queries"],
)
def test_scores_from_elsewhere_that_do_not_fit_stop_the_run(
    tiny: Tiny, tmp_path: Path, file: dict[str, Any], said: str
) -> None:
    data = Artefacts(load_recipe(tiny.recipe)[0], Run(tiny.run)).dataset
    ids = np.concatenate([data.valid.ids, data.test.ids])
    scores = np.tile(np.arange(FILMS, dtype=np.float32), (len(ids), 1))
    whole = {
        "query_ids": ids + file.get("query_ids", 0),
        "scores": np.full_like(scores, file["scores"]) if "scores" in file else scores,
        "dataset": file.get("dataset", data.fingerprint),
    }
    np.savez(tmp_path / "scores.npz", **whole)  # type: ignore[arg-type]
    asked = words(
        'signals=["external"]',
        'fuse.signals=["external"]',
        f"external.path={tmp_path / 'scores.npz'}",
    )
    done = command("run", tiny.recipe, "--run-dir", tmp_path / "run", *asked, "--until", "signals")
    assert_clear(done)
    assert re.search(said, done.err)
