"""What rankings are called in a report: by what answered. Knows nothing about how they do it."""

from __future__ import annotations

from groundrec.app.stages.made_from import SEARCH
from groundrec.core.recipe import Recipe

__all__ = ["alone", "short_title", "title"]


def title(recipe: Recipe, method: str) -> str:
    """Return the name under which a grounding is reported, with the assistant that guides it."""
    from groundrec.rank.groundings import find_grounding

    return find_grounding(method).title + _assistant(recipe, method)


def short_title(recipe: Recipe, method: str) -> str:
    """Return the name of a grounding inside that of a fusion."""
    from groundrec.rank.groundings import find_grounding

    return find_grounding(method).short_title + _assistant(recipe, method)


def alone(recipe: Recipe, name: str) -> str:
    """Return the name that a method of a report would have without the recipe's assistant."""
    return name.replace(_assistant(recipe, SEARCH), "", 1)


def _assistant(recipe: Recipe, method: str) -> str:
    assistant = recipe.recommend.assistant
    return f" + {assistant} assistant" if method == SEARCH and assistant else ""
