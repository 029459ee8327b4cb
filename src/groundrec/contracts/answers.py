"""What every way to write items promises. Knows nothing about which ways there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from groundrec.contracts.base_models import TITLES
from groundrec.contracts.rules import check_rules
from groundrec.core.recipe import Recipe
from groundrec.core.types import Catalogue
from groundrec.text.answers import Answers
from groundrec.text.tokens import train_tokenizer

__all__ = ["CATALOGUE", "RULES", "Written", "check_answers"]

CATALOGUE = Catalogue(tuple(f"id {i}" for i in range(len(TITLES))), tuple(TITLES))
"""Titles with odd letters, and three items of one title."""
BYTES = 256 + 3
"""Size of a tokenizer that knows single bytes and its special tokens only."""


@dataclass(frozen=True)
class Written:
    """A way to write items, built twice with one recipe."""

    answers: Answers
    again: Answers

    @classmethod
    def of(cls, kind: Callable[[Recipe], Answers], recipe: Recipe) -> Written:
        """Return both."""
        return cls(kind(recipe), kind(recipe))


def check_answers(kind: Callable[[Recipe], Answers], recipe: Recipe | None = None) -> None:
    """Raise `AssertionError` at the first rule that a way to write items breaks."""
    check_rules(Written.of(kind, recipe or Recipe()), RULES)


def writes_every_item(case: Written) -> None:
    """Every item has a text of one line that is not empty."""
    texts = list(case.answers.texts(CATALOGUE))
    assert len(texts) == len(CATALOGUE), f"{len(texts)} texts for {len(CATALOGUE)} items"
    for text in texts:
        assert isinstance(text, str), f"{text!r} is not a string"
        assert text.strip(), "an empty text"
        assert "\n" not in text, f"{text!r} has several lines"


def writes_the_same_twice(case: Written) -> None:
    """The same item has the same text, and the same tokens are added, each time."""
    texts = list(case.answers.texts(CATALOGUE))
    tokens = list(case.answers.tokens_to_add(CATALOGUE))
    for other in (case.answers, case.again):
        assert list(other.texts(CATALOGUE)) == texts, "texts differ"
        assert list(other.tokens_to_add(CATALOGUE)) == tokens, "tokens to add differ"


def reads_what_it_writes(case: Written) -> None:
    """The text of an item, once written, is read as the text of that item and of no other."""
    for text in case.answers.texts(CATALOGUE):
        assert case.answers.parse(text) == text, f"{text!r} is read as {case.answers.parse(text)!r}"


def adds_new_tokens_once(case: Written) -> None:
    """Tokens to add are unique, occur in a text, and are new to a tokenizer of single bytes."""
    texts = list(case.answers.texts(CATALOGUE))
    tokens = list(case.answers.tokens_to_add(CATALOGUE))
    known = train_tokenizer([], BYTES).get_vocab()
    assert len(set(tokens)) == len(tokens), f"one twice: {tokens}"
    for token in tokens:
        assert token not in known, f"{token!r} is a token already"
        assert any(token in text for text in texts), f"{token!r} occurs in no text"


RULES = (
    writes_every_item,
    writes_the_same_twice,
    reads_what_it_writes,
    adds_new_tokens_once,
)
