"""How much the language model counts beside the assistant: chosen on validation, with one reading
of the model.

The candidates of each validation query are the best items of the language model and the best of the
signal. Every weight of the grid mixes their exact scores under both, so the model is read once for
the whole grid.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from groundrec.core.recipe import Recipe
from groundrec.core.track import log, progress
from groundrec.core.types import NO_ITEM, Queries, Ragged, Scores, Slates

if TYPE_CHECKING:
    from groundrec.rank.recommend import SearchRanker
    from groundrec.signals.counts import Signal

__all__ = ["choose_assistant_weight"]


def choose_assistant_weight(
    recipe: Recipe, ranker: SearchRanker, signal: Signal, queries: Queries, folder: Path
) -> float:
    """Return alpha, the weight of the language model beside `signal` that is best on `queries`.

    `ranker` is the search without an assistant. The curve is written to `folder`.
    """
    from groundrec.core.files import write_json
    from groundrec.evaluate.metrics import metric_function
    from groundrec.rank.fuse import choose_alpha

    value_of = metric_function(recipe.fuse.metric)
    queries = queries.take(ranker.answerable(queries))
    lm, other = _candidates(recipe, ranker, signal, queries)
    alpha, curve = choose_alpha(
        lm,
        other,
        np.linspace(0, 1, recipe.fuse.grid).tolist(),
        lambda slates: value_of(slates, queries),
        query_ids=queries.ids,
        k=recipe.recommend.k,
    )
    write_json(folder / "curve.json", [point._asdict() for point in curve])
    assistant = recipe.recommend.assistant
    log.info(
        f"  {assistant} in the search: alpha = {alpha:.2f}, {recipe.fuse.metric} on validation"
    )
    return alpha


def _candidates(
    recipe: Recipe, ranker: SearchRanker, signal: Signal, queries: Queries
) -> tuple[Scores, Scores]:
    """Return the scores of each query's candidates under the model and under the signal; -inf
    elsewhere. [Q, I].
    """
    from groundrec.rank.search.masks import Guide, guide_totals

    section = recipe.recommend
    trie = ranker.search.trie
    batches = ranker.batches()

    def score(batch: Queries) -> tuple[Scores, Scores]:
        mask = ranker.mask(batch)
        guide = Guide(signal.scores(batch), 0.0, section.assistant_mass)
        totals = guide_totals(trie, guide, mask)
        by_model = ranker.slates(batch, section.k)
        by_signal = Slates.from_scores(batch.ids, totals, section.k)
        both = np.concatenate([by_model.items, by_signal.items], axis=1)
        found = Ragged.of([np.unique(row[row != NO_ITEM]) for row in both])
        lm = ranker.search.score(ranker.prompts(batch), found, mask)
        return lm, np.where(np.isneginf(lm), lm, totals)

    batches.fit(len(queries), max(map(len, ranker.prompts(queries))))
    steps = -(-len(queries) // section.batch_size)
    done = progress(batches.run(queries, score), "scoring candidates", steps)
    rows, parts = zip(*done, strict=True)
    order = np.argsort(np.concatenate(rows))
    lm, other = (np.concatenate(scores)[order] for scores in zip(*parts, strict=True))
    return lm, other
