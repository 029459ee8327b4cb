"""The fusions of a run: which there are, the weight of each chosen on validation, slates on test.

Knows nothing about run directories as a whole, nor about reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from numpy.typing import NDArray

from groundrec.app.stages.artefacts import Scorer, batch_size
from groundrec.app.stages.made_from import SEARCH
from groundrec.app.stages.names import short_title, title
from groundrec.core.files import read_json, write_json
from groundrec.core.recipe import Recipe
from groundrec.core.registry import names
from groundrec.core.track import log, progress
from groundrec.core.types import Queries, Scores, Slates

if TYPE_CHECKING:
    from groundrec.evaluate.rank_metrics import RankMetrics

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
    def rankers(self) -> tuple[str, ...]:
        """The grounding, then the signals."""
        return (self.method, *self.signals)

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
    item_count: int

    def batches(
        self, names: Iterable[str], what: str = ""
    ) -> Iterator[tuple[Queries, dict[str, Scores]]]:
        """Yield the queries batch by batch, with the scores [q, I] of the rankers in `names`.

        With `what`, progress is shown under that name.
        """
        size = batch_size(self.item_count)
        batches: Iterable[Queries] = self.queries.batches(size)
        if what:
            batches = progress(batches, what, -(-len(self.queries) // size))
        for batch in batches:
            yield batch, {name: self.scorers[name](batch) for name in names}


@dataclass(frozen=True)
class _Fuser:
    """Chooses weights on validation queries and writes slates of test queries."""

    recipe: Recipe
    valid: Split
    test: Split
    folder: Path

    def fuse(self, wanted: Sequence[Fusion]) -> dict[str, object]:
        """Do every fusion; return the chosen weights by the fusions' folders."""
        ranks = self._target_ranks([f for f in wanted if f.kind != LEARNED])
        chosen: dict[str, Choice] = {}
        for fusion in wanted:
            choice = (
                self._learn(fusion)
                if fusion.kind == LEARNED
                else self._choose(fusion, ranks.pop(fusion.folder))
            )
            chosen[fusion.folder] = choice
            log.info(f"  {fusion.name}: {self._summary(fusion, choice)}")
        self._write_slates(wanted, chosen)
        write_json(self.folder / WEIGHTS, chosen)
        return {folder: c.get("alpha", c.get("weights")) for folder, c in chosen.items()}

    def _target_ranks(self, wanted: Sequence[Fusion]) -> dict[str, NDArray[np.int32]]:
        """Return the ranks of the validation targets under every weight of each fusion's grid.

        Shape of each: [weights, targets]. Every ranker scores the queries once.
        """
        from groundrec.rank.fuse import KINDS, target_ranks

        if not wanted:
            return {}
        targets = len(self.valid.queries.targets.values)
        found = {f.folder: np.empty((len(self._grid(f)), targets), np.int32) for f in wanted}
        done = 0
        for batch, scores in self.valid.batches(_rankers(wanted), "choosing weights"):
            here = slice(done, done := done + len(batch.targets.values))
            for f in wanted:
                pair = (scores[f.method], scores[f.signals[0]])
                kind = KINDS[f.kind]
                found[f.folder][:, here] = target_ranks(kind, *pair, self._grid(f), batch.targets)
        return found

    @cached_property
    def _validation_metrics(self) -> RankMetrics:
        from groundrec.evaluate.rank_metrics import RankMetrics

        return RankMetrics(self.valid.queries, self.recipe.recommend.k)

    def _choose(self, fusion: Fusion, ranks: NDArray[np.int32]) -> Choice:
        """Choose the weight of one signal from the grid, by the ranks of the validation targets."""
        from groundrec.rank.fuse import KINDS, best_weight

        measure = self._validation_metrics
        grid = self._grid(fusion)
        values = (measure.value(self.recipe.fuse.metric, row) for row in ranks)
        weight, curve = best_weight(grid, values, KINDS[fusion.kind].neutral)
        choice = Choice(alpha=weight, curve=[CurvePoint(**p._asdict()) for p in curve])
        if fusion.per_metric:
            ks = sorted(self.recipe.evaluate.ks)
            every = [measure.per_query(row, ks, names("metrics")) for row in ranks]
            choice["paper"] = {
                metric: grid[int(np.argmax([found[metric].mean() for found in every]))]
                for metric in every[0]
            }
        return choice

    def _learn(self, fusion: Fusion) -> Choice:
        """Learn a weight for the grounding and for every signal, all at once."""
        from groundrec.rank.learn_weights import Batch, learn

        def batches() -> Iterator[Batch]:
            for batch, scores in self.valid.batches(fusion.rankers):
                yield [scores[name] for name in fusion.rankers], batch.targets

        weights = learn(batches).tolist()
        rankers = (title(self.recipe, fusion.method), *fusion.signals)
        return Choice(weights=dict(zip(rankers, weights, strict=True)))

    def _write_slates(self, wanted: Sequence[Fusion], chosen: Mapping[str, Choice]) -> None:
        """Write the test slates of every fusion; every ranker scores the queries once."""
        from groundrec.rank.fuse import fused_slates
        from groundrec.rank.slates import save_slates

        ways = {
            self.folder / fusion.folder / way: (fusion, fused)
            for fusion in wanted
            for way, fused in _ways(fusion, chosen[fusion.folder]).items()
        }
        parts: dict[Path, list[Slates]] = {folder: [] for folder in ways}
        k = self.recipe.recommend.k
        for batch, scores in self.test.batches(_rankers(wanted), "fusing"):
            for folder, (fusion, fused) in ways.items():
                tables = [scores[name] for name in fusion.rankers]
                parts[folder].append(fused_slates(batch.ids, k, tables, fused))
        for folder, slates in parts.items():
            folder.mkdir(parents=True, exist_ok=True)
            whole = slates or [Slates.empty(k)]
            save_slates(Slates.concatenate(whole), folder / "test.parquet")

    def _grid(self, fusion: Fusion) -> list[float]:
        from groundrec.rank.fuse import published_gammas

        if fusion.kind == "reweight":
            return published_gammas(fusion.signals[0])
        return np.linspace(0, 1, self.recipe.fuse.grid).tolist()

    def _summary(self, fusion: Fusion, choice: Choice) -> str:
        """Return what was chosen, for the log."""
        if "weights" in choice:
            return ", ".join(f"{name} {weight:.2f}" for name, weight in choice["weights"].items())
        name = "gamma" if fusion.kind == "reweight" else "alpha"
        more = "; another for each metric" if fusion.per_metric else ""
        alpha = choice.get("alpha", 0.0)
        return f"{name} = {alpha:.2f}, {self.recipe.fuse.metric} on validation{more}"


def _rankers(wanted: Sequence[Fusion]) -> list[str]:
    """Return the groundings and signals that fusions mix, each once."""
    return list(dict.fromkeys(name for fusion in wanted for name in fusion.rankers))


def _ways(fusion: Fusion, choice: Choice) -> dict[str, Callable[..., Scores]]:
    """Return how test scores are fused, by the subfolder of the slates: by the chosen weight, and
    by each metric's own.
    """
    from groundrec.rank.fuse import KINDS, weighted_sum

    if fusion.kind == LEARNED:
        weights = list(choice.get("weights", {}).values())
        return {"": lambda *scores: weighted_sum(scores, weights)}
    kind = KINDS[fusion.kind]
    own = {f"{weight:g}": weight for weight in sorted(set(choice.get("paper", {}).values()))}
    return {
        way: partial(kind.fused, weight=weight)
        for way, weight in {"": choice.get("alpha", 0.0), **own}.items()
    }


def fuse(recipe: Recipe, valid: Split, test: Split, folder: Path) -> dict[str, object]:
    """Choose the weights of every fusion on `valid`, and write the slates of `test` to `folder`.

    Returns the weights by the fusions' folders.
    """
    return _Fuser(recipe, valid, test, folder).fuse(fusions(recipe))
