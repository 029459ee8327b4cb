"""What each step of a run is made from: settings, fingerprints of other steps, digests of files.

A step whose inputs are those of its last time is not done again. Each function takes the recipe and
`Upstream`, which knows the steps before it. Knows nothing about how a step is done.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, TypeAlias

from groundrec.app.stages.domains import fingerprints, other_domains
from groundrec.core.affects import deciding
from groundrec.core.inputs import AFTER, Inputs
from groundrec.core.recipe import Recipe
from groundrec.core.registry import resolve
from groundrec.core.runs import Run
from groundrec.core.types import Card
from groundrec.models import hubs
from groundrec.text.prompts import template_named, template_of

__all__ = [
    "ALPHA",
    "SEARCH",
    "SPLITS",
    "Finished",
    "Upstream",
    "alpha_inputs",
    "evaluate_inputs",
    "files_of",
    "fuse_inputs",
    "model_inputs",
    "prepare_inputs",
    "signal_inputs",
    "signal_step",
    "slates_inputs",
    "slates_step",
    "train_inputs",
]

SEARCH = "search"
"""The grounding whose slates lie in `recommend/` itself, and which alone an assistant guides."""

ALPHA = "recommend/alpha"
SPLITS = ("valid", "test")

COMMON = (
    *("seed", "recommend.k", "recommend.exclude_seen", "recommend.allow", "recommend.deny"),
    *("recommend.valid_queries", "recommend.test_queries"),
)
"""Settings that decide the slates of every grounding, whatever settings it declares."""


FileStamp: TypeAlias = list[str | int]
"""Name, size and time of a file."""


class Upstream(Protocol):
    """The steps that have been done when another one begins."""

    def fingerprint(self, step: str) -> str:
        """Return the fingerprint of a step."""
        ...

    def dataset(self) -> str:
        """Return the fingerprint of the contents of the prepared data set."""
        ...

    def card(self) -> Card | None:
        """Return the card of the prepared data set, None where there is none yet."""
        ...

    def base_model(self, name: str, weights: str) -> list[object]:
        """Return the name, revision and contents of a model from a hub."""
        ...


class Finished:
    """The finished steps of a run directory."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def fingerprint(self, step: str) -> str:
        """Return the fingerprint of a step; raise `ArtifactError` unless it is finished."""
        return self._run.fingerprint(step)

    def dataset(self) -> str:
        """Return the fingerprint of the prepared data set's contents."""
        return self._run.manifest("prepare")["result"]["dataset"]

    def card(self) -> Card:
        """Return the prepared data set's card."""
        return self._run.manifest("prepare")["result"].get("card", {})

    def base_model(self, name: str, weights: str) -> list[object]:
        """Return the name, revision and contents of a model from a hub, fetched where it is not
        here yet.
        """
        model = hubs.fetch(name, weights)
        return [model.name, model.revision, model.contents]


def signal_step(name: str) -> str:
    """Return the step that fits a signal."""
    return f"signals/{name}"


def slates_step(method: str, split: str) -> str:
    """Return the step that ranks the queries of a split by a grounding."""
    return f"recommend/{split}" if method == SEARCH else f"recommend/{method}/{split}"


def prepare_inputs(recipe: Recipe) -> Inputs:
    """Return what the data set is made from."""
    data = recipe.data
    files = [file for path in (data.path, data.items, data.dataset) for file in files_of(path)]
    return {AFTER: {}, **deciding(recipe, "prepare"), "files": files}


def signal_inputs(recipe: Recipe, upstream: Upstream, name: str) -> Inputs:
    """Return what a signal is fitted from: the settings that its class says it reads."""
    signal = resolve("signals", name)
    settings = getattr(signal, "settings", None)
    only = None if settings is None else ("seed", *settings)
    inputs = {
        AFTER: {},
        "dataset": upstream.dataset(),
        **deciding(recipe, "signals", only=only),
    }
    if read := getattr(signal, "files", None):
        inputs["files"] = [file for path in read(recipe) for file in files_of(path)]
    return inputs


def model_inputs(recipe: Recipe, upstream: Upstream) -> Inputs:
    """Return what the trained model is made from, besides the files of its base model and the data
    sets of other domains. Where those data sets lie changes nothing.
    """
    settings = deciding(recipe, "train")
    settings["train"].pop("extra_datasets")
    if others := list(other_domains(recipe)):
        settings["train"]["extra_datasets"] = others
    card = upstream.card()
    settings["model"]["template"] = template_named(recipe, card=card)
    template = template_of(recipe, card=card).model_dump()
    return {AFTER: {}, "dataset": upstream.dataset(), "template": template, **settings}


def train_inputs(recipe: Recipe, upstream: Upstream) -> Inputs:
    """Return everything that the trained model is made from, but what training starts from."""
    base = recipe.model.base_model
    if hubs.is_of_hub(base):
        files = [upstream.base_model(base, recipe.model.weights)]
    else:
        files = files_of(Path(base)) if Path(base).is_dir() else []
    inputs = {**model_inputs(recipe, upstream), "base": files}
    if other_domains(recipe):
        inputs["domains"] = {
            domain: {"dataset": found, "template": template_of(recipe, domain).model_dump()}
            for domain, found in fingerprints(recipe, upstream.dataset()).items()
        }
    return inputs


def alpha_inputs(recipe: Recipe, upstream: Upstream) -> Inputs:
    """Return what the weight of the assistant is chosen from."""
    steps = ("train", signal_step(recipe.recommend.assistant or ""))
    return {
        AFTER: {step: upstream.fingerprint(step) for step in steps},
        **deciding(recipe, ALPHA, only=(*_read_by(SEARCH), "fuse")),
        "files": _lists(recipe),
    }


def slates_inputs(recipe: Recipe, upstream: Upstream, method: str, split: str) -> Inputs:
    """Return what the slates of a grounding are made from."""
    section = recipe.recommend
    steps = ["train"]
    if method == SEARCH and section.assistant is not None:
        steps += [signal_step(section.assistant), *([ALPHA] if section.alpha is None else [])]
    return {
        AFTER: {step: upstream.fingerprint(step) for step in steps},
        **deciding(recipe, slates_step(SEARCH, split), only=_read_by(method)),
        "files": _lists(recipe),
    }


def fuse_inputs(recipe: Recipe, upstream: Upstream) -> Inputs:
    """Return what the fusions are made from: every grounding, and the signals that are fused."""
    steps = [*_all_slates(recipe), *map(signal_step, recipe.fuse.signals)]
    return {
        AFTER: {step: upstream.fingerprint(step) for step in steps},
        **deciding(recipe, "fuse"),
        "files": _lists(recipe),
    }


def evaluate_inputs(recipe: Recipe, upstream: Upstream) -> Inputs:
    """Return what the report is made from: everything that ranks."""
    steps = ["fuse", *_all_slates(recipe), *map(signal_step, recipe.signals)]
    return {
        AFTER: {step: upstream.fingerprint(step) for step in steps},
        **deciding(recipe, "evaluate"),
        "files": _lists(recipe),
    }


def files_of(path: Path | str | None) -> list[FileStamp]:
    """Return name, size and time of the files at `path`, so that a changed file is noticed; nothing
    for a URL, which stands for itself.
    """
    if not isinstance(path, Path) or not path.exists():
        return []
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files]


def _all_slates(recipe: Recipe) -> list[str]:
    return [slates_step(m, split) for m in recipe.recommend.methods for split in SPLITS]


def _read_by(method: str) -> tuple[str, ...]:
    """Return the sections and settings that a grounding reads."""
    from groundrec.rank.groundings import find_grounding

    return (*COMMON, *find_grounding(method).settings)


def _lists(recipe: Recipe) -> list[FileStamp]:
    """Return the files that say what may be recommended."""
    return files_of(recipe.recommend.allow) + files_of(recipe.recommend.deny)
