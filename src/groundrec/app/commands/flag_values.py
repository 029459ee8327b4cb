"""`--flag value …` of the published command lines, as typed values by flag.

Knows nothing about which flags there are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeAlias

from groundrec.core.errors import ConfigError

__all__ = ["NONE", "Values", "flag_values", "only_one", "typed", "words_of_list"]

Values: TypeAlias = dict[str, Any]
"""Values by flag, or by setting, each of its own type."""
NONE = ("", "None", "none")
"""What stands for no value."""
BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def flag_values(arguments: Sequence[str], command: str) -> dict[str, str]:
    """Return values by flag: `--flag value`, `--flag=value`, or `--flag` alone, which is true.

    Raises `ConfigError` for a value without a flag.
    """
    values = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            is_recipe = word.endswith(".toml")
            raise ConfigError(
                "a recipe does not mix with the flags of published code"
                if is_recipe
                else "a value without a flag",
                value=word,
                accepted=f"groundrec {command} RECIPE" if is_recipe else "--flag value",
                next_step=f"groundrec {command} --help",
            )
        flag, equals, value = word[2:].partition("=")
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        values[flag.replace("-", "_")] = value
    return values


def typed(word: str, text: str, default: object) -> Any:
    """Return a value as Python, of the type of the word's default; raise `ConfigError`."""
    try:
        if isinstance(default, bool):
            return BOOLEANS[text.lower()]
        if isinstance(default, int):
            return int(text)
        if isinstance(default, float):
            return float(text)
    except (KeyError, ValueError):
        kind = {bool: "True or False", int: "a whole number"}.get(type(default), "a number")
        raise ConfigError(
            "not a value of this word", value=f"--{word} {text}", accepted=kind
        ) from None
    if isinstance(default, list):
        return words_of_list(text)
    return "" if text in NONE else text


def words_of_list(text: str) -> list[str]:
    """Return a list as JSON or as a shell leaves it, `[q_proj,v_proj]`; a word is a list of one."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if isinstance(found, list):
        return [str(word) for word in found]
    parts = text.strip().removeprefix("[").removesuffix("]").split(",")
    return [part.strip().strip("'\"") for part in parts if part.strip()]


def only_one(text: str) -> str:
    """Return the word of a list of one, as some published loops have it."""
    words = words_of_list(text) if text.startswith("[") else []
    return words[0] if len(words) == 1 else text
