"""How the language model writes an item: as its title, or as another kind of text.

The history in a prompt shows titles whatever the answers are, except in a running list, which
consists of answers. Knows nothing about templates, tokens or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from groundrec.core.recipe import Recipe
from groundrec.core.registry import resolve
from groundrec.core.types import Catalogue

__all__ = ["Answers", "Titles", "answers_of"]


class Answers(Protocol):
    """A way to write items; constructed as `cls(recipe)`."""

    def __init__(self, recipe: Recipe) -> None: ...

    def texts(self, catalogue: Catalogue) -> Sequence[str]:
        """Return the text of each item, which replaces `{title}` in the template's `answer`.

        Items with the same text share a leaf of the trie.
        """
        ...

    def tokens_to_add(self, catalogue: Catalogue) -> Sequence[str]:
        """Return the strings that must become single tokens of the tokenizer."""
        ...

    def parse(self, written: str) -> str:
        """Return what a model wrote without constraints in the form that `texts` uses."""
        ...


class Titles:
    """Every item is written as its title."""

    def __init__(self, recipe: Recipe) -> None:
        del recipe

    def texts(self, catalogue: Catalogue) -> Sequence[str]:
        """Return the titles."""
        return catalogue.titles

    def tokens_to_add(self, catalogue: Catalogue) -> Sequence[str]:
        """Return nothing: titles need no new tokens."""
        return ()

    def parse(self, written: str) -> str:
        """Return the title as it was written."""
        return written


def answers_of(recipe: Recipe) -> Answers:
    """Return the kind of answers that the recipe names; raise `ConfigError` if it is unknown."""
    return resolve("answers", recipe.answers.kind)(recipe)
