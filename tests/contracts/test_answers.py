"""What every registered way to write items must obey, other packages' too: found through the
registry, never listed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from groundrec.contracts.answers import RULES, Written, check_answers
from groundrec.core.recipe import Recipe
from groundrec.core.registry import names, resolve
from groundrec.core.types import Catalogue
from groundrec.text.answers import Titles


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("kind", names("answers"))
def test_registered_answers_keep_the_rule(kind: str, rule: Any) -> None:
    rule(Written.of(resolve("answers", kind), Recipe()))


class Short(Titles):
    def texts(self, catalogue: Catalogue) -> Sequence[str]:
        return super().texts(catalogue)[:-1]


class Silent(Titles):
    def texts(self, catalogue: Catalogue) -> Sequence[str]:
        return [" ", *super().texts(catalogue)[1:]]


class Changing(Titles):
    count = 0

    def texts(self, catalogue: Catalogue) -> Sequence[str]:
        Changing.count += 1
        return [f"{title} {self.count}" for title in super().texts(catalogue)]


class Trimming(Titles):
    def parse(self, written: str) -> str:
        return written.strip()


class Twice(Titles):
    def tokens_to_add(self, catalogue: Catalogue) -> Sequence[str]:
        return ["Title", "Title"]


class Known(Titles):
    def tokens_to_add(self, catalogue: Catalogue) -> Sequence[str]:
        return ["T"]


class Unused(Titles):
    def tokens_to_add(self, catalogue: Catalogue) -> Sequence[str]:
        return ["<nowhere>"]


BAD = {
    "13 texts for 14 items": Short,
    "an empty text": Silent,
    "the same text, and the same tokens": Changing,
    "read as the text of that item": Trimming,
    "one twice": Twice,
    "is a token already": Known,
    "occurs in no text": Unused,
}


@pytest.mark.parametrize(("words", "kind"), BAD.items(), ids=list(BAD))
def test_answers_that_break_a_rule_are_told_which(words: str, kind: Any) -> None:
    with pytest.raises(AssertionError, match=words):
        check_answers(kind)
