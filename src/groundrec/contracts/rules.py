"""Rules that every implementation of a seam is held to: functions that assert, whose docstring is
the rule.

Knows nothing about any seam.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["check_rules"]

T = TypeVar("T")


def check_rules(case: T, rules: Sequence[Callable[[T], None]]) -> None:
    """Raise `AssertionError` at the first rule that `case` breaks, with the rule's own words."""
    for rule in rules:
        try:
            rule(case)
        except AssertionError as error:
            raise AssertionError(f"broken: {rule.__doc__}\n{error}") from error
