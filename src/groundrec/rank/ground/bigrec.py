"""The grounding `ground`, BIGRec's: the model writes freely, and the items nearest to what it wrote
are the slate.

Titles are embedded once and kept on disk. An empty text does not vote; a query to which nothing was
written gets an empty slate. Knows nothing about files of slates, metrics or signals.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from groundrec.core.config_rank import Ground, Recommend
from groundrec.core.runs import atomic_write, digest
from groundrec.core.track import log
from groundrec.core.types import NO_ITEM, Queries, Ragged, Scores, Slates
from groundrec.models.language import LanguageModel
from groundrec.rank.batches import Batches
from groundrec.rank.ground.faiss_index import Index
from groundrec.rank.ground.generate import GenerationSettings, generate
from groundrec.rank.ground.nearest import Vote, distances, embed, nearest
from groundrec.rank.recommend import GroundingInputs, Rules
from groundrec.rank.search.memory import Need
from groundrec.rank.search.search import Work
from groundrec.rank.search.tree_reader import bytes_per_token
from groundrec.text.tokens import Encoder

__all__ = [
    "BIGRecRanker",
    "BIGRecSlates",
    "Titles",
    "bigrec_grounding",
    "item_scores",
    "load_table",
    "load_vectors",
    "table_file",
]


@dataclass(frozen=True)
class Titles:
    """The distinct titles of a catalogue, and the items of each, the most popular first."""

    texts: list[str]
    items: Ragged
    of_item: NDArray[np.int64]
    """The title of each item. Shape: [I]."""

    @classmethod
    def of(cls, titles: tuple[str, ...] | list[str], popularity: NDArray[np.integer]) -> Titles:
        """Return the titles of items, numbered in the order of their first items."""
        number: dict[str, int] = {}
        of_item = np.array([number.setdefault(title, len(number)) for title in titles], np.int64)
        order = np.lexsort([np.arange(len(of_item)), -popularity, of_item])
        offsets = np.concatenate([[0], np.bincount(of_item, minlength=len(number)).cumsum()])
        return cls(list(number), Ragged(order.astype(np.int32), offsets), of_item)

    def ranked(
        self, titles: NDArray[np.int64], allowed: NDArray[np.bool_], each: int | None
    ) -> Ragged:
        """Return the items of ranked titles, at most `each` of one title; `allowed` [I] leaves out
        the rest.
        """
        rows = self.items.take(titles[titles >= 0])
        return Ragged.of(row[allowed[row]][:each] for row in rows)


@dataclass(frozen=True)
class BIGRecSlates(Slates):
    """Slates, the texts they come from, and the embeddings of those that vote: for each query [V,
    D], perhaps V = 0.
    """

    texts: tuple[list[str], ...] = ()
    embeddings: tuple[NDArray[np.float32], ...] = ()


@dataclass
class BIGRecRanker:
    """A model that writes, one that embeds, and the embeddings of the catalogue's titles."""

    lm: LanguageModel
    encoder: Encoder
    section: Recommend
    ground: Ground
    seed: int
    titles: Titles
    table: Tensor
    """Embeddings of the titles. Shape: [U, D]."""
    embedder: LanguageModel
    rules: Rules
    index: Index | None = None
    """Finds the nearest titles where not all are compared."""
    work: Work = field(default_factory=Work)

    def __post_init__(self) -> None:
        self._ends = torch.from_numpy(
            self.encoder.ends(self.lm.model.config.get_text_config().vocab_size)
        )

    def slates(self, queries: Queries, k: int) -> BIGRecSlates:
        """Return a slate of `k` items for each query."""
        texts = self._texts(queries)
        vectors = self._embedded(texts)
        allowed = self.rules.mask(queries).dense(len(self.titles.of_item))
        items = np.full((len(queries), k), NO_ITEM, np.int32)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for rows, voting in _alike(vectors):
            left = np.logical_or.reduceat(
                allowed[rows][:, self.titles.items.values], self.titles.items.offsets[:-1], 1
            )
            device = self.lm.model.device
            asked = voting.to(device), k, self.ground.vote, torch.from_numpy(left).to(device)
            near, far = (
                self.index.nearest(*asked)
                if self.index
                else nearest(asked[0], self.table, *asked[1:])
            )
            for row, titles, apart in zip(rows, near.cpu().numpy(), far.cpu().numpy(), strict=True):
                found = self.titles.ranked(
                    titles, allowed[row], 1 if self.ground.duplicates == "first" else None
                )
                some = min(k, len(found.values))
                items[row, :some] = found.values[:some]
                scores[row, :some] = -apart[found.rows[:some]]
        return BIGRecSlates(queries.ids, items, scores, tuple(texts), tuple(vectors))

    def _texts(self, queries: Queries) -> list[list[str]]:
        """Return the titles written for each query, likeliest first."""
        g = self.ground
        prompts = self.prompts(queries)
        settings = GenerationSettings(
            g.texts, g.max_new_tokens, g.decoding, g.temperature, g.top_p, self.seed
        )
        written = generate(self.lm.model, prompts, self._ends, settings, queries.ids.tolist())
        decode = self.encoder.tokenizer.batch_decode
        template = self.encoder.template
        texts = [
            [template.title_of(str(t)) for t in decode(rows, skip_special_tokens=True)]
            for rows in written
        ]
        longest = max(len(ids) for rows in written for ids in rows)
        self.work.add(
            Work(
                1 + longest,
                sum(map(len, prompts)) + sum(len(ids) for rows in written for ids in rows),
            )
        )
        self.work.silent += sum(not any(row) for row in texts)
        return texts

    def _embedded(self, texts: list[list[str]]) -> list[NDArray[np.float32]]:
        """Return the embeddings of the texts that vote. Shape of each: [V, D]."""
        most = 1 if self.ground.vote == "best" else None
        voting = [[text for text in row if text][:most] for row in texts]
        vectors = _embeddings(self, [text for row in voting for text in row])
        return np.split(vectors.numpy(), np.cumsum([len(row) for row in voting])[:-1])

    def prompts(self, queries: Queries) -> list[list[int]]:
        """Return each query's prompt as tokens."""
        return [self.encoder.prompt(row) for row in queries.history]

    def answerable(self, queries: Queries) -> NDArray[np.intp]:
        """Return which queries have an item left that they may be given."""
        return np.flatnonzero(self.rules.mask(queries).leaves_any(len(self.titles.of_item)))

    def batches(self, sharing: int = 1) -> Batches:
        """Return what divides queries into batches that fit into memory: each text repeats the
        prompt.
        """
        each = self.ground.texts * bytes_per_token(self.lm.model)
        one = Need(1, 0, self.ground.max_new_tokens, each)
        return Batches(self.lm.model.device, one, "ground.texts=…", self.section, sharing)

    def columns(self, found: Slates) -> dict[str, list[Any]]:
        """Return the texts, and the embeddings of those that vote, one behind the other."""
        assert isinstance(found, BIGRecSlates)
        return {
            "texts": list(found.texts),
            "embeddings": [vectors.ravel() for vectors in found.embeddings],
        }


def bigrec_grounding(parts: GroundingInputs) -> BIGRecRanker:
    """Return the grounding `ground`: written freely, then matched with the nearest titles."""
    recipe = parts.recipe
    section = parts.recipe.ground
    lm = parts.lm
    embedder = parts.base() if section.weights == "base" and parts.base else lm
    titles = Titles.of(list(parts.encoder.titles), parts.popularity)
    rules = Rules(recipe.recommend.exclude_seen, parts.allow, parts.deny)
    nothing = torch.empty(0, 0)
    found = BIGRecRanker(
        lm, parts.encoder, recipe.recommend, section, recipe.seed, titles, nothing, embedder, rules
    )
    file = table_file(parts.folder, parts.identity, section)
    if not file.exists():
        log.info(f"  embedding {len(titles.texts):,} titles")
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as part, part.open("wb") as out:
            np.save(out, _embeddings(found, titles.texts).numpy(), allow_pickle=False)
    table = load_table(file)
    index = Index(table, file.with_suffix(".faiss")) if section.index == "faiss" else None
    return replace(found, table=table, index=index)


def table_file(folder: Path, identity: str, section: Ground) -> Path:
    """Return where the titles' embeddings are kept, by what they depend on."""
    return folder / f"{digest(identity, section.weights, section.pooling, section.longest)}.npy"


def load_table(file: Path) -> Tensor:
    """Return embeddings of titles, left on disk until they are read. Shape: [U, D]."""
    return torch.from_numpy(np.load(file, mmap_mode="c", allow_pickle=False))


def _embeddings(of: BIGRecRanker, texts: list[str]) -> Tensor:
    rows = [of.encoder.spelled(text, of.ground.longest) for text in texts]
    return embed(of.embedder.model, rows, of.ground.pooling)


def _alike(vectors: list[NDArray[np.float32]]) -> list[tuple[NDArray[np.intp], Tensor]]:
    """Return the queries with so many voting texts, for each number above 0, and their embeddings
    [q, V, D].
    """
    count = np.array([len(v) for v in vectors])
    groups = [np.flatnonzero(count == n) for n in np.unique(count[count > 0])]
    return [(rows, torch.from_numpy(np.stack([vectors[i] for i in rows]))) for rows in groups]


def item_scores(
    vectors: list[NDArray[np.float32]], titles: Titles, table: Tensor, vote: Vote
) -> Scores:
    """Return minus the distance of every item to each query's texts; all alike where there are
    none. Shape: [Q, I].
    """
    scores = np.zeros((len(vectors), len(titles.of_item)), np.float32)
    for rows, voting in _alike(vectors):
        scores[rows] = -distances(voting, table, vote).numpy()[:, titles.of_item]
    return scores


def load_vectors(folder: Path, dim: int) -> list[NDArray[np.float32]]:
    """Return the embeddings that `BIGRecRanker` kept with its slates in `folder`, in their order. Shape
    of each: [V, D].
    """
    kept = [
        v
        for file in sorted(folder.glob("*.parquet"))
        for v in pq.read_table(file)["embeddings"].to_numpy()
    ]
    return [
        np.empty((0, dim), np.float32) if v is None else np.asarray(v, np.float32).reshape(-1, dim)
        for v in kept
    ]
