"""The fusions of a run: which there are, each one's weight chosen on validation, its slates on
test.

Knows nothing about reports.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundrec.app.stages.artefacts import (
    SEARCH,
    Experiment,
    fused_name,
    language_scores,
    signal_scores,
)
from groundrec.core.registry import names
from groundrec.core.runs import read_json, write_json
from groundrec.core.track import log, progress
from groundrec.core.types import Queries, Scores, Slates

__all__ = ["LEARNED", "Fusion", "fuse", "fusions", "kept_slates", "per_metric", "weights_of"]

LEARNED = "learned"
WEIGHTS = "weights.json"


@dataclass(frozen=True)
class Fusion:
    """A grounding mixed with one signal, or with all of them where it is learned."""

    method: str
    signals: tuple[str, ...]
    kind: str
    paper: bool = False

    @property
    def place(self) -> str:
        """Its folder below `fusion`."""
        if self.kind == LEARNED:
            return f"{self.method}/{LEARNED}"
        (signal,) = self.signals
        if self.kind == "probability":
            return signal if self.method == SEARCH else f"{self.method}/{signal}"
        return f"{self.method}/{signal}/{self.kind}"

    @property
    def label(self) -> str:
        """How it mixes, in words; nothing for the usual way."""
        from groundrec.rank.fuse import KINDS

        return LEARNED if self.kind == LEARNED else KINDS[self.kind].label

    @property
    def name(self) -> str:
        """Its name in a report."""
        notes = [note for note in (self.label, "per metric" if self.paper else "") if note]
        return fused_name(" + ".join(self.signals), self.method) + (
            f" ({', '.join(notes)})" if notes else ""
        )


def fusions(x: Experiment) -> list[Fusion]:
    """Return every fusion of the recipe."""
    section = x.recipe.fuse
    found = []
    for method in x.recipe.recommend.methods if section.signals else ():
        for kind in section.kinds:
            if kind == LEARNED:
                found.append(Fusion(method, tuple(section.signals), kind))
            else:
                found += [
                    Fusion(method, (signal,), kind, section.per_metric)
                    for signal in section.signals
                ]
    return found


def fuse(x: Experiment, folder: Path) -> dict[str, Any]:
    """Choose the weights of every fusion on validation and write its test slates; return the
    weights.
    """
    chosen: dict[str, Any] = {}
    for fusion, lm in _with_scores(x):
        (folder / fusion.place).mkdir(parents=True, exist_ok=True)
        found = (
            _learned(x, fusion, lm, folder)
            if fusion.kind == LEARNED
            else _weighed(x, fusion, lm, folder)
        )
        chosen[fusion.place] = found
        log.info(f"  {fusion.name}: {_told(x, fusion, found)}")
    write_json(folder / WEIGHTS, chosen)
    return {place: found.get("alpha", found.get("weights")) for place, found in chosen.items()}


def weights_of(x: Experiment) -> dict[str, Any]:
    """Return what `fuse` chose, by place."""
    return read_json(x.run.path / "fusion" / WEIGHTS) or {}


def kept_slates(x: Experiment, fusion: Fusion) -> Slates:
    """Return the test slates of a fusion, by the weight of `fuse.metric`."""
    from groundrec.rank.slates import load_slates

    return load_slates(x.run.path / "fusion" / fusion.place)


def per_metric(x: Experiment, fusion: Fusion) -> dict[str, Slates]:
    """Return the test slates that each metric chose by itself, of a fusion that is done the papers'
    way.
    """
    from groundrec.rank.slates import load_slates

    weights = weights_of(x)[fusion.place]["paper"]
    folder = x.run.path / "fusion" / fusion.place
    kept = {w: load_slates(folder / f"{w:g}") for w in set(weights.values())}
    return {metric: kept[w] for metric, w in weights.items()}


def _with_scores(x: Experiment) -> Iterator[tuple[Fusion, dict[str, Scores]]]:
    """Yield each fusion with its grounding's scores of validation and test, read once for each
    grounding.
    """
    method = None
    lm = {}
    for fusion in fusions(x):
        if fusion.method != method:
            method = fusion.method
            lm = {s: language_scores(x, s, fusion.method) for s in ("valid", "test")}
        yield fusion, lm


def _weighed(x: Experiment, fusion: Fusion, lm: dict[str, Scores], folder: Path) -> dict[str, Any]:
    from groundrec.evaluate.metrics import metric_function, per_query
    from groundrec.rank.fuse import KINDS, choose_alpha

    kind, (signal,), valid = KINDS[fusion.kind], fusion.signals, x.queries("valid")
    value_of = metric_function(x.recipe.fuse.metric)
    means = []

    def values(slates: Slates) -> NDArray[np.floating]:
        if fusion.paper:
            found = per_query(slates, valid, sorted(x.recipe.evaluate.ks), names("metrics"))
            means.append({metric: value.mean() for metric, value in found.items()})
        return value_of(slates, valid)

    grid = _grid(x, fusion)
    weight, curve = choose_alpha(
        lm["valid"],
        signal_scores(x, signal, valid),
        progress(grid, f"mixing with {signal}"),
        values,
        query_ids=valid.ids,
        k=x.recipe.recommend.k,
        combine=kind.combine,
        neutral=kind.neutral,
    )
    best = (
        {m: grid[int(np.argmax([row[m] for row in means]))] for m in means[0]}
        if fusion.paper
        else {}
    )
    test = x.queries("test")
    other = signal_scores(x, signal, test)
    for place, w in [("", weight), *((f"{w:g}", w) for w in sorted(set(best.values())))]:
        _save(x, test, kind.combine(lm["test"], other, w), folder / fusion.place / place)
    return {
        "alpha": weight,
        "curve": [p._asdict() for p in curve],
        **({"paper": best} if fusion.paper else {}),
    }


def _learned(x: Experiment, fusion: Fusion, lm: dict[str, Scores], folder: Path) -> dict[str, Any]:
    from groundrec.rank.fuse import learn, weighted_sum

    def scores(split: str) -> list[Scores]:
        return [lm[split], *(signal_scores(x, name, x.queries(split)) for name in fusion.signals)]

    weights = learn(scores("valid"), x.queries("valid").targets).tolist()
    _save(x, x.queries("test"), weighted_sum(scores("test"), weights), folder / fusion.place)
    return {"weights": dict(zip(("language model", *fusion.signals), weights, strict=True))}


def _grid(x: Experiment, fusion: Fusion) -> list[float]:
    from groundrec.rank.fuse import published_gammas

    return (
        published_gammas(fusion.signals[0])
        if fusion.kind == "reweight"
        else np.linspace(0, 1, x.recipe.fuse.grid).tolist()
    )


def _save(x: Experiment, queries: Queries, scores: Scores, folder: Path) -> None:
    from groundrec.rank.slates import save_slates

    folder.mkdir(parents=True, exist_ok=True)
    save_slates(
        Slates.from_scores(queries.ids, scores, x.recipe.recommend.k), folder / "test.parquet"
    )


def _told(x: Experiment, fusion: Fusion, found: dict[str, Any]) -> str:
    if fusion.kind == LEARNED:
        return ", ".join(f"{name} {weight:.2f}" for name, weight in found["weights"].items())
    name = "gamma" if fusion.kind == "reweight" else "alpha"
    more = "; another for each metric" if fusion.paper else ""
    return f"{name} = {found['alpha']:.2f}, {x.recipe.fuse.metric} on validation{more}"
