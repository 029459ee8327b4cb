"""Writes `docs/background.md`: runs in the background, from a real terminal: `python
docs/background.py`.

tmux is the terminal: what it shows is copied, nothing is made up. It takes a few minutes; the
queue, the runs and the terminal are this session's own. Knows nothing about runs but their states,
which it waits for.
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
learn = "choices"
patience = 0

[recommend]
mode = "all"
score = "renormalised"

[fuse]
signals = ["co-occurrence"]
"""
WIDTH, HEIGHT, SCROLL = 128, 50, 20_000
PATIENCE = 1800.0
LOOK = 0.1
"""Seconds between two looks."""
SHELL = ["bash", "--noprofile", "--norc", "--noediting"]
PROMPT = "$"


@dataclass(frozen=True)
class Typed:
    """A command, what the terminal then showed, and how things were."""

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
        """Type a command; return when it has ended. Ctrl-C is pressed as soon as what it shows is
        `interrupted`.
        """
        ...

    def wait(self, run: str, when: Callable[[State], bool]) -> None:
        """Return when that is the state of a run."""
        ...


# -- the session -----------------------------------------------------------------------------------
# --------------------


def session(terminal: Terminal) -> Iterator[str | Typed]:
    """Yield words and commands in turn."""
    terminal.open()
    yield "# Runs in the background: a session\n"
    yield "<!-- Written by `python docs/background.py` from a terminal: change it there. -->\n"
    yield "A small recipe on MovieLens-100k:\n"
    yield terminal.type("cat quick.toml")
    yield from _handed_in(terminal)
    yield from _stopped(terminal)
    yield from _compared(terminal)
    yield from _killed(terminal)
    yield from _finished(terminal)
    terminal.close()


def _handed_in(terminal: Terminal) -> Iterator[str | Typed]:
    yield "It is run with three seeds, two at a time:\n"
    yield terminal.type("groundrec run quick.toml --detach --grid seed=0,1,2 --max-parallel 2")
    terminal.close()
    terminal.open()
    for run in ("quick+seed=0", "quick+seed=1"):
        terminal.wait(run, _has_a_checkpoint)
    yield (
        "That terminal is closed. Another one shows what they do. The time left is that of what"
        " stands before it:\n"
    )
    yield terminal.type("groundrec runs")
    yield "One of them is followed for a while. Ctrl-C ends the following, not the run:\n"
    yield terminal.type(
        "groundrec runs logs -f -n 2 quick+seed=0", lambda shown: shown.count("epoch") >= 3
    )


def _stopped(terminal: Terminal) -> Iterator[str | Typed]:
    yield "One is stopped: it saves a checkpoint first. Its place is free for the third:\n"
    yield terminal.type("groundrec runs stop quick+seed=1")
    terminal.wait("quick+seed=2", lambda state: state.stage == "model")
    yield terminal.type("groundrec runs")
    yield "It goes on from its checkpoint, in its turn:\n"
    yield terminal.type("groundrec runs resume quick+seed=1")


def _compared(terminal: Terminal) -> Iterator[str | Typed]:
    for run in ("quick+seed=0", "quick+seed=1", "quick+seed=2"):
        terminal.wait(run, lambda state: state.is_over)
    yield "When all have finished, they are compared, query by query, what was swept in a column:\n"
    yield terminal.type("groundrec runs")
    yield terminal.type("groundrec runs compare quick")


def _killed(terminal: Terminal) -> Iterator[str | Typed]:
    yield "## Whoever is killed\n"
    yield (
        "A detached run is two processes: the run, and a supervisor that waits for its turn and for"
        " its end.\n"
    )
    yield terminal.type("groundrec run quick.toml --run-dir runs/fourth --detach")
    terminal.wait("fourth", _has_a_checkpoint)
    yield (shown := terminal.type("groundrec runs show fourth"))
    yield "Without its supervisor, the run works on:\n"
    yield terminal.type(f"kill -9 {_pid('supervisor', shown)}")
    terminal.wait("fourth", lambda state: not state.supervisor)
    yield terminal.type("groundrec runs show fourth")
    yield (
        "When the run is killed too, nobody is left to say so, as after a power cut. It is `lost`,"
        " and goes on:\n"
    )
    yield terminal.type(f"kill -9 {_pid('run', shown)}")
    terminal.wait("fourth", lambda state: state.is_over)
    yield terminal.type("groundrec runs")
    yield terminal.type("groundrec runs resume fourth")


def _finished(terminal: Terminal) -> Iterator[str | Typed]:
    terminal.wait("fourth", lambda state: state.stage == "model" and state.completed is not None)
    yield (shown := terminal.type("groundrec runs show fourth"))
    yield "Where the supervisor lives, it tells what has killed the run:\n"
    yield terminal.type(f"kill -9 {_pid('run', shown)}")
    terminal.wait("fourth", lambda state: state.is_over)
    yield terminal.type("groundrec runs show fourth")
    yield "It goes on once more, to the end:\n"
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
# --------------------


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
            "CUDA_VISIBLE_DEVICES": "",  # the same turns on every machine
            "OMP_NUM_THREADS": "1",
            "PYTHONUTF8": "1",
            "HISTFILE": os.devnull,
            "PS1": f"{PROMPT} ",
            "PROMPT_COMMAND": (
                f"echo $? >> '{self._ended}'"
            ),  # before each prompt: how the command before it ended
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
        """Type a command; return when it has ended. Ctrl-C is pressed as soon as what it shows is
        `interrupted`.
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
        """Return when that is the state of a run; raise where it ends without."""

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
        """Close the window, and kill whatever is still at work."""
        self._tmux("kill-server", check=False)
        for who in ("supervisor", "pid"):  # first those who would let the next one begin
            for state in self.states().values():
                if pid := getattr(state, who):
                    os.kill(pid, signal.SIGKILL)

    @property
    def _statuses(self) -> list[int]:
        return [int(line) for line in self._ended.read_text(encoding="utf-8").split()]

    @property
    def _is_ready(self) -> bool:
        """Whether the last line is a prompt, behind a `^C` perhaps."""
        return self._lines()[-1].endswith(PROMPT)

    def _lines(self) -> list[str]:
        """Return what the window shows and has shown: lines as they were written, however they were
        wrapped.
        """
        return [
            line.rstrip()
            for line in (
                (self._tmux("capture-pane", "-p", "-J", "-S", "-") or "").rstrip().split("\n")
            )
        ]

    def _tmux(self, *words: str, check: bool = True) -> str | None:
        """Return what tmux prints; None where it fails."""
        call = ["tmux", "-u", "-f", os.devnull, "-L", self._name, *words]
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
# --------------------


def record(folder: Path, recipe: str) -> list[str | Typed]:
    """Return a session held in `folder` with this recipe."""
    (folder / "quick.toml").write_text(recipe, encoding="utf-8")
    terminal = Tmux(folder)
    try:
        return list(session(terminal))
    finally:
        terminal.end()


def page(parts: Iterable[str | Typed]) -> str:
    """Return words as they are, and commands that follow each other as one block."""
    text = []
    for is_words, group in groupby(parts, lambda part: isinstance(part, str)):
        words = "\n".join(
            part if isinstance(part, str) else f"$ {part.command}\n{part.shown}".rstrip()
            for part in group
        )
        text.append(words if is_words else f"```console\n{words}\n```\n")
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
