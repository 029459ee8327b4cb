"""What every registered signal must obey, a stranger's too: found through the registry, never
listed here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from groundrec.contracts.signals import RECIPE, RULES, Fitted, check_signal
from groundrec.core.recipe import Recipe
from groundrec.core.registry import names, resolve
from groundrec.core.types import PreparedDataset, Queries, Scores
from groundrec.signals.counts import CoOccurrence

GIVEN = {"external"}
"""Signals that are read, not fitted: they know queries by their ids alone, and have tests of their
own.
"""
BLIND = {"popularity", "recent-popularity"}
FINDS_AMONG = {
    "item-knn": 2,
    "co-occurrence": 1,
    "sasrec": 1,
    "gru4rec": 1,
    "caser": 1,
}
"""The planted item is among so many best unseen ones; other signals must at least score it."""


@pytest.fixture(scope="module", params=sorted(set(names("signals")) - GIVEN))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    name = request.param
    folder, kind = tmp_path_factory.mktemp(name), resolve("signals", name)
    return Fitted.of(kind, folder, RECIPE, FINDS_AMONG.get(name, 12), is_blind=name in BLIND)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_registered_signal_keeps_the_rule(case: Fitted, rule: Any) -> None:
    rule(case)


class Worse(CoOccurrence):
    def scores(self, queries: Queries) -> Scores:
        return -super().scores(queries)


class Wider(CoOccurrence):
    def scores(self, queries: Queries) -> Scores:
        return super().scores(queries).astype(np.float64)  # type: ignore[return-value]


class Clairvoyant(CoOccurrence):
    def fit(self, dataset: PreparedDataset, folder: Path) -> None:
        super().fit(dataset, folder)
        self.counts = self.counts + np.bincount(
            dataset.test.targets.values, minlength=len(dataset.catalogue)
        )


class Forgetful(CoOccurrence):
    @classmethod
    def load(cls, folder: Path, recipe: Recipe) -> Forgetful:
        signal = super().load(folder, recipe)
        signal.smoothing = 0.9
        return signal


class Pickled(CoOccurrence):
    def save(self, folder: Path) -> None:
        super().save(folder)
        (folder / "more.pkl").write_bytes(b"")


class Placed(CoOccurrence):
    def scores(self, queries: Queries) -> Scores:
        return super().scores(queries) + np.arange(len(queries), dtype=np.float32)[:, None]


class Secretive(CoOccurrence):
    settings = ("item_knn",)


BAD = {
    "No setting but those that the class names": Secretive,
    "float32, one per item": Wider,
    "the planted item is among": Worse,
    "Neither the test split": Clairvoyant,
    "A saved signal scores the same": Forgetful,
    "never a pickled object": Pickled,
    "alone, in a batch": Placed,
}


@pytest.mark.parametrize(("words", "kind"), BAD.items(), ids=list(BAD))
def test_a_signal_that_breaks_a_rule_is_told_which(words: str, kind: Any) -> None:
    with pytest.raises(AssertionError, match=words):
        check_signal(kind, finds_among=1)


def test_a_signal_that_is_blind_to_order_has_to_say_so() -> None:
    with pytest.raises(AssertionError, match="The order of a history matters"):
        check_signal(resolve("signals", "popularity"))
    check_signal(resolve("signals", "popularity"), is_blind=True)
