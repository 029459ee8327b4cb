"""Every registered metric, including those of plugins, keeps the rules for metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from groundrec.contracts.metrics import RULES, check_metric
from groundrec.core.registry import names, resolve


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", names("metrics"))
def test_a_registered_metric_keeps_the_rule(name: str, rule: Any) -> None:
    rule(resolve("metrics", name))


def found(hits: Any, k: int) -> Any:
    return hits[:, :k].any(axis=1) * 1.0


BAD = {
    "between 0 and 1": lambda hits, relevant, k: found(hits, k) * 2,
    "best possible slate": lambda hits, relevant, k: found(hits, k) / 2,
    "without hits has the value 0": lambda hits, relevant, k: np.ones(len(hits)),
    "on other queries": lambda hits, relevant, k: found(hits, k) * found(hits, k).mean(),
    "after the cut-off": lambda hits, relevant, k: found(hits, hits.shape[1]),
    "nearer to the top": lambda hits, relevant, k: (
        found(hits, k) * np.array([1, 0.2, *[0.5] * 4])[hits.argmax(axis=1)]
    ),
}
"""A metric for each rule, which breaks it and none before it."""


def test_each_rule_is_there_to_be_broken() -> None:
    assert len(BAD) == len(RULES)


@pytest.mark.parametrize(("words", "metric"), BAD.items(), ids=list(BAD))
def test_a_metric_that_breaks_a_rule_is_told_which(words: str, metric: Any) -> None:
    with pytest.raises(AssertionError, match=words):
        check_metric(metric)


def test_hit_rate_never_falls_as_k_grows() -> None:
    hits = np.random.default_rng(1).random((100, 6)) < 0.2
    hit_rate = resolve("metrics", "hr")
    values = np.stack([hit_rate(hits, hits.sum(axis=1), k) for k in range(1, 7)])
    assert (np.diff(values, axis=0) >= 0).all()
