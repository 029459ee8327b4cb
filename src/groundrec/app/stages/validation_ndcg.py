"""How well a model in training ranks validation queries. Knows nothing about training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from groundrec.app.stages.made_from import SEARCH
from groundrec.core.errors import ConfigError
from groundrec.core.registry import resolve
from groundrec.core.types import Queries

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from groundrec.rank.groundings import GroundingInputs

__all__ = ["validation_ndcg"]

K = 10

Judge: TypeAlias = "Callable[[PreTrainedModel], float]"
"""Returns a number of a model; higher is better."""


def validation_ndcg(inputs: GroundingInputs, queries: Queries, sharing: int) -> Judge:
    """Return the function from a model to its NDCG@10 over `queries` by the recipe's search.

    `inputs` are those of the search, with the model as it is before training; no assistant guides
    it. A query without an item left counts as 0. `sharing` processes divide the machine's memory.
    Raises `ConfigError` without queries.
    """
    from groundrec.evaluate.metrics import metric_function
    from groundrec.models.language import LanguageModel

    if not len(queries):
        raise ConfigError(
            "train.select = ndcg needs validation queries, and this data set has none",
            accepted="train.select = loss, or a data set with a validation split",
            next_step="--set train.select=loss",
        )
    ndcg = metric_function(f"ndcg@{K}")
    untrained = inputs.loaded

    def judge(model: PreTrainedModel) -> float:
        lm = LanguageModel(model, untrained.lm.tokenizer)
        ranker = resolve("groundings", SEARCH)(
            replace(inputs, load=lambda: untrained._replace(lm=lm))
        )
        some = queries.take(ranker.answerable(queries))
        batches = ranker.batches(sharing)
        batches.fit(len(some), max(map(len, ranker.prompts(some)), default=0))
        found = batches.run(some, lambda q: ranker.slates(q, K))
        total = sum(float(np.sum(ndcg(slates, some.take(rows)))) for rows, slates in found)
        return total / len(queries)

    return judge
