"""What every registered grounding must obey, a stranger's too: found through the registry, never
listed here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from groundrec.contracts.groundings import RULES, GroundingCase, check_grounding, small_model
from groundrec.core.registry import names, resolve
from groundrec.core.types import Queries, Scores, Slates
from groundrec.models.language import LanguageModel
from groundrec.rank.recommend import SearchRanker
from groundrec.rank.slates import SavedSlates


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return small_model()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", names("groundings"))
def test_a_registered_grounding_keeps_the_rule(
    name: str, rule: Any, lm: LanguageModel, tmp_path: Path
) -> None:
    rule(GroundingCase(resolve("groundings", name), lm, tmp_path))


class Rising(SearchRanker):
    def slates(self, queries: Queries, k: int, *lists: Any) -> Slates:
        found = super().slates(queries, k, *lists)
        return Slates(found.query_ids, found.items, -found.scores)


class Careless(SearchRanker):
    def slates(self, queries: Queries, k: int, *lists: Any) -> Slates:
        return Slates.from_scores(queries.ids, self.search.all(self.prompts(queries)), k)


class Placed(SearchRanker):
    def slates(self, queries: Queries, k: int, *lists: Any) -> Slates:
        found = super().slates(queries, k, *lists)
        return Slates(
            found.query_ids,
            found.items,
            found.scores - np.arange(len(queries), dtype=np.float32)[:, None],
        )


class Eager(SearchRanker):
    def scores(self, queries: Queries, saved: SavedSlates) -> Scores:
        return self.search.all(self.prompts(queries), self.mask(queries))


class Forgetful(SearchRanker):
    def scores(self, queries: Queries, saved: SavedSlates) -> Scores:
        return np.zeros((len(queries), len(self.inputs.texts)), np.float32) + queries.ids[:1]


BAD = {
    "by falling finite scores": Rising,
    "Nothing seen and nothing denied": Careless,
    "alone, in a batch": Placed,
    "the model was loaded": Eager,
    "Saved slates give every item": Forgetful,
}


@pytest.mark.parametrize(("words", "kind"), BAD.items(), ids=list(BAD))
def test_a_grounding_that_breaks_a_rule_is_told_which(words: str, kind: Any) -> None:
    with pytest.raises(AssertionError, match=words):
        check_grounding(kind)
