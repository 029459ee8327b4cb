"""The grounding `ground`, BIGRec's: the model writes freely, and the items whose titles are nearest
to what it wrote are the slate.

Titles are embedded once and kept on disk. An empty text does not vote; a query for which only empty
texts were written gets an empty slate. Knows nothing about metrics or signals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from groundrec.core.config_rank import Ground, Recommend
from groundrec.core.files import atomic_write, digest
from groundrec.core.track import log
from groundrec.core.types import NO_ITEM, Queries, Ragged, Scores, Slates
from groundrec.models.language import LanguageModel
from groundrec.rank.batches import Batches
from groundrec.rank.ground.faiss_index import Index
from groundrec.rank.ground.generate import GenerationSettings, generate
from groundrec.rank.ground.nearest import Vote, distances, embed, nearest
from groundrec.rank.groundings import Grounding, GroundingInputs
from groundrec.rank.search.memory import Need
from groundrec.rank.search.search import Work
from groundrec.rank.search.tree_reader import bytes_per_token
from groundrec.rank.slates import SavedSlates
from groundrec.text.answers import answers_of

__all__ = [
    "BIGRecRanker",
    "BIGRecSlates",
    "TitleIndex",
    "bigrec_grounding",
    "item_scores",
    "table_file",
]


@dataclass(frozen=True)
class TitleIndex:
    """The distinct titles of a catalogue, and the items of each, the most popular first."""

    texts: list[str]
    items: Ragged
    of_item: NDArray[np.int64]
    """The title of each item. Shape: [I]."""

    @classmethod
    def of(cls, titles: Sequence[str], popularity: NDArray[np.integer]) -> TitleIndex:
        """Return the titles of items, numbered in the order of their first items."""
        number: dict[str, int] = {}
        of_item = np.array([number.setdefault(title, len(number)) for title in titles], np.int64)
        order = np.lexsort([np.arange(len(of_item)), -popularity, of_item])
        offsets = np.concatenate([[0], np.bincount(of_item, minlength=len(number)).cumsum()])
        return cls(list(number), Ragged(order.astype(np.int32), offsets), of_item)

    def ranked(
        self, titles: NDArray[np.int64], allowed: NDArray[np.bool_], most: int | None
    ) -> Ragged:
        """Return the `allowed` [I] items of ranked titles, a row per title of `most` at most."""
        rows = self.items.take(titles[titles >= 0])
        return Ragged.of(row[allowed[row]][:most] for row in rows)


@dataclass(frozen=True)
class BIGRecSlates(Slates):
    """Slates, the texts they come from, and the embeddings of those that vote.

    An entry per query: its texts, and an array [V, D], where V may be 0.
    """

    texts: tuple[list[str], ...] = ()
    embeddings: tuple[NDArray[np.float32], ...] = ()


@dataclass(frozen=True)
class BIGRecRanker:
    """The grounding `ground`: one model writes, one embeds, and the nearest titles are found.

    What loads a model or reads a file is loaded when first used. Several threads may use one ranker
    after that: `slates` changes nothing but the counters of `work`.
    """

    inputs: GroundingInputs
    work: Work = field(default_factory=Work)

    @property
    def section(self) -> Recommend:
        """The recipe's section `[recommend]`."""
        return self.inputs.recipe.recommend

    @property
    def ground(self) -> Ground:
        """The recipe's section `[ground]`."""
        return self.inputs.recipe.ground

    @cached_property
    def titles(self) -> TitleIndex:
        """The titles of the catalogue."""
        return TitleIndex.of(self.inputs.texts, self.inputs.popularity)

    @cached_property
    def embedder(self) -> LanguageModel:
        """The model that embeds texts and titles."""
        if self.ground.weights == "base" and self.inputs.load_base:
            return self.inputs.load_base()
        return self.inputs.lm

    @cached_property
    def table(self) -> Tensor:
        """Embeddings of the titles, left on disk until they are read. Shape: [U, D]."""
        file = self._table_file
        if not file.exists():
            log.info(f"  embedding {len(self.titles.texts):,} titles")
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(file) as part, part.open("wb") as out:
                np.save(out, self._embed(self.titles.texts).numpy(), allow_pickle=False)
        return torch.from_numpy(np.load(file, mmap_mode="c", allow_pickle=False))

    @cached_property
    def index(self) -> Index | None:
        """Finds the nearest titles; None where all are compared."""
        if self.ground.index != "faiss":
            return None
        return Index(self.table, self._table_file.with_suffix(".faiss"))

    @property
    def _table_file(self) -> Path:
        return table_file(self.inputs.folder, self.inputs.identity, self.ground)

    @cached_property
    def _end_tokens(self) -> Tensor:
        """Which tokens end a text. Shape: [V], bool."""
        vocabulary = self.inputs.lm.model.config.get_text_config().vocab_size
        return torch.from_numpy(self.inputs.encoder.end_token_mask(vocabulary))

    def slates(
        self, queries: Queries, k: int, allow: Ragged | None = None, deny: Ragged | None = None
    ) -> BIGRecSlates:
        """Return a slate of `k` items for each query.

        `allow` and `deny` restrict each query further: lists of items, a row per query.
        """
        texts = self._write(queries)
        embeddings = self._embed_voting(texts)
        mask = self.inputs.rules.mask(queries, allow, deny)
        mask.check(len(self.titles.of_item))
        allowed = mask.dense(len(self.titles.of_item))
        items = np.full((len(queries), k), NO_ITEM, np.int32)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        most = 1 if self.ground.duplicates == "first" else None
        for rows, voting in _by_vote_count(embeddings):
            titles, apart = self._nearest_titles(voting, k, allowed[rows])
            for row, ranked, distance in zip(rows, titles, apart, strict=True):
                found = self.titles.ranked(ranked, allowed[row], most)
                filled = min(k, len(found.values))
                items[row, :filled] = found.values[:filled]
                scores[row, :filled] = -distance[found.rows[:filled]]
        return BIGRecSlates(queries.ids, items, scores, tuple(texts), tuple(embeddings))

    def _nearest_titles(
        self, voting: Tensor, k: int, allowed: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the `k` nearest titles with an allowed item, and their distances.

        Shapes: `voting` [q, V, D], `allowed` [q, I] → [q, k], twice.
        """
        # A title may be recommended where any of its items may: [q, I] → [q, U].
        by_title = np.logical_or.reduceat(
            allowed[:, self.titles.items.values], self.titles.items.offsets[:-1], 1
        )
        device = self.inputs.lm.model.device
        texts = voting.to(device)
        titles_allowed = torch.from_numpy(by_title).to(device)
        vote = self.ground.vote
        titles, apart = (
            self.index.nearest(texts, k, vote, titles_allowed)
            if self.index
            else nearest(texts, self.table, k, vote, titles_allowed)
        )
        return titles.cpu().numpy(), apart.cpu().numpy()

    def scores(self, queries: Queries, saved: SavedSlates) -> Scores:
        """Return minus the distance of every item, from the saved embeddings. Shape: [q, I].

        Splitting queries into other batches can change the last bits: they come from one matrix
        product.
        """
        dim = self.table.shape[1]
        embeddings = [
            np.empty((0, dim), np.float32)
            if values is None
            else np.asarray(values, np.float32).reshape(-1, dim)
            for values in saved.column("embeddings", queries)
        ]
        return item_scores(embeddings, self.titles, self.table, self.ground.vote)

    def _write(self, queries: Queries) -> list[list[str]]:
        """Return the titles written for each query, likeliest first."""
        g = self.ground
        prompts = self.prompts(queries)
        settings = GenerationSettings(
            g.num_texts,
            g.max_new_tokens,
            g.decoding,
            g.temperature,
            g.top_p,
            self.inputs.recipe.seed,
        )
        model = self.inputs.lm.model
        written = generate(model, prompts, self._end_tokens, settings, queries.ids.tolist())
        encoder = self.inputs.encoder
        parse = answers_of(self.inputs.recipe).parse
        texts = [
            [
                parse(encoder.template.text_of(str(text)))
                for text in encoder.tokenizer.batch_decode(rows, skip_special_tokens=True)
            ]
            for rows in written
        ]
        lengths = [len(ids) for rows in written for ids in rows]
        tokens = sum(map(len, prompts)) + sum(lengths)
        silent = sum(not any(row) for row in texts)
        self.work.add(Work(1 + max(lengths), tokens, sum(lengths), silent=silent))
        return texts

    def _embed_voting(self, texts: list[list[str]]) -> list[NDArray[np.float32]]:
        """Return the embeddings of each query's texts that vote. Shape of each: [V, D]."""
        most = 1 if self.ground.vote == "best" else None
        voting = [[text for text in row if text][:most] for row in texts]
        embeddings = self._embed([text for row in voting for text in row])
        return np.split(embeddings.numpy(), np.cumsum([len(row) for row in voting])[:-1])

    def _embed(self, texts: list[str]) -> Tensor:
        """Return embeddings of texts. Shape: [n, D]."""
        rows = [self.inputs.encoder.tokenize(text, self.ground.max_embed_tokens) for text in texts]
        return embed(self.embedder.model, rows, self.ground.pooling)

    def prompts(self, queries: Queries) -> list[list[int]]:
        """Return each query's prompt as tokens."""
        return [self.inputs.encoder.prompt(row) for row in queries.history]

    def answerable(self, queries: Queries) -> NDArray[np.intp]:
        """Return the positions of the queries that have an item left to recommend."""
        mask = self.inputs.rules.mask(queries)
        return np.flatnonzero(mask.leaves_any(len(self.titles.of_item)))

    def batches(self, sharing: int = 1) -> Batches:
        """Return what divides queries into batches that fit into memory.

        Each text of a query repeats its prompt.
        """
        _ = (self.embedder, self.table, self.index)  # in memory before what is free is measured
        model = self.inputs.lm.model
        one = Need(1, 0, self.ground.max_new_tokens, self.ground.num_texts * bytes_per_token(model))
        return Batches(model.device, one, "ground.num_texts=…", self.section, sharing)

    def columns(self, slates: Slates) -> dict[str, list[Any]]:
        """Return the texts, and the embeddings of those that vote, flat: V · D numbers."""
        assert isinstance(slates, BIGRecSlates)
        return {
            "texts": list(slates.texts),
            "embeddings": [vectors.ravel() for vectors in slates.embeddings],
        }


bigrec_grounding = Grounding(BIGRecRanker, "grounded", "grounded", settings=("ground",))


def table_file(folder: Path, identity: str, section: Ground) -> Path:
    """Return where the titles' embeddings are kept, named by what they depend on."""
    return (
        folder
        / f"{digest(identity, section.weights, section.pooling, section.max_embed_tokens)}.npy"
    )


def _by_vote_count(
    embeddings: list[NDArray[np.float32]],
) -> list[tuple[NDArray[np.intp], Tensor]]:
    """Return queries with as many voting texts together: positions [q], texts [q, V, D]."""
    counts = np.array([len(vectors) for vectors in embeddings])
    groups = [np.flatnonzero(counts == count) for count in np.unique(counts[counts > 0])]
    return [(rows, torch.from_numpy(np.stack([embeddings[i] for i in rows]))) for rows in groups]


def item_scores(
    embeddings: list[NDArray[np.float32]], titles: TitleIndex, table: Tensor, vote: Vote
) -> Scores:
    """Return minus the distance of every item to each query's texts. Shape: [Q, I].

    All items of a query without texts score 0.
    """
    scores = np.zeros((len(embeddings), len(titles.of_item)), np.float32)
    for rows, voting in _by_vote_count(embeddings):
        # Distances to the distinct titles [q, U], then to each item by its title [q, I].
        scores[rows] = -distances(voting, table, vote).numpy()[:, titles.of_item]
    return scores
