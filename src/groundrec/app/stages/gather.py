"""What a run has made, as the plain data that its report is made of. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from groundrec.app.stages.artefacts import Artefacts, batch_size
from groundrec.app.stages.fusion import LEARNED, choices, fusions, kept_slates, slates_per_metric
from groundrec.app.stages.made_from import signal_step, slates_step
from groundrec.app.stages.names import title
from groundrec.core.recipe import Recipe
from groundrec.core.track import Metrics, progress
from groundrec.core.types import PreparedDataset, Queries, Slates
from groundrec.evaluate.charts import Curve, FusionCurve, Kind, Series

__all__ = ["Gathered", "gather", "kind_of", "slates_by_method"]


LogRow: TypeAlias = dict[str, Any]
"""One line of `metrics.jsonl`."""


@dataclass(frozen=True)
class Gathered:
    """Everything a report is made of. Methods come in the order of the recipe."""

    recipe: Recipe
    recipe_text: str
    dataset: PreparedDataset
    queries: Queries
    """The test queries that are ranked."""
    slates: dict[str, Slates]
    """The test slates of each method: every signal, grounding and fusion."""
    per_metric: dict[str, dict[str, Slates]]
    """Slates by metric, of methods that have another weight for each metric."""
    curves: tuple[Curve, ...]
    fusion_curves: tuple[FusionCurve, ...]


def gather(x: Artefacts) -> Gathered:
    """Return what the report of a run is made of."""
    recipe = x.recipe
    folder = x.run.folder("fuse")
    file = x.run.path / "recipe.toml"
    return Gathered(
        recipe=recipe,
        recipe_text=(
            file.read_text(encoding="utf-8") if file.exists() else recipe.model_dump_json(indent=2)
        ),
        dataset=x.dataset,
        queries=x.queries("test"),
        slates=slates_by_method(x),
        per_metric={f.name: slates_per_metric(folder, f) for f in fusions(recipe) if f.per_metric},
        curves=_training_curves(
            Metrics.read(x.run.path / "metrics.jsonl"),
            {
                name: Metrics.read(x.run.folder(signal_step(name)) / "metrics.jsonl")
                for name in recipe.signals
            },
        ),
        fusion_curves=_fusion_curves(recipe, folder),
    )


def slates_by_method(x: Artefacts) -> dict[str, Slates]:
    """Return every method's test slates: each signal, each grounding, each fusion."""
    found = {
        name: _signal_slates(x, name) for name in progress(x.recipe.signals, "ranking by signals")
    }
    from groundrec.rank.slates import load_slates

    for method in x.recipe.recommend.methods:
        found[title(x.recipe, method)] = load_slates(x.run.folder(slates_step(method, "test")))
    for fusion in fusions(x.recipe):
        found[fusion.name] = kept_slates(x.run.folder("fuse"), fusion)
    return found


def _signal_slates(x: Artefacts, name: str) -> Slates:
    """Return the test slates of one signal; few queries are scored at once."""
    k = x.recipe.recommend.k
    scores = x.scorer(name, "test")
    batches = x.queries("test").batches(batch_size(len(x.dataset.catalogue)))
    parts = [Slates.from_scores(batch.ids, scores(batch), k) for batch in batches]
    return Slates.concatenate(parts or [Slates.empty(k)])


def kind_of(recipe: Recipe, name: str) -> Kind:
    """Return what a method of a report is made of."""
    if name in recipe.signals:
        return "signal"
    groundings = [title(recipe, method) for method in recipe.recommend.methods]
    return "language" if name in groundings else "fused"


def _training_curves(run: list[LogRow], signals: Mapping[str, list[LogRow]]) -> tuple[Curve, ...]:
    """Return the curves of the language model and of each signal that was trained, from their
    logs. Runs of version 0.1 logged the language model's stage as `model`.
    """
    lm = [row for row in run if row["stage"] in ("train", "model")]
    losses = [_series(lm, key, name) for key, name in _LOSSES]
    ndcg = [("Language model", lm), *signals.items()]
    return (
        *_curve("Language model: loss per token", losses),
        *(
            curve
            for name, rows in ndcg
            for curve in _curve(f"{name}: NDCG@10", [_series(rows, "ndcg@10", "validation")])
        ),
    )


_LOSSES = (("loss", "training"), ("eval_loss", "validation"))


def _curve(name: str, series: list[Series]) -> list[Curve]:
    """Return the curve of those series that hold anything; nothing where none does."""
    shown = tuple(one for one in series if one.x)
    return [Curve(name, "epoch", shown)] if shown else []


def _series(rows: list[LogRow], key: str, name: str) -> Series:
    """Return the last value logged at each epoch, so that a resumed run shows one line."""
    points = {float(row["epoch"]): float(row[key]) for row in rows if key in row}
    epochs = sorted(points)
    return Series(name, tuple(epochs), tuple(points[epoch] for epoch in epochs))


def _fusion_curves(recipe: Recipe, folder: Path) -> tuple[FusionCurve, ...]:
    from groundrec.rank.fuse import KINDS

    chosen = choices(folder)
    curves: list[FusionCurve] = []
    for fusion in fusions(recipe):
        if fusion.kind == LEARNED:
            continue
        choice = chosen[fusion.folder]
        points = choice.get("curve", [])
        curves.append(
            FusionCurve(
                fusion.signals[0],
                recipe.fuse.metric,
                tuple(point["alpha"] for point in points),
                tuple(point["mean"] for point in points),
                tuple(point["error"] for point in points),
                choice.get("alpha", 0.0),
                KINDS[fusion.kind].symbol,
                title(recipe, fusion.method),
                fusion.label,
            )
        )
    return tuple(curves)
