"""`groundrec evaluate`: a run up to its metrics, or result files of published code.

Knows nothing about how either is measured.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from groundrec.app.boards import require
from groundrec.app.commands.options import Bootstrap, Json, Quiet, options_given
from groundrec.app.commands.run import RunOptions, execute
from groundrec.app.jobs.job import FILE as JOB_FILE
from groundrec.app.jobs.job import Job
from groundrec.app.stages.checks import check_names, check_paths
from groundrec.core.errors import ArtifactError, ConfigError, did_you_mean
from groundrec.core.files import read_json
from groundrec.core.recipe import Recipe
from groundrec.core.track import log_to

__all__ = ["evaluate"]

Scorer: TypeAlias = Callable[..., None]
"""Called with a folder, a catalogue, cut-offs, `samples` and `as_json`."""

BOTH_FORMS = "groundrec evaluate RUN, or groundrec evaluate --input_dir FOLDER"
OF_A_RUN = ("quiet",)
OF_FILES = ("catalogue", "k", "bootstrap", "base_model", "reweight", "gamma")
EvaluatedRun = Annotated[
    Path | None,
    typer.Argument(help="A run directory. Leave it out to give --input_dir.", metavar="RUN"),
]
InputFolder = Annotated[
    Path | None,
    typer.Option(
        "--input_dir",
        "--input-dir",
        "--path",
        help="Result files of BIGRec or D3: a folder of JSON files, or one file.",
    ),
]
Titles = Annotated[
    Path | None,
    typer.Option(
        "--catalogue",
        "--item_path",
        help=(
            "With --input_dir: data set, run directory, or text file with one title and a tab per"
            " line; titles that several items share are then counted."
        ),
    ),
]
CutOffs = Annotated[
    list[int] | None, typer.Option("-k", min=1, help="With --input_dir: a cut-off; repeatable.")
]

BaseModel = Annotated[
    str | None,
    typer.Option(
        "--base_model",
        "--base-model",
        help=(
            "With --input_dir: a folder or hf:ORG/NAME, whose embeddings ground the first text of"
            " each row, as BIGRec's evaluate.py does. Default: texts are compared as titles."
        ),
    ),
]
Reweight = Annotated[
    str | None,
    typer.Option(
        help=(
            "With --base_model: `popularity`, or a folder with a signal's scores, val.pt and"
            " test.pt; distances are re-weighted as BIGRec's adjust_ci.py does."
        )
    ),
]
Gamma = Annotated[
    float | None,
    typer.Option(
        min=0, help="With --reweight: the exponent. Default: the best on valid_NAME.json."
    ),
]


def evaluate(
    context: typer.Context,
    run: EvaluatedRun = None,
    input_dir: InputFolder = None,
    catalogue: Titles = None,
    k: CutOffs = None,
    base_model: BaseModel = None,
    reweight: Reweight = None,
    gamma: Gamma = None,
    bootstrap: Bootstrap = 1000,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Evaluate RUN, or score result files of BIGRec or D3 by title.

    With a run directory, run every stage up to `evaluate` with the settings
    recorded there, skipping what is finished, and print the table.

        groundrec evaluate runs/demo

    With --input_dir, the flag of the published evaluate.py, score the result
    files of that code.

        groundrec evaluate --input_dir results --catalogue info.txt -k 5 -k 10

    With --base_model, the texts of BIGRec's files are grounded in the list of
    titles first, and --reweight injects popularity or a signal.

        groundrec evaluate --input_dir movie_result --base_model llama
          --catalogue movies.dat --reweight sasrec

    The two forms cannot be mixed. The words of D3's evaluate.py, which writes
    recommendations, do what `groundrec inference` does with them.
    """
    if context.args or str(run).startswith("-"):
        model = [f"--base_model={base_model}"] if base_model else []
        _by_words(context, [*map(str, filter(None, (run, *context.args))), *model])
        return
    _refuse_unless_one(run, input_dir)
    if run is not None:
        _refuse(context, OF_FILES, "this option is for result files")
        _evaluate_run(run, RunOptions(quiet=quiet, as_json=as_json))
        return
    assert input_dir is not None
    _refuse(context, OF_A_RUN, "this option is for a run")
    log_to(None, quiet=as_json)
    _check_grounding(base_model, reweight, gamma)
    score = _scorer(base_model, reweight, gamma)
    score(input_dir, catalogue, k or [], samples=bootstrap, as_json=as_json)


def _refuse_unless_one(run: Path | None, input_dir: Path | None) -> None:
    if (run is None) == (input_dir is None):
        raise ConfigError(
            "nothing to evaluate" if run is None else "a run does not mix with result files",
            value=None if run is None else f"{run} --input_dir {input_dir}",
            accepted=BOTH_FORMS,
            next_step="groundrec evaluate --help",
        )


def _scorer(base_model: str | None, reweight: str | None, gamma: float | None) -> Scorer:
    """Return what scores result files: by title, or grounded by a base model first."""
    if base_model is None:
        from groundrec.app.commands.score_files import print_scores

        return print_scores
    from groundrec.app.commands.grounded_files import GroundingOptions, print_grounded

    return partial(print_grounded, options=GroundingOptions(base_model, reweight, gamma))


def _by_words(context: typer.Context, words: list[str]) -> None:
    """Do what words of D3's evaluate.py ask for; raise `ConfigError` for any other word."""
    given = [word.partition("=")[0].lstrip("-").replace("-", "_") for word in words]
    if "test_data_path" in given or "result_json_data" in given:
        from groundrec.app.commands.inference import infer

        infer(words)
        return
    known = [option for parameter in context.command.params for option in parameter.opts]
    wrong = next((word for word in words if word.startswith("-")), words[-1])
    raise ConfigError(
        f"no such option{did_you_mean(wrong, known)}"
        if wrong.startswith("-")
        else "one run at a time",
        value=wrong,
        accepted=", ".join(option for option in known if option.startswith("-")),
        next_step="groundrec evaluate --help",
    )


def _check_grounding(base_model: str | None, reweight: str | None, gamma: float | None) -> None:
    if reweight is None:
        _refuse_without(gamma, "--gamma", "--base_model FOLDER --reweight popularity")
    if base_model is None:
        _refuse_without(reweight, "--reweight", "--base_model FOLDER")


def _evaluate_run(path: Path, options: RunOptions) -> None:
    """Run the stages of the run in `path` that are not finished, by its recorded settings."""
    config = read_json(path / "config.json")
    if not config:
        raise ArtifactError(
            "not a run directory",
            value=path,
            accepted="a directory that `groundrec run` or `groundrec train` has written",
            next_step="groundrec runs, which lists those in ./runs",
        )
    recipe = Recipe.model_validate(config)
    path = path.resolve()
    job = Job(settings=(), until=None, place=str(Path.cwd()))
    if (path / JOB_FILE).is_file():
        job = replace(Job.of(path), until=None)
    # Relative paths in a recipe are relative to where its run was started.
    with contextlib.chdir(job.place):
        check_names(recipe)
        check_paths(recipe)
        require(recipe.track)
        to_continue = f"groundrec evaluate {path} continues"
        execute(recipe, None, path, "resume", job, options, to_continue=to_continue)


def _refuse_without(value: object, option: str, needed: str) -> None:
    """Raise `ConfigError` for an option whose other options are missing."""
    if value is not None:
        raise ConfigError(
            "this option is for grounded texts", value=option, accepted=needed, next_step=needed
        )


def _refuse(context: typer.Context, names: tuple[str, ...], what: str) -> None:
    """Raise `ConfigError` for options of the form that is not used."""
    for name, option in options_given(context):
        if name in names:
            raise ConfigError(
                what,
                value=option,
                accepted=BOTH_FORMS,
                next_step="groundrec evaluate --help",
            )
