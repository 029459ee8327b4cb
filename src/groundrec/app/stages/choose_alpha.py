"""How much the language model counts beside the assistant: chosen on validation, with one reading
of the model.

Each validation query's candidates are the best items of the language model and the best of the
signal. Their exact scores under both are what every weight of the grid mixes, so the model is read
once for the whole grid.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from groundrec.app.stages.artefacts import ASSISTANT, Experiment
from groundrec.core.track import log, progress
from groundrec.core.types import NO_ITEM, Queries, Ragged, Scores, Slates

if TYPE_CHECKING:
    from groundrec.rank.recommend import SearchRanker

__all__ = ["choose_assistant"]


def choose_assistant(x: Experiment) -> None:
    """Choose `recommend.alpha` where the recipe leaves it open and names an assistant."""
    section = x.recipe.recommend
    if section.assistant is None or section.alpha is not None:
        return
    inputs = {
        "model": x.run.fingerprint("model"),
        "signal": x.run.fingerprint(f"signals/{section.assistant}"),
        **x.section("recommend", "fuse"),
    }
    x.run.stage(ASSISTANT, inputs, lambda folder: _choose(x, folder))


def _choose(x: Experiment, folder: Path) -> dict[str, Any]:
    from groundrec.core.runs import write_json
    from groundrec.evaluate.metrics import metric_function
    from groundrec.rank.fuse import choose_alpha

    recommender = x.recommender(guided=False)
    queries = x.queries("valid")
    value_of = metric_function(x.recipe.fuse.metric)
    queries = queries.take(recommender.answerable(queries))
    lm, signal = _candidates(x, recommender, queries)
    alpha, curve = choose_alpha(
        lm,
        signal,
        np.linspace(0, 1, x.recipe.fuse.grid).tolist(),
        lambda slates: value_of(slates, queries),
        query_ids=queries.ids,
        k=x.recipe.recommend.k,
    )
    write_json(folder / "curve.json", [point._asdict() for point in curve])
    name = x.recipe.recommend.assistant
    metric = x.recipe.fuse.metric
    log.info(f"  {name} in the search: alpha = {alpha:.2f}, {metric} on validation")
    return {"alpha": alpha}


def _candidates(
    x: Experiment, recommender: SearchRanker, queries: Queries
) -> tuple[Scores, Scores]:
    """Return the scores of each query's candidates under the model and under the signal; -inf
    elsewhere. [Q, I].
    """
    from groundrec.rank.search.masks import Guide, guide_totals

    section = x.recipe.recommend
    signal = x.signal(x.recipe.recommend.assistant or "")
    trie = recommender.search.trie
    batches = recommender.batches()

    def ask(batch: Queries) -> tuple[Scores, Scores]:
        mask = recommender.mask(batch)
        totals = guide_totals(trie, Guide(signal.scores(batch), 0.0, section.assistant_mass), mask)
        slates = (
            recommender.slates(batch, section.k),
            Slates.from_scores(batch.ids, totals, section.k),
        )
        both = np.concatenate([s.items for s in slates], axis=1)
        found = Ragged.of([np.unique(row[row != NO_ITEM]) for row in both])
        lm = recommender.search.score(recommender.prompts(batch), found, mask)
        return lm, np.where(np.isneginf(lm), lm, totals)

    batches.fit(len(queries), max(map(len, recommender.prompts(queries))))
    steps = progress(
        batches.run(queries, ask), "scoring candidates", -(-len(queries) // section.batch_size)
    )
    rows, parts = zip(*steps, strict=True)
    back = np.argsort(np.concatenate(rows))
    lm, other = (np.concatenate(scores)[back] for scores in zip(*parts, strict=True))
    return lm, other
