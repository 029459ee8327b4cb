"""Runs that differ in their seed alone, as one row: mean and standard deviation over the seeds.

Knows nothing about runs on disk; it reads a comparison.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import numpy as np

from groundrec.app.stages.comparison import Row, Table

__all__ = ["SeedRow", "Spread", "over_seeds"]

SETTING = "seed"


@dataclass(frozen=True)
class Spread:
    """A metric over runs: the mean of their means, and the standard deviation, n - 1 below."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class SeedRow:
    """One method of runs that differ in their seed alone."""

    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    method: str
    settings: dict[str, object]
    """Those of the runs' rows, without the seed."""
    metrics: dict[str, Spread]

    @property
    def name(self) -> str:
        """What the runs' names begin with, and how many seeds there are."""
        start = self.runs[0][: _common_length(self.runs)]
        start = re.sub(r"[+_.\- ]*(seed)?[=_\- ]*$", "", start)
        return f"{start or ', '.join(self.runs)}: {len(self.seeds)} seeds"


def over_seeds(table: Table) -> tuple[SeedRow, ...]:
    """Return one row for each method of runs whose settings are the same but for the seed.

    A row of a comparison holds every setting that is not the same in all runs, so two runs whose
    rows agree in the rest differ in the seed alone. Of runs with the same seed the first counts.
    """
    groups: dict[str, dict[int, Row]] = {}
    for row in table.rows:
        seed = row.settings.get(SETTING)
        if isinstance(seed, int):
            key = json.dumps([row.method, _without_seed(row)], default=str, sort_keys=True)
            groups.setdefault(key, {}).setdefault(seed, row)
    return tuple(_row(group) for group in groups.values() if len(group) > 1)


def _row(group: dict[int, Row]) -> SeedRow:
    rows = list(group.values())
    means = {name: np.array([row.metrics[name].mean for row in rows]) for name in rows[0].metrics}
    return SeedRow(
        tuple(row.run for row in rows),
        tuple(group),
        rows[0].method,
        _without_seed(rows[0]),
        {name: Spread(float(x.mean()), float(x.std(ddof=1))) for name, x in means.items()},
    )


def _without_seed(row: Row) -> dict[str, object]:
    return {key: value for key, value in row.settings.items() if key != SETTING}


def _common_length(names: tuple[str, ...]) -> int:
    """Return how many characters all names begin with."""
    shortest = min(map(len, names))
    differ = (i for i in range(shortest) if len({name[i] for name in names}) > 1)
    return next(differ, shortest)
