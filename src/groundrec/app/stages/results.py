"""A run's slates to numbers, a table for people and the report page.

Writes `eval/test.json` (means, intervals, tests), `eval/per_query.parquet`, `eval/table.txt`,
`report.html` and `report.png`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from groundrec.app.stages.artefacts import Experiment, method_name, signal_scores, slates_at
from groundrec.app.stages.fusion import LEARNED, fusions, kept_slates, per_metric, weights_of
from groundrec.core.registry import names
from groundrec.core.runs import atomic_write, environment, read_json, write_json
from groundrec.core.track import Metrics, console, progress
from groundrec.core.types import NO_ITEM, Queries, Slates
from groundrec.evaluate import metrics
from groundrec.evaluate.charts import Curve, FusionCurve, Kind, Series
from groundrec.evaluate.report import (
    Method,
    Pick,
    Report,
    UserExample,
    picture,
    table_text,
    write_report,
)
from groundrec.evaluate.statistics import compare_to_reference, intervals
from groundrec.rank.fuse import KINDS
from groundrec.rank.slates import load_slates

__all__ = ["defined", "evaluate_run", "kind_of", "report_of", "show", "slates_of"]

TABLE = "table.txt"
SHOWN = 5
"""Recommendations and history items shown for an example person."""


def evaluate_run(x: Experiment, folder: Path) -> None:
    """Measure every method of the run on its test queries and write tables, page and picture."""
    report, values = report_of(x)
    queries = x.queries("test")
    columns = {
        f"{method} {name}": column for method, row in values.items() for name, column in row.items()
    }
    with atomic_write(folder / "per_query.parquet") as part:
        pq.write_table(
            pa.table({"query_id": queries.ids, "user": queries.users.tolist(), **columns}), part
        )
    write_json(folder / "test.json", defined(_summary(report)))
    with atomic_write(folder / TABLE) as part:
        part.write_text(table_text(report), encoding="utf-8")
    picture(x.run.path / "report.png", report)
    write_report(x.run.path / "report.html", report)


def report_of(x: Experiment) -> tuple[Report, dict[str, dict[str, NDArray[np.float64]]]]:
    """Return the report of a run, and each method's metrics per test query."""
    main = x.recipe.fuse.metric
    queries = x.queries("test")
    slates = slates_of(x)
    values = _values(x, slates)
    single = [name for name in slates if kind_of(x, name) != "fused"]
    reference = max(single, key=lambda name: values[name][main].mean())
    versus = compare_to_reference(
        {name: v[main] for name, v in values.items()}, reference, queries.users, seed=x.recipe.seed
    )
    methods = [_method(x, name, slates[name], values[name], versus.get(name)) for name in slates]
    popularity = x.dataset.popularity()
    truth = Slates(queries.ids, _padded_targets(queries), np.zeros((len(queries), 1), np.float32))
    report = Report(
        title=f"groundrec: {x.recipe.name}",
        dataset=f"{x.recipe.data.source}, {x.recipe.prepare.protocol} split",
        data=_data_rows(x, queries),
        warnings=_warnings(x),
        methods=tuple(methods),
        reference=reference,
        queries=len(queries),
        users=len(np.unique(queries.users)),
        curves=tuple(_curves(x)),
        fusion=tuple(_fusions(x)),
        examples=tuple(_people(x, queries, slates)),
        recipe=_recipe_text(x),
        environment=tuple(environment().items()),
        main_metric=main,
        bootstrap=x.recipe.evaluate.bootstrap,
        target_exposure=tuple(metrics.exposure(truth, popularity, truth.k)),
    )
    return report, values


def slates_of(x: Experiment) -> dict[str, Slates]:
    """Return every method's test slates: each signal, the language model, each fusion."""
    queries = x.queries("test")
    k = x.recipe.recommend.k
    found = {
        name: Slates.from_scores(queries.ids, signal_scores(x, name, queries), k)
        for name in progress(x.recipe.signals, "ranking by signals")
    }
    for method in x.recipe.recommend.methods:
        found[method_name(method)] = load_slates(x.run.path / slates_at(method, "test"))
    for fusion in fusions(x):
        found[fusion.name] = kept_slates(x, fusion)
    return found


def _values(x: Experiment, slates: dict[str, Slates]) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Return each method's metrics per test query; those of a fusion done the papers' way each from
    its own weight.
    """
    queries = x.queries("test")
    ks = sorted(x.recipe.evaluate.ks)
    measured = names("metrics")
    values = {
        name: metrics.per_query(s, queries, ks, measured)
        for name, s in progress(slates.items(), "measuring")
    }
    for fusion in fusions(x):
        if fusion.paper:
            own = per_metric(x, fusion)
            values[fusion.name] = {
                name: metrics.metric_function(name)(own[name], queries)
                for name in values[fusion.name]
            }
    return values


def _warnings(x: Experiment) -> tuple[str, ...]:
    """Return what a reader must know before believing the numbers."""
    notes = [str(note) for note in x.dataset.card.get("notes", ())]  # type: ignore[attr-defined]
    if any(fusion.paper for fusion in fusions(x)):
        notes.append(
            "Methods marked “per metric” have another weight for every metric and cut-off, each"
            " chosen on validation, as in BIGRec's code: no single ranking has all their numbers."
        )
    return tuple(notes)


def _method(
    x: Experiment, name: str, slates: Slates, values: dict[str, Any], versus: Any
) -> Method:
    queries = x.queries("test")
    popularity = x.dataset.popularity()
    options = {"samples": x.recipe.evaluate.bootstrap, "seed": x.recipe.seed}
    main = x.recipe.fuse.metric
    k = int(main.partition("@")[2])
    return Method(
        name=name,
        kind=kind_of(x, name),
        metrics=intervals(values, queries.users, **options),
        beyond=metrics.beyond_accuracy(slates, queries, popularity, k),
        slices=intervals(
            metrics.by_slice(slates, queries, popularity, main), queries.users, **options
        ),
        exposure=tuple(metrics.exposure(slates, popularity, k)),
        comparison=versus,
    )


def kind_of(x: Experiment, name: str) -> Kind:
    """Return what a method of the run's report is made of."""
    if name in x.recipe.signals:
        return "signal"
    return "language" if name in map(method_name, x.recipe.recommend.methods) else "fused"


def _padded_targets(queries: Queries) -> NDArray[np.int32]:
    table = np.full((len(queries), int(queries.targets.lengths.max())), NO_ITEM, np.int32)
    place = np.arange(len(queries.targets.values)) - np.repeat(
        queries.targets.offsets[:-1], queries.targets.lengths
    )
    table[queries.targets.rows, place] = queries.targets.values
    return table


def _data_rows(x: Experiment, queries: Queries) -> tuple[tuple[str, object], ...]:
    data = x.dataset
    rows = [("items in the catalogue", f"{len(data.catalogue):,}")]
    for split in ("train", "valid", "test"):
        part = data.split(split)
        rows.append((f"{split} queries", f"{len(part):,} ({len(part.targets.values):,} targets)"))
    sample = (
        "all of them"
        if len(queries) == len(data.test)
        else "a random sample, the same for every seed"
    )
    rows.append(("test queries ranked", f"{len(queries):,}: {sample}"))
    leakage = data.card.get("leakage", {})
    rows += [(str(name).replace("_", " "), f"{share:.1%}") for name, share in leakage.items()]  # type: ignore[attr-defined]
    return tuple(rows)


def _curves(x: Experiment) -> list[Curve]:
    rows = Metrics.read(x.run.path / "metrics.jsonl")
    lm = [r for r in rows if r["stage"] == "model"]
    series = [
        _series(lm, "epoch", key, name)
        for key, name in (("loss", "training"), ("eval_loss", "validation"))
    ]
    curves = [Curve("Language model: loss per token", "epoch", tuple(s for s in series if s.x))]
    if (points := _series(lm, "epoch", "ndcg@10", "validation")).x:
        curves.append(Curve("Language model: NDCG@10", "epoch", (points,)))
    for name in x.recipe.signals:
        log_file = x.run.path / "signals" / name / "metrics.jsonl"
        points = _series(Metrics.read(log_file), "epoch", "ndcg@10", "validation")
        if points.x:
            curves.append(Curve(f"{name}: NDCG@10", "epoch", (points,)))
    return [curve for curve in curves if curve.series]


def _series(rows: list[dict[str, Any]], x: str, y: str, name: str) -> Series:
    """Return the last value logged at each point, so that a resumed run shows one line."""
    points = {row[x]: row[y] for row in rows if y in row}
    return Series(
        name,
        tuple(float(p) for p in sorted(points)),
        tuple(float(points[p]) for p in sorted(points)),
    )


def _fusions(x: Experiment) -> list[FusionCurve]:
    chosen = weights_of(x)
    curves = []
    for fusion in fusions(x):
        if fusion.kind == LEARNED:
            continue
        found = chosen[fusion.place]
        alphas, means, errors = (
            tuple(p[key] for p in found["curve"]) for key in ("alpha", "mean", "error")
        )
        curves.append(
            FusionCurve(
                fusion.signals[0],
                x.recipe.fuse.metric,
                alphas,
                means,
                errors,
                found["alpha"],
                KINDS[fusion.kind].weight,
                method_name(fusion.method),
                fusion.label,
            )
        )
    return curves


def _people(x: Experiment, queries: Queries, slates: dict[str, Slates]) -> list[UserExample]:
    """Return example queries, one per user, drawn with the recipe's seed: not chosen by how well
    they went.
    """
    titles = x.dataset.catalogue.titles
    order = np.random.default_rng(x.recipe.seed).permutation(len(queries))
    chosen: dict[str, int] = {}
    for i in order:
        chosen.setdefault(str(queries.users[i]), int(i))
    people = []
    for user, i in list(chosen.items())[: x.recipe.evaluate.example_users]:
        query = queries[i]
        taken = set(query.targets.tolist())
        shown = {
            name: tuple(
                Pick(titles[item], item in taken)
                for item in s.items[i][:SHOWN].tolist()
                if item != NO_ITEM
            )
            for name, s in slates.items()
        }
        history = tuple(titles[item] for item in query.history[-SHOWN:])
        people.append(
            UserExample(
                f"user {user}", history, shown, tuple(titles[item] for item in query.targets)
            )
        )
    return people


def _recipe_text(x: Experiment) -> str:
    file = x.run.path / "recipe.toml"
    return file.read_text(encoding="utf-8") if file.exists() else x.recipe.model_dump_json(indent=2)


def _summary(report: Report) -> dict[str, Any]:
    return {
        "queries": report.queries,
        "users": report.users,
        "reference": report.reference,
        "methods": {
            m.name: {
                "metrics": {name: vars(value) for name, value in m.metrics.items()},
                "beyond": m.beyond,
                "slices": {name: vars(value) for name, value in m.slices.items()},
                "comparison": vars(m.comparison) if m.comparison else None,
            }
            for m in report.ranked
        },
    }


def defined(value: Any) -> Any:
    """Return `value` with None for numbers that are not defined, such as a mean over nobody: JSON
    has no NaN.
    """
    if isinstance(value, dict):
        return {name: defined(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [defined(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show(x: Experiment, *, as_json: bool = False) -> None:
    """Print the table of methods, or its numbers as JSON."""
    if as_json:
        print(json.dumps(read_json(x.run.path / "eval" / "test.json"), ensure_ascii=False))
        return
    console.print(
        (x.run.path / "eval" / TABLE).read_text(encoding="utf-8"), markup=False, soft_wrap=True
    )
