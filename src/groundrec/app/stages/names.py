"""What rankings are called in a report. Knows nothing about what they are made of."""

from __future__ import annotations

__all__ = ["LANGUAGE_MODEL", "short_title", "title"]

LANGUAGE_MODEL = "language model"
"""The title of the grounding `search`, which a comparison of runs shows unless told otherwise."""


def title(method: str) -> str:
    """Return the name under which a grounding is reported."""
    from groundrec.rank.groundings import find_grounding

    return find_grounding(method).title


def short_title(method: str) -> str:
    """Return the name of a grounding inside that of a fusion."""
    from groundrec.rank.groundings import find_grounding

    return find_grounding(method).short_title
