"""Slates for many queries, shard by shard: an interrupted run keeps its shards and resumes.

Also the built-in grounding `search`. Knows nothing about metrics or signals.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundrec.core import config_rank
from groundrec.core.errors import SearchError
from groundrec.core.processes import SINGLE_PROCESS, Processes
from groundrec.core.track import progress
from groundrec.core.types import NO_ITEM, Queries, Ragged, Scores, Slates
from groundrec.rank.batches import Batches
from groundrec.rank.fuse import slates_to_scores
from groundrec.rank.groundings import Answerer, Assistant, Grounding, GroundingInputs
from groundrec.rank.search.goals import FusedSignal
from groundrec.rank.search.masks import Guide, Mask
from groundrec.rank.search.memory import Need, tree_tokens
from groundrec.rank.search.search import Answer, Search, Work
from groundrec.rank.search.tree_reader import bytes_per_token
from groundrec.rank.slates import SavedSlates, Shards, load_slates, save_slates
from groundrec.text.tokens import Encoder

__all__ = ["SearchRanker", "Writer", "recommend", "search_grounding"]


@dataclass(frozen=True)
class SearchRanker:
    """The grounding `search`: titles are decoded within the catalogue.

    Several threads may use one ranker: it changes nothing but `search`, which says why it is safe.
    """

    inputs: GroundingInputs

    @cached_property
    def search(self) -> Search:
        """The search."""
        return Search(
            self.inputs.lm.model,
            self.inputs.trie,
            self.section.score,
            temperature=self.section.temperature,
            instruction=self.encoder.shared_prefix,
        )

    @property
    def section(self) -> config_rank.Recommend:
        """The recipe's section `[recommend]`."""
        return self.inputs.recipe.recommend

    @property
    def encoder(self) -> Encoder:
        """Turns histories into prompts."""
        return self.inputs.encoder

    @property
    def assistant(self) -> Assistant | None:
        """The signal mixed into the search."""
        return self.inputs.assistant

    @property
    def work(self) -> Work:
        """What the search asked of the model."""
        return self.search.work

    def slates(
        self,
        queries: Queries,
        k: int,
        allow: Ragged | None = None,
        deny: Ragged | None = None,
        signal: FusedSignal | None = None,
    ) -> Slates:
        """Return a slate of `k` items for each query.

        `allow` and `deny` restrict each query further: lists of items, a row per query. With a
        `signal` of the same queries, they are the best of the catalogue by model and signal
        together, with the scores that `rank.search.goals` defines; the model is not even loaded
        where alpha = 0. Raises `SearchError` for a signal in `beam` mode.
        """
        mask = self.mask(queries, allow, deny)
        if signal:
            self._check(signal, queries)
            if signal.alpha == 0:
                answer = Answer.of_signal(signal, mask, k)
                return Slates(queries.ids, answer.items, answer.scores)
        prompts = self.prompts(queries)
        guide = self.assistant.guide(queries) if self.assistant else None
        if self.section.mode == "exhaustive":
            scores = self.search.all(prompts, mask, guide)
            if signal:
                scores = signal.fuse(scores, mask)
            return Slates.from_scores(queries.ids, scores, k)
        answer = self._search(prompts, k, mask, guide, signal)
        return Slates(queries.ids, answer.items, answer.scores)

    def scores(self, queries: Queries, saved: SavedSlates) -> Scores:
        """Return the saved slates' scores; other items score just below them. Shape: [q, I]."""
        return slates_to_scores(saved.slates(queries), len(self.inputs.texts))

    def prompts(self, queries: Queries) -> list[list[int]]:
        """Return each query's prompt as tokens."""
        return [self.encoder.prompt(row) for row in queries.history]

    def mask(
        self, queries: Queries, allow: Ragged | None = None, deny: Ragged | None = None
    ) -> Mask:
        """Return which items each query may be given."""
        return self.inputs.rules.mask(queries, allow, deny)

    def answerable(self, queries: Queries) -> NDArray[np.intp]:
        """Return the positions of the queries that have an item left to recommend."""
        return np.flatnonzero(self.mask(queries).leaves_any(len(self.inputs.texts)))

    def batches(self, sharing: int = 1) -> Batches:
        """Return what divides queries into batches that fit into memory."""
        section = self.section
        search = self.search
        one = Need(1, 0, tree_tokens(search.scoring, section), bytes_per_token(search.model))
        smaller = {
            "exact": f"budget={section.budget // 2 or 1}",
            "beam": "beams=…",
            "exhaustive": "mode=exact",
        }[section.mode]
        return Batches(search.model.device, one, f"recommend.{smaller}", section, sharing)

    def columns(self, slates: Slates) -> dict[str, list[Any]]:
        """Return no further columns."""
        return {}

    def _check(self, signal: FusedSignal, queries: Queries) -> None:
        """Raise `SearchError` for a signal that cannot be fused as the recipe searches."""
        signal.check(len(queries), len(self.inputs.texts))
        if self.section.mode == "beam":
            raise SearchError(
                "a beam search finds the model's best items, not those of model and signal",
                value="recommend.mode=beam",
                accepted="`exact` or `exhaustive`",
                next_step="--set recommend.mode=exact",
            )

    def _search(
        self,
        prompts: list[list[int]],
        k: int,
        mask: Mask,
        guide: Guide | None,
        signal: FusedSignal | None,
    ) -> Answer:
        section = self.section
        if section.mode == "beam":
            beams = max(k, section.beams)
            penalty = section.length_penalty
            return self.search.beam(prompts, k, beams, mask, guide, length_penalty=penalty)
        width = section.tokens_per_pass
        return self.search.exact(
            prompts, k, mask, guide, signal=signal, width=width, budget=section.budget
        )


search_grounding = Grounding(
    SearchRanker, "language model", "LM", settings=("recommend",), can_prove=True
)


class Writer:
    """Ranks queries and writes the shards. `sharing` processes divide this machine's memory."""

    def __init__(self, ranker: Answerer, queries: Queries, folder: Path, sharing: int = 1) -> None:
        self.shards = Shards.open(folder, len(queries), ranker.section.shard_size)
        self._ranker = ranker
        self._queries = queries
        self._batches = ranker.batches(sharing)

    def write(self, shard: int) -> None:
        """Write a shard, unless its file exists."""
        if self.shards.path(shard).exists():
            return
        queries = self._queries.take(self.shards.rows(shard))
        work = self._ranker.work
        work.clear()
        self._batches.fit(len(queries), max(map(len, self._ranker.prompts(queries))))
        slates, columns = self._rank(queries)
        save_slates(slates, self.shards.path(shard), work, columns)

    def _rank(self, queries: Queries) -> tuple[Slates, dict[str, list[Any]]]:
        """Return slates and further columns in the queries' order.

        A query without an item left gets an empty slate, and None in every further column.
        """
        k = self._ranker.section.k
        items = np.full((len(queries), k), NO_ITEM, np.int32)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        columns: dict[str, list[Any]] = {}
        answerable = self._ranker.answerable(queries)
        batches = self._batches.run(
            queries.take(answerable), lambda batch: self._ranker.slates(batch, k)
        )
        for positions, slates in batches:
            rows = answerable[positions]
            items[rows] = slates.items
            scores[rows] = slates.scores
            for name, values in self._ranker.columns(slates).items():
                column = columns.setdefault(name, [None] * len(queries))
                for row, value in zip(rows, values, strict=True):
                    column[row] = value
        return Slates(queries.ids, items, scores), columns


def recommend(
    ranker: Answerer, queries: Queries, folder: Path, processes: Processes = SINGLE_PROCESS
) -> Slates:
    """Return slates for `queries`, written to `folder` shard by shard; existing shards are kept.

    Several processes divide the shards among themselves, and each returns when all are written.
    """
    if not len(queries):
        return Slates.from_scores(queries.ids, np.empty((0, 0), np.float32), ranker.section.k)
    writer = Writer(ranker, queries, folder, processes.local_world_size)
    for shard in progress(processes.share(len(writer.shards)), "recommending"):
        writer.write(shard)
    processes.wait(lambda: not writer.shards.missing(), "their slates")
    return load_slates(folder)
