"""Processes told apart, one at a time in a directory, and SIGTERM as a wish."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from groundrec.core import stop
from groundrec.core.alive import Identity, alone_in
from groundrec.core.errors import ArtifactError
from groundrec.core.recipe import Recipe
from groundrec.core.runs import Run, read_json
from groundrec.core.stop import Stopped, saving, stoppable


@pytest.fixture
def somebody() -> Iterator[subprocess.Popen[str]]:
    """Return another living process, which waits for a line."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()


def test_a_process_is_itself_until_it_ends(somebody: subprocess.Popen[str]) -> None:
    one = Identity.of(somebody.pid)
    assert one.is_alive()
    assert Identity.read(one.to_json()) == one
    assert one != Identity.of()
    somebody.kill()
    os.waitid(os.P_PID, somebody.pid, os.WEXITED | os.WNOWAIT)
    assert psutil.Process(somebody.pid).status() == psutil.STATUS_ZOMBIE
    assert not one.is_alive()
    somebody.wait()
    assert not one.is_alive()
    assert not one.send(signal.SIGTERM)


@pytest.mark.parametrize(
    "change", [{"started": 0.0}, {"boot": "the one before"}, {"pid": 2**22 + 1}]
)
def test_who_has_the_pid_of_a_dead_process_gets_none_of_its_signals(
    somebody: subprocess.Popen[str], change: dict[str, object]
) -> None:
    other = replace(Identity.of(somebody.pid), **change)  # type: ignore[arg-type]
    assert not other.is_alive()
    assert not other.send(signal.SIGKILL)
    assert Identity.of(somebody.pid).send(signal.SIGTERM)
    assert somebody.wait() == -signal.SIGTERM


@pytest.mark.parametrize("value", [None, {}, {"pid": 1}, [], "1"])
def test_what_an_earlier_version_wrote_names_nobody(value: object) -> None:
    assert Identity.read(value) is None


HOLDS = """
import sys
from pathlib import Path
from groundrec.core.alive import alone_in
with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


def test_a_directory_is_one_process_s_until_it_dies(tmp_path: Path) -> None:
    words = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ArtifactError, match="another process is at work"), alone_in(tmp_path):
            pass
        process.kill()
        process.wait()
        with alone_in(tmp_path):
            pass


def test_a_run_that_is_open_is_opened_by_nobody_else_and_keeps_its_settings(tmp_path: Path) -> None:
    from groundrec.core.processes import ALONE

    with Run.shared(tmp_path / "run", Recipe(), None, "fail", ALONE) as run:
        other = Recipe(seed=5)
        with (
            pytest.raises(ArtifactError, match="another process is at work"),
            Run.shared(run.path, other, None, "resume", ALONE),
        ):
            pass
        assert read_json(run.path / "config.json")["seed"] == 0
        status = read_json(run.path / "status.json")
        assert (status["pid"], status["state"]) == (os.getpid(), "starting")
        assert Identity.read(status) == Identity.of()
    with Run.shared(run.path, other, None, "resume", ALONE):
        assert read_json(run.path / "config.json")["seed"] == 5


@pytest.mark.parametrize(
    ("error", "state"),
    [(Stopped, "stopped"), (KeyboardInterrupt, "stopped"), (ValueError, "failed")],
)
def test_how_a_run_ended_is_written_even_between_stages(
    tmp_path: Path, error: type[BaseException], state: str
) -> None:
    from groundrec.core.processes import ALONE

    with pytest.raises(error), Run.shared(tmp_path / "run", Recipe(), None, "fail", ALONE):
        raise error
    assert read_json(tmp_path / "run" / "status.json")["state"] == state


# -- SIGTERM ---------------------------------------------------------------------------------------
# --------------------


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)  # the interpreter looks for signals between two instructions


def test_sigterm_ends_work_at_once() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped), stoppable():  # noqa: PT012
        terminate()
        pytest.fail("went on")
    assert signal.getsignal(signal.SIGTERM) == before


def test_work_that_saves_is_ended_behind_its_block_however_often_it_is_asked() -> None:
    saved = []
    with stoppable():
        with saving() as asked:
            assert not asked()
        with pytest.raises(Stopped), saving() as asked:  # noqa: PT012
            for _ in range(3):
                terminate()
            assert asked()
            saved.append("all")
    assert saved == ["all"]


def test_cleaning_up_is_not_interrupted_by_a_second_sigterm() -> None:
    cleaned = []
    with pytest.raises(Stopped), stoppable():  # noqa: PT012
        try:
            terminate()
        finally:
            terminate()
            cleaned.append("all")
    assert cleaned == ["all"]


def test_the_exit_status_is_what_shells_expect() -> None:
    assert stop.EXIT == 143
