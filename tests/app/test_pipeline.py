"""The stages as methods: the same run as the command's, and what each hands over."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from groundrec import Pipeline, Recipe, Recommender
from groundrec.app.jobs.job import Job
from groundrec.core.errors import ArtifactError, ConfigError, DataError
from groundrec.core.recipe import load_recipe
from tests.app.conftest import FILMS, Tiny, slate_bytes, title
from tests.commands import command


@pytest.fixture
def finished(tiny: Tiny, tmp_path: Path) -> Pipeline:
    """Return the pipeline of a copy of the finished run."""
    shutil.copytree(tiny.run, tmp_path / "run")
    return Pipeline(Recipe.of({}, tiny.recipe), tmp_path / "run")


def made(run: Path) -> dict[str, int]:
    return {p.relative_to(run).as_posix(): p.stat().st_mtime_ns for p in run.rglob("manifest.json")}


def test_a_run_that_the_command_has_finished_is_finished_here_too(
    finished: Pipeline, tiny: Tiny
) -> None:
    before = made(finished.path)
    dataset, signals, recommender = finished.prepare(), finished.signals(), finished.train()
    assert len(dataset.catalogue) == FILMS
    assert signals.keys() == {"popularity", "item-knn", "co-occurrence", "sasrec"}
    assert all(
        signal.scores(dataset.test).shape == (len(dataset.test), FILMS)
        for signal in signals.values()
    )
    assert recommender.recommend([title(3)], k=5) == Recommender.load(tiny.run).recommend(
        [title(3)], k=5
    )
    assert finished.recommend().keys() == {"language model"}
    assert finished.fuse().keys() == {"LM + co-occurrence"}
    assert made(finished.path) == before


def test_means_are_those_of_the_command_the_best_method_first(
    finished: Pipeline, tiny: Tiny
) -> None:
    found = finished.evaluate()
    told = json.loads((tiny.run / "evaluate" / "test.json").read_text(encoding="utf-8"))["methods"]
    assert list(found) == list(told)
    assert found["popularity"]["hr@10"] == told["popularity"]["metrics"]["hr@10"]["mean"]
    scores = [row["ndcg@10"] for row in found.values()]
    assert scores == sorted(scores, reverse=True)


def test_it_makes_the_run_that_the_command_makes_and_the_command_goes_on_with_it(
    tiny: Tiny, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    slates = Pipeline(Recipe.of({}, tiny.recipe), run).recommend()["language model"]
    assert len(slates) == 40
    assert slate_bytes(run).items() <= slate_bytes(tiny.run).items()
    assert load_recipe(run / "recipe.toml")[0] == load_recipe(tiny.recipe)[0]
    assert command(*Job.of(run).command(run)[4:]).code == 0
    assert (
        "▪ recommend/test: skipped"
        in (run / "log.txt").read_text(encoding="utf-8").splitlines()[-1]
    )


def test_nothing_is_written_for_a_recipe_that_is_wrong_or_a_run_of_other_data(
    finished: Pipeline, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="unknown name in signals"):
        Pipeline(Recipe.of({"signals": ["sasrek"], "fuse.signals": []}), tmp_path / "new")
    with pytest.raises(DataError):
        Pipeline(
            Recipe.of({"data.source": "table", "data.path": "nowhere.csv"}), tmp_path / "new"
        ).prepare()
    assert not (tmp_path / "new").exists()
    other = finished.recipe.model_copy(
        update={"prepare": finished.recipe.prepare.model_copy(update={"k_core": 2})}
    )
    with pytest.raises(ArtifactError, match=r"another data set: prepare\.k_core was 0 and is 2"):
        Pipeline(other, finished.path).prepare()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train.epoch": 3}, "unknown setting"),
        ({"train.epochs": "many"}, "bad value for train.epochs"),
        ({"seed": 2, "seed.x": 1}, "not a section: seed"),
    ],
)
def test_settings_are_checked_as_those_of_a_file(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Recipe.of(settings)


def test_settings_stand_over_those_of_a_file(tiny: Tiny) -> None:
    recipe = Recipe.of(
        {"train.epochs": 3, "data.columns": {"user": "who"}, "recommend.alpha": None}, tiny.recipe
    )
    assert (recipe.name, recipe.train.epochs, recipe.train.batch_size) == ("tiny", 3, 4)
    assert recipe.data.columns == {"user": "who"}


def test_a_finished_model_is_not_emptied_because_a_setting_was_forgotten(
    tiny: Tiny, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    one_epoch = ("--run-dir", run, "--set", "train.epochs=1", "--until", "train")
    assert command("run", tiny.recipe, *one_epoch).code == 0
    before = made(run)
    forgotten = Pipeline(Recipe.of({}, tiny.recipe), run)
    with pytest.raises(
        ArtifactError, match=r"`train` .*: train\.epochs was 1.0 and is 12"
    ) as raised:
        forgotten.train()
    assert 'if_exists="resume"' in raised.value.next_step
    assert made(run) == before
    # What was run is what the run directory's recipe says, in both doors.
    kept = Recipe.of({}, run / "recipe.toml")
    assert kept.train.epochs == 1
    Pipeline(kept, run).train()
    assert made(run) == before
    Pipeline(Recipe.of({}, tiny.recipe), run, "new").prepare()
    assert made(run) == before
    assert (tmp_path / "run-2" / "prepare" / "manifest.json").exists()
    shorter = Recipe.of({"train.epochs": 2}, tiny.recipe)
    Pipeline(shorter, run, "resume").train()
    assert made(run)["train/manifest.json"] > before["train/manifest.json"]
    with pytest.raises(ConfigError, match="unknown if_exists"):
        Pipeline(kept, run, "redo")  # type: ignore[arg-type]
