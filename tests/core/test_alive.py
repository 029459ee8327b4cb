"""The identity of a process, the lock of a directory, and stopping on SIGTERM."""

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
from groundrec.core.alive import Identity, lock_folder
from groundrec.core.errors import ArtifactError
from groundrec.core.files import read_json
from groundrec.core.recipe import Recipe
from groundrec.core.runs import Run
from groundrec.core.stop import Stopped, defer_stop, stop_on_sigterm


@pytest.fixture
def other_process() -> Iterator[subprocess.Popen[str]]:
    """Return another running process, which waits for a line on stdin."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()


def test_a_process_keeps_its_identity_until_it_ends(other_process: subprocess.Popen[str]) -> None:
    identity = Identity.of(other_process.pid)
    assert identity.is_alive()
    assert Identity.from_json(identity.to_json()) == identity
    assert identity != Identity.of()
    other_process.kill()
    os.waitid(os.P_PID, other_process.pid, os.WEXITED | os.WNOWAIT)
    assert psutil.Process(other_process.pid).status() == psutil.STATUS_ZOMBIE
    assert not identity.is_alive()
    other_process.wait()
    assert not identity.is_alive()
    assert not identity.send_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    "change", [{"started": 0.0}, {"boot": "the one before"}, {"pid": 2**22 + 1}]
)
def test_a_process_that_reuses_a_pid_is_not_signalled(
    other_process: subprocess.Popen[str], change: dict[str, object]
) -> None:
    dead = replace(Identity.of(other_process.pid), **change)  # type: ignore[arg-type]
    assert not dead.is_alive()
    assert not dead.send_signal(signal.SIGKILL)
    assert Identity.of(other_process.pid).send_signal(signal.SIGTERM)
    assert other_process.wait() == -signal.SIGTERM


@pytest.mark.parametrize("value", [None, {}, {"pid": 1}, [], "1"])
def test_other_values_are_no_identity(value: object) -> None:
    assert Identity.from_json(value) is None


HOLDS = """
import sys
from pathlib import Path
from groundrec.core.alive import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


def test_a_directory_stays_locked_until_its_process_dies(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ArtifactError, match="another process is using"), lock_folder(tmp_path):
            pass
        process.kill()
        process.wait()
        with lock_folder(tmp_path):
            pass


def test_an_open_run_cannot_be_opened_again_and_keeps_its_settings(tmp_path: Path) -> None:
    from groundrec.core.processes import SINGLE_PROCESS

    with Run.shared(tmp_path / "run", Recipe(), None, "fail", SINGLE_PROCESS) as run:
        other = Recipe(seed=5)
        with (
            pytest.raises(ArtifactError, match="another process is using"),
            Run.shared(run.path, other, None, "resume", SINGLE_PROCESS),
        ):
            pass
        assert read_json(run.path / "config.json")["seed"] == 0
        status = read_json(run.path / "status.json")
        assert (status["pid"], status["state"]) == (os.getpid(), "starting")
        assert Identity.from_json(status) == Identity.of()
    with Run.shared(run.path, other, None, "resume", SINGLE_PROCESS):
        assert read_json(run.path / "config.json")["seed"] == 5


@pytest.mark.parametrize(
    ("error", "state"),
    [(Stopped, "stopped"), (KeyboardInterrupt, "stopped"), (ValueError, "failed")],
)
def test_the_end_of_a_run_is_recorded_even_between_stages(
    tmp_path: Path, error: type[BaseException], state: str
) -> None:
    from groundrec.core.processes import SINGLE_PROCESS

    with pytest.raises(error), Run.shared(tmp_path / "run", Recipe(), None, "fail", SINGLE_PROCESS):
        raise error
    assert read_json(tmp_path / "run" / "status.json")["state"] == state


# -- SIGTERM ---------------------------------------------------------------------------------------


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)  # the interpreter handles signals between two instructions


def test_sigterm_stops_work_at_once() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped), stop_on_sigterm():  # noqa: PT012
        terminate()
        pytest.fail("not stopped")
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_deferred_stop_comes_at_the_end_of_the_block_however_often_it_is_requested() -> None:
    saved = []
    with stop_on_sigterm():
        with defer_stop() as requested:
            assert not requested()
        with pytest.raises(Stopped), defer_stop() as requested:  # noqa: PT012
            for _ in range(3):
                terminate()
            assert requested()
            saved.append("all")
    assert saved == ["all"]


def test_a_second_sigterm_does_not_interrupt_cleanup() -> None:
    cleaned = []
    with pytest.raises(Stopped), stop_on_sigterm():  # noqa: PT012
        try:
            terminate()
        finally:
            terminate()
            cleaned.append("all")
    assert cleaned == ["all"]


def test_the_exit_status_is_what_shells_expect() -> None:
    assert stop.EXIT_CODE == 143
