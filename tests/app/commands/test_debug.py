"""A run waits for a debugger, which stops it at a line and reads what is there: alone, and under
launchers.
"""

from __future__ import annotations

import re
import socket
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from groundrec.app.commands import debug
from groundrec.app.stages import stages
from groundrec.core.files import read_json
from groundrec.core.processes import SINGLE_PROCESS, Processes
from tests.app.conftest import write_shop
from tests.app.debugger import PATIENCE, attached, free_ports
from tests.app.launched import TORCHRUN, output, started
from tests.commands import command

CALL = "            inputs = step.inputs(recipe, upstream, run)"
FILE = Path(stages.__file__)
LINE = FILE.read_text(encoding="utf-8").splitlines().index(CALL) + 1
"""Where the first step is made."""
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
DEEPSPEED = [
    sys.executable,
    "-m",
    "deepspeed.launcher.runner",
    "--num_gpus",
    "2",
    "--no_local_rank",
    "--module",
]


@pytest.fixture
def waiting(tmp_path: Path) -> list[str]:
    """Return the command that prepares a shop's data in `tmp_path / "run"`."""
    recipe = write_shop(tmp_path)
    return [
        "-m",
        "groundrec",
        "run",
        str(recipe),
        "--run-dir",
        str(tmp_path / "run"),
        "--until",
        "prepare",
    ]


def listening(port: int) -> set[str]:
    """Return the addresses at which this machine listens at a port; wait until it does."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        sockets = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        if found := {c.laddr.ip for c in sockets if c.laddr.port == port}:
            return found
        time.sleep(0.05)
    return set()


@pytest.mark.parametrize(
    "launcher", [[sys.executable], pytest.param(ACCELERATE, marks=pytest.mark.slow)]
)
def test_a_debugger_stops_one_process_and_reads_a_variable(
    waiting: list[str], tmp_path: Path, launcher: list[str]
) -> None:
    port = free_ports(1)
    with started([*launcher, *waiting, "--debug-attach", str(port)]) as process:
        assert listening(port) == {"127.0.0.1"}
        with attached(port, lambda: process.poll() is None, (FILE, LINE)) as debugger:
            variables = debugger.stopped()
            assert variables["stage"] == "'prepare'"
            assert debugger.evaluate("run.path.name") == "'run'"
            assert not (tmp_path / "run" / "prepare").exists()
            debugger.go_on()
        text = output(process)
    assert process.returncode == 0, text
    assert f"waiting for a debugger at 127.0.0.1:{port}" in text
    assert "Debugger warning" not in text
    assert read_json(tmp_path / "run" / "status.json")["state"] == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [TORCHRUN, DEEPSPEED], ids=["torchrun", "deepspeed"])
def test_each_of_two_processes_has_a_port_of_its_own(
    waiting: list[str], tmp_path: Path, launcher: list[str]
) -> None:
    if launcher == DEEPSPEED:
        if find_spec("deepspeed") is None:
            pytest.skip("DeepSpeed is not installed")
        waiting = waiting[1:]
    port = free_ports(2)
    with started(
        [*launcher, *waiting, "--debug-attach", str(port)], DS_ACCELERATOR="cpu"
    ) as process:
        alive = lambda: process.poll() is None  # noqa: E731
        with (
            attached(port, alive, (FILE, LINE)) as main,
            attached(port + 1, alive, (FILE, LINE)) as other,
        ):
            for rank, debugger in enumerate([main, other]):
                assert debugger.stopped()["name"] == "'prepare'"
                assert (
                    debugger.evaluate("(run.processes.rank, run.processes.world_size)")
                    == f"({rank}, 2)"
                )
            main.go_on()
            other.go_on()
        text = output(process)
    assert process.returncode == 0, text
    assert sorted(re.findall(r"process (\d) of 2 waits .* at 127\.0\.0\.1:(\d+)", text)) == [
        ("0", str(port)),
        ("1", str(port + 1)),
    ]
    assert read_json(tmp_path / "run" / "status.json")["state"] == "finished"


@pytest.mark.slow
def test_under_torchrun_one_process_can_be_picked(waiting: list[str]) -> None:
    port = free_ports(1)
    with started(
        [*TORCHRUN, *waiting, "--debug-attach", str(port), "--debug-rank", "1"]
    ) as process:
        with attached(port, lambda: process.poll() is None, (FILE, LINE)) as debugger:
            debugger.stopped()
            assert debugger.evaluate("run.processes.rank") == "1"
            debugger.go_on()
        text = output(process)
    assert process.returncode == 0, text
    assert text.count("for a debugger at") == 1


def test_processes_at_breakpoints_are_not_given_up() -> None:
    assert SINGLE_PROCESS.times_out
    assert not debug.wait_for_debugger(Processes(1, 2, 1, 2), debug.PORT, 0).times_out
    assert debug.wait_for_debugger(Processes(1, 2, 1, 2), None, None).times_out


def test_a_port_in_use_is_refused(waiting: list[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with started([sys.executable, *waiting, "--debug-attach", str(port)]) as process:
            text = output(process)
    assert process.returncode == 2, text
    assert f"cannot wait for a debugger here: 127.0.0.1:{port}" in text
    assert not (tmp_path / "run").exists()


def test_a_rank_that_is_not_there_and_a_rank_without_a_port_are_refused(
    waiting: list[str], tmp_path: Path
) -> None:
    arguments = waiting[2:]
    refused = command(*arguments, "--debug-attach", debug.PORT, "--debug-rank", 2)
    assert refused.code == 2
    assert "no process has this rank: --debug-rank 2" in refused.err
    alone = command(*arguments, "--debug-rank", 0)
    assert alone.code == 2
    assert "--debug-attach 5678" in alone.err
    assert not (tmp_path / "run").exists()


def test_without_debugpy_the_message_names_the_command_that_installs_it(
    waiting: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "debugpy", None)
    refused = command(*waiting[2:], "--debug-attach", debug.PORT)
    assert refused.code == 2
    assert "pip install 'groundrec[debug]'" in refused.err


def test_a_run_in_the_background_does_not_wait_for_a_debugger(
    waiting: list[str], tmp_path: Path
) -> None:
    refused = command(*waiting[2:], "--debug-attach", debug.PORT, "--detach")
    assert (refused.code, "leave out --detach" in refused.err) == (2, True)
    assert not (tmp_path / "run").exists()
