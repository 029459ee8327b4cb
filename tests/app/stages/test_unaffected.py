"""Settings that declare no stage change no slate: tried for real, and compared byte for byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from groundrec.core.affects import declared
from groundrec.core.files import read_json
from groundrec.core.types import Slates
from groundrec.data.dataset import load
from groundrec.rank.slates import load_slates
from tests.app.conftest import Tiny
from tests.commands import command

CHANGED = {
    "name": "another",
    "about": "something else",
    "prepare.memory_limit": "900MB",
    "train.gradient_checkpointing": True,
    "recommend.tokens_per_pass": 3,
    "recommend.memory_limit": "900MB",
    "recommend.shard_size": 7,
    "track.project": "elsewhere",
    "track.mode": "disabled",
}
ELSEWHERE = {
    "prepare.engine": "tests/data/test_engines.py compares data sets of DuckDB and Spark",
    "recommend.engine": "tests/app/test_cluster.py compares slates of Ray and of one process",
    "recommend.workers": "tests/app/test_cluster.py",
    "train.tree_attention": "the kernel is for CUDA devices; tests/train/test_packing.py",
    "track.board": "tests/app/test_boards.py runs the boards' clients",
    "track.watch": "tests/app/test_boards.py",
    "track.model": "tests/app/test_boards.py",
}
"""Where the other settings that declare nothing are tried, and why not here."""

ROUNDED = {"recommend.batch_size": 3}
"""Matrix products of another shape round differently: the items are the same, the scores nearly."""

EXACT = ("recommend.mode=exact", "recommend.k=10")


def words(settings: tuple[str, ...]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def assert_same(a: Slates, b: Slates) -> None:
    for name in ("query_ids", "items", "scores"):
        assert getattr(a, name).tobytes() == getattr(b, name).tobytes(), name


def slates(run: Path) -> dict[str, Slates]:
    folders = ("recommend/valid", "recommend/test", "fuse/co-occurrence")
    return {folder: load_slates(run / folder) for folder in folders}


@pytest.fixture(scope="module")
def exact(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that searches exactly, up to its fusions."""
    run = tmp_path_factory.mktemp("exact") / "run"
    done = command("run", tiny.recipe, "--run-dir", run, "--until", "fuse", *words(EXACT))
    assert done.code == 0, done.err
    return run


def test_every_setting_that_declares_nothing_is_tried() -> None:
    nothing = {setting for setting, stages in declared() if not stages}
    assert nothing == CHANGED.keys() | ELSEWHERE.keys() | ROUNDED.keys()


def test_all_of_them_changed_at_once_give_the_same_run(
    exact: Path, tiny: Tiny, tmp_path: Path
) -> None:
    changed = tuple(
        f"{setting}={str(value).lower() if value is True else value}"
        for setting, value in CHANGED.items()
    )
    run = tmp_path / "run"
    done = command(
        *("run", tiny.recipe, "--run-dir", run, "--until", "fuse"), *words(EXACT + changed)
    )
    assert done.code == 0, done.err
    config = read_json(run / "config.json")
    assert (config["recommend"]["shard_size"], config["train"]["gradient_checkpointing"]) == (
        7,
        True,
    )
    assert load(run / "prepare").fingerprint == load(exact / "prepare").fingerprint
    assert len(list((run / "recommend" / "test").glob("*.parquet"))) > 1
    expected = slates(exact)
    for folder, found in slates(run).items():
        assert_same(found, expected[folder])


def test_another_batch_size_gives_the_same_items(exact: Path, tiny: Tiny, tmp_path: Path) -> None:
    run = tmp_path / "run"
    changed = tuple(f"{setting}={value}" for setting, value in ROUNDED.items())
    done = command(
        *("run", tiny.recipe, "--run-dir", run, "--until", "fuse"), *words(EXACT + changed)
    )
    assert done.code == 0, done.err
    expected = slates(exact)
    for folder, found in slates(run).items():
        assert found.items.tobytes() == expected[folder].items.tobytes()
        np.testing.assert_allclose(found.scores, expected[folder].scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [3, 1000])
def test_another_shard_size_keeps_the_shards_of_an_interrupted_run(
    exact: Path, tiny: Tiny, tmp_path: Path, size: int
) -> None:
    run = tmp_path / "run"
    small = (*EXACT, "recommend.shard_size=16")
    done = command("run", tiny.recipe, "--run-dir", run, "--until", "recommend", *words(small))
    assert done.code == 0, done.err
    folder = run / "recommend" / "test"
    kept = sorted(folder.glob("*.parquet"))
    (folder / "manifest.json").unlink()
    kept[1].unlink()
    before = kept[0].stat().st_mtime_ns
    again = command(
        *("run", tiny.recipe, "--run-dir", run, "--until", "recommend", "--if-exists", "resume"),
        *words((*EXACT, f"recommend.shard_size={size}")),
    )
    assert again.code == 0, again.err
    assert "recommend/test: resumed" in again.err
    assert sorted(folder.glob("*.parquet")) == kept
    assert kept[0].stat().st_mtime_ns == before
    assert_same(load_slates(folder), load_slates(exact / "recommend" / "test"))
    assert np.unique(load_slates(folder).query_ids).size == len(load_slates(folder))
