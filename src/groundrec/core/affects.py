"""Which settings decide the output of which stage, read from where each setting is declared.

A stage's inputs hold the settings returned by `deciding`, so that a change of any other setting
redoes nothing. Knows nothing about what stages do.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from groundrec.core.config import Section
from groundrec.core.recipe import Recipe

__all__ = ["STAGES", "affected", "deciding", "declared"]

STAGES = ("prepare", "signals", "train", "recommend", "fuse", "evaluate")
"""Every stage, in the order in which a run does them."""


def declared(section: type[Section] = Recipe, prefix: str = "") -> Iterator[tuple[str, list[str]]]:
    """Yield each setting of the schema with the stages that its declaration names."""
    for name, info in section.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            yield from declared(info.annotation, f"{prefix}{name}.")
        else:
            extra: Any = info.json_schema_extra
            yield f"{prefix}{name}", extra["affects"]


def affected(recipe: Recipe, setting: str) -> list[str]:
    """Return the stages, or steps of stages, whose output `setting` decides under this recipe."""
    return [
        stage
        for stage, _, condition in (a.partition(" if ") for a in _declared()[setting])
        if not condition or _holds(recipe, condition)
    ]


def deciding(recipe: Recipe, *steps: str, only: Iterable[str] | None = None) -> dict[str, Any]:
    """Return the settings that decide `steps`, nested as in a recipe, JSON-ready.

    A step is a stage or `STAGE/NAME`; what decides a stage decides each of its steps. With `only`,
    settings that are neither named there nor lie in a section named there are left out.
    """
    wanted = {part for step in steps for part in (step, step.partition("/")[0])}
    chosen: dict[str, Any] = {}
    everything = recipe.model_dump(mode="json")
    for setting in _declared():
        if wanted.isdisjoint(affected(recipe, setting)):
            continue
        if only is None or any(setting == o or setting.startswith(f"{o}.") for o in only):
            *sections, name = setting.split(".")
            source, target = everything, chosen
            for section in sections:
                source = source[section]
                target = target.setdefault(section, {})
            target[name] = source[name]
    return chosen


@cache
def _declared() -> dict[str, list[str]]:
    return dict(declared())


def _holds(recipe: Recipe, condition: str) -> bool:
    """Return whether `SECTION.SETTING=VALUE` is so in the recipe; VALUE is JSON or bare text."""
    setting, _, text = condition.partition("=")
    value: Any = recipe
    for name in setting.split("."):
        value = getattr(value, name)
    return json.dumps(value) == text or value == text
