"""`groundrec new`: a recipe of your own from five answers, given as flags or asked for.

The recipe extends a packaged one and holds only what differs. Knows nothing about what settings do.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from groundrec.app.stages.checks import check_names, check_paths
from groundrec.core.errors import ConfigError
from groundrec.core.files import atomic_write
from groundrec.core.language import say
from groundrec.core.recipe import load_recipe
from groundrec.core.trees import toml

__all__ = ["new"]

BASE = "d3/d3"
QUESTIONS = {
    "data": ("folder with the Amazon review files", "data/amazon"),
    "category": ("category, as in the name of its file", "Books"),
    "model": ("base model", "hf:Qwen/Qwen1.5-0.5B"),
    "examples": ("training examples, a number or all", "all"),
    "gpu": ("memory of the GPU in GiB, 0 without one", "24"),
}
"""Flag → question and suggested answer."""
BYTES_PER_WEIGHT = 16
"""Full training keeps a weight, its gradient and AdamW's two moments, four bytes each."""
RESERVE = 4.0
"""GiB for activations and logits."""


def new(
    name: Annotated[str, typer.Argument(help="Name of the recipe and of its run.")],
    data: Annotated[str | None, typer.Option(help="Folder with the Amazon review files.")] = None,
    category: Annotated[
        str | None, typer.Option(help="Category, as in the name of its file: Books.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Base model: hf:ORG/NAME, modelscope:ORG/NAME or a folder.")
    ] = None,
    examples: Annotated[
        str | None, typer.Option(help="Number of training examples, or all.")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="Memory of the GPU in GiB; 0 without one.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write the recipe NAME.toml from five answers: flags, or questions on a terminal."""
    path = _free_path(name, force=force)
    given = {
        "data": data,
        "category": category,
        "model": model,
        "examples": examples,
        "gpu": gpu,
    }
    text = f'extends = "{BASE}"\n{toml(_settings(name, _answers(name, given)))}'
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")
        recipe, _ = load_recipe(part)
        check_names(recipe)
        check_paths(recipe)
    print(say("wrote {0}", path))
    print(say("next: {0}", f"groundrec run {shlex.quote(str(path))} --plan"))


def _free_path(name: str, *, force: bool) -> Path:
    if not re.fullmatch(r"[\w.-]+", name):
        raise ConfigError(
            "not a name for a recipe",
            value=name,
            accepted="letters, digits, dots, hyphens and underscores",
            next_step="groundrec new my-qwen",
        )
    path = Path(f"{name.removesuffix('.toml')}.toml")
    if path.exists() and not (force and path.is_file()):
        raise ConfigError(
            "the file exists",
            value=path,
            accepted="a new name, or --force",
            next_step=f"groundrec new {path.stem}-2",
        )
    return path


def _answers(name: str, given: Mapping[str, str | None]) -> dict[str, str]:
    """Return all five answers; those that are missing are asked for on a terminal."""
    missing = [flag for flag, answer in given.items() if answer is None]
    if missing and not sys.stdin.isatty():
        flags = " ".join(f"--{flag} {shlex.quote(QUESTIONS[flag][1])}" for flag in missing)
        raise ConfigError(
            "answers are missing, and there is no terminal to ask on",
            value=", ".join(f"--{flag}" for flag in missing),
            accepted="all five flags, or a terminal",
            next_step=f"groundrec new {name} {flags}",
        )
    return {flag: _asked(flag) if answer is None else answer for flag, answer in given.items()}


def _asked(flag: str) -> str:
    question, suggested = QUESTIONS[flag]
    return str(typer.prompt(say(question), default=suggested))


def _settings(name: str, answers: Mapping[str, str]) -> dict[str, object]:
    settings: dict[str, object] = {
        "name": name.removesuffix(".toml"),
        "data.path": answers["data"],
        "data.category": answers["category"],
        "model.base_model": answers["model"],
    }
    if answers["examples"] != "all":
        settings["train.max_examples"] = int(_number("examples", answers["examples"], r"[1-9]\d*"))
    memory = float(_number("gpu", answers["gpu"], r"\d+(\.\d+)?"))
    return settings | _for_memory(memory, answers["model"])


def _number(flag: str, text: str, form: str) -> str:
    if not re.fullmatch(form, text):
        raise ConfigError(
            f"--{flag} is not a number",
            value=text,
            accepted="a number from 1, or all" if flag == "examples" else "a number from 0",
            next_step=f"--{flag} {QUESTIONS[flag][1]}",
        )
    return text


def _for_memory(gib: float, model: str) -> dict[str, object]:
    """Return the settings of training that fit into the memory of one GPU, or a processor.

    The size of the model is read from its name, `1.8B`; without one, the packaged recipe's smallest
    model is assumed.
    """
    if not gib:
        return {"train.micro_batch_size": 1}
    named = re.search(r"(\d+(?:\.\d+)?)B\b", model, re.IGNORECASE)
    billions = float(named[1]) if named else 0.5
    if billions * 1e9 * BYTES_PER_WEIGHT / 2**30 + RESERVE <= gib:
        return {}
    return {
        "train.method": "lora",
        "train.gradient_checkpointing": True,
        "train.micro_batch_size": 1,
    }
