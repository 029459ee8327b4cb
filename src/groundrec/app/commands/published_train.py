"""What a published training command does here: told, checked, and its data imported.

Knows nothing about how words become settings; `published_flags` does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from groundrec.app.boards import require
from groundrec.app.commands.flag_values import Values
from groundrec.app.commands.published_data import DATASETS
from groundrec.app.commands.published_defaults import SCRIPTS, SETTINGS
from groundrec.app.commands.published_flags import OWN, ParsedFlags
from groundrec.app.stages.checks import check_names, check_paths
from groundrec.core.errors import ArtifactError, ConfigError
from groundrec.core.files import atomic_write
from groundrec.core.inputs import step_folder
from groundrec.core.processes import Processes
from groundrec.core.recipe import Recipe, load_recipe, settings
from groundrec.core.runs import IfExists, Run
from groundrec.train.batch import explain_batch

__all__ = ["check", "explain", "help_lines", "recipe_of", "write_recipe"]


def recipe_of(parsed: ParsedFlags, overrides: Sequence[str]) -> tuple[Recipe, dict[str, str]]:
    """Return the recipe of the words and of `--set` overrides, and where each setting came from."""
    given = parsed.settings
    changed = {text.partition("=")[0].strip() for text in overrides}
    words = [f"{key}={value}" for key, value in given.items() if key not in changed]
    recipe, origin = load_recipe(None, [*words, *overrides])
    by_word = {setting: f"--{word}" for word, setting in SETTINGS.items() if word in parsed.given}
    for key in given:
        if key not in changed:
            origin[key] = by_word.get(key, parsed.script.title)
    return recipe, origin


def check(parsed: ParsedFlags, recipe: Recipe, asked: IfExists | None) -> IfExists:
    """Return what to do with an existing run; raise for whatever the run would refuse.

    Nothing is written. `asked` is what the user says about an existing run.
    """
    imported = all((data.imported / "dataset.json").is_file() for data in parsed.data)
    for folder, remedy in ((parsed.out.parent, "--output_dir"), (DATASETS, "cd to a folder")):
        _require_writable(folder, remedy)
    check_names(recipe)
    _check_checkpoint(parsed)
    check_paths(recipe, with_data=imported)
    require(recipe.track)
    processes = Processes.of()
    explain_batch(recipe.train, processes.world_size)
    if not processes.is_main:
        return "resume"
    exists = (parsed.out / "config.json").is_file()
    if exists and asked is None and imported:
        _refuse_to_lose_training(parsed, recipe)
    reuse = asked or "resume"
    Run.place(parsed.out, recipe, reuse)
    return reuse


def write_recipe(parsed: ParsedFlags) -> Path:
    """Import the data and write the recipe, next to the run directory; return the recipe."""
    for data in parsed.data:
        data.import_once()
    file = parsed.out.with_name(f"{parsed.out.name}.toml")
    text = "".join(f"{key} = {value}\n" for key, value in parsed.settings.items())
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as part:
        part.write_text(text, encoding="utf-8")
    return file


def explain(parsed: ParsedFlags, recipe: Recipe) -> Iterator[str]:
    """Yield the words of the script, each with the setting that it decides."""
    script = parsed.script
    values = {key: value for key, value, _ in settings(recipe)}
    yield f"{script.title}: its words, * those left out, with their defaults"
    rows = [(text, _setting_of(word, text, parsed, values)) for word, text in _words(parsed)]
    rows += [("  always", _assigned(key, values)) for key in script.fixed]
    if script.name == "bigrec":
        rows.append(("  always fp16", _assigned("train.precision", values)))
    else:
        rows.append(("  always bf16", _assigned("train.precision", values)))
    width = min(44, max(len(text) for text, _ in rows))
    for text, setting in rows:
        yield f"{text:<{width}}  {setting}"
    yield "different here:"
    told = ["wandb shows the run; the script disables it after all"] * (
        recipe.track.board == "wandb"
    )
    for text in (*told, *_precision_difference(recipe), *script.differences):
        yield f"  {text}"


def help_lines() -> Iterator[str]:
    """Yield the words of both scripts with their defaults and settings, for the help."""
    words = dict.fromkeys(word for script in SCRIPTS.values() for word in script.words)
    for word in (*words, *OWN):
        having = [script for script in SCRIPTS.values() if word in script.words]
        default = _shown(having[0].words[word]) if having else ""
        whose = having[0].title.split("'")[0] + ": " if len(having) == 1 else ""
        unused = bool(having) and all(word in script.unused for script in having)
        meaning = "not used" if unused else SETTINGS.get(word) or MEANINGS[word]
        yield f"    {f'--{word} {default}':<37} {whose}{meaning}"


MEANINGS = {
    "train_data_path": "training files",
    "val_data_path": "validation files",
    "train_file": "training file",
    "eval_file": "validation file",
    "output_dir": "run directory",
    "K": "0, which is not the k-core",
    "script": "bigrec or d3: whose defaults",
    "test_data_path": "test file",
    "info_file": "D3's list of titles",
    "allow_leaks": "train despite rows in two splits",
}
"""What words mean that decide no setting."""


def _words(parsed: ParsedFlags) -> Iterator[tuple[str, str]]:
    """Yield each word that has a value or was given, and how it is shown."""
    words = [*parsed.script.words, *(word for word in OWN if word in parsed.given)]
    for word in words:
        value = parsed.values.get(word, parsed.given.get(word))
        if word in parsed.given or value not in ("", [""]):
            mark = " " if word in parsed.given else "*"
            yield word, f"{mark} --{word} {_shown(value)}"


def _setting_of(word: str, text: str, parsed: ParsedFlags, values: Values) -> str:
    if word in parsed.script.unused:
        return f"not used by the script; here {parsed.script.unused[word]}"
    if word == "resume_from_checkpoint" and not parsed.is_elsewhere:
        return f"the run in {parsed.out}" if parsed.checkpoint else "nothing is resumed"
    if word.startswith("wandb_") and not parsed.values["wandb_project"]:
        return "not used without --wandb_project"
    if word == "wandb_run_name" or word not in SETTINGS:
        return MEANINGS.get(word, "the name of the run on the board")
    return _assigned(SETTINGS[word], values)


def _assigned(setting: str, values: Values) -> str:
    value = values[setting]
    return f"{setting} = {'–' if value is None else json.dumps(value, default=str)}"


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _precision_difference(recipe: Recipe) -> Iterator[str]:
    from groundrec.train.precision import resolve_precision

    precision = resolve_precision(recipe.train)
    if precision == "fp32":
        yield "this machine trains in float32: it has no CUDA device for half precision"


def _require_writable(folder: Path, remedy: str) -> None:
    """Raise `ConfigError` unless a folder may be written, or made, by this user."""
    whole = folder.resolve()
    existing = next(path for path in (whole, *whole.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ConfigError(
            "cannot write here",
            value=existing,
            accepted="a folder that you may write to",
            next_step=f"{remedy} that you may write to",
        )


def _check_checkpoint(parsed: ParsedFlags) -> None:
    """Raise `ConfigError` unless the named checkpoint is there, and is the one training uses."""
    name = parsed.checkpoint
    if name in ("", "True") or name.startswith("wandb:"):
        return
    path = Path(name)
    checkpoints = step_folder(parsed.out, "train") / "checkpoints"
    within = not parsed.is_elsewhere
    if within and path.parent.resolve() == parsed.out.resolve() and not path.exists():
        path = checkpoints / path.name  # where transformers would have written it
    if not path.is_dir():
        raise ConfigError(
            "no such checkpoint",
            value=f"--resume_from_checkpoint {name}",
            accepted="a run directory, one of its checkpoints, or a folder with weights",
            next_step="leave --resume_from_checkpoint out to start from the base model",
        )
    newest = _newest(checkpoints)
    if within and path.name.startswith("checkpoint-") and newest and path.name != newest.name:
        raise ConfigError(
            "a later checkpoint of this run exists, from which training continues",
            value=f"--resume_from_checkpoint {name}; the newest is {newest.name}",
            accepted=f"{newest}, or another --output_dir, which starts from {path.name}",
            next_step=f"--output_dir {parsed.out}-2 --resume_from_checkpoint {path}",
        )


def _newest(checkpoints: Path) -> Path | None:
    """Return the newest complete checkpoint."""
    from groundrec.train.start import COMPLETE

    complete = [path.parent for path in checkpoints.glob(f"checkpoint-*/{COMPLETE}")]
    return max(complete, key=lambda path: int(path.name.partition("-")[2]), default=None)


def _refuse_to_lose_training(parsed: ParsedFlags, recipe: Recipe) -> None:
    """Raise `ArtifactError` where going on would remove a model trained with other settings."""
    from groundrec.app.stages.plan import plan

    run = Run(parsed.out)
    outcome = next(one for one in plan(recipe, run, "train") if one.step == "train")
    folder = run.folder("train")
    trained = outcome.kind == "redo" or (
        outcome.kind == "restart" and _newest(folder / "checkpoints") is not None
    )
    if trained:
        raise ArtifactError(
            f"{folder} was trained with other settings: {outcome.reason}",
            value=parsed.out,
            accepted=(
                "another --output_dir; --if-exists new, to write beside it; or --if-exists resume,"
                " which removes that training"
            ),
            next_step=f"add --if-exists new, or --output_dir {parsed.out}-2",
        )
