"""Check an implementation against the rules of its seam: functions that assert.

The docstring of such a function states the rule. Knows nothing about any particular seam.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["check_rules"]

T = TypeVar("T")


def check_rules(case: T, rules: Sequence[Callable[[T], None]]) -> None:
    """Raise `AssertionError` for the first rule that `case` breaks, with that rule's docstring."""
    for rule in rules:
        try:
            rule(case)
        except AssertionError as error:
            raise AssertionError(f"broken: {rule.__doc__}\n{error}") from error
