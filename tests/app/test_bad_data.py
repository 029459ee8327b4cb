"""What can be wrong with data at the command line: one clear message with the next step, and
nothing half-written.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.app.test_bad_input import Place, assert_clear, contents, refused, settings
from tests.commands import command

CATEGORY = "Video_Games"
PROTOCOL = ("--protocol", "bigrec-game")
FORMATS = ("bigrec", "d3", "minionerec", "recbole")


def write_games(folder: Path, users: int = 12, reviews: int = 16) -> Path:
    """Write reviews and metadata; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "reviewerID": f"U{u}",
            "asin": f"B{(u + n) % 20}",
            "overall": 5.0,
            "unixReviewTime": 1_500_000_000 + 86_400 * n,
        }
        for u in range(users)
        for n in range(reviews)
    ]
    titles = [{"asin": f"B{n}", "title": f"Game {n}"} for n in range(20)]
    for name, lines in ((f"{CATEGORY}_5", rows), (f"meta_{CATEGORY}", titles)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def shop(tmp_path: Path) -> Place:
    """Return a place with raw games, and a data set made of them."""
    raw = write_games(tmp_path / "raw")
    made = command(
        "prepare",
        "amazon",
        "--path",
        raw,
        "--category",
        CATEGORY,
        *PROTOCOL,
        "--out",
        tmp_path / "made",
    )
    assert made.code == 0, made.err
    return Place(tmp_path, tmp_path / "made", tmp_path / "out")


def prepared(shop: Place, *arguments: object) -> tuple[object, ...]:
    given = (
        "prepare",
        "amazon",
        "--path",
        shop.folder / "raw",
        "--category",
        CATEGORY,
        "--out",
        shop.run,
    )
    return (*given, *arguments)


def test_an_unknown_category_names_the_known_ones(shop: Place) -> None:
    message = refused(shop, *prepared(shop, *PROTOCOL, "--category", "Video_Game"))
    assert "did you mean 'Video_Games'" in message
    assert "accepted: Video_Games" in message


def test_an_unknown_category_of_an_import_names_the_known_ones(shop: Place) -> None:
    assert (
        command("export", shop.recipe, "--format", "d3", "--out", shop.folder / "files").code == 0
    )
    start = ("import", shop.folder / "files", "--format", "d3", "--out", shop.run)
    message = refused(shop, *start, "--category", "Video_Gams")
    assert "did you mean 'Video_Games'" in message
    assert "train/: 0, valid/: 0, test/: 0, info/: 0" in message


def test_a_window_without_reviews_says_when_the_reviews_are(shop: Place) -> None:
    message = refused(
        shop, *prepared(shop, "--st_year", "2019", "--st_month", "1", "--ed_year", "2020")
    )
    assert "the time window contains no review: 2019-1 to 2020-11" in message
    assert "the reviews are from 2017-07-14 to 2017-07-29" in message
    assert "--st_year" in message


@pytest.mark.parametrize("name", [f"{CATEGORY}_5", f"meta_{CATEGORY}"])
def test_a_gzip_file_that_was_cut_short_is_named_as_such(shop: Place, name: str) -> None:
    plain = shop.folder / "raw" / f"{name}.json"
    whole = gzip.compress(plain.read_bytes())
    plain.unlink()
    plain.with_suffix(".json.gz").write_bytes(whole[: len(whole) // 2])
    message = refused(shop, *prepared(shop, *PROTOCOL))
    assert "a raw file is damaged" in message
    assert f"{name}.json.gz" in message
    assert "get the file again" in message


@pytest.mark.parametrize("name", FORMATS)
def test_an_export_beside_other_files_is_refused_and_done_when_asked_for(
    shop: Place, name: str
) -> None:
    start = ("export", shop.recipe, "--format", name, "--out", shop.run)
    assert command(*start).code == 0
    before = contents(shop.run)
    (shop.run / "mine.txt").write_text("mine", encoding="utf-8")
    message = refused(shop, *start)
    assert "the output folder is not empty" in message
    assert "--overwrite" in message
    assert command(*start, "--overwrite").code == 0
    assert contents(shop.run) == {**before, "mine.txt": contents(shop.run)["mine.txt"]}


@pytest.mark.parametrize("below", ["", "inside"])
def test_a_file_where_a_folder_should_be_is_refused(shop: Place, below: str) -> None:
    shop.run.write_text("a file", encoding="utf-8")
    commands = (
        ("export", shop.recipe, "--format", "recbole"),
        ("import", shop.folder, "--format", "d3"),
        ("prepare", "amazon", "--path", shop.folder / "raw", "--category", CATEGORY, *PROTOCOL),
    )
    for start in commands:
        assert "not a folder" in refused(shop, *start, "--out", shop.run / below)


def test_words_for_a_format_that_has_none_are_refused(shop: Place) -> None:
    words = shop.folder / "words.toml"
    start = ("export", shop.recipe, "--out", shop.run, "--template", words)
    assert "the format d3 does not use a template" in refused(shop, *start, "--format", "d3")
    assert "the template cannot be read" in refused(shop, *start, "--format", "bigrec")
    words.write_text('input = "Played: {title}"', encoding="utf-8")
    assert "must contain {titles} exactly once" in refused(shop, *start, "--format", "bigrec")
    words.write_text('instruction = "Next?"\ninput = "Played: {titles}"', encoding="utf-8")
    assert command(*start, "--format", "bigrec").code == 0
    row = json.loads((shop.run / "train.json").read_text())[0]
    assert (row["instruction"], row["input"][:17]) == ("Next?", 'Played: "Game 0",')


def test_an_unknown_format_and_a_place_without_a_data_set_are_refused(shop: Place) -> None:
    start = ("export", "--out", shop.run)
    assert "did you mean 'recbole'" in refused(shop, *start, shop.recipe, "--format", "recbol")
    message = refused(shop, *start, shop.folder / "raw", "--format", "recbole")
    assert "no finished data set" in message


BREAKS = {
    "d3": ("valid", "*.csv", lambda data: data[:-40], "this row cannot be used"),
    "minionerec": (
        "info",
        "*.txt",
        lambda data: data.replace(b"\t7\n", b"\t8\n"),
        "a title, a tab and the number 7",
    ),
    "bigrec": (".", "valid.json", lambda data: data[:-9], "a raw file cannot be read"),
    "bigrec, its list": (".", "id2name.txt", lambda data: data[:-4], "a title, a tab and a number"),
    "bigrec, a row": (
        ".",
        "test.json",
        lambda data: re.sub(rb'"output": .*', b'"output": ""', data, count=1),
        "this row cannot be used",
    ),
}


@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_file_is_not_imported(shop: Place, what: str) -> None:
    name, (part, pattern, damage, expected) = what.partition(",")[0], BREAKS[what]
    assert (
        command("export", shop.recipe, "--format", name, "--out", shop.folder / "files").code == 0
    )
    (file,) = (shop.folder / "files" / part).glob(pattern)
    good = file.read_bytes()
    file.write_bytes(damage(good))
    # The small shop's customers repeat each other.
    start = ("import", shop.folder / "files", "--format", name, "--out", shop.run, "--allow-leaks")
    message = refused(shop, *start)
    assert expected in message
    assert file.name in message
    file.write_bytes(good)
    assert command(*start).code == 0


def test_a_setting_that_a_protocol_has_no_use_for_is_refused(shop: Place) -> None:
    assert "does not use this setting: prepare.k_core" in refused(
        shop, *prepared(shop, *PROTOCOL, "--K", "5")
    )
    likes = settings("prepare.like_above=4")
    assert "applies only to the protocol `bigrec-movie`" in refused(
        shop, *prepared(shop, *PROTOCOL, *likes)
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return an empty disk of a quarter of a megabyte; skip where none can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or not mount:
        pytest.skip("only root mounts a disk")
    mounted = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("this root mounts no disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_named_and_nothing_half_written_is_kept(
    shop: Place, small_disk: Path
) -> None:
    """Preparing, exporting and importing more than a disk holds, first onto an empty one, then
    beside a data set.
    """
    large = write_games(shop.folder / "large", users=3_000, reviews=60)
    make = ("prepare", "amazon", "--category", CATEGORY, *PROTOCOL)
    assert command(*make, "--path", large, "--out", shop.folder / "whole").code == 0
    assert (
        command(
            "export", shop.folder / "whole", "--format", "d3", "--out", shop.folder / "files"
        ).code
        == 0
    )
    commands = [
        (*make, "--path", large, "--overwrite"),
        ("import", shop.folder / "files", "--format", "d3", "--overwrite"),
        *(("export", shop.folder / "whole", "--format", name, "--overwrite") for name in FORMATS),
    ]
    for folder in ("empty", "made"):
        out = small_disk / folder
        if folder == "made":
            shutil.copytree(shop.recipe, out)
        before = contents(small_disk)
        for start in commands:
            result = command(*start, "--out", out)
            assert_clear(result)
            assert "the disk is full" in result.err, result.err
            assert "now that partial files are removed" in result.err
            assert contents(small_disk) == before
    assert (
        command(
            "export", small_disk / "made", "--format", "recbole", "--out", small_disk / "small"
        ).code
        == 0
    )
