"""A run that trains on several domains: what it needs, what it records, what it does again, and
what stays the same.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from groundrec.app.recommender import Recommender
from groundrec.core.files import read_json
from groundrec.core.track import Metrics
from groundrec.rank.slates import load_slates
from tests.app.conftest import FILMS, write_shop
from tests.app.test_run import stage_lines, summary
from tests.commands import Result, command

GAMES = 12
SHORT = (
    *(
        "train.epochs=0.5",
        "train.max_examples=16",
        "model.scratch.vocabulary=300",
        'signals=["popularity"]',
    ),
    *("fuse.signals=[]", "recommend.valid_queries=4", "recommend.test_queries=4"),
)


class Shops(NamedTuple):
    """The recipe of films, and finished data sets beside it."""

    recipe: Path
    films: Path
    games: Path


def prepared(folder: Path, name: str, word: str, items: int = GAMES) -> Path:
    """Prepare a data set of people who take `items` in turn."""
    rows = [
        f"u{user},{name}{(user + step) % items},{10**9 + step * 86400 + user},{word}"
        f" {(user + step) % items}"
        for user in range(20)
        for step in range(8)
    ]
    events, out = folder / f"{name}.csv", folder / name
    events.write_text("\n".join(["user,item,time,title", *rows]) + "\n", encoding="utf-8")
    made = command(
        "prepare", "table", "--path", events, "--protocol", "leave-one-out", "--K", 0, "--out", out
    )
    assert made.code == 0, made.err
    return out


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> Shops:
    folder = tmp_path_factory.mktemp("shops")
    recipe, options = (
        write_shop(folder),
        ("--protocol", "leave-one-out", "--K", 0, "--out", folder / "films"),
    )
    assert command("prepare", "table", "--path", folder / "events.csv", *options).code == 0
    return Shops(recipe, folder / "films", prepared(folder, "games", "Game"))


def started(recipe: Path, run: Path, *settings: str, more: tuple[object, ...] = ()) -> Result:
    overrides = [word for setting in (*SHORT, *settings) for word in ("--set", setting)]
    return command("run", recipe, "--run-dir", run, *overrides, *more)


@pytest.fixture(scope="module")
def both(shops: Shops, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the finished run of films that was also trained on games, eight steps in all."""
    run = tmp_path_factory.mktemp("both") / "run"
    result = started(shops.recipe, run, f"train.extra_datasets.games={shops.games}")
    assert result.code == 0, result.err
    return run


@pytest.fixture
def mine(shops: Shops, both: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Return copies of that run and of the games."""
    return shutil.copytree(both, tmp_path / "run"), shutil.copytree(shops.games, tmp_path / "games")


def model_of(run: Path) -> Any:
    return read_json(run / "train" / "manifest.json")


def test_the_manifest_knows_what_else_was_trained_on(shops: Shops, both: Path) -> None:
    inputs, games = model_of(both)["inputs"], read_json(shops.games / "dataset.json")
    assert inputs["domains"]["games"]["dataset"] == games["fingerprint"]
    assert inputs["train"]["extra_datasets"] == ["games"]
    assert str(shops.games) not in json.dumps(inputs), "where they lie changes nothing"
    assert (
        max(
            row.get("step", 0)
            for row in Metrics.read(both / "metrics.jsonl")
            if row["stage"] == "train"
        )
        == 4
    )


def test_the_log_says_how_many_rows_each_domain_has(both: Path) -> None:
    lines = (both / "log.txt").read_text(encoding="utf-8").splitlines()
    said = [line.split("INFO ")[1].strip() for line in lines if line.endswith("rows to train on")]
    assert said == ["default: 16 rows to train on", "games: 16 rows to train on"]


def test_the_tokenizer_is_learned_from_all_titles(shops: Shops, both: Path) -> None:
    shown = json.loads(command("tokenize", both, "Game", "--json").out)["batch"][0]
    assert len(shown["ids"]) < len("Game")


def test_only_the_main_catalogue_is_ranked_and_measured(
    shops: Shops, both: Path, tmp_path: Path
) -> None:
    assert started(shops.recipe, tmp_path / "alone").code == 0
    found, alone = summary(both), summary(tmp_path / "alone")
    assert found["methods"].keys() == alone["methods"].keys()
    metrics = [scores["methods"]["popularity"]["metrics"] for scores in (found, alone)]
    assert metrics[0] == metrics[1]
    assert model_of(both)["inputs"]["train"].pop("extra_datasets") == ["games"]
    assert "extra_datasets" not in model_of(tmp_path / "alone")["inputs"]["train"]
    for split in ("valid", "test"):
        slates, others = (
            load_slates(run / "recommend" / split) for run in (both, tmp_path / "alone")
        )
        assert (slates.query_ids == others.query_ids).all()
        assert slates.items.max() < FILMS
        assert (slates.scores != others.scores).any()


def again(recipe: Path, run: Path, *settings: str) -> dict[str, str]:
    result = started(recipe, run, *settings, more=("--if-exists", "resume", "--until", "train"))
    assert result.code == 0, result.err
    return stage_lines(result.err)


def test_a_moved_data_set_redoes_nothing_and_a_changed_one_says_so(
    shops: Shops, mine: tuple[Path, Path], tmp_path: Path
) -> None:
    run, games = mine
    assert again(shops.recipe, run, f"train.extra_datasets.games={games}")["train"].startswith(
        "skipped"
    )
    before = read_json(games / "dataset.json")["fingerprint"]
    other = prepared(tmp_path, "others", "Sport", GAMES - 1)
    after = read_json(other / "dataset.json")["fingerprint"]
    said = again(shops.recipe, run, f"train.extra_datasets.games={other}")["train"]
    assert said == f"redone, because domains.games.dataset was {before} and is {after}"
    assert (
        again(shops.recipe, run)["train"]
        == "redone, because train.extra_datasets was ['games'] and is None"
    )
    said = again(
        shops.recipe,
        run,
        f"train.extra_datasets.games={games}",
        f"train.extra_datasets.others={other}",
    )["train"]
    assert said == "redone, because train.extra_datasets was {} and is ['games', 'others']"
    turned = again(
        shops.recipe,
        run,
        f"train.extra_datasets.others={other}",
        f"train.extra_datasets.games={games}",
    )["train"]
    assert turned.startswith("skipped"), "their order is that of their names"


def test_who_asks_the_model_needs_the_main_data_alone(mine: tuple[Path, Path]) -> None:
    run, games = mine
    config = read_json(run / "config.json")
    config["train"]["extra_datasets"] = {"games": str(games)}
    (run / "config.json").write_text(json.dumps(config))
    shutil.rmtree(games)
    assert len(Recommender.load(run).recommend(["f3", "f4"], k=3)) == 3


@pytest.mark.parametrize("what", ["missing", "cut short", "itself", "twice", "a bad name"])
def test_what_cannot_be_trained_on_is_refused_before_anything_is_written(
    shops: Shops, tmp_path: Path, what: str
) -> None:
    recipe, games = shops.recipe, shutil.copytree(shops.games, tmp_path / "games")
    settings, says = (
        [f"train.extra_datasets.games={games}"],
        "train.extra_datasets.games is not a finished data set: ",
    )
    match what:
        case "missing":
            shutil.rmtree(games)
        case "cut short":
            (games / "dataset.json").write_text('{"fingerprint": "ab')
            says = "dataset.json is missing or incomplete"
        case "itself":
            shutil.rmtree(games)
            shutil.copytree(shops.films, games)
            recipe = tmp_path / "films.toml"
            recipe.write_text(f'[data]\ndataset = "{shops.films}"\n')
            says = "train.extra_datasets.games is the same as the main data set"
        case "twice":
            settings += [f"train.extra_datasets.sport={shops.games}"]
            says = "train.extra_datasets.sport is the same as train.extra_datasets.games"
        case _:
            settings, says = (
                [f'train.extra_datasets={{"my games" = "{games}"}}'],
                "train.extra_datasets.my games",
            )
    result = started(recipe, tmp_path / "run", *settings)
    assert (result.code, says in result.err) == (2, True), result.err
    assert not (tmp_path / "run").exists()


def test_the_main_data_set_itself_is_refused_before_anything_is_fitted(
    shops: Shops, tmp_path: Path
) -> None:
    """Where the run prepares its data, what comes out is known behind that."""
    found = started(shops.recipe, tmp_path / "run", f"train.extra_datasets.same={shops.films}")
    assert (
        found.code,
        "train.extra_datasets.same is the same as the main data set" in found.err,
    ) == (2, True)
    assert not (tmp_path / "run" / "signals").exists()


def test_queries_of_other_files_are_refused_before_training(shops: Shops, tmp_path: Path) -> None:
    games = shutil.copytree(shops.games, tmp_path / "games")
    (games / "train.parquet").write_bytes((games / "valid.parquet").read_bytes())
    found = started(
        shops.recipe,
        tmp_path / "run",
        f"train.extra_datasets.games={games}",
        more=("--until", "train"),
    )
    assert (found.code, "the files do not match dataset.json" in found.err) == (2, True)
    assert not (tmp_path / "run" / "train" / "checkpoints").exists()


def test_the_dry_run_shows_what_there_is_of_each_domain(shops: Shops) -> None:
    options = (
        "--set",
        f"train.extra_datasets.game={shops.games}",
        "--set",
        "train.extra_datasets.book=nowhere",
        "--dry-run",
    )
    shown = command("run", shops.recipe, *options, "--set", "model.template=bigrec", width=250)
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in shown.out.splitlines()
        if "│" in line
    ]
    targets = json.loads((shops.games / "dataset.json").read_text())["counts"]["train"]["targets"]
    assert ["default", "made by this run", "[words.default]", "–", "–", "–"] in rows
    assert ["game", str(shops.games), "[words.game]", str(GAMES), str(targets), "20"] in rows
    assert ["book", "nowhere (not there yet)", "default", "–", "–", "–"] in rows
    told = json.loads(command("run", shops.recipe, *options, "--json").out)["train.extra_datasets"]
    assert [(size["domain"], size["items"]) for size in told["sizes"]] == [
        ("default", None),
        ("book", None),
        ("game", 12),
    ]


def test_a_domain_may_have_any_letters(shops: Shops, tmp_path: Path) -> None:
    from groundrec.core.recipe import as_toml, load_recipe

    recipe, _ = load_recipe(shops.recipe, [f"train.extra_datasets.电影={shops.games}"])
    (tmp_path / "again.toml").write_text(as_toml(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "again.toml")[0].train.extra_datasets == {"电影": shops.games}


def test_explain_counts_the_examples_of_every_domain(shops: Shops, both: Path) -> None:
    shown = command("explain", "max_examples", "--run", both).out
    counts = [
        json.loads((place / "dataset.json").read_text())["counts"]["train"] for place in shops[1:]
    ]
    assert (
        f"{sum(split['targets'] - split['users'] for split in counts)} targets that have a history"
        in shown
    )
