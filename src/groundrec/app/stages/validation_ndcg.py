"""How well a model that is being trained ranks validation queries. Knows nothing about training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from groundrec.app.stages.artefacts import SEARCH, Experiment
from groundrec.core.errors import ConfigError
from groundrec.core.registry import resolve

__all__ = ["judge_of"]

K = 10


def judge_of(x: Experiment, tokenizer: Any, trie: Any) -> Callable[[Any], float]:
    """Return the function from a model to its NDCG@10 in the recipe's search, over a sample of
    validation queries.

    Nothing guides the search, and a query without an item left counts as 0. Raises `ConfigError`
    without queries.
    """
    from groundrec.evaluate.metrics import metric_function
    from groundrec.models.language import LanguageModel
    from groundrec.rank.groundings import GroundingInputs, LoadedModel

    section = x.recipe.recommend
    encoder = x.encoder(tokenizer)
    queries = x.dataset.valid.sample(x.recipe.train.validation_queries, x.recipe.seed)
    if not len(queries):
        raise ConfigError(
            "train.select = ndcg needs validation queries, and this data set has none",
            accepted="train.select = loss, or a data set with a validation split",
            next_step="--set train.select=loss",
        )
    allow = x.listed(section.allow)
    deny = x.listed(section.deny)
    ndcg = metric_function(f"ndcg@{K}")

    def judge(model: Any) -> float:
        inputs = GroundingInputs(
            x.recipe,
            encoder.texts,
            x.dataset.popularity(),
            x.run.path / "embeddings",
            lambda: LoadedModel(LanguageModel(model, tokenizer), encoder, trie),
            allow=allow,
            deny=deny,
        )
        ranker = resolve("groundings", SEARCH)(inputs)
        some = queries.take(ranker.answerable(queries))
        batches = ranker.batches(x.run.processes.local_world_size)
        batches.fit(len(some), max(map(len, ranker.prompts(some)), default=0))
        found = batches.run(some, lambda q: ranker.slates(q, K))
        return sum(float(np.sum(ndcg(slates, some.take(rows)))) for rows, slates in found) / len(
            queries
        )

    return judge
