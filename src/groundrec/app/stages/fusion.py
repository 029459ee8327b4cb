"""The fusions of a run: which there are, the weight of each chosen on validation, slates on test.

Knows nothing about run directories as a whole, nor about reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from groundrec.app.stages.artefacts import Scorer
from groundrec.app.stages.made_from import SEARCH
from groundrec.app.stages.names import short_title, title
from groundrec.core.files import read_json, write_json
from groundrec.core.recipe import Recipe
from groundrec.core.registry import names
from groundrec.core.track import log, progress
from groundrec.core.types import Queries, Scores, Slates

__all__ = [
    "LEARNED",
    "Choice",
    "Fusion",
    "Split",
    "choices",
    "fuse",
    "fusions",
    "kept_slates",
    "slates_per_metric",
]

LEARNED = "learned"
WEIGHTS = "weights.json"


class CurvePoint(TypedDict):
    """The metric on validation for one weight of the grid."""

    alpha: float
    mean: float
    error: float


class Choice(TypedDict, total=False):
    """What was chosen on validation for one fusion, as `weights.json` keeps it."""

    alpha: float
    curve: list[CurvePoint]
    paper: dict[str, float]
    """The weight of each metric, where each has its own."""
    weights: dict[str, float]
    """The weight of each ranker of a learned fusion."""


@dataclass(frozen=True)
class Fusion:
    """A grounding mixed with one signal, or with all of them where the weights are learned."""

    method: str
    grounding: str
    """The short name of what ranks by the language model, for a report."""
    signals: tuple[str, ...]
    kind: str
    per_metric: bool = False

    @property
    def folder(self) -> str:
        """Its folder inside the stage's, and its name in `weights.json`."""
        if self.kind == LEARNED:
            return f"{self.method}/{LEARNED}"
        (signal,) = self.signals
        if self.kind == "probability":
            return signal if self.method == SEARCH else f"{self.method}/{signal}"
        return f"{self.method}/{signal}/{self.kind}"

    @property
    def label(self) -> str:
        """How it mixes, for a reader; empty for the usual way."""
        from groundrec.rank.fuse import KINDS

        return LEARNED if self.kind == LEARNED else KINDS[self.kind].label

    @property
    def name(self) -> str:
        """Its name in a report."""
        notes = [note for note in (self.label, "per metric" if self.per_metric else "") if note]
        name = " + ".join((self.grounding, *self.signals))
        return name + (f" ({', '.join(notes)})" if notes else "")


def fusions(recipe: Recipe) -> list[Fusion]:
    """Return every fusion of the recipe, those of one grounding after each other."""
    section = recipe.fuse
    found: list[Fusion] = []
    for method in recipe.recommend.methods if section.signals else ():
        name = short_title(recipe, method)
        for kind in section.kinds:
            if kind == LEARNED:
                found.append(Fusion(method, name, tuple(section.signals), kind))
            else:
                found += [
                    Fusion(method, name, (signal,), kind, section.per_metric)
                    for signal in section.signals
                ]
    return found


def choices(folder: Path) -> dict[str, Choice]:
    """Return what was chosen on validation, by the fusions' folders."""
    return read_json(folder / WEIGHTS) or {}


def kept_slates(folder: Path, fusion: Fusion) -> Slates:
    """Return the test slates of a fusion, by the weight of `fuse.metric`."""
    from groundrec.rank.slates import load_slates

    return load_slates(folder / fusion.folder)


def slates_per_metric(folder: Path, fusion: Fusion) -> dict[str, Slates]:
    """Return the test slates by each metric's own weight, of a fusion that has one per metric."""
    from groundrec.rank.slates import load_slates

    weights = choices(folder)[fusion.folder].get("paper", {})
    kept = {w: load_slates(folder / fusion.folder / f"{w:g}") for w in set(weights.values())}
    return {metric: kept[w] for metric, w in weights.items()}


@dataclass(frozen=True)
class Split:
    """Queries, and what scores items for them: every grounding and signal that is fused, by its
    name in the recipe.
    """

    queries: Queries
    scorers: Mapping[str, Scorer]

    def scores(self, name: str) -> Scores:
        """Return one ranker's score of every item. Shape: [Q, I]."""
        return self.scorers[name](self.queries)


@dataclass(frozen=True)
class _Fuser:
    """Chooses weights on validation queries and writes slates of test queries."""

    recipe: Recipe
    valid: Split
    test: Split
    folder: Path

    def fuse(self, wanted: Iterable[Fusion]) -> dict[str, object]:
        """Do every fusion; return the chosen weights by the fusions' folders."""
        chosen: dict[str, Choice] = {}
        for fusion, valid, test in self._with_scores(wanted):
            choice = self._choose(fusion, valid, test)
            chosen[fusion.folder] = choice
            log.info(f"  {fusion.name}: {self._summary(fusion, choice)}")
        write_json(self.folder / WEIGHTS, chosen)
        return {folder: c.get("alpha", c.get("weights")) for folder, c in chosen.items()}

    def _with_scores(self, wanted: Iterable[Fusion]) -> Iterator[tuple[Fusion, Scores, Scores]]:
        """Yield each fusion with its grounding's scores of validation and test, read once for each
        grounding.
        """
        method = None
        valid = test = np.empty((0, 0), np.float32)
        for fusion in wanted:
            if fusion.method != method:
                method = fusion.method
                valid = self.valid.scores(method)
                test = self.test.scores(method)
            yield fusion, valid, test

    def _choose(self, fusion: Fusion, valid: Scores, test: Scores) -> Choice:
        if fusion.kind == LEARNED:
            return self._learn(fusion, valid, test)
        return self._weigh(fusion, valid, test)

    def _weigh(self, fusion: Fusion, lm_valid: Scores, lm_test: Scores) -> Choice:
        """Choose the weight of one signal from the grid, and write the test slates it gives."""
        from groundrec.evaluate.metrics import metric_function, per_query
        from groundrec.rank.fuse import KINDS, choose_alpha

        kind = KINDS[fusion.kind]
        (signal,) = fusion.signals
        value_of = metric_function(self.recipe.fuse.metric)
        ks = sorted(self.recipe.evaluate.ks)
        means: list[dict[str, float]] = []
        grid = self._grid(fusion)

        def values(slates: Slates) -> NDArray[np.floating]:
            if fusion.per_metric:
                found = per_query(slates, self.valid.queries, ks, names("metrics"))
                means.append({metric: float(value.mean()) for metric, value in found.items()})
            return value_of(slates, self.valid.queries)

        weight, curve = choose_alpha(
            lm_valid,
            self.valid.scores(signal),
            progress(grid, f"mixing with {signal}"),
            values,
            query_ids=self.valid.queries.ids,
            k=self.recipe.recommend.k,
            combine=kind.combine,
            neutral=kind.neutral,
        )
        choice = Choice(alpha=weight, curve=[CurvePoint(**p._asdict()) for p in curve])
        if fusion.per_metric:
            choice["paper"] = {
                metric: grid[int(np.argmax([row[metric] for row in means]))] for metric in means[0]
            }
        other = self.test.scores(signal)
        folder = self.folder / fusion.folder
        self._save(kind.combine(lm_test, other, weight), folder)
        for own in sorted(set(choice.get("paper", {}).values())):
            self._save(kind.combine(lm_test, other, own), folder / f"{own:g}")
        return choice

    def _learn(self, fusion: Fusion, lm_valid: Scores, lm_test: Scores) -> Choice:
        """Learn a weight for the grounding and for every signal, all at once."""
        from groundrec.rank.fuse import learn, weighted_sum

        valid = [lm_valid, *(self.valid.scores(name) for name in fusion.signals)]
        weights = learn(valid, self.valid.queries.targets).tolist()
        test = [lm_test, *(self.test.scores(name) for name in fusion.signals)]
        self._save(weighted_sum(test, weights), self.folder / fusion.folder)
        rankers = (title(self.recipe, fusion.method), *fusion.signals)
        return Choice(weights=dict(zip(rankers, weights, strict=True)))

    def _grid(self, fusion: Fusion) -> list[float]:
        from groundrec.rank.fuse import published_gammas

        if fusion.kind == "reweight":
            return published_gammas(fusion.signals[0])
        return np.linspace(0, 1, self.recipe.fuse.grid).tolist()

    def _save(self, scores: Scores, folder: Path) -> None:
        from groundrec.rank.slates import save_slates

        folder.mkdir(parents=True, exist_ok=True)
        slates = Slates.from_scores(self.test.queries.ids, scores, self.recipe.recommend.k)
        save_slates(slates, folder / "test.parquet")

    def _summary(self, fusion: Fusion, choice: Choice) -> str:
        """Return what was chosen, for the log."""
        if "weights" in choice:
            return ", ".join(f"{name} {weight:.2f}" for name, weight in choice["weights"].items())
        name = "gamma" if fusion.kind == "reweight" else "alpha"
        more = "; another for each metric" if fusion.per_metric else ""
        alpha = choice.get("alpha", 0.0)
        return f"{name} = {alpha:.2f}, {self.recipe.fuse.metric} on validation{more}"


def fuse(recipe: Recipe, valid: Split, test: Split, folder: Path) -> dict[str, object]:
    """Choose the weights of every fusion on `valid`, and write the slates of `test` to `folder`.

    Returns the weights by the fusions' folders.
    """
    return _Fuser(recipe, valid, test, folder).fuse(fusions(recipe))
