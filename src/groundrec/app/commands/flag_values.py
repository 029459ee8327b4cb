"""`--flag value …` of the published command lines, as values by flag.

Knows nothing about which flags there are.
"""

from __future__ import annotations

from collections.abc import Sequence

from groundrec.core.errors import ConfigError

__all__ = ["flag_values"]


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
