"""The page on background runs: its text is that of the script, and a session shows what it says."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groundrec.app.jobs.state import State
from tests.app.conftest import write_shop
from tests.commands import command

SCRIPT = Path(__file__).parents[2] / "docs" / "background.py"
spec = importlib.util.spec_from_file_location("docs_background", SCRIPT)
assert spec
assert spec.loader
script: Any = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = script
spec.loader.exec_module(script)
THREE = ("quick+seed=0", "quick+seed=1", "quick+seed=2")


class Read:
    """The session as the page shows it, in place of a terminal."""

    def __init__(self, page: str) -> None:
        blocks = re.findall(r"^```console\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
        parts = (
            part for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
        )
        self._commands = [part.rstrip("\n").partition("\n")[::2] for part in parts]

    def open(self) -> None: ...

    def close(self) -> None: ...

    def type(self, command: str, interrupted: Callable[[str], bool] | None = None) -> Any:
        expected, shown = self._commands.pop(0)
        assert expected == command
        return script.Typed(command, shown, 0)

    def wait(self, run: str, when: Callable[[State], bool]) -> None: ...


def test_the_page_has_the_text_the_commands_and_the_recipe_of_the_script() -> None:
    page = script.PAGE.read_text(encoding="utf-8")
    parts = list(script.session(Read(page)))
    assert script.page(parts) == page
    typed = [part for part in parts if not isinstance(part, str)]
    assert typed[0].shown == script.RECIPE.rstrip()


def test_a_page_of_another_session_is_noticed() -> None:
    page = script.PAGE.read_text(encoding="utf-8").replace(
        "groundrec runs stop", "groundrec runs rm"
    )
    with pytest.raises(AssertionError):
        list(script.session(Read(page)))


def test_the_commands_of_its_sentences_exist() -> None:
    """Those of its blocks are called by the tests of all documents."""
    page = script.PAGE.read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    for words in re.findall(r"`groundrec ([^`]+)`", prose):
        assert command(*shlex.split(words), "--help").code == 0, words


# -- a session of a tiny shop, in a real terminal


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Return all that was typed."""
    if not shutil.which("tmux"):
        pytest.skip("tmux is missing")
    folder = tmp_path_factory.mktemp("terminal")
    recipe = write_shop(folder).read_text(encoding="utf-8")
    recipe = recipe.replace('name = "tiny"', 'name = "quick"').replace("epochs = 12", "epochs = 30")
    return [part for part in script.record(folder, recipe) if not isinstance(part, str)]


def after(typed: list[Any], start: str) -> list[Any]:
    """Return what was typed from the first command that begins like this, itself included."""
    first = next(i for i, one in enumerate(typed) if one.command.startswith(start))
    return typed[first:]


def next_listing(typed: list[Any], start: str) -> tuple[dict[str, str], Any]:
    """Return run → state in the first listing after a command, and that listing."""
    later = after(after(typed, start)[1:], "groundrec runs")
    listing = next(one for one in later if one.command == "groundrec runs")
    rows = [
        line.split()[:2]
        for line in listing.shown.splitlines()[1:]
        if not line.startswith("to resume")
    ]
    return dict(rows), listing


@pytest.mark.slow
def test_every_command_ends_as_it_should(typed: list[Any]) -> None:
    ends = {one.command: one.status for one in typed}
    followed = "groundrec runs logs -f -n 2 quick+seed=0"
    assert ends.pop(followed) == 130, "Ctrl-C"
    assert set(ends.values()) == {0}
    assert after(typed, followed)[0].shown.endswith("^C")


@pytest.mark.slow
def test_three_runs_outlive_the_terminal_and_one_is_stopped_and_resumed(typed: list[Any]) -> None:
    assert "quick+seed=2: queued, waiting: 2 running" in after(typed, "groundrec run ")[0].shown
    shown, listing = next_listing(typed, "groundrec run ")
    assert shown == dict(zip(THREE, ("running", "running", "queued"), strict=True))
    assert {name: state.state for name, state in listing.states.items()} == shown
    assert after(typed, "groundrec runs logs")[0].states["quick+seed=0"].state in (
        "running",
        "finished",
    )
    stopped = after(typed, "groundrec runs stop")[0]
    assert stopped.shown.endswith("quick+seed=1: stopped")
    assert stopped.states["quick+seed=1"].exit["code"] == 143
    shown, listing = next_listing(typed, "groundrec runs stop")
    assert (shown["quick+seed=1"], shown["quick+seed=2"]) == ("stopped", "running")
    shown, listing = next_listing(typed, "groundrec runs resume quick+seed=1")
    assert shown == dict.fromkeys(THREE, "finished")
    assert [state.exit["code"] for state in listing.states.values()] == [0, 0, 0]


@pytest.mark.slow
def test_the_comparison_is_one_table_with_the_swept_setting(typed: list[Any]) -> None:
    head, *rows = after(typed, "groundrec runs compare")[0].shown.splitlines()
    assert head.split()[:2] == ["run", "seed"]
    compared = [row.split()[:2] for row in rows if row.startswith("quick")]
    assert sorted(compared) == [[name, f"{seed}"] for seed, name in enumerate(THREE)]


@pytest.mark.slow
def test_killed_runs_are_distinguished_from_living_ones(typed: list[Any]) -> None:
    started = after(typed, "groundrec run quick.toml --run-dir")
    alive = started[1].states["fourth"]
    without, lost = (
        after(started, f"kill -9 {alive.supervisor}"),
        after(started, f"kill -9 {alive.pid}"),
    )
    assert "state      running: its supervisor is gone" in without[1].shown
    assert (without[1].states["fourth"].pid, without[1].states["fourth"].supervisor) == (
        alive.pid,
        None,
    )
    assert next_listing(lost, "kill")[0]["fourth"] == "lost"
    again = after(lost, "groundrec runs show fourth")
    assert again[0].states["fourth"].pid not in (None, alive.pid)
    killed = after(again, "kill -9")[1]
    assert "killed: by SIGKILL" in killed.shown
    assert killed.states["fourth"].exit["signal"] == "SIGKILL"
    shown, listing = next_listing(again, "groundrec runs resume fourth")
    assert shown["fourth"] == "finished"
    assert listing.states["fourth"].exit["code"] == 0
    assert typed[-1].shown.endswith("ended: exit 0")
