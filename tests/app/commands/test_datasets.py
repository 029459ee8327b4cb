"""`groundrec prepare` and `groundrec export`, and a recipe that names a finished data set."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from groundrec.core.files import read_json
from groundrec.data.dataset import load
from tests.app.conftest import Tiny
from tests.commands import command
from tests.data.amazon import Shape, write_amazon

WINDOW = ("--K", 5, "--st_year", 2017, "--st_month", 10, "--ed_year", 2018, "--ed_month", 11)
FEW = ("--set", "prepare.d3.min_items=30")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Return a folder with the reviews and metadata of this category."""
    write_amazon(tmp_path / "raw", "Toys", Shape(users=150, items=60, reviews=2_000))
    return tmp_path / "raw"


@pytest.mark.parametrize(
    "words",
    [
        ("--reviews", "{0}/Books_5.json", "--metadata", "{0}/meta_Books.json", "--output", "True"),
        ("--path", "{0}", "--category=Books", "--output=True"),
        ("--path", "{0}", "--category=Books", "--K", "5"),
    ],
)
def test_the_words_of_d3s_preparation_take_its_protocol(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    write_amazon(tmp_path, "Books", Shape(users=80, items=30, reviews=1500))
    given = [word.format(tmp_path) for word in words]
    made = command("prepare", "amazon", *given, "--out", tmp_path / "out", "--quiet")
    assert made.code == 0, made.err
    settings = read_json(tmp_path / "out" / "dataset.json")["card"]["settings"]
    assert (settings["protocol"], settings["k_core"]) == ("d3", 5)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--output", "False"), "preparing data writes it"),
        (("--metadata", "meta.json"), "two files"),
    ],
)
def test_words_of_d3s_preparation_that_cannot_be_meant_are_refused(
    words: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    refused = command("prepare", "amazon", *words, "--out", tmp_path / "out")
    assert (refused.code, says in refused.err) == (2, True), refused.err


def test_an_item_without_a_title_is_named_with_what_to_do(tmp_path: Path) -> None:
    write_amazon(tmp_path, "Books", Shape(users=80, items=30, reviews=1500))
    file = tmp_path / "meta_Books.json"
    first, *rest = [json.loads(line) for line in file.read_text().splitlines()]
    del first["title"]
    kept = [row for row in rest if row["asin"] != first["asin"]]
    file.write_text("".join(json.dumps(row) + "\n" for row in [first, *kept]))
    line = ("prepare", "amazon", "--path", tmp_path, "--category", "Books", "--out", tmp_path / "o")
    refused = command(*line)
    assert f"the item has no title: item={first['asin']} " in refused.err
    assert "--protocol d3 leaves out items without a title" in refused.err
    assert command(*line, "--protocol", "d3").code == 0


def test_the_known_command_line_makes_the_known_files(raw: Path, tmp_path: Path) -> None:
    out, files = tmp_path / "out", tmp_path / "files"
    made = command(
        "prepare", "amazon", "--category", "Toys", *WINDOW, "--path", raw, "--out", out, *FEW
    )
    assert made.code == 0, made.err
    dataset = load(out)
    sizes = [len(dataset.split(name)) for name in ("train", "valid", "test")]
    assert f"interaction_list: {sum(sizes)}" in made.err
    assert "train: {}, valid: {}, test: {}".format(*sizes) in made.err
    assert dataset.fingerprint in made.out
    assert dataset.card["settings"]["protocol"] == "d3"  # type: ignore[index]
    shown = command("export", out, "--format", "d3", "--out", files, "--json")
    assert shown.code == 0, shown.err
    names = [Path(file).relative_to(files).as_posix() for file in json.loads(shown.out)]
    stem = "Toys_5_2017-10-2018-11"
    assert names == [
        f"train/{stem}.csv",
        f"valid/{stem}.csv",
        f"test/{stem}.csv",
        f"info/{stem}.txt",
    ]
    assert all((files / name).stat().st_size for name in names)


def test_without_a_window_the_protocol_is_the_recipes_default(raw: Path, tmp_path: Path) -> None:
    arguments = ("--set", "prepare.bad_rows=quarantine", "--k-core", 3, "--json")
    made = command(
        "prepare",
        "amazon",
        "--category",
        "Toys",
        "--path",
        raw,
        "--out",
        tmp_path / "out",
        *arguments,
    )
    assert made.code == 0, made.err
    dataset = load(tmp_path / "out")
    assert json.loads(made.out)["fingerprint"] == dataset.fingerprint
    assert dataset.card["settings"]["protocol"] == "global-time"  # type: ignore[index]
    assert dataset.card["settings"]["k_core"] == 3  # type: ignore[index]


def test_a_data_set_is_replaced_only_when_asked(raw: Path, tmp_path: Path) -> None:
    call = (
        "prepare",
        "amazon",
        "--category",
        "Toys",
        "--path",
        raw,
        "--out",
        tmp_path / "out",
        *FEW,
    )
    assert command(*call, "--protocol", "d3").code == 0
    before = load(tmp_path / "out").fingerprint
    refused = command(*call, "--protocol", "d3", "--K", 3)
    assert refused.code == 2
    assert "there is already a data set here" in refused.err
    assert "--overwrite" in refused.err
    assert command(*call, "--protocol", "d3", "--K", 3, "--overwrite").code == 0
    assert load(tmp_path / "out").fingerprint != before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--protocol", "d33"), "did you mean 'd3'"),
        (("--engine", "duckdbb"), "did you mean 'duckdb'"),
        (("--memory-limit", "much"), "bad value for prepare.memory_limit"),
        (("--st_year", 1990), "bad value for prepare.d3.st_year"),
        (("--st_year", 2019), "the time window ends before it starts"),
        (("--st_year", 2019, "--ed_year", 2020), "the time window contains no review"),
        (("--protocol", "d3", "--K", 900), "no item is left after the 900-core"),
        (
            ("--protocol", "d3", "--set", "prepare.min_rating=3"),
            "the protocol `d3` does not use this setting",
        ),
        (("--category", "Games"), "no reviews and metadata of this category"),
    ],
)
def test_what_cannot_be_is_one_error_of_four_parts(
    raw: Path, tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    category = () if "--category" in arguments else ("--category", "Toys")
    call = ("prepare", "amazon", *category, "--path", raw, "--out", tmp_path / "out", *FEW)
    refused = command(*call, *arguments)
    assert refused.code == 2
    lines = [line for line in refused.err.splitlines() if not line.startswith("  from")]
    told = lines[next(i for i, line in enumerate(lines) if line.startswith("error: ")) :]
    assert message in told[0]
    assert [line.partition(":")[0] for line in told[1:]] == ["  accepted", "  next"]
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_a_memory_limit_changes_nothing(raw: Path, tmp_path: Path) -> None:
    call = ("prepare", "amazon", "--category", "Toys", *WINDOW, "--path", raw, *FEW, "--json")
    prints = [
        json.loads(command(*call, "--out", tmp_path / str(i), *limit).out)["fingerprint"]
        for i, limit in enumerate([(), ("--memory-limit", "200MB")])
    ]
    assert prints[0] == prints[1]


def test_a_full_disk_is_one_error_and_nothing_half_written(raw: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    script = (
        f"mount -t tmpfs -o size=16k tmpfs {small} && {sys.executable} -c 'from"
        " groundrec.app.commands.main import main; main()' prepare amazon --category Toys --path"
        f" {raw} --out {small}/out --protocol d3 {' '.join(FEW)}; echo code $?; ls -A {small}/out"
    )
    isolated = [*("unshare", "--user", "--map-root-user", "--mount"), "sh", "-c", script]
    if (
        not shutil.which("unshare")
        or subprocess.run([*isolated[:-1], "true"], check=False).returncode
    ):
        pytest.skip("needs a mount namespace")
    done = subprocess.run(isolated, capture_output=True, text=True, check=False)
    if "mount:" in done.stderr:
        pytest.skip("needs the right to mount")
    assert "error: the disk is full" in done.stderr
    assert done.stdout.splitlines() == ["code 2"]


def test_the_data_set_of_a_run_is_exported(tiny: Tiny, tmp_path: Path) -> None:
    shown = command("export", tiny.run, "--format", "d3", "--out", tmp_path / "files")
    assert shown.code == 0, shown.err
    assert (tmp_path / "files" / "test" / "table.csv").read_text().startswith("user_id,item_asins")
    assert command("export", tiny.run, "--format", "d4", "--out", tmp_path / "files").code == 2
    nothing = command("export", tmp_path, "--format", "d3", "--out", tmp_path / "other")
    assert nothing.code == 2
    assert "no finished data set" in nothing.err


def test_a_recipe_uses_a_finished_data_set(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert (
        command(
            "prepare", "amazon", "--category", "Toys", *WINDOW, "--path", raw, "--out", out, *FEW
        ).code
        == 0
    )
    recipe = tmp_path / "toys.toml"
    recipe.write_text(f'[data]\ndataset = "{out}"\n', encoding="utf-8")
    call = ("run", recipe, "--run-dir", tmp_path / "run", "--until", "prepare")
    done = command(*call)
    assert done.code == 0, done.err
    assert load(tmp_path / "run" / "prepare").fingerprint == load(out).fingerprint
    assert (
        command("export", tmp_path / "run", "--format", "d3", "--out", tmp_path / "files").code == 0
    )
    both = ("--set", "prepare.k_core=3", "--set", "data.category=Toys")
    for more in (("--if-exists", "new"), ("--dry-run",), ("--plan",)):
        late = command(*call, *more, *both)
        assert late.code == 2
        assert "to which no other setting applies: data.category, prepare.k_core" in late.err
    (out / "dataset.json").unlink()
    gone = command(*call, "--if-exists", "new")
    assert gone.code == 2
    assert "no finished data set" in gone.err


@pytest.mark.parametrize("listed", [True, False])
def test_a_catalogue_that_shrinks_is_told_with_figures(listed: bool, tmp_path: Path) -> None:
    films = [f"Film {n}" for n in range(300)]
    for split, first in (("train", 0), ("valid", 80), ("test_5000", 124)):
        rows = [
            {"instruction": "Next?", "input": f'Seen: "{film}"', "output": f'"{film}"'}
            for film in films[first : first + 80]
        ]
        (tmp_path / f"{split}.json").write_text(json.dumps(rows))
    if listed:
        lines = (f"{film}\t{number}\n" for number, film in enumerate(films))
        (tmp_path / "id2name.txt").write_text("".join(lines))
    call = ("import", tmp_path, "--format", "bigrec", "--out", tmp_path / "out")
    made = command(*call)
    assert made.code == 0, made.err
    warned = "no list of items" in made.err
    assert warned != listed
    assert len(load(tmp_path / "out").catalogue) == (300 if listed else 204)
    if warned:
        assert "the catalogue is the 204 titles of the rows of" in made.err
        assert "train.json, valid.json, test_5000.json" in made.err
        assert f"put the list, movies.dat or id2name.txt (title, tab, number), into {tmp_path}" in (
            made.err
        )
        assert "no list of items" in command("card", tmp_path / "out").out


def test_a_run_trains_on_the_imported_words_and_says_which(tmp_path: Path) -> None:
    films = [f"Film {n}" for n in range(12)]
    for split in ("train", "valid", "test"):
        rows = [
            {"instruction": "My next film?", "input": f"I saw {films[n]}.", "output": films[n + 1]}
            for n in range(11)
        ]
        (tmp_path / f"{split}.json").write_text(json.dumps(rows))
    data = tmp_path / "data"
    assert command("import", tmp_path, "--format", "bigrec", "--out", data).code == 0
    recipe = tmp_path / "films.toml"
    small = "vocabulary = 300\nhidden = 8\nlayers = 1\nheads = 1\n"
    recipe.write_text(
        f'signals = []\nfuse.signals = []\ndata.dataset = "{data}"\n'
        f"[train]\nepochs = 0.1\n[model.scratch]\n{small}"
    )
    call = ("run", recipe, "--run-dir", tmp_path / "run", "--until", "train")
    first = command(*call)
    assert first.code == 0, first.err
    assert "prompts: the data set's own words, 'My next film?' … 'I saw '" in first.err
    again = command(*call, "--if-exists", "resume")
    assert "▪ train: skipped" in again.err
    other = command(*call, "--if-exists", "resume", "--set", "model.template=bigrec")
    assert "▸ train: redone" in other.err
    assert "the words of the template bigrec replace the data set's own" in other.err
