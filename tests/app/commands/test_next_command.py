"""Commands end with the next useful one, on stderr, and that one works."""

from __future__ import annotations

import json
import shlex

import pytest

from tests.app.conftest import Tiny, title
from tests.commands import command


def commands(tiny: Tiny, kind: str) -> list[object]:
    return {
        "dry run": ["run", "demo", "--set", "seed=3", "--dry-run"],
        "plan": ["run", tiny.recipe, "--run-dir", tiny.run, "--if-exists", "resume", "--plan"],
        "recommend": ["recommend", tiny.run, title(3), title(4)],
        "card": ["card", tiny.run],
    }[kind]


@pytest.mark.parametrize("kind", ["dry run", "plan", "recommend", "card"])
def test_the_next_command_works(tiny: Tiny, kind: str) -> None:
    shown = command(*commands(tiny, kind))
    assert shown.code == 0, shown.err
    assert "next: " not in shown.out
    line = shown.err.splitlines()[-1]
    assert line.startswith("next: groundrec ")
    following = command(*shlex.split(line.removeprefix("next: groundrec ")))
    assert following.code == 0, f"{line}\n{following.err}"


@pytest.mark.parametrize("kind", ["dry run", "plan", "recommend", "card"])
def test_json_stays_alone(tiny: Tiny, kind: str) -> None:
    shown = command(*commands(tiny, kind), "--json")
    json.loads(shown.out)
    assert "next: " not in shown.err
