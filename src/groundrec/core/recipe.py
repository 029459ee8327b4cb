"""Recipes: the settings of one experiment, where each came from, and errors for invalid ones.

Knows the name of every section. The settings are declared in `core.config` and the other `config_…`
modules.
"""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator

from groundrec.core import aliases
from groundrec.core.config import Data, Prepare, Section, setting
from groundrec.core.config_learn import Answers, Objective, Train
from groundrec.core.config_model import Model
from groundrec.core.config_rank import Evaluate, Fuse, Ground, Recommend
from groundrec.core.config_signals import (
    CoOccurrence,
    External,
    ItemKNN,
    RecentPopularity,
    Sequential,
)
from groundrec.core.config_track import Track
from groundrec.core.errors import ConfigError
from groundrec.core.recipe_files import (
    EXTENDS,
    find_recipe,
    override,
    read_recipe,
    read_toml,
    refuse_both,
)
from groundrec.core.setting_errors import readable
from groundrec.core.trees import leaves, toml

__all__ = ["Recipe", "as_toml", "load_recipe", "settings", "whole_text"]


class Recipe(Section):
    """All settings of one experiment."""

    name: str = setting(
        (),
        default="run",
        description="Name of the run; its directory is `runs/<name>` by default.",
    )
    about: str = setting(
        (),
        default="",
        description="What the run does and how long it takes; shown before it starts.",
    )
    seed: int = setting(
        ("prepare", "signals", "train", "recommend", "fuse", "evaluate"),
        default=0,
        ge=0,
        description="Random seed of every stage.",
    )
    data: Data = Data()
    prepare: Prepare = Prepare()
    model: Model = Model()
    train: Train = Train()
    signals: list[str] = setting(
        ("evaluate",),
        default=["popularity", "item-knn", "co-occurrence", "sasrec"],
        description="Collaborative signals to fit and compare.",
    )
    answers: Answers = Answers()
    objective: Objective = Objective()
    recent_popularity: RecentPopularity = RecentPopularity()
    item_knn: ItemKNN = ItemKNN()
    co_occurrence: CoOccurrence = CoOccurrence()
    sequential: Sequential = Sequential()
    external: External = External()
    recommend: Recommend = Recommend()
    ground: Ground = Ground()
    fuse: Fuse = Fuse()
    evaluate: Evaluate = Evaluate()
    track: Track = Track()

    @classmethod
    def of(cls, settings: Mapping[str, Any], file: str | Path | None = None) -> Recipe:
        """Return a recipe with settings given by name, such as `{"train.epochs": 3}`.

        They override those of `file`, a TOML file or the name of a packaged recipe. Raises
        `ConfigError`, as the command line does, for an unknown name or a bad value.
        """
        given, origin = read_recipe(find_recipe(file)) if file else ({}, {})
        aliases.refuse_both(settings)
        # Copies, because a later name may be assigned within an earlier section.
        current = [aliases.current(key, copy.deepcopy(value)) for key, value in settings.items()]
        override(given, origin, current, "what is set")
        return _validated(given)

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, values: Any) -> Any:
        """Accept old names and values, such as those in the `config.json` of an old run."""
        return aliases.upgrade(values) if isinstance(values, Mapping) else values

    def model_post_init(self, _: Any) -> None:
        """Check that the sections do not contradict each other."""
        for rule in RULES:
            rule(self)


def _name_is_that_of_a_folder(recipe: Recipe) -> None:
    """Refuse names that lead out of `runs`, or to `runs` itself."""
    if not recipe.name.strip(".") or any(sign in recipe.name for sign in "/\\\0"):
        raise ConfigError(
            "this name cannot be that of a run directory",
            value=json.dumps(recipe.name),
            accepted="a name without slashes that is not made of dots alone",
            next_step="--set name=my-run",
        )


def _scratch_is_trained_in_full(recipe: Recipe) -> None:
    if recipe.train.method != "full" and recipe.model.base_model == "scratch":
        raise ConfigError(
            "the base model `scratch` has random weights, all of which must be trained",
            value=f"train.method = {recipe.train.method}, model.base_model = scratch",
            accepted="train.method = full, or a pretrained base model",
            next_step="--set train.method=full, or --set model.base_model=PATH",
        )


def _trees_share_their_instruction(recipe: Recipe) -> None:
    if recipe.model.instruction == "random" and recipe.train.packing == "tree":
        raise ConfigError(
            "the examples of a tree share their instruction, so it cannot be drawn for each",
            value="model.instruction = random, train.packing = tree",
            accepted="the index of an instruction, or train.packing = rows",
            next_step="--set model.instruction=0",
        )


def _average_excludes_patience(recipe: Recipe) -> None:
    if recipe.train.average and recipe.train.patience:
        raise ConfigError(
            "train.average needs the last epochs, but train.patience may stop before them",
            value=f"average = {recipe.train.average}, patience = {recipe.train.patience}",
            accepted="one of the two",
            next_step="--set train.patience=0",
        )


def _cutoffs_fit_the_slate(recipe: Recipe) -> None:
    if max(recipe.evaluate.ks, default=0) > recipe.recommend.k:
        raise ConfigError(
            "a cut-off in evaluate.ks exceeds the length of a slate",
            value=max(recipe.evaluate.ks),
            accepted=f"at most recommend.k = {recipe.recommend.k}",
            next_step="--set recommend.k=…",
        )


def _beams_fill_the_slate(recipe: Recipe) -> None:
    if recipe.recommend.mode == "beam" and recipe.recommend.beams < recipe.recommend.k:
        raise ConfigError(
            "there are fewer beams than items in a slate",
            value=recipe.recommend.beams,
            accepted=f"recommend.beams ≥ recommend.k = {recipe.recommend.k}",
            next_step="--set recommend.beams=…",
        )


def _grounding_needs_whole_answers(recipe: Recipe) -> None:
    if (
        "ground" in recipe.recommend.methods
        and recipe.train.method != "none"
        and recipe.train.loss_on != "answer"
    ):
        raise ConfigError(
            "a model trained only where titles branch cannot write a title by itself",
            value=(
                f"train.loss_on = {recipe.train.loss_on}, recommend.methods ="
                f" {', '.join(recipe.recommend.methods)}"
            ),
            accepted="train.loss_on = answer, or methods without `ground`",
            next_step="--set train.loss_on=answer",
        )


def _base_embeddings_need_a_pretrained_model(recipe: Recipe) -> None:
    if (
        "ground" in recipe.recommend.methods
        and recipe.ground.weights == "base"
        and recipe.model.base_model == "scratch"
    ):
        raise ConfigError(
            "the base model `scratch` has random weights, so its embeddings mean nothing",
            value="ground.weights = base, model.base_model = scratch",
            accepted="ground.weights = tuned, or a pretrained base model",
            next_step="--set ground.weights=tuned, or --set model.base_model=PATH",
        )


def _workers_need_ray(recipe: Recipe) -> None:
    if recipe.recommend.workers and recipe.recommend.engine == "local":
        raise ConfigError(
            "recommend.workers applies only to the engine ray",
            value=f"workers = {recipe.recommend.workers}, engine = local",
            accepted="engine = ray, or several local processes started by torchrun",
            next_step=(
                "--set recommend.engine=ray, or torchrun --nproc_per_node 2 -m groundrec run RECIPE"
            ),
        )


def _assistant_is_fitted(recipe: Recipe) -> None:
    if recipe.recommend.assistant not in (None, *recipe.signals):
        raise ConfigError(
            "recommend.assistant names a signal that is not fitted",
            value=recipe.recommend.assistant,
            accepted=", ".join(recipe.signals),
            next_step="add it to `signals`",
        )


def _fused_signals_are_fitted(recipe: Recipe) -> None:
    if missing := [s for s in recipe.fuse.signals if s not in recipe.signals]:
        raise ConfigError(
            "fuse.signals names a signal that is not fitted",
            value=", ".join(missing),
            accepted=", ".join(recipe.signals),
            next_step="add it to `signals`",
        )


RULES = (
    _name_is_that_of_a_folder,
    _scratch_is_trained_in_full,
    _trees_share_their_instruction,
    _average_excludes_patience,
    _cutoffs_fit_the_slate,
    _beams_fill_the_slate,
    _grounding_needs_whole_answers,
    _base_embeddings_need_a_pretrained_model,
    _workers_need_ray,
    _assistant_is_fitted,
    _fused_signals_are_fitted,
)
"""Checks across sections; each raises `ConfigError` if settings contradict each other."""


def load_recipe(
    file: str | Path | None, overrides: Sequence[str] = ()
) -> tuple[Recipe, dict[str, str]]:
    """Return a recipe, from a TOML file or packaged, and where each setting came from.

    `overrides` have the form `section.setting=value`. The second value maps each `section.setting`
    to `default`, to the name of the file or of one that it extends, or to `--set`.
    """
    given, origin = read_recipe(find_recipe(file)) if file else ({}, {})
    parsed = [_parse_override(text) for text in overrides]
    aliases.refuse_both(key for key, _ in parsed)
    current = [aliases.current(*pair) for pair in parsed]
    override(given, origin, current, "--set")
    for key, value in current:
        origin = {k: o for k, o in origin.items() if not k.startswith(f"{key}.")}
        origin |= dict.fromkeys([key, *(k for k, _ in leaves({key: value}))], "--set")
    recipe = _validated(given)
    return recipe, {key: _origin_of(key, origin) for key, *_ in settings(recipe)}


def as_toml(recipe: Recipe) -> str:
    """Return a recipe as TOML, one line for each setting that differs from its default.

    TOML has no word for "unset": a setting that is unset against its default is left out.
    """
    values = dict(leaves(recipe.model_dump(mode="json", exclude_none=True)))
    defaults = dict(leaves(Recipe().model_dump(mode="json")))
    return toml({key: value for key, value in values.items() if value != defaults.get(key)})


def whole_text(file: str | Path) -> bytes:
    """Return a recipe's text in a form that needs no other file.

    That is the file unchanged or, if it extends another, all settings of both.
    """
    path = find_recipe(file)
    if EXTENDS not in read_toml(path):
        return path.read_bytes()
    given, _ = read_recipe(path)
    return toml(dict(leaves(given))).encode()


def settings(section: Section, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield `(section.setting, value, description)` for every setting, in declaration order."""
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, info.description or ""


def _validated(given: dict[str, Any]) -> Recipe:
    refuse_both(given)
    try:
        return Recipe.model_validate(given)
    except ValidationError as error:
        raise readable(error, Recipe, [key for key, *_ in settings(Recipe())]) from None


def _parse_override(text: str) -> tuple[str, Any]:
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(
            "--set is not of the form section.setting=value",
            value=text,
            accepted="section.setting=value, for example train.epochs=3",
            next_step="groundrec settings",
        )
    try:
        value = tomllib.loads(f"v = {raw}")["v"]
    except tomllib.TOMLDecodeError:
        value = raw.strip()
    return key.strip(), value


def _origin_of(key: str, origin: dict[str, str]) -> str:
    origins = [o for k, o in origin.items() if k == key or k.startswith(f"{key}.")]
    return "--set" if "--set" in origins else (origins or ["default"])[0]
