"""`groundrec run RECIPE --plan`: which steps would be skipped, resumed or done, and why."""

from __future__ import annotations

import json
from pathlib import Path

from groundrec.core.recipe import Recipe
from groundrec.core.runs import IfExists, Run

__all__ = ["print_plan"]


def print_plan(
    recipe: Recipe, path: Path, reuse: IfExists, until: str | None, *, as_json: bool
) -> None:
    """Print what a run in `path` would do with each step. Nothing is written or fetched.

    An existing run counts as resumed unless `reuse` asks for a new one beside it. Raises
    `ArtifactError` where the directory holds another data set.
    """
    # Late: signals and groundings are asked what they read, and their modules import torch.
    from groundrec.app.stages.plan import plan

    run = Run(Run.place(path, recipe, "resume" if reuse == "fail" else reuse))
    outcomes = list(plan(recipe, run, until))
    if as_json:
        print(json.dumps([vars(outcome) for outcome in outcomes], ensure_ascii=False))
        return
    print(f"plan for {run.path}; nothing is written:")
    for outcome in outcomes:
        print(outcome)
