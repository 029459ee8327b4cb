"""How much the language model counts beside the assistant: chosen on validation, with one reading
of the model.

The candidates of each validation query are the best items of the language model and the best of the
signal. Every weight of the grid mixes their exact scores under both, so the model is read once for
the whole grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from groundrec.core.recipe import Recipe
from groundrec.core.track import log, progress
from groundrec.core.types import NO_ITEM, Queries, Ragged, Slates

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
    from groundrec.evaluate.rank_metrics import RankMetrics
    from groundrec.rank.fuse import best_weight

    queries = queries.take(ranker.answerable(queries))
    grid = np.linspace(0, 1, recipe.fuse.grid).tolist()
    ranks = _target_ranks(recipe, ranker, signal, queries, grid)
    measure = RankMetrics(queries, recipe.recommend.k)
    alpha, curve = best_weight(grid, (measure.value(recipe.fuse.metric, row) for row in ranks))
    write_json(folder / "curve.json", [point._asdict() for point in curve])
    assistant = recipe.recommend.assistant
    log.info(
        f"  {assistant} in the search: alpha = {alpha:.2f}, {recipe.fuse.metric} on validation"
    )
    return alpha


def _target_ranks(
    recipe: Recipe,
    ranker: SearchRanker,
    signal: Signal,
    queries: Queries,
    grid: Sequence[float],
) -> NDArray[np.int32]:
    """Return the rank of every target among its query's candidates under every weight of `grid`.

    0 for a target that is no candidate. Shape: [weights, targets].
    """
    from groundrec.rank.fuse import PROBABILITY, target_ranks
    from groundrec.rank.search.masks import Guide, guide_totals

    section = recipe.recommend
    trie = ranker.search.trie
    batches = ranker.batches()

    def score(batch: Queries) -> list[NDArray[np.int32]]:
        mask = ranker.mask(batch)
        guide = Guide(signal.scores(batch), 0.0, section.assistant_mass)
        totals = guide_totals(trie, guide, mask)
        by_model = ranker.slates(batch, section.k)
        by_signal = Slates.from_scores(batch.ids, totals, section.k)
        both = np.concatenate([by_model.items, by_signal.items], axis=1)
        candidates = Ragged.of([np.unique(row[row != NO_ITEM]) for row in both])
        lm = ranker.search.score(ranker.prompts(batch), candidates, mask)
        other = np.where(np.isneginf(lm), lm, totals)
        found = target_ranks(PROBABILITY, lm, other, grid, batch.targets)
        return np.split(found, batch.targets.offsets[1:-1], axis=1)

    batches.fit(len(queries), max(map(len, ranker.prompts(queries))))
    steps = -(-len(queries) // section.batch_size)
    done = progress(batches.run(queries, score), "scoring candidates", steps)
    by_query = {row: part for rows, parts in done for row, part in zip(rows, parts, strict=True)}
    return np.concatenate([by_query[row] for row in range(len(queries))], axis=1)
