"""What a user can get wrong: one clear message with the next step, exit code 2, nothing that was
there touched.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.app.conftest import Tiny, title, write_shop
from tests.commands import Result, command


class Place(NamedTuple):
    """A folder with a shop and its recipe, and where a run would go."""

    folder: Path
    recipe: Path
    run: Path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, write_shop(tmp_path), tmp_path / "run")


def contents(folder: Path) -> dict[str, str]:
    """Return a digest of every file."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }


def refused(place: Place, *arguments: object, new_files: str = "nothing") -> str:
    """Run a command that must fail as a user's error does; return its message.

    New files may only be below `new_files`.
    """
    before = contents(place.folder)
    result = command(*arguments)
    after = contents(place.folder)
    assert_clear(result)
    assert {name: after.get(name) for name in before} == before
    assert [
        name for name in after if name not in before and not name.startswith(f"{new_files}/")
    ] == []
    return result.err


def assert_clear(result: Result) -> None:
    assert result.code == 2, result
    assert result.out == ""
    message = result.err[result.err.index("error: ") :]
    assert "Traceback" not in result.err
    assert result.err.count("error: ") == 1
    assert re.search(r"^  (accepted|next): \S", message, re.MULTILINE), message


def settings(*pairs: str) -> list[str]:
    return [argument for pair in pairs for argument in ("--set", pair)]


RECIPES = {
    "a name that is nearly right": ("[train]\nepoch = 3", "train.epochs"),
    "a name of another section": ("[data]\nk_core = 3", "prepare.k_core"),
    "an unknown section": ("[trian]\nepochs = 3", "did you mean 'train'"),
    "not TOML": ("[train\nepochs = 3", "is not valid TOML"),
    "a word for a number": ('[train]\nepochs = "many"', "bad value for train.epochs"),
    "a fraction for a whole number": ("[recommend]\nk = 2.5", "bad value for recommend.k"),
    "a number out of range": ("[prepare]\nvalid_share = 1.5", "bad value for prepare.valid_share"),
    "shares that leave nothing": (
        "[prepare]\nvalid_share = 0.6\ntest_share = 0.5",
        "nothing to train on",
    ),
    "cut-offs beyond the slate": ("[recommend]\nk = 5", "at most recommend.k = 5"),
    "a cut-off of zero": ("[evaluate]\nks = [0]", "bad value for evaluate.ks.0"),
    "no cut-offs": ("[evaluate]\nks = []", "bad value for evaluate.ks"),
    "fewer beams than places": (
        '[recommend]\nmode = "beam"\nbeams = 2',
        "recommend.beams ≥ recommend.k = 50",
    ),
    "an unknown source": ('[data]\nsource = "tabel"', "did you mean 'table'"),
    "an unknown protocol": ('[prepare]\nprotocol = "leave-1-out"', "did you mean 'leave-one-out'"),
    "an unknown signal": ('signals = ["sasrek"]\n[fuse]\nsignals = []', "did you mean 'sasrec'"),
    "an unknown template": ('[model]\ntemplate = "bigreck"', "did you mean 'bigrec'"),
    "fusion with what is not fitted": (
        'signals = ["popularity"]',
        "fuse.signals names a signal that is not fitted",
    ),
    "an unknown metric": ('[fuse]\nmetric = "ndgc@10"', "did you mean 'ndcg'"),
    "a metric at no cut-off": ('[fuse]\nmetric = "ndcg@7"', "ndcg@10"),
}


@pytest.mark.parametrize("dry", [["--dry-run"], []], ids=["dry", "real"])
@pytest.mark.parametrize("text", RECIPES)
def test_a_recipe_that_is_wrong_is_refused_before_anything_is_written(
    place: Place, text: str, dry: list[str]
) -> None:
    content, expected = RECIPES[text]
    place.recipe.write_text(content + "\n", encoding="utf-8")
    assert expected in refused(place, "run", place.recipe, "--run-dir", place.run, *dry)


def test_a_recipe_that_is_not_text_is_refused(place: Place) -> None:
    place.recipe.write_bytes(b"\xff\xfe\x00")
    assert "is not valid TOML" in refused(place, "run", place.recipe)


def test_a_missing_recipe_names_those_that_are_there(place: Place) -> None:
    message = refused(place, "run", place.folder / "tinny.toml")
    assert "no such recipe" in message
    assert place.recipe.as_posix() in message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.epoch=3", "did you mean 'train.epochs'"),
        ("epochs=3", "did you mean 'train.epochs'"),
        ("train.epochs", "section.setting=value"),
        ("=3", "section.setting=value"),
        ("train.epochs=", "bad value for train.epochs"),
        ("train.epochs=[1]", "bad value for train.epochs"),
        ("train.epochs.more=1", "not a section: epochs"),
        ("train=3", "bad value for train"),
        ("prepare.bad_rows=skip", "'fail' or 'quarantine'"),
        ("seed=-1", "bad value for seed"),
    ],
)
def test_an_override_that_is_wrong_is_refused(place: Place, override: str, expected: str) -> None:
    assert expected in refused(
        place, "run", place.recipe, "--run-dir", place.run, *settings(override)
    )


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--until", "training", "did you mean 'train'"),
        ("--until", "dataset", "prepare, signals, train"),
        ("--if-exists", "overwrite", "resume, new, fail"),
    ],
)
def test_an_option_with_an_unknown_value_is_refused(
    place: Place, option: str, value: str, expected: str
) -> None:
    assert expected in refused(place, "run", place.recipe, "--run-dir", place.run, option, value)


def test_unknown_words_of_other_commands_are_refused(place: Place) -> None:
    assert "did you mean 'train'" in refused(place, "settings", "trian")
    assert "did you mean 'signals'" in refused(place, "list", "signal")


def test_a_missing_file_is_refused_before_anything_is_written(place: Place) -> None:
    where = place.folder / "event.csv"
    message = refused(
        place, "run", place.recipe, "--run-dir", place.run, *settings(f"data.path={where}")
    )
    assert "no such file or folder" in message
    assert "events.csv" in message


Edit = Callable[[str], str]
ROWS: dict[str, tuple[Edit, str]] = {
    "an unknown column": (lambda t: t.replace("time", "when", 1), "no such column"),
    "a time that is none": (lambda t: t.replace("1000000000", "yesterday", 1), "'yesterday'"),
    "an empty title": (lambda t: t.replace(title(3), ""), "the item has no title"),
    "two titles for one item": (
        lambda t: t.replace(title(3), "Another", 1),
        "already has another title",
    ),
    "two people": (
        lambda t: "".join(row for row in t.splitlines(True) if row[:3] in ("use", "u0,", "u1,")),
        "2 with",
    ),
    "nobody": (lambda t: t.splitlines(True)[0], "no interactions"),
    "an empty file": (lambda _: "", "the file is empty"),
    "a line with too many fields": (
        lambda t: t + "u1,f1,1,a,b,c\n",
        "this line cannot be parsed",
    ),
}


@pytest.mark.parametrize("what", ROWS)
def test_bad_rows_are_refused_and_the_mended_file_goes_on(place: Place, what: str) -> None:
    edit, expected = ROWS[what]
    events = place.folder / "events.csv"
    good = events.read_text(encoding="utf-8")
    events.write_text(edit(good), encoding="utf-8")
    start = (
        "run",
        place.recipe,
        "--run-dir",
        place.run,
        "--until",
        "prepare",
        "--if-exists",
        "resume",
    )
    assert expected in refused(place, *start, new_files="run")
    assert not (place.run / "prepare" / "manifest.json").exists()
    events.write_text(good, encoding="utf-8")
    assert command(*start).code == 0


def test_an_item_listed_twice_with_other_titles_is_refused(place: Place) -> None:
    items = place.folder / "items.csv"
    items.write_text("item,title\nf1,One\nf1,Uno\n", encoding="utf-8")
    start = ("run", place.recipe, "--run-dir", place.run, *settings(f"data.items={items}"))
    message = refused(place, *start, new_files="run")
    assert "items.csv, line 3, column title" in message


@pytest.fixture
def finished(place: Place, tiny: Tiny) -> Place:
    """Return a place whose run is finished; its recipe is the one that the run was made with."""
    shutil.copytree(tiny.run, place.run)
    shutil.copyfile(tiny.recipe, place.recipe)
    return place


def test_a_run_directory_in_use_is_refused(finished: Place) -> None:
    message = refused(finished, "run", finished.recipe, "--run-dir", finished.run)
    assert "in use" in message
    assert "--if-exists resume" in message


def test_a_run_about_other_data_is_refused(finished: Place) -> None:
    other = settings(f"data.path={finished.folder / 'events.csv'}")
    start = ("run", finished.recipe, "--run-dir", finished.run, "--if-exists", "resume", *other)
    message = refused(finished, *start)
    assert "holds another data set: data.path was " in message
    assert "--if-exists new" in message


def test_a_run_prepared_in_another_way_is_refused(finished: Place) -> None:
    start = ("run", finished.recipe, "--run-dir", finished.run, "--if-exists", "resume")
    assert "prepare.k_core was 0 and is 1" in refused(
        finished, *start, *settings("prepare.k_core=1")
    )


def test_a_folder_of_something_else_is_refused(place: Place) -> None:
    assert "not empty" in refused(place, "run", place.recipe, "--run-dir", place.folder)
    assert "not a run directory" in refused(place, "run", place.recipe, "--run-dir", place.recipe)


def test_a_first_start_that_failed_does_not_bar_the_mended_recipe(place: Place) -> None:
    wrong = settings('data.columns={time="when"}')
    assert command("run", place.recipe, "--run-dir", place.run, *wrong).code == 2
    start = ("run", place.recipe, "--run-dir", place.run, "--until", "prepare")
    assert command(*start, "--if-exists", "resume").code == 0


def test_a_base_model_that_is_not_there_is_refused_before_anything_is_written(place: Place) -> None:
    message = refused(
        place, "run", place.recipe, "--run-dir", place.run, *settings("model.base_model=scrach")
    )
    assert "did you mean 'scratch'" in message


@pytest.mark.parametrize(
    ("missing", "named"), [("tokenizer", "holds no tokenizer"), ("config.json", "holds no model")]
)
def test_a_base_model_without_a_part_is_refused(finished: Place, missing: str, named: str) -> None:
    base = shutil.copytree(finished.run / "train", finished.folder / "base")
    for file in base.glob(f"{missing}*"):
        file.unlink()
    start = ("run", finished.recipe, "--run-dir", finished.folder / "new", "--until", "train")
    quick = settings(f"model.base_model={base}", "signals=[]", "fuse.signals=[]")
    message = refused(finished, *start, *quick, new_files="new")
    assert named in message
    assert "found " in message


def test_an_answer_that_cannot_fit_is_refused_with_what_would(finished: Place) -> None:
    start = ("run", finished.recipe, "--run-dir", finished.folder / "new", "--until", "train")
    quick = settings("model.template=bigrec", "train.cutoff_len=40", "fuse.signals=[]")
    message = refused(finished, *start, *quick, new_files="new")
    least = int(re.findall(r"at least (\d+)", message)[0])
    whole = int(re.findall(r"train\.cutoff_len=(\d+)", message)[0])
    assert f"at {whole}, 95% of the histories fit whole" in message
    assert "signals/" not in message, "it is found out before signals are fitted"
    assert whole > least
    again = command(
        *start,
        "--if-exists",
        "resume",
        *quick,
        *settings(f"train.cutoff_len={least}", "train.epochs=0.1"),
    )
    assert again.code == 0
    assert f"train.cutoff_len = {least}: " in again.err
    assert f"95% fit whole at {whole}" in again.err


def test_an_unknown_title_is_refused(finished: Place) -> None:
    message = refused(finished, "recommend", finished.run, "Film 3 (1937)")
    assert "did you mean 'Film 3 (1973)'" in message


def test_a_run_whose_training_has_not_finished_is_refused(finished: Place) -> None:
    (finished.run / "train" / "manifest.json").unlink()
    message = refused(finished, "recommend", finished.run, title(3))
    assert "--if-exists resume" in message


def test_a_model_trained_with_other_words_is_refused(finished: Place) -> None:
    config = finished.run / "config.json"
    settings_now = json.loads(config.read_text(encoding="utf-8"))
    settings_now["model"]["template"] = "d3"
    config.write_text(json.dumps(settings_now), encoding="utf-8")
    message = refused(finished, "recommend", finished.run, title(3))
    assert "`train` of this run was made from other settings: template.description was " in message


@pytest.mark.parametrize("where", ["nowhere", "tiny.toml", "."])
def test_a_place_that_is_no_run_is_refused(place: Place, where: str) -> None:
    assert "not a run directory" in refused(place, "recommend", place.folder / where, title(3))


@pytest.mark.parametrize(
    "arguments",
    [
        ["recommend"],
        ["run"],
        ["fly"],
        ["run", "x.toml", "--fast"],
        ["recommend", "r", "t", "-k", "0"],
    ],
)
def test_a_command_line_that_is_wrong_exits_2_without_a_traceback(arguments: list[str]) -> None:
    result = command(*arguments)
    assert (result.code, result.out) == (2, "")
    assert "Usage: " in result.err
    assert "Traceback" not in result.err


def test_a_damaged_data_set_is_refused(finished: Place) -> None:
    record = finished.run / "prepare" / "dataset.json"
    record.write_text(
        json.dumps({**json.loads(record.read_text(encoding="utf-8")), "fingerprint": "0"})
    )
    start = ("run", finished.recipe, "--run-dir", finished.run, "--if-exists", "resume")
    before = contents(finished.run)
    result = command(*start)
    assert_clear(result)
    changed = {name for name, value in contents(finished.run).items() if before.get(name) != value}
    assert changed <= {"log.txt", "config.json", "status.json", "recipe.toml"}
