"""What a run would do: each step skipped, resumed or done, and why, without doing any of it."""

from __future__ import annotations

from collections.abc import Iterator

from groundrec.app.stages.made_from import Finished
from groundrec.app.stages.stages import STAGES
from groundrec.core.files import digest
from groundrec.core.inputs import Outcome, plain
from groundrec.core.recipe import Recipe
from groundrec.core.runs import Run
from groundrec.core.types import Card
from groundrec.models import hubs

__all__ = ["plan"]


class _Planned:
    """The steps that will have been done, with the fingerprints they will have."""

    def __init__(self, run: Run) -> None:
        self._finished = Finished(run)
        self.fingerprints: dict[str, str] = {}
        self.prepared = False

    def fingerprint(self, step: str) -> str:
        return self.fingerprints[step]

    def dataset(self) -> str:
        return self._finished.dataset() if self.prepared else "known once `prepare` is done"

    def card(self) -> Card | None:
        return self._finished.card() if self.prepared else None

    def base_model(self, name: str, weights: str) -> list[object]:
        here = any(model.name == name for model in hubs.pinned())
        return self._finished.base_model(name, weights) if here else [name, "not downloaded yet"]


def plan(recipe: Recipe, run: Run, until: str | None = None) -> Iterator[Outcome]:
    """Yield what becomes of each step, in order, up to the stage `until`.

    A step that reads what another one has yet to make counts as redone: whether that comes out as
    before is known only then.
    """
    upstream = _Planned(run)
    for stage, steps in STAGES.items():
        for step in steps(recipe):
            inputs = plain(step.inputs(recipe, upstream, run))
            outcome = run.outcome(step.name, inputs)
            finished = outcome.kind == "skip"
            if stage == "prepare":
                upstream.prepared = finished
            upstream.fingerprints[step.name] = (
                run.fingerprint(step.name) if finished else digest(step.name, inputs)
            )
            yield outcome
        if stage == until:
            return
