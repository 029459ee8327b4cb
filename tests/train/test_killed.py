"""A training killed with SIGKILL again and again ends with the very weights of one that was left
alone.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

import pytest

from tests.app.launched import output, started

KILLS = 10
SETTINGS = {"micro_batch_size": 2, "epochs": 6, "dropout": 0.1, "batch_size": 2}
LISTS: dict[str, object] = {"template": "list"}
TREES: dict[str, object] = {"template": "d3", "packing": "tree", "tree_targets": 2}


def steps(folder: Path) -> int:
    """Return how many lines of metrics there are: one for each step and validation."""
    file = folder / "metrics-0.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def ended(command: list[str]) -> None:
    """Let a command end, which it has to do well."""
    with started(command) as process:
        said = output(process)
    assert process.returncode == 0, said


@pytest.mark.slow
@pytest.mark.parametrize("rows", [LISTS, TREES], ids=["lists", "trees"])
def test_killed_at_random_steps_it_ends_with_the_same_weights(
    tmp_path: Path, rows: dict[str, object]
) -> None:
    start = [sys.executable, "-m", "tests.train.curves"]
    settings = json.dumps({**SETTINGS, **rows})
    ended([*start, str(tmp_path / "whole"), settings])
    draw, folder, killed = random.Random(7), tmp_path / "killed", 0
    while killed < KILLS:
        with started([*start, str(folder), settings]) as process:
            last = steps(folder) + draw.randint(1, 12)
            while steps(folder) < last and process.poll() is None:
                time.sleep(0.001)
            time.sleep(draw.random() / 50)
            if process.poll() is not None:
                output(process)
                break
            process.kill()
            output(process)
            killed += 1
    assert killed == KILLS
    ended([*start, str(folder), settings])
    whole, resumed = (
        (tmp_path / name / "weights-0.safetensors").read_bytes() for name in ("whole", "killed")
    )
    assert whole == resumed
