"""Slates computed by actors of Ray Data: the same bytes, also when an actor's process is killed."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

from tests.app.conftest import Tiny, slate_bytes
from tests.app.launched import arguments, begun, killed, output, started
from tests.commands import Result, command

RAY = ("recommend.engine=ray", "recommend.workers=2")


@pytest.fixture
def sockets() -> Iterator[str]:
    """Return a folder with a path short enough for Ray's sockets."""
    pytest.importorskip("ray", reason="groundrec[ray] is not installed")
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        yield folder


@pytest.fixture(scope="module")
def alone(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run whose slates one process has made."""
    run = begun(tiny, tmp_path_factory.mktemp("alone") / "run")
    with started([sys.executable, *arguments(tiny, run)]) as process:
        text = output(process)
    assert process.returncode == 0, text
    return run


def is_actor(line: list[str]) -> bool:
    return bool(line) and line[0].startswith("ray::MapWorker")


@pytest.mark.slow
def test_an_actor_is_killed_and_the_slates_are_those_of_one_process(
    tiny: Tiny, alone: Path, tmp_path: Path, sockets: str
) -> None:
    run = begun(tiny, tmp_path / "run")
    with started([sys.executable, *arguments(tiny, run, *RAY)], RAY_TMPDIR=sockets) as process:
        killed(process, is_actor, 1, run)
        text = output(process)
    assert process.returncode == 0, text
    assert slate_bytes(run) == slate_bytes(alone)
    assert "2 actors on " in text
    assert text.count("keys and values: ") >= 2


@pytest.mark.slow
def test_a_refusal_in_an_actor_is_the_users_and_shards_that_are_there_are_kept(
    tiny: Tiny, alone: Path, tmp_path: Path, sockets: str
) -> None:
    run = begun(tiny, tmp_path / "run")
    small = arguments(tiny, run, *RAY, "recommend.memory_limit=1KB")
    with started([sys.executable, *small], RAY_TMPDIR=sockets) as process:
        text = output(process)
    assert process.returncode == 2, text
    assert (
        "error: one query alone does not fit into memory: recommend.memory_limit is less than "
        in text
    )
    assert "Traceback" not in text
    with started([sys.executable, *arguments(tiny, run)]) as process:  # another engine goes on
        text = output(process)
    assert process.returncode == 0, text
    assert "resumed, started with the same inputs" in text
    assert slate_bytes(run) == slate_bytes(alone)


def test_without_ray_the_error_names_the_command_that_installs_it(
    tiny: Tiny, tmp_path: Path
) -> None:
    with mock.patch("groundrec.app.stages.checks.find_spec", return_value=None):
        result = command(
            "run", tiny.recipe, "--run-dir", tmp_path / "run", "--set", "recommend.engine=ray"
        )
    assert result.code == 2
    assert result.err == "error: ray is not installed\n  next: pip install 'groundrec[ray]'\n"
    assert list(tmp_path.iterdir()) == []


def test_workers_without_ray_are_refused(copied: Callable[..., Result]) -> None:
    result = copied("--set", "recommend.workers=2")
    assert result.code == 2
    assert "recommend.workers applies only to the engine ray" in result.err


@pytest.mark.parametrize("engine", [(), pytest.param(RAY, marks=pytest.mark.slow)])
def test_another_engine_or_limit_redoes_nothing(
    copied: Callable[..., Result], engine: tuple[str, ...]
) -> None:
    if engine:
        pytest.importorskip("ray", reason="groundrec[ray] is not installed")
    settings = [word for s in (*engine, "recommend.memory_limit=1GB") for word in ("--set", s)]
    result = copied("--until", "fuse", *settings)
    assert result.code == 0, result.err
    assert result.err.count("skipped, finished with the same inputs") == result.err.count("▪")
    assert "▸" not in result.err
