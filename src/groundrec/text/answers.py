"""How an item is written by the language model: its title, or a text of another kind.

The history of a prompt shows titles whatever the answers are, except in a running list, which is
made of answers. Knows nothing about templates, tokens or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from groundrec.core.recipe import Recipe
from groundrec.core.registry import resolve
from groundrec.core.types import Catalogue

__all__ = ["Answers", "Titles", "answers_of"]


class Answers(Protocol):
    """A way to write items; built with `cls(recipe)`."""

    def __init__(self, recipe: Recipe) -> None: ...

    def texts(self, catalogue: Catalogue) -> Sequence[str]:
        """Return the text of each item, which takes the place of `{title}` in the template's
        `answer`.

        Items with the same text share a leaf of the trie.
        """
        ...

    def tokens_to_add(self, catalogue: Catalogue) -> Sequence[str]:
        """Return the texts that the tokenizer has to know as one token each."""
        ...

    def parse(self, written: str) -> str:
        """Return the text of an item as `texts` has it, given what a model wrote freely."""
        ...


class Titles:
    """Every item is written as its title."""

    def __init__(self, recipe: Recipe) -> None:
        del recipe

    def texts(self, catalogue: Catalogue) -> Sequence[str]:
        """Return the titles."""
        return catalogue.titles

    def tokens_to_add(self, catalogue: Catalogue) -> Sequence[str]:
        """Return none: every tokenizer can spell a title."""
        return ()

    def parse(self, written: str) -> str:
        """Return the title as it was written."""
        return written


def answers_of(recipe: Recipe) -> Answers:
    """Return the recipe's way to write items; raise `ConfigError` for an unknown one."""
    return resolve("answers", recipe.answers.kind)(recipe)
