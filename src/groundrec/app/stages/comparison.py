"""Runs side by side: one row per run and method, and per metric a mean with its interval and a
paired difference.

Only queries that every run has ranked count. Knows nothing about how slates were made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from groundrec.app.stages.fusion import fusions
from groundrec.app.stages.names import alone, title
from groundrec.core.errors import ArtifactError, ConfigError, did_you_mean
from groundrec.core.files import read_json
from groundrec.core.inputs import step_folder
from groundrec.core.recipe import Recipe, settings
from groundrec.evaluate.statistics import Interval, compare_to_reference, intervals

__all__ = ["ALL", "Paired", "Row", "Table", "compare_runs"]

Values = NDArray[np.float64]
ALL = "all"
"""Every method that all runs have, or every metric that they have measured."""
SEED = 0
SKIPPED = ("name", "about")


@dataclass(frozen=True)
class Paired:
    """One run against the first: the mean difference per query, its 95% interval, its p-value after
    Holm.
    """

    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Row:
    """One method of one run."""

    run: str
    method: str
    settings: dict[str, object]
    """The settings that are not the same in all runs, and those that were swept."""
    metrics: dict[str, Interval]
    versus: dict[str, Paired]
    """Per metric; empty for the row that the others are compared with."""


@dataclass(frozen=True)
class Table:
    """Runs beside each other, in the order they were named."""

    rows: tuple[Row, ...]
    queries: int
    users: int
    left_out: int
    """Queries that not every run has ranked."""


@dataclass(frozen=True)
class _Measured:
    """What one run has measured: every metric of every query."""

    name: str
    path: Path
    config: dict[str, Any]
    table: dict[str, NDArray[Any]]

    @property
    def methods(self) -> list[str]:
        found = (name.rpartition(" ")[0] for name in self.table if " " in name)
        return list(dict.fromkeys(found))

    @property
    def recipe(self) -> Recipe:
        return Recipe.model_validate(self.config)

    @property
    def plain(self) -> dict[str, str]:
        """The methods, by the names they would have without the recipe's assistant."""
        return {alone(self.recipe, name): name for name in self.methods}

    @property
    def main_method(self) -> str:
        """The first grounding of the recipe."""
        return title(self.recipe, self.recipe.recommend.methods[0])

    def named(self, method: str) -> str:
        """Return what this run calls a method, which may be asked for without its assistant."""
        return method if method in self.methods else self.plain.get(method, method)

    def columns(
        self, method: str, metrics: Sequence[str], rows: NDArray[np.int64]
    ) -> dict[str, Values]:
        return {metric: self.table[f"{method} {metric}"][rows] for metric in metrics}


def compare_runs(
    runs: dict[str, Path],
    methods: Sequence[str] = (),
    metrics: Sequence[str] = (),
    swept: Sequence[str] = (),
    *,
    against: str | None = None,
    samples: int = 1000,
) -> Table:
    """Return every run's `methods` side by side, each compared with the first row query by query.

    `runs` are finished runs by name, measured on the same data set. The method `all` stands for
    every method that all runs have; without `methods`, each run is shown by the first grounding of
    its recipe. A language model is the same method with an assistant and without: the row says
    which it was. `metrics` are those at the first run's main cut-off when left
    out, `all` every one. The first row is the first run's `against`, else its first method. The
    table holds the settings that differ and those that were `swept`. Intervals and p-values are
    over users, p-values corrected by Holm over the rows.
    """
    measured = [_read(name, path) for name, path in runs.items()]
    _refuse_other_data(measured)
    metrics = _chosen_metrics(measured[0], metrics)
    methods_of = _methods_of_runs(measured, methods, metrics, against)
    ids, rows = _common(measured)
    columns = {
        (run.name, method): run.columns(method, metrics, rows[run.name])
        for run in measured
        for method in methods_of[run.name]
    }
    users = measured[0].table["user"][rows[measured[0].name]]
    versus = {metric: _versus(columns, metric, users, samples) for metric in metrics}
    settings_of = _differing_settings(measured, swept)
    all_ids = set().union(*(run.table["query_id"].tolist() for run in measured))
    return Table(
        tuple(
            Row(
                *key,
                settings_of[key[0]],
                intervals(values, users, samples=samples, seed=SEED),
                {metric: pairs[key] for metric, pairs in versus.items() if key in pairs},
            )
            for key, values in columns.items()
        ),
        queries=len(ids),
        users=len(np.unique(users)),
        left_out=len(all_ids) - len(ids),
    )


def _methods_of_runs(
    runs: Sequence[_Measured], methods: Sequence[str], metrics: Sequence[str], against: str | None
) -> dict[str, list[str]]:
    """Return the methods that are shown of each run, `against` first; refuse unknown ones."""
    found = {run.name: _chosen_methods(run, runs, methods) for run in runs}
    if against is not None:
        against = runs[0].named(against)
        _check(runs[0], [against], metrics)
        found = {name: _first(against, own) for name, own in found.items()}
    for run in runs:
        _check(run, found[run.name], metrics)
    return found


def _chosen_metrics(first: _Measured, metrics: Sequence[str]) -> list[str]:
    if list(metrics) == [ALL]:
        return _metrics(first)
    return list(metrics) or _main_metrics(first)


def _chosen_methods(run: _Measured, runs: Sequence[_Measured], methods: Sequence[str]) -> list[str]:
    """Return the methods of one of `runs`, by the names it has for them."""
    if not methods:
        return [run.main_method]
    if list(methods) == [ALL]:
        methods = [name for name in runs[0].plain if all(name in other.plain for other in runs)]
    return [run.named(name) for name in methods]


def _first(name: str, methods: list[str]) -> list[str]:
    return [name, *(method for method in methods if method != name)]


def _versus(
    columns: dict[tuple[str, str], dict[str, Values]],
    metric: str,
    users: NDArray[np.generic],
    samples: int,
) -> dict[tuple[str, str], Paired]:
    """Return each row's difference from the first in one metric."""
    labels = {f"{place}": key for place, key in enumerate(columns)}
    values = {label: columns[key][metric] for label, key in labels.items()}
    tested = compare_to_reference(values, "0", users, seed=SEED)
    differences = {label: values[label] - values["0"] for label in tested}
    ends = intervals(differences, users, samples=samples, seed=SEED) if differences else {}
    return {
        labels[label]: Paired(found.difference, ends[label].low, ends[label].high, found.adjusted)
        for label, found in tested.items()
    }


def _read(name: str, path: Path) -> _Measured:
    if not (step_folder(path, "evaluate") / "manifest.json").exists():
        raise ArtifactError(
            "this run has measured nothing yet",
            value=path,
            accepted="a run whose stage `evaluate` has finished",
            next_step=f"groundrec runs resume {path}",
        )
    table = pq.read_table(step_folder(path, "evaluate") / "per_query.parquet")
    arrays = {column: np.asarray(table[column].to_pylist()) for column in table.column_names}
    config = read_json(path / "config.json") or {}
    return _Measured(name, path, config, _with_assistant(Recipe.model_validate(config), arrays))


def _with_assistant(recipe: Recipe, table: dict[str, Values]) -> dict[str, Values]:
    """Return the table with the names of today: an assistant used to go unnamed."""
    guided = {alone(recipe, name): name for name in _names_of(recipe)}
    renamed = {}
    for column, values in table.items():
        method, _, metric = column.rpartition(" ")
        renamed[f"{guided.get(method, method)} {metric}" if method else column] = values
    return renamed


def _names_of(recipe: Recipe) -> list[str]:
    """Return the names of what a recipe ranks by its language model."""
    groundings = [title(recipe, method) for method in recipe.recommend.methods]
    return [*groundings, *(fusion.name for fusion in fusions(recipe))]


def _main_metrics(run: _Measured) -> list[str]:
    """Return the recipe's main metric, then the others at its cut-off."""
    main = run.config["fuse"]["metric"]
    at = f"@{main.partition('@')[2]}"
    return [main, *(name for name in _metrics(run) if name.endswith(at) and name != main)]


def _metrics(run: _Measured) -> list[str]:
    return [
        name.rpartition(" ")[2] for name in run.table if name.rpartition(" ")[0] == run.methods[0]
    ]


def _check(run: _Measured, methods: Sequence[str], metrics: Sequence[str]) -> None:
    """Raise `ConfigError` where a method or a metric was not measured."""
    for method in methods:
        if method not in run.methods:
            raise ConfigError(
                f"{run.name} has no such method{did_you_mean(method, run.methods)}",
                value=method,
                accepted=", ".join(run.methods),
            )
        known = [name.rpartition(" ")[2] for name in run.table if name.rpartition(" ")[0] == method]
        if missing := [metric for metric in metrics if metric not in known]:
            raise ConfigError(
                f"{run.name} has not measured this{did_you_mean(missing[0], known)}",
                value=missing[0],
                accepted=", ".join(known),
            )


def _refuse_other_data(runs: Sequence[_Measured]) -> None:
    """Raise `ArtifactError` unless all runs have prepared the same data set.

    Another seed only orders the items of one moment otherwise: the queries and their targets are
    the same.
    """
    prints = [
        (read_json(step_folder(r.path, "prepare") / "manifest.json") or {})
        .get("result", {})
        .get("dataset")
        for r in runs
    ]
    for run, found in zip(runs, prints, strict=True):
        alike = all(
            run.config[section] == runs[0].config[section] for section in ("data", "prepare")
        )
        if found != prints[0] and not alike:
            raise ArtifactError(
                f"{run.name} and {runs[0].name} were measured on different data sets",
                value=f"{found} and {prints[0]}",
                accepted="runs of one data set: the same [data] and [prepare]",
                next_step=f"groundrec card {run.path}",
            )


def _common(runs: Sequence[_Measured]) -> tuple[NDArray[np.int64], dict[str, NDArray[np.int64]]]:
    """Return the queries that every run has ranked, and where they stand in each."""
    ids = runs[0].table["query_id"]
    for run in runs[1:]:
        ids = np.intersect1d(ids, run.table["query_id"])
    if not len(ids):
        raise ArtifactError(
            "no query was ranked by all of these runs",
            value=", ".join(run.name for run in runs),
            accepted="the same recommend.test_queries, or all test queries",
        )
    return ids, {run.name: _places(run.table["query_id"], ids) for run in runs}


def _places(where: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    order = np.argsort(where, kind="stable")
    return order[np.searchsorted(where, wanted, sorter=order)]


def _differing_settings(
    runs: Sequence[_Measured], swept: Sequence[str]
) -> dict[str, dict[str, object]]:
    """Return each run's settings that are not the same in all runs, and those that were swept."""
    every = {
        run.name: {k: v for k, v, _ in settings(Recipe.model_validate(run.config))} for run in runs
    }
    first = every[runs[0].name]
    differ = {
        key
        for key in first
        if key not in SKIPPED and any(s[key] != first[key] for s in every.values())
    }
    keys = [key for key in first if key in differ or key in swept]
    return {name: {key: values[key] for key in keys} for name, values in every.items()}
