"""Gathered slates to numbers: each method's metrics, intervals and tests, as one report.

Reads and writes no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from groundrec.app.stages.fusion import fusions
from groundrec.app.stages.gather import Gathered, kind_of
from groundrec.core.environment import environment
from groundrec.core.registry import names
from groundrec.core.track import progress
from groundrec.core.types import NO_ITEM, PreparedDataset, Queries, Slates
from groundrec.data.summary import in_figures
from groundrec.evaluate import metrics
from groundrec.evaluate.report import Method, Pick, Report, UserExample
from groundrec.evaluate.statistics import Comparison, compare_to_reference, intervals

__all__ = ["PerQuery", "measure"]

PerQuery: TypeAlias = dict[str, dict[str, NDArray[np.float64]]]
"""Method → metric → its value for each test query. Shape of each: [Q]."""

SHOWN = 5
"""Recommendations and history items shown for an example user."""


def measure(gathered: Gathered) -> tuple[Report, PerQuery]:
    """Return the report of what was gathered, and each method's metrics per test query."""
    recipe = gathered.recipe
    queries = gathered.queries
    main = recipe.fuse.metric
    values = _per_query(gathered)
    # Numbers instead of names: they are compared many times.
    users = np.unique(queries.users, return_inverse=True)[1]
    single = [name for name in gathered.slates if kind_of(recipe, name) != "fused"]
    reference = max(single, key=lambda name: values[name][main].mean())
    versus = compare_to_reference(
        {name: value[main] for name, value in values.items()},
        reference,
        users,
        seed=recipe.seed,
    )
    methods = _methods(gathered, values, versus, users)
    taken = Slates(queries.ids, _padded_targets(queries), np.zeros((len(queries), 1), np.float32))
    popularity = gathered.dataset.popularity()
    report = Report(
        title=f"groundrec: {recipe.name}",
        dataset=f"{recipe.data.source}, {recipe.prepare.protocol} split",
        data=_data_rows(gathered.dataset, queries),
        warnings=_warnings(gathered),
        methods=tuple(methods),
        reference=reference,
        queries=len(queries),
        users=int(users.max(initial=-1)) + 1,
        curves=gathered.curves,
        fusion=gathered.fusion_curves,
        examples=tuple(_example_users(gathered)),
        recipe=gathered.recipe_text,
        environment=tuple(environment().items()),
        main_metric=main,
        bootstrap=recipe.evaluate.bootstrap,
        target_exposure=tuple(metrics.exposure(taken, popularity, taken.k)),
    )
    return report, values


def _per_query(gathered: Gathered) -> PerQuery:
    """Return each method's metrics per test query; where each metric has its own weight, each from
    the slates of that weight.
    """
    queries = gathered.queries
    ks = sorted(gathered.recipe.evaluate.ks)
    values = {
        name: metrics.per_query(slates, queries, ks, names("metrics"))
        for name, slates in progress(gathered.slates.items(), "measuring")
    }
    for name, own in gathered.per_metric.items():
        values[name] = {
            metric: metrics.metric_function(metric)(own[metric], queries) for metric in values[name]
        }
    return values


def _methods(
    gathered: Gathered,
    values: PerQuery,
    versus: Mapping[str, Comparison],
    users: NDArray[np.int64],
) -> list[Method]:
    """Return every method's numbers; all intervals come from the same resamples of users."""
    recipe = gathered.recipe
    queries = gathered.queries
    popularity = gathered.dataset.popularity()
    main = recipe.fuse.metric
    k = int(main.partition("@")[2])
    slices = {
        name: metrics.by_slice(slates, queries, popularity, main)
        for name, slates in gathered.slates.items()
    }
    options = {"samples": recipe.evaluate.bootstrap, "seed": recipe.seed}
    ends = intervals(_joined(values), users, **options)
    slice_ends = intervals(_joined(slices), users, **options)
    return [
        Method(
            name=name,
            kind=kind_of(recipe, name),
            metrics={column: ends[name, column] for column in values[name]},
            beyond=metrics.beyond_accuracy(slates, queries, popularity, k),
            slices={column: slice_ends[name, column] for column in slices[name]},
            exposure=tuple(metrics.exposure(slates, popularity, k)),
            comparison=versus.get(name),
        )
        for name, slates in gathered.slates.items()
    ]


def _joined(values: PerQuery) -> dict[tuple[str, str], NDArray[np.float64]]:
    """Return every method's columns as one table, by method and column."""
    return {(name, column): v for name, row in values.items() for column, v in row.items()}


def _warnings(gathered: Gathered) -> tuple[str, ...]:
    """Return what a reader must know before believing the numbers."""
    card = gathered.dataset.card
    notes = [str(note) for note in card.get("notes", ())]
    if any(fusion.per_metric for fusion in fusions(gathered.recipe)):
        notes.append(
            "Methods marked “per metric” have another weight for every metric and cut-off, each"
            " chosen on validation, as in BIGRec's code: no single ranking has all their numbers."
        )
    return tuple(notes)


def _padded_targets(queries: Queries) -> NDArray[np.int32]:
    """Return the targets as a table, a row a query, filled up with NO_ITEM. Shape: [Q, most]."""
    lengths = queries.targets.lengths
    table = np.full((len(queries), int(lengths.max())), NO_ITEM, np.int32)
    # The column of a target is its position in the flat array less that of its row's first.
    column = np.arange(len(queries.targets.values)) - np.repeat(
        queries.targets.offsets[:-1], lengths
    )
    table[queries.targets.rows, column] = queries.targets.values
    return table


def _data_rows(dataset: PreparedDataset, ranked: Queries) -> tuple[tuple[str, object], ...]:
    """Return what the report says of the data, as names and values."""
    rows = [("items in the catalogue", f"{len(dataset.catalogue):,}")]
    for split in ("train", "valid", "test"):
        part = dataset.split(split)
        rows.append((f"{split} queries", f"{len(part):,} ({len(part.targets.values):,} targets)"))
    is_whole = len(ranked) == len(dataset.test)
    sample = "all of them" if is_whole else "a random sample, the same for every seed"
    rows.append(("test queries ranked", f"{len(ranked):,}: {sample}"))
    card = dataset.card
    rows += [
        (str(name).replace("_", " "), in_figures(leak))
        for name, leak in card.get("leakage", {}).items()
    ]
    return tuple(rows)


def _example_users(gathered: Gathered) -> list[UserExample]:
    """Return example queries, one per user, drawn with the recipe's seed: not chosen by how well
    they went.
    """
    queries = gathered.queries
    titles = gathered.dataset.catalogue.titles
    recipe = gathered.recipe
    query_of: dict[str, int] = {}
    for i in np.random.default_rng(recipe.seed).permutation(len(queries)):
        query_of.setdefault(str(queries.users[i]), int(i))
    people = []
    for user, i in list(query_of.items())[: recipe.evaluate.example_users]:
        query = queries[i]
        taken = set(query.targets.tolist())
        picks = {
            name: tuple(
                Pick(titles[item], item in taken)
                for item in slates.items[i][:SHOWN].tolist()
                if item != NO_ITEM
            )
            for name, slates in gathered.slates.items()
        }
        history = tuple(titles[item] for item in query.history[-SHOWN:])
        people.append(
            UserExample(
                f"user {user}", history, picks, tuple(titles[item] for item in query.targets)
            )
        )
    return people
