"""Write `docs/background.md`, a session with runs in the background: `python docs/background.py`.

The session is held in tmux, and what the terminal shows is copied. It takes a few minutes, and has
a queue, runs and a terminal of its own. Knows nothing about runs but their states, which it waits
for.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Protocol

from groundrec.app.jobs.state import State, state_of
from groundrec.data.raw.download import cache_folder, movielens_100k

__all__ = ["PAGE", "Terminal", "Tmux", "Typed", "page", "record", "session"]

PAGE = Path(__file__).resolve().parent / "background.md"
RECIPE = """\
name = "quick"
signals = ["popularity", "co-occurrence"]

[data]
source = "movielens-100k"

[prepare]
protocol = "leave-one-out"
k_core = 30

[model]
base_model = "scratch"
template = "list"

[model.scratch]
vocabulary = 1024
hidden = 32
layers = 1
heads = 2

[train]
epochs = 12
max_examples = 240
learning_rate = 3e-3
batch_size = 8
micro_batch_size = 8
cutoff_len = 64
loss_on = "branching"
patience = 0

[recommend]
mode = "exhaustive"
score = "renormalised"

[fuse]
signals = ["co-occurrence"]
"""
WIDTH, HEIGHT, SCROLL = 128, 50, 20_000
PATIENCE = 1800.0
LOOK = 0.1
"""Seconds between two checks."""
SHELL = ["bash", "--noprofile", "--norc", "--noediting"]
PROMPT = "$"


@dataclass(frozen=True)
class Typed:
    """A command, what the terminal showed, and the states of the runs afterwards."""

    command: str
    shown: str
    status: int
    states: dict[str, State] = field(default_factory=dict)


class Terminal(Protocol):
    """Where a session is held."""

    def open(self) -> None:
        """Open a window with a shell."""
        ...

    def close(self) -> None:
        """Close the window; what runs in it gets SIGHUP."""
        ...

    def type(self, command: str, interrupted: Callable[[str], bool] | None = None) -> Typed:
        """Type a command and return when it has ended.

        Ctrl-C is pressed once `interrupted` holds for its output.
        """
        ...

    def wait(self, run: str, when: Callable[[State], bool]) -> None:
        """Return when `when` holds for the state of a run."""
        ...


# -- the session -----------------------------------------------------------------------------------


def session(terminal: Terminal) -> Iterator[str | Typed]:
    """Yield the page's text and its commands in turn."""
    terminal.open()
    yield "# Runs in the background: a session\n"
    yield "<!-- Written by `python docs/background.py` from a terminal: change it there. -->\n"
    yield "A small recipe on MovieLens-100k:\n"
    yield terminal.type("cat quick.toml")
    yield from _submitted(terminal)
    yield from _stopped(terminal)
    yield from _compared(terminal)
    yield from _killed(terminal)
    yield from _finished(terminal)
    terminal.close()


def _submitted(terminal: Terminal) -> Iterator[str | Typed]:
    yield "Run it with three seeds, two at a time:\n"
    yield terminal.type("groundrec run quick.toml --detach --grid seed=0,1,2 --max-parallel 2")
    terminal.close()
    terminal.open()
    for run in ("quick+seed=0", "quick+seed=1"):
        terminal.wait(run, _has_a_checkpoint)
    yield (
        "That terminal is closed. Another one shows what the runs are doing. The time left is that"
        " of the progress bar before it:\n"
    )
    yield terminal.type("groundrec runs")
    yield "Follow one of them for a while. Ctrl-C stops following, not the run:\n"
    yield terminal.type(
        "groundrec runs logs -f -n 2 quick+seed=0", lambda shown: shown.count("epoch") >= 3
    )


def _stopped(terminal: Terminal) -> Iterator[str | Typed]:
    yield "Stop one: it saves a checkpoint first. The third run takes its turn:\n"
    yield terminal.type("groundrec runs stop quick+seed=1")
    terminal.wait("quick+seed=2", lambda state: state.stage == "train")
    yield terminal.type("groundrec runs")
    yield "Resume it: it continues from its checkpoint when its turn comes:\n"
    yield terminal.type("groundrec runs resume quick+seed=1")


def _compared(terminal: Terminal) -> Iterator[str | Typed]:
    for run in ("quick+seed=0", "quick+seed=1", "quick+seed=2"):
        terminal.wait(run, lambda state: state.is_over)
    yield (
        "When all have finished, compare them, query by query, with the swept setting in a"
        " column:\n"
    )
    yield terminal.type("groundrec runs")
    yield terminal.type("groundrec runs compare quick")


def _killed(terminal: Terminal) -> Iterator[str | Typed]:
    yield "## When a process is killed\n"
    yield (
        "A detached run is two processes: the run, and a supervisor that waits for its turn and for"
        " its end.\n"
    )
    yield terminal.type("groundrec run quick.toml --run-dir runs/fourth --detach")
    terminal.wait("fourth", _has_a_checkpoint)
    yield (shown := terminal.type("groundrec runs show fourth"))
    yield "Without its supervisor, the run continues:\n"
    yield terminal.type(f"kill -9 {_pid('supervisor', shown)}")
    terminal.wait("fourth", lambda state: not state.supervisor)
    yield terminal.type("groundrec runs show fourth")
    yield (
        "When the run is killed too, nothing is left to record it, as after a power cut. It is"
        " shown as `lost`, and can be resumed:\n"
    )
    yield terminal.type(f"kill -9 {_pid('run', shown)}")
    terminal.wait("fourth", lambda state: state.is_over)
    yield terminal.type("groundrec runs")
    yield terminal.type("groundrec runs resume fourth")


def _finished(terminal: Terminal) -> Iterator[str | Typed]:
    terminal.wait("fourth", lambda state: state.stage == "train" and state.completed is not None)
    yield (shown := terminal.type("groundrec runs show fourth"))
    yield "A living supervisor records what killed the run:\n"
    yield terminal.type(f"kill -9 {_pid('run', shown)}")
    terminal.wait("fourth", lambda state: state.is_over)
    yield terminal.type("groundrec runs show fourth")
    yield "Resume it once more, to the end:\n"
    yield terminal.type("groundrec runs resume fourth")
    terminal.wait("fourth", lambda state: state.is_over)
    yield terminal.type("groundrec runs")
    yield terminal.type("groundrec runs logs -n 1 fourth")


def _has_a_checkpoint(state: State) -> bool:
    return state.best is not None


def _pid(who: str, typed: Typed) -> int:
    """Return the process that `groundrec runs show` names."""
    found = re.search(rf"^processes .*\b{who} (\d+)", typed.shown, re.MULTILINE)
    assert found, typed.shown
    return int(found[1])


# -- the terminal ----------------------------------------------------------------------------------


class Tmux:
    """A terminal in `folder`, with a tmux server, a home and so a queue of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._ended = folder, folder / "ended"
        self._name = f"groundrec-{os.getpid()}"
        hidden = {"TMUX", "BASH_ENV", "ENV", "GROUNDREC_STATE", "RANK", "WORLD_SIZE"}
        self._environment = {
            **{name: value for name, value in os.environ.items() if name not in hidden},
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": str(folder),
            "GROUNDREC_CACHE": str(cache_folder()),
            "CUDA_VISIBLE_DEVICES": "",  # the same order on every machine
            "OMP_NUM_THREADS": "1",
            "PYTHONUTF8": "1",
            "HISTFILE": os.devnull,
            "PS1": f"{PROMPT} ",
            "PROMPT_COMMAND": (
                f"echo $? >> '{self._ended}'"
            ),  # before each prompt: the exit status of the last command
        }

    def open(self) -> None:
        """Open a window with a shell."""
        self._ended.write_text("", encoding="utf-8")
        size = ["-x", str(WIDTH), "-y", str(HEIGHT)]
        options = ["set-option", "-g", "history-limit", str(SCROLL)]
        self._tmux(*options, ";", "new-session", "-d", *size, "-c", str(self._folder), *SHELL)
        self._until(lambda: self._statuses and self._is_ready, "a prompt")

    def close(self) -> None:
        """Close the window; what runs in it gets SIGHUP."""
        self._tmux("kill-server")
        self._until(lambda: self._tmux("list-sessions", check=False) is None, "the end of tmux")

    def type(self, command: str, interrupted: Callable[[str], bool] | None = None) -> Typed:
        """Type a command and return when it has ended.

        Ctrl-C is pressed once `interrupted` holds for its output.
        """
        before, first = len(self._statuses), len(self._lines()) - 1
        self._tmux("send-keys", "-l", command)
        self._tmux("send-keys", "Enter")
        if interrupted:
            self._until(
                lambda: interrupted("\n".join(self._lines()[first:])), f"what {command} has to show"
            )
            self._tmux("send-keys", "C-c")
        self._until(
            lambda: len(self._statuses) > before and self._is_ready, f"the end of {command}"
        )
        *shown, last = self._lines()[first + 1 :]
        shown = "\n".join([*shown, last.removesuffix(PROMPT)]).rstrip()
        return Typed(command, shown, self._statuses[-1], self.states())

    def wait(self, run: str, when: Callable[[State], bool]) -> None:
        """Return when `when` holds for the state of a run; raise if the run ends before."""

        def now() -> bool:
            state = state_of(self._folder / "runs" / run)
            if not when(state) and state.is_over:
                raise RuntimeError(
                    f"{run} has ended ({state.state}) before it was seen at work: more train.epochs"
                )
            return when(state)

        self._until(now, f"{run}")

    def states(self) -> dict[str, State]:
        """Return the state of each run, by name."""
        return {path.name: state_of(path) for path in sorted((self._folder / "runs").glob("*"))}

    def end(self) -> None:
        """Close the window and kill whatever is still running."""
        self._tmux("kill-server", check=False)
        for who in ("supervisor", "pid"):  # first those that would start the next run
            for state in self.states().values():
                if pid := getattr(state, who):
                    os.kill(pid, signal.SIGKILL)

    @property
    def _statuses(self) -> list[int]:
        return [int(line) for line in self._ended.read_text(encoding="utf-8").split()]

    @property
    def _is_ready(self) -> bool:
        """Whether the last line ends with a prompt; a `^C` may come before it."""
        return self._lines()[-1].endswith(PROMPT)

    def _lines(self) -> list[str]:
        """Return all lines of the window's history, unwrapped."""
        return [
            line.rstrip()
            for line in (
                (self._tmux("capture-pane", "-p", "-J", "-S", "-") or "").rstrip().split("\n")
            )
        ]

    def _tmux(self, *arguments: str, check: bool = True) -> str | None:
        """Return what tmux prints; None if it fails."""
        call = ["tmux", "-u", "-f", os.devnull, "-L", self._name, *arguments]
        done = subprocess.run(
            call, env=self._environment, capture_output=True, text=True, check=check
        )
        return None if done.returncode else done.stdout

    @staticmethod
    def _until(when: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not when():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {PATIENCE:.0f} s for {what}")
            time.sleep(LOOK)


# -- the page --------------------------------------------------------------------------------------


def record(folder: Path, recipe: str) -> list[str | Typed]:
    """Return a session held in `folder` with this recipe."""
    (folder / "quick.toml").write_text(recipe, encoding="utf-8")
    terminal = Tmux(folder)
    try:
        return list(session(terminal))
    finally:
        terminal.end()


def page(parts: Iterable[str | Typed]) -> str:
    """Return the page: text as it is, successive commands as one block."""
    text = []
    for is_text, group in groupby(parts, lambda part: isinstance(part, str)):
        lines = "\n".join(
            part if isinstance(part, str) else f"$ {part.command}\n{part.shown}".rstrip()
            for part in group
        )
        text.append(lines if is_text else f"```console\n{lines}\n```\n")
    return "\n".join(text)


def main() -> None:
    """Write the page."""
    if not shutil.which("tmux"):
        sys.exit("tmux is missing: apt-get install tmux, or brew install tmux")
    movielens_100k()
    with tempfile.TemporaryDirectory() as folder:
        PAGE.write_text(page(record(Path(folder), RECIPE)), encoding="utf-8")


if __name__ == "__main__":
    main()
