"""The stages of a run, in one table: prepare → signals → train → recommend → fuse → evaluate.

A stage is one step or several. A step has a name, which is also its folder, what it is made from
(`made_from`) and the work; `core.runs` decides whether the work has to be done. `plan` says what
would be done.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from groundrec.app.stages import made_from
from groundrec.app.stages.artefacts import Artefacts
from groundrec.app.stages.choose_alpha import choose_assistant_weight
from groundrec.app.stages.domains import fingerprints
from groundrec.app.stages.fusion import Split, fuse
from groundrec.app.stages.gather import gather
from groundrec.app.stages.history_room import check_room
from groundrec.app.stages.made_from import SEARCH, SPLITS, Finished, Upstream
from groundrec.app.stages.measure import measure
from groundrec.app.stages.page import write_page
from groundrec.app.stages.resume_from import start_point
from groundrec.app.stages.training import refuse_without_validation, train
from groundrec.core.files import digest
from groundrec.core.inputs import Inputs
from groundrec.core.recipe import Recipe
from groundrec.core.registry import resolve
from groundrec.core.runs import Run
from groundrec.core.track import Metrics, log
from groundrec.data import dataset as datasets
from groundrec.data.prepare import prepare

if TYPE_CHECKING:
    from groundrec.rank.recommend import Writer

__all__ = ["STAGES", "Step", "run_recipe"]

Result: TypeAlias = dict[str, object] | None
"""What a step's manifest keeps of its work."""


@dataclass(frozen=True)
class Step:
    """One step of a stage."""

    name: str
    """Its name in the log, in `status.json` and in manifests, and its folder."""
    inputs: Callable[[Recipe, Upstream, Run], Inputs]
    work: Callable[[Artefacts, Path], Result]
    """Writes the output to the folder."""
    together: bool = False
    """Whether all processes work; the main one alone otherwise."""


def run_recipe(recipe: Recipe, run: Run, until: str | None = None) -> None:
    """Run every stage in order, skipping what is finished; stop after the stage `until`."""
    x = Artefacts(recipe, run)
    upstream = Finished(run)
    for stage, steps in STAGES.items():
        if stage == "signals":
            # What can be refused once the data is there is refused before anything is fitted.
            refuse_without_validation(recipe, x.dataset)
            fingerprints(recipe, x.dataset.fingerprint)
            if until != "signals" and run.processes.is_main:
                check_room(x)
        for step in steps(recipe):
            inputs = step.inputs(recipe, upstream, run)
            run.step(step.name, inputs, partial(step.work, x), together=step.together)
        if stage == until:
            break
    run.status(stage="", state="finished")


def _prepare(recipe: Recipe) -> list[Step]:
    def work(x: Artefacts, folder: Path) -> Result:
        card = prepare(recipe.data, recipe.prepare, recipe.seed, folder)
        return {"dataset": datasets.DatasetReader(folder).fingerprint, "card": card}

    return [Step("prepare", lambda recipe, *_: made_from.prepare_inputs(recipe), work)]


def _signals(recipe: Recipe) -> list[Step]:
    return [_signal(name) for name in recipe.signals]


def _signal(name: str) -> Step:
    def inputs(recipe: Recipe, upstream: Upstream, _: Run) -> Inputs:
        return made_from.signal_inputs(recipe, upstream, name)

    def work(x: Artefacts, folder: Path) -> None:
        signal = resolve("signals", name)(x.recipe)
        signal.fit(x.dataset, folder)
        signal.save(folder)

    return Step(made_from.signal_step(name), inputs, work)


def _train(recipe: Recipe) -> list[Step]:
    def inputs(recipe: Recipe, upstream: Upstream, run: Run) -> Inputs:
        found = made_from.train_inputs(recipe, upstream)
        if start := start_point(recipe, run.path, found):
            found["start"] = digest(start.contents())
        return found

    def work(x: Artefacts, folder: Path) -> None:
        found = made_from.train_inputs(x.recipe, Finished(x.run))
        train(x, start_point(x.recipe, x.run.path, found), folder)

    return [Step("train", inputs, work, together=True)]


def _recommend(recipe: Recipe) -> list[Step]:
    section = recipe.recommend
    steps: list[Step] = []
    for method in section.methods:
        if method == SEARCH and section.assistant is not None and section.alpha is None:
            steps.append(_alpha())
        steps += [_slates(method, split, together=section.engine != "ray") for split in SPLITS]
    return steps


def _alpha() -> Step:
    def work(x: Artefacts, folder: Path) -> Result:
        signal = x.signal(x.recipe.recommend.assistant or "")
        ranker = x.search_ranker(guided=False)
        alpha = choose_assistant_weight(x.recipe, ranker, signal, x.queries("valid"), folder)
        return {"alpha": alpha}

    def inputs(recipe: Recipe, upstream: Upstream, _: Run) -> Inputs:
        return made_from.alpha_inputs(recipe, upstream)

    return Step(made_from.ALPHA, inputs, work)


def _slates(method: str, split: str, *, together: bool) -> Step:
    name = made_from.slates_step(method, split)

    def inputs(recipe: Recipe, upstream: Upstream, _: Run) -> Inputs:
        return made_from.slates_inputs(recipe, upstream, method, split)

    def work(x: Artefacts, folder: Path) -> Result:
        from groundrec.rank.groundings import find_grounding
        from groundrec.rank.recommend import recommend
        from groundrec.rank.slates import work_of

        queries = x.queries(split)
        if x.recipe.recommend.engine == "ray":
            _by_ray(x, method, split, folder)
        else:
            recommend(x.ranker(method), queries, folder, x.run.processes)
        result = {"queries": len(queries), **vars(work_of(folder))}
        if x.run.processes.is_main:
            Metrics(x.run.path / "metrics.jsonl", name).write(**result)
            mode = x.recipe.recommend.mode
            _log_work(result, proves=find_grounding(method).can_prove and mode == "exact")
        return result

    return Step(name, inputs, work, together=together)


def _fuse(recipe: Recipe) -> list[Step]:
    def work(x: Artefacts, folder: Path) -> Result:
        signals = x.recipe.fuse.signals
        fused = (*x.recipe.recommend.methods, *signals) if signals else ()
        valid, test = (
            Split(
                x.queries(split),
                {name: x.scorer(name, split) for name in fused},
                len(x.dataset.catalogue),
            )
            for split in SPLITS
        )
        return fuse(x.recipe, valid, test, folder)

    return [Step("fuse", lambda recipe, up, _: made_from.fuse_inputs(recipe, up), work)]


def _evaluate(recipe: Recipe) -> list[Step]:
    def work(x: Artefacts, folder: Path) -> None:
        gathered = gather(x)
        report, values = measure(gathered)
        write_page(folder, x.run.path, report, values, gathered.queries)

    return [Step("evaluate", lambda recipe, up, _: made_from.evaluate_inputs(recipe, up), work)]


STAGES: dict[str, Callable[[Recipe], list[Step]]] = {
    "prepare": _prepare,
    "signals": _signals,
    "train": _train,
    "recommend": _recommend,
    "fuse": _fuse,
    "evaluate": _evaluate,
}
"""Every stage under its one name, in the order in which they are done, and its steps."""


def _log_work(work: dict[str, int], *, proves: bool) -> None:
    """Log what the search asked of the model."""
    queries = max(work["queries"], 1)
    proved = f", {1 - work['unproved'] / queries:.1%} proved" if proves else ""
    silent = f", nothing was written for {work['silent']}" if work["silent"] else ""
    log.info(
        f"  {work['tokens'] / queries:.0f} model tokens a query,"
        f" {work['passes']:,} passes in all{proved}{silent}"
    )


def _by_ray(x: Artefacts, method: str, split: str, folder: Path) -> None:
    """Let actors of Ray Data write the shards that are not there yet."""
    from groundrec.rank.cluster import write_shards
    from groundrec.rank.slates import Shards

    section = x.recipe.recommend
    missing = Shards.open(folder, len(x.queries(split)), section.shard_size).missing()
    writer = partial(_shard_writer, Path.cwd(), x.recipe, x.run.path, method, split, folder)
    write_shards(writer, missing, section.workers)


def _shard_writer(
    directory: Path,
    recipe: Recipe,
    run: Path,
    method: str,
    split: str,
    folder: Path,
    sharing: int,
) -> Writer:
    """Return what writes shards in another process; paths are relative to `directory`."""
    from groundrec.rank.recommend import Writer

    os.chdir(directory)
    x = Artefacts(recipe, Run(run))
    return Writer(x.ranker(method), x.queries(split), folder, sharing)
