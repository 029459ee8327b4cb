"""One small finished run, shared by the tests of the doors: a shop where film n + 1 always follows
film n.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.commands import Result, command

USERS, FILMS, LENGTH = 40, 30, 12
RECIPE = """
name = "tiny"
about = "Forty people who watch thirty films in turn."

[data]
source = "table"
path = "{events}"

[prepare]
protocol = "leave-one-out"
k_core = 0

[model.scratch]
vocabulary = 400
hidden = 32
layers = 1
heads = 2
dropout = 0.0

[train]
epochs = 12
learning_rate = 1e-2
schedule = "constant"
batch_size = 4
micro_batch_size = 2
cutoff_len = 256
loss_on = "branching"
patience = 0

[sequential]
hidden = 16
layers = 1
epochs = 2

[recommend]
mode = "exhaustive"
score = "renormalised"
k = 10

[fuse]
signals = ["co-occurrence"]
grid = 5

[evaluate]
ks = [1, 5, 10]
bootstrap = 20
example_users = 3
"""


class Tiny(NamedTuple):
    """A finished run, its recipe, and what it printed. Tests read it and work on copies."""

    recipe: Path
    run: Path
    result: Result


def title(film: int) -> str:
    return f"Film {film % FILMS} ({1970 + film % FILMS})"


def write_shop(folder: Path) -> Path:
    """Write events and a recipe that reads them; return the recipe."""
    rng, rows = random.Random(0), ["user,item,time,title"]
    for user in range(USERS):
        start = rng.randrange(FILMS)
        for step in range(LENGTH):
            film = (start + step) % FILMS
            rows.append(f"u{user},f{film},{10**9 + step * 86400 + user * 60},{title(film)}")
    events = folder / "events.csv"
    events.write_text("\n".join(rows) + "\n", encoding="utf-8")
    recipe = folder / "tiny.toml"
    recipe.write_text(RECIPE.format(events=events), encoding="utf-8")
    return recipe


def slate_bytes(run: Path) -> dict[str, bytes]:
    """Return the bytes of every slate of a run."""
    files = [p for part in ("recommend", "fuse") for p in sorted((run / part).rglob("*.parquet"))]
    return {p.relative_to(run).as_posix(): p.read_bytes() for p in files}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Return the finished run."""
    folder = tmp_path_factory.mktemp("tiny")
    recipe = write_shop(folder)
    result = command("run", recipe, "--run-dir", folder / "run")
    assert result.code == 0, result.err
    return Tiny(recipe, folder / "run", result)


@pytest.fixture
def copied(tiny: Tiny, tmp_path: Path) -> Callable[..., Result]:
    """Return a function that resumes a copy of the run, in `tmp_path / "run"`, with further
    arguments.
    """
    shutil.copytree(tiny.run, tmp_path / "run")

    def resume(*arguments: object) -> Result:
        return command(
            "run", tiny.recipe, "--run-dir", tmp_path / "run", "--if-exists", "resume", *arguments
        )

    return resume
