"""Recipes: one experiment's settings, where each value came from, and what is wrong with the ones
that are not.

Knows every section's name; what a setting means is said where it is declared, in `core.config` and
its two neighbours.
"""

from __future__ import annotations

import copy
import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError, model_validator

from groundrec.core import aliases
from groundrec.core.config import Data, Prepare, Section, setting
from groundrec.core.config_learn import (
    Answers,
    CoOccurrence,
    External,
    ItemKNN,
    Model,
    Objective,
    RecentPopularity,
    Sequential,
    Train,
)
from groundrec.core.config_rank import Evaluate, Fuse, Ground, Recommend
from groundrec.core.config_track import Track
from groundrec.core.errors import ConfigError
from groundrec.core.recipe_files import find_recipe

__all__ = ["Recipe", "as_toml", "load_recipe", "settings", "whole_text"]

EXTENDS = "extends"
"""Key of the recipe, a file beside this one or a packaged name, that gives the other settings."""

BARE = re.compile(r"[A-Za-z0-9_-]+")


class Recipe(Section):
    """One experiment: everything that decides its result."""

    name: str = setting(
        (),
        default="run",
        description="Name of the run; its directory is `runs/<name>` unless told otherwise.",
    )
    about: str = setting(
        (),
        default="",
        description="What the run does and how long it takes; shown before it begins.",
    )
    seed: int = setting(
        ("prepare", "signals", "train", "recommend", "fuse", "evaluate"),
        default=0,
        ge=0,
        description="Seed of every source of randomness.",
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
        """Return the recipe of settings by their names, such as `{"train.epochs": 3}`, over those
        of a TOML file or of a packaged recipe.

        Raises `ConfigError`, as the command line does, for an unknown name or a bad value.
        """
        given, _ = _read(find_recipe(file)) if file else ({}, {})
        aliases.refuse_both(settings)
        for key, value in settings.items():
            # A copy, because a later name may be assigned within an earlier section.
            _assign(given, *aliases.current(key, copy.deepcopy(value)))
        return _validated(given)

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, values: Any) -> Any:
        """Accept old names and values, such as those in the `config.json` of an old run."""
        return aliases.upgrade(values) if isinstance(values, Mapping) else values

    def model_post_init(self, _: Any) -> None:
        """Check what concerns more than one section."""
        if self.train.method != "full" and self.model.base_model == "scratch":
            raise ConfigError(
                "the model `scratch` has random weights: all of them have to be trained",
                value=f"train.method = {self.train.method}, model.base_model = scratch",
                accepted="the folder of a language model, or train.method = full",
                next_step="--set train.method=full, or --set model.base_model=PATH",
            )
        if self.model.instruction == "random" and self.train.packing == "tree":
            raise ConfigError(
                "the examples of a tree share their instruction, and here each draws its own",
                value="model.instruction = random, train.packing = tree",
                accepted="a number, or train.packing = rows",
                next_step="--set model.instruction=0",
            )
        if self.train.average and self.train.patience:
            raise ConfigError(
                "train.average takes the last epochs, and train.patience may stop before them",
                value=f"average = {self.train.average}, patience = {self.train.patience}",
                accepted="one of the two",
                next_step="--set train.patience=0",
            )
        if max(self.evaluate.ks, default=0) > self.recommend.k:
            raise ConfigError(
                "evaluate.ks asks for more places than a slate has",
                value=max(self.evaluate.ks),
                accepted=f"at most recommend.k = {self.recommend.k}",
                next_step="--set recommend.k=…",
            )
        if self.recommend.mode == "beam" and self.recommend.beams < self.recommend.k:
            raise ConfigError(
                "fewer beams than places in the slate",
                value=self.recommend.beams,
                accepted=f"recommend.beams ≥ recommend.k = {self.recommend.k}",
                next_step="--set recommend.beams=…",
            )
        if (
            "ground" in self.recommend.methods
            and self.train.method != "none"
            and self.train.loss_on != "answer"
        ):
            raise ConfigError(
                "a model that learns only the tokens that choose among titles cannot write a title"
                " by itself",
                value=(
                    f"train.loss_on = {self.train.loss_on}, recommend.methods ="
                    f" {', '.join(self.recommend.methods)}"
                ),
                accepted="train.loss_on = answer, or methods without `ground`",
                next_step="--set train.loss_on=answer",
            )
        if (
            "ground" in self.recommend.methods
            and self.ground.weights == "base"
            and self.model.base_model == "scratch"
        ):
            raise ConfigError(
                "the model `scratch` has random weights: what they embed means nothing",
                value="ground.weights = base, model.base_model = scratch",
                accepted="ground.weights = tuned, or a model that was trained before",
                next_step="--set ground.weights=tuned, or --set model.base_model=PATH",
            )
        if self.recommend.workers and self.recommend.engine == "local":
            raise ConfigError(
                "recommend.workers are the actors of the engine ray",
                value=f"workers = {self.recommend.workers}, engine = local",
                accepted="engine = ray; several local processes are started by torchrun",
                next_step=(
                    "--set recommend.engine=ray, or torchrun --nproc_per_node 2 -m groundrec run"
                    " RECIPE"
                ),
            )
        if self.recommend.assistant not in (None, *self.signals):
            raise ConfigError(
                "recommend.assistant is a signal that is not fitted",
                value=self.recommend.assistant,
                accepted=", ".join(self.signals),
                next_step="add it to `signals`",
            )
        if missing := [s for s in self.fuse.signals if s not in self.signals]:
            raise ConfigError(
                "fuse.signals names a signal that is not fitted",
                value=", ".join(missing),
                accepted=", ".join(self.signals),
                next_step="add it to `signals`",
            )


def load_recipe(
    file: str | Path | None, overrides: Sequence[str] = ()
) -> tuple[Recipe, dict[str, str]]:
    """Return the recipe of a TOML file, or a packaged one, with `a.b=value` overrides, and where
    each setting came from.

    The second value maps `section.setting` to `default`, the name of the file, or of one that it
    extends, or `--set`.
    """
    given, origin = _read(find_recipe(file)) if file else ({}, {})
    parsed = [_parse_override(text) for text in overrides]
    aliases.refuse_both(key for key, _ in parsed)
    for key, value in (aliases.current(*override) for override in parsed):
        _assign(given, key, value)
        origin = {k: o for k, o in origin.items() if not k.startswith(f"{key}.")}
        origin |= dict.fromkeys([key, *(k for k, _ in _leaves({key: value}))], "--set")
    recipe = _validated(given)
    return recipe, {key: _origin_of(key, origin) for key, *_ in settings(recipe)}


def as_toml(recipe: Recipe) -> str:
    """Return a recipe as TOML, a line for each setting that is not at its default."""
    now, usual = (dict(_leaves(r.model_dump(mode="json"))) for r in (recipe, Recipe()))
    return _toml({key: value for key, value in now.items() if value != usual.get(key)})


def whole_text(file: str | Path) -> bytes:
    """Return a recipe that needs no other file: the bytes of one that extends none, else all
    settings of both.
    """
    path = find_recipe(file)
    if EXTENDS not in _read_toml(path):
        return path.read_bytes()
    given, _ = _read(path)
    return _toml(dict(_leaves(given))).encode()


def _toml(leaves: Mapping[str, Any]) -> str:
    # A JSON text without null is a TOML text, too.
    return "".join(
        f"{_quoted(key)} = {json.dumps(value, ensure_ascii=False)}\n"
        for key, value in leaves.items()
    )


def _quoted(key: str) -> str:
    """Return a setting's name as a TOML key, in which only some letters stand without quotation
    marks.
    """
    return ".".join(
        part if BARE.fullmatch(part) else json.dumps(part, ensure_ascii=False)
        for part in key.split(".")
    )


def settings(section: Section, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield `(section.setting, value, description)` for every setting, in the order they are
    declared.
    """
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, info.description or ""


def _validated(given: dict[str, Any]) -> Recipe:
    try:
        return Recipe.model_validate(given)
    except ValidationError as error:
        raise _readable(error) from None


def _read(path: Path, above: tuple[Path, ...] = ()) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings of a recipe and of what it extends, and the name of the file that each
    comes from.
    """
    given = _read_toml(path)
    base, line = given.pop(EXTENDS, None), (*above, path.resolve())
    origin = dict.fromkeys((key for key, _ in _leaves(given)), path.name)
    if base is None:
        return given, origin
    extended_path = find_recipe(base, path.parent) if isinstance(base, str) else None
    if extended_path is None or extended_path.resolve() in line:
        raise ConfigError(
            f"{path} does not extend another recipe",
            value=f"{EXTENDS} = {json.dumps(base, default=str)}",
            accepted="a recipe beside this one, or a packaged one, that does not lead back here",
            next_step="groundrec recipes list",
        )
    extended, origins = _read(extended_path, line)
    for key, value in _leaves(given):
        _assign(extended, key, value)
    return extended, origins | origin


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is not valid TOML",
            value=error,
            accepted="lines like `k_core = 5` under a [section]",
        ) from None
    return aliases.upgrade(tree, warn=True)


def _parse_override(text: str) -> tuple[str, Any]:
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(
            "--set does not look like a setting",
            value=text,
            accepted="section.setting=value, for example train.epochs=3",
        )
    try:
        value = tomllib.loads(f"v = {raw}")["v"]
    except tomllib.TOMLDecodeError:
        value = raw.strip()
    return key.strip(), value


def _assign(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for name in sections:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise ConfigError("not a section", value=name, accepted="section.setting=value")
    tree[last] = value


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _origin_of(key: str, origin: dict[str, str]) -> str:
    found = [o for k, o in origin.items() if k == key or k.startswith(f"{key}.")]
    return "--set" if "--set" in found else (found or ["default"])[0]


def _readable(error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    place = [str(p) for p in first["loc"]]
    if first["type"] != "extra_forbidden":
        return ConfigError(
            f"bad value for {'.'.join(place)}",
            value=json.dumps(first["input"], default=str),
            accepted=first["msg"],
            next_step="groundrec settings",
        )
    siblings = _siblings(place[:-1])
    elsewhere = [key for key, *_ in settings(Recipe()) if key.split(".")[-1] == place[-1]]
    near = difflib.get_close_matches(place[-1], siblings, n=1, cutoff=0.5)
    meant = elsewhere or [".".join([*place[:-1], name]) for name in near]
    return ConfigError(
        "unknown setting" + (f" (did you mean {' or '.join(map(repr, meant))}?)" if meant else ""),
        value=".".join(place),
        accepted=", ".join(siblings),
        next_step="groundrec settings",
    )


def _siblings(place: Sequence[str]) -> list[str]:
    section: type[BaseModel] = Recipe
    for name in place:
        annotation = section.model_fields[name].annotation
        section = next(
            a
            for a in (annotation, *get_args(annotation))
            if isinstance(a, type) and issubclass(a, BaseModel)
        )
    return list(section.model_fields)
