"""The stages of a recipe as methods, for notebooks and scripts; what they write is a run like any
other.

Knows nothing about what stages do, nor about several processes: those are started by a launcher.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

from groundrec.app.boards import require, shown
from groundrec.app.commands.options import check_choice
from groundrec.app.jobs.job import Job
from groundrec.app.recommender import Recommender
from groundrec.app.stages.artefacts import Artefacts, open_run
from groundrec.app.stages.checks import check_names, check_paths
from groundrec.app.stages.made_from import slates_step
from groundrec.app.stages.names import title
from groundrec.core.errors import ArtifactError
from groundrec.core.files import read_json
from groundrec.core.processes import SINGLE_PROCESS
from groundrec.core.recipe import Recipe
from groundrec.core.runs import RECIPE, IfExists, Run
from groundrec.core.track import record_in
from groundrec.core.types import PreparedDataset, Slates

if TYPE_CHECKING:
    from groundrec.signals.counts import Signal

__all__ = ["Pipeline"]


class Pipeline:
    """A recipe in a run directory. Each method does all stages up to its own, skipping what is
    finished.

    So the last method alone does everything, and a cell of a notebook may be run again. A directory
    whose run has other data is refused.
    """

    def __init__(
        self,
        recipe: Recipe,
        run_dir: str | Path | None = None,
        if_exists: IfExists = "fail",
    ) -> None:
        """Check the names in `recipe`, and write nothing yet; `run_dir` is `runs/<name>` when left
        out.

        Where other settings than the finished ones are asked for, a method raises `ArtifactError`
        unless `if_exists` is `resume`, which redoes what depends on them, or `new`, which starts
        another directory. What is not finished goes on in any case.
        """
        check_choice("if_exists", if_exists, get_args(IfExists))
        check_names(recipe)
        self.recipe = recipe
        self.if_exists = if_exists
        self.path = Path(run_dir) if run_dir else Path("runs") / recipe.name

    def prepare(self) -> PreparedDataset:
        """Return the catalogue and the three splits of queries."""
        return self._until("prepare").dataset

    def signals(self) -> dict[str, Signal]:
        """Return every fitted signal by its name."""
        done = self._until("signals")
        return {name: done.signal(name) for name in self.recipe.signals}

    def train(self) -> Recommender:
        """Return the trained model as what answers histories."""
        self._until("train")
        return Recommender.load(self.path)

    def recommend(self) -> dict[str, Slates]:
        """Return the slates of the test queries, by the name of what ranked: the language model,
        perhaps others.
        """
        from groundrec.rank.slates import load_slates

        done = self._until("recommend")
        methods = self.recipe.recommend.methods
        return {
            title(self.recipe, method): load_slates(done.run.folder(slates_step(method, "test")))
            for method in methods
        }

    def fuse(self) -> dict[str, Slates]:
        """Return the test slates of every fusion by its name, its weight chosen on validation."""
        from groundrec.app.stages.fusion import fusions, kept_slates

        done = self._until("fuse")
        folder = done.run.folder("fuse")
        return {fusion.name: kept_slates(folder, fusion) for fusion in fusions(done.recipe)}

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Return each method's mean metrics on test, the best method first.

        Intervals, tests and the rest are in `eval/test.json` and `report.html` of the run
        directory.
        """
        done = self._until("evaluate")
        methods = read_json(done.run.folder("evaluate") / "test.json")["methods"]
        return {
            name: {metric: value["mean"] for metric, value in found["metrics"].items()}
            for name, found in methods.items()
        }

    def _until(self, stage: str) -> Artefacts:
        from groundrec.app.stages.stages import run_recipe

        check_paths(self.recipe)
        require(self.recipe.track)
        if self.if_exists == "fail":
            self._refuse_to_redo(stage)
        if self.if_exists == "new":
            # Once: the methods that follow go on in the directory of the first.
            self.path = Run.place(self.path, self.recipe, "new")
            self.if_exists = "resume"
        with (
            Run.shared(self.path, self.recipe, None, "resume", SINGLE_PROCESS) as run,
            record_in(run.path),
        ):
            Job((), stage, str(Path.cwd())).keep(run.path)
            with shown(self.recipe, run.path):
                run_recipe(self.recipe, run, stage)
        return open_run(self.path)

    def _refuse_to_redo(self, stage: str) -> None:
        """Raise `ArtifactError` where a finished step would be emptied."""
        from groundrec.app.stages.plan import plan

        run = Run(Run.place(self.path, self.recipe, "resume"))
        redone = next((o for o in plan(self.recipe, run, stage) if o.kind == "redo"), None)
        if redone:
            raise ArtifactError(
                f"`{redone.step}` of this run is finished, with other settings: {redone.reason}",
                value=self.path,
                accepted=(
                    f"the settings of {self.path / RECIPE}, another run_dir, or if_exists ="
                    ' "resume", which redoes what depends on them, or "new"'
                ),
                next_step=f'Pipeline(recipe, "{self.path}", if_exists="resume")',
            )
