"""A run killed at any moment and resumed ends with the very bytes of one that was left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from groundrec.app.jobs.state import state_of
from tests.app.background import Terminal, until
from tests.app.conftest import Tiny, slate_bytes, write_shop
from tests.commands import command

MAIN = """
import signal
# A parent in the background may have it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
from groundrec.app.commands.main import main
main()
"""
COMMAND = [sys.executable, "-c", MAIN, "run"]
MOMENTS = [
    "prepare/inputs.json",
    "signals/item-knn",
    "signals/sasrec/state.pt",
    "train",
    "train/checkpoints",
    "train/checkpoints/checkpoint-*",
    "train/checkpoints/checkpoint-*/whole.json",
    "train/checkpoints/checkpoint-80",
    "train/trie.npz",
    "recommend/valid",
    "recommend/test",
    "fuse",
    "evaluate",
]


def start(tiny: Tiny, run: Path) -> subprocess.Popen[str]:
    arguments = [str(tiny.recipe), "--run-dir", str(run), "--if-exists", "resume"]
    return subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def end(process: subprocess.Popen[str], when: Callable[[], bool], number: int) -> str:
    """Send a signal once `when` holds, unless the process has ended; return what it printed."""
    while process.poll() is None and not when():
        time.sleep(0.002)
    process.send_signal(number)
    return process.communicate(timeout=60)[1]


def resumed(tiny: Tiny, run: Path) -> dict[str, bytes]:
    result = command(
        "run", tiny.recipe, "--run-dir", run, "--if-exists", "resume", "--until", "fuse"
    )
    assert result.code == 0, result.err
    assert not [p for p in run.rglob("*.part") if str(os.getpid()) in p.name]
    return slate_bytes(run)


def seen(run: Path, pattern: str) -> Callable[[], bool]:
    return lambda: any(run.glob(pattern))


def test_killed_while_training(tiny: Tiny, tmp_path: Path) -> None:
    process = start(tiny, tmp_path / "run")
    end(
        process, seen(tmp_path / "run", "train/checkpoints/checkpoint-*/whole.json"), signal.SIGKILL
    )
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / "train" / "manifest.json").exists()
    assert resumed(tiny, tmp_path / "run") == slate_bytes(tiny.run)
    assert "resuming from checkpoint-" in (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")


def test_interrupted_by_hand_it_says_how_to_go_on(tiny: Tiny, tmp_path: Path) -> None:
    process = start(tiny, tmp_path / "run")
    err = end(process, seen(tmp_path / "run", "signals/popularity/inputs.json"), signal.SIGINT)
    assert process.returncode == 130
    assert "add --if-exists resume to the same command to continue" in err
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("pattern", MOMENTS)
def test_killed_when_something_appears(tiny: Tiny, tmp_path: Path, pattern: str) -> None:
    end(start(tiny, tmp_path / "run"), seen(tmp_path / "run", pattern), signal.SIGKILL)
    assert resumed(tiny, tmp_path / "run") == slate_bytes(tiny.run)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_killed_three_times_at_random(tiny: Tiny, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(3):
        moment = time.monotonic() + rng.uniform(1, 15)
        end(
            start(tiny, tmp_path / "run"),
            lambda moment=moment: time.monotonic() > moment,
            signal.SIGKILL,
        )
    assert resumed(tiny, tmp_path / "run") == slate_bytes(tiny.run)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_stopped_and_resumed_in_the_background_it_ends_with_the_same_slates(
    tmp_path: Path, seed: int
) -> None:
    """SIGTERM three times, at any step, or at the start; each step depends on all before: dropout,
    order.
    """
    terminal, rng = Terminal(tmp_path, write_shop(tmp_path)), random.Random(seed)
    settings = ["--set", "train.epochs=30", "--set", "model.scratch.dropout=0.3", "--until", "fuse"]
    whole = terminal.detach("whole", *settings, waiting=False)
    run = terminal.detach("stopped", *settings, waiting=False)
    for epoch in sorted(rng.sample(range(2, 28), 3)):
        log = run / "log.txt"
        until(lambda epoch=epoch, log=log: f"epoch {epoch}:" in log.read_text(encoding="utf-8"))
        time.sleep(rng.uniform(0, 0.1))
        terminal.call("runs", "stop", "stopped")
        assert state_of(run).state == "stopped"
        terminal.call("runs", "resume", "stopped")
    until(lambda: state_of(run).is_over and state_of(whole).is_over)
    assert (state_of(run).state, state_of(whole).state) == ("finished", "finished")
    assert (run / "log.txt").read_text(encoding="utf-8").count(
        "stopped after saving a checkpoint"
    ) >= 1
    assert slate_bytes(run) == slate_bytes(whole) != {}
