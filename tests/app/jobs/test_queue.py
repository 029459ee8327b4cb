"""Whose turn it is: order, limits, GPUs, and grids of runs."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from groundrec.app.jobs.background import grid_of
from groundrec.app.jobs.queue import Queue, Ticket, gpus
from groundrec.app.jobs.state import state_of
from groundrec.core.alive import Identity
from groundrec.core.errors import ConfigError
from tests.app.background import Terminal, at_work, until
from tests.app.conftest import write_shop


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    found = Terminal(tmp_path, write_shop(tmp_path))
    yield found
    found.end()


@pytest.fixture
def somebody() -> Iterator[subprocess.Popen[bytes]]:
    """Return another living process."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def ticket(run: str, order: float, most: int | None = None, who: int | None = None) -> Ticket:
    return Ticket(run, order, Identity.of(who), max_parallel=most)


# -- tickets ---------------------------------------------------------------------------------------


def test_turns_come_in_the_order_of_asking(tmp_path: Path) -> None:
    queue = Queue(tmp_path, [])
    assert isinstance(queue.take(ticket("a", 1, 1)), Ticket)
    assert queue.take(ticket("c", 3, 1)) == "1 running, --max-parallel 1"
    assert queue.take(ticket("b", 2, 1)) == "1 running, --max-parallel 1"
    assert queue.take(ticket("c", 3, 1)) == "1 ahead in the queue"
    queue.leave("a")
    assert queue.take(ticket("c", 3, 1)) == "1 ahead in the queue"
    assert isinstance(queue.take(ticket("b", 2, 1)), Ticket)


def test_a_run_without_a_limit_waits_for_nobody_and_counts(tmp_path: Path) -> None:
    queue = Queue(tmp_path, [])
    assert isinstance(queue.take(ticket("a", 1)), Ticket)
    assert isinstance(queue.take(ticket("b", 2)), Ticket)
    assert queue.take(ticket("c", 3, 2)) == "2 running, --max-parallel 2"
    assert isinstance(queue.take(ticket("d", 4)), Ticket)


def test_one_run_has_one_gpu(tmp_path: Path) -> None:
    queue = Queue(tmp_path, ["GPU-x", "GPU-y"])
    taken = [queue.take(ticket(name, order)) for order, name in enumerate("abc")]
    assert [t.gpu if isinstance(t, Ticket) else t for t in taken] == [
        "GPU-x",
        "GPU-y",
        "a free GPU",
    ]
    assert queue.take(ticket("d", 4)) == "1 ahead in the queue"
    queue.leave("a")
    assert queue.take(ticket("d", 4)) == "1 ahead in the queue"
    assert queue.take(ticket("c", 2)).gpu == "GPU-x"  # type: ignore[union-attr]


def test_the_dead_hold_no_place_and_a_living_worker_does(
    tmp_path: Path, somebody: subprocess.Popen[bytes]
) -> None:
    queue = Queue(tmp_path, [])
    queue.take(ticket("a", 1, 1, somebody.pid))
    assert queue.take(ticket("b", 2, 1)) == "1 running, --max-parallel 1"
    queue.set_worker("a", Identity.of())
    somebody.kill()
    somebody.wait()
    assert queue.take(ticket("b", 2, 1)) == "1 running, --max-parallel 1"
    queue.leave("a")
    assert isinstance(queue.take(ticket("b", 2, 1)), Ticket)


def test_a_waiting_ticket_of_the_dead_holds_nobody_up(
    tmp_path: Path, somebody: subprocess.Popen[bytes]
) -> None:
    queue = Queue(tmp_path, [])
    queue.take(ticket("a", 1, 1))
    queue.take(ticket("b", 2, 1, somebody.pid))
    queue.leave("a")
    assert queue.take(ticket("c", 3, 1)) == "1 ahead in the queue"
    somebody.kill()  # and is not buried yet
    until(lambda: isinstance(queue.take(ticket("c", 3, 1)), Ticket))


NVIDIA = """#!/bin/sh
printf '0, GPU-aaaa\\n1, GPU-bbbb\\n'
"""


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ["GPU-aaaa", "GPU-bbbb"]),
        ("1", ["GPU-bbbb"]),
        ("GPU-bbbb, 0", ["GPU-bbbb", "GPU-aaaa"]),
        ("", []),
        ("-1", []),
    ],
)
def test_a_gpu_has_one_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: list[str]
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(NVIDIA, encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus() == expected


# -- grids -----------------------------------------------------------------------------------------


def test_a_grid_is_every_combination_the_last_setting_fastest() -> None:
    assert grid_of(["train.learning_rate=1e-4,3e-4", "seed=0,1"]) == [
        {"train.learning_rate": "1e-4", "seed": "0"},
        {"train.learning_rate": "1e-4", "seed": "1"},
        {"train.learning_rate": "3e-4", "seed": "0"},
        {"train.learning_rate": "3e-4", "seed": "1"},
    ]
    assert grid_of([]) == [{}]
    assert grid_of(["evaluate.ks=[1, 5],[1,10]"]) == [
        {"evaluate.ks": "[1, 5]"},
        {"evaluate.ks": "[1,10]"},
    ]


@pytest.mark.parametrize(
    "texts", [["seed"], ["seed="], ["=1,2"], ["seed=1,1"], ["seed=1,,2"], ["seed=1", "seed=2"]]
)
def test_a_grid_that_says_something_else_is_refused(texts: list[str]) -> None:
    with pytest.raises(ConfigError, match="does not look like a setting with values"):
        grid_of(texts)


def test_a_bad_value_of_a_grid_begins_nothing(terminal: Terminal) -> None:
    said = terminal.call(
        "run", terminal.recipe, "--detach", "--grid", "train.epochs=1,none", code=2
    )
    assert "train.epochs" in said
    assert not (terminal.folder / "runs").exists()


# -- real runs -------------------------------------------------------------------------------------


def test_a_full_queue_works_in_order_and_loses_nobody_to_a_kill(terminal: Terminal) -> None:
    """Four runs, one at a time; the first is killed, the third is stopped before its turn."""
    runs = [terminal.detach(name, "--max-parallel", 1) for name in "abcd"]
    killed = at_work(runs[0])
    listed = terminal.listed()
    assert [listed[name]["state"] for name in "abcd"] == ["running", "queued", "queued", "queued"]
    assert listed["b"]["why"] == "1 running, --max-parallel 1"
    assert listed["d"]["why"] == "2 ahead in the queue"
    assert "c: stopped" in terminal.call("runs", "stop", "c")
    os.kill(killed.pid or 0, signal.SIGKILL)
    at_work(runs[1])
    assert [state_of(run).state for run in runs] == ["killed", "running", "stopped", "queued"]
    terminal.go()
    until(lambda: all(state_of(run).is_over for run in runs))
    assert [state_of(run).state for run in runs] == ["killed", "finished", "stopped", "finished"]
    ends = [(state_of(run).exit or {})["ended"] for run in (runs[0], runs[1], runs[3])]
    assert ends == sorted(ends)


def test_a_run_after_another_begins_only_when_that_has_finished(terminal: Terminal) -> None:
    first = terminal.detach("first")
    second = terminal.detach("second", "--after", "first")
    at_work(first)
    assert state_of(second).why == "until first, now running, has finished"
    terminal.call("runs", "stop", "first")
    until(lambda: state_of(second).why == "until first, now stopped, has finished")
    terminal.go()
    terminal.call("runs", "resume", "first")
    until(lambda: state_of(second).state == "finished")
    assert state_of(first).updated < state_of(second).updated


def test_a_run_on_a_gpu_sees_that_one_only(terminal: Terminal) -> None:
    first = terminal.detach("first", CUDA_VISIBLE_DEVICES="GPU-x,GPU-y")
    second = terminal.detach("second", CUDA_VISIBLE_DEVICES="GPU-x,GPU-y")
    third = terminal.detach("third", CUDA_VISIBLE_DEVICES="GPU-x,GPU-y")
    seen = {}
    for run in (first, second):
        pid = at_work(run).pid
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        seen[run.name] = [word for word in words if word.startswith(b"CUDA_VISIBLE_DEVICES=")]
    assert seen == {
        "first": [b"CUDA_VISIBLE_DEVICES=GPU-x"],
        "second": [b"CUDA_VISIBLE_DEVICES=GPU-y"],
    }
    assert (state_of(third).state, state_of(third).why) == ("queued", "a free GPU")
    os.kill(state_of(first).pid or 0, signal.SIGKILL)
    assert at_work(third).gpu == "GPU-x"


def test_a_sweep_is_a_run_for_each_cell_one_after_the_other(terminal: Terminal) -> None:
    said = terminal.call(
        "run",
        terminal.recipe,
        "--detach",
        "--grid",
        "train.epochs=1,2",
        "--grid",
        "seed=0,1",
        "--until",
        "prepare",
    )
    names = [f"tiny+epochs={epochs}+seed={seed}" for epochs in (1, 2) for seed in (0, 1)]
    assert [line.partition(":")[0] for line in said.splitlines()[:4]] == [
        f"runs/{name}" for name in names
    ]
    runs = [terminal.folder / "runs" / name for name in names]
    until(lambda: all(state_of(run).is_over for run in runs))
    assert [state_of(run).state for run in runs] == ["finished"] * 4
    assert list(terminal.listed()) == names
    shown = terminal.json("runs", "show", "tiny")
    assert [row["settings"] for row in shown][-1] == ["train.epochs=2", "seed=1"]
    for earlier, later in itertools.pairwise(runs):
        assert (earlier / "prepare" / "manifest.json").stat().st_mtime < (
            later / "config.json"
        ).stat().st_mtime
