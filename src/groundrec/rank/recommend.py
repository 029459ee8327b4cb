"""Slates for many queries, shard by shard: what is written stays written, and the next start goes
on behind it.

Knows nothing about metrics or signals.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from groundrec.core import config_rank
from groundrec.core.errors import ArtifactError
from groundrec.core.processes import SINGLE_PROCESS, Processes
from groundrec.core.recipe import Recipe
from groundrec.core.runs import atomic_write
from groundrec.core.track import progress
from groundrec.core.types import NO_ITEM, Queries, Ragged, Slates
from groundrec.rank.batches import Batches
from groundrec.rank.search.masks import Guide, Mask, Mass
from groundrec.rank.search.memory import Need, tree_tokens
from groundrec.rank.search.search import Answer, Search, Work
from groundrec.rank.search.tree_reader import bytes_per_token
from groundrec.signals.counts import Signal
from groundrec.text.tokens import Encoder
from groundrec.text.trie import Trie

if TYPE_CHECKING:
    from groundrec.models.language import LanguageModel

__all__ = [
    "Assistant",
    "GroundingInputs",
    "Ranker",
    "Rules",
    "SearchRanker",
    "Shards",
    "Writer",
    "load_slates",
    "recommend",
    "save_slates",
    "search_grounding",
    "work_of",
]

_WORK = "work"
"""Key of a file's metadata."""


@dataclass(frozen=True)
class Assistant:
    """A collaborative signal that takes part in the search, as in D3, and how much the language
    model counts.
    """

    signal: Signal
    alpha: float
    mass: Mass

    def guide(self, queries: Queries) -> Guide:
        """Return the guide of a batch of queries."""
        return Guide(self.signal.scores(queries), self.alpha, self.mass)


@dataclass(frozen=True)
class Rules:
    """What may be recommended: nothing seen, only what is allowed (anything where None), nothing
    denied.
    """

    exclude_seen: bool
    allow: NDArray[np.integer] | None = None
    deny: NDArray[np.integer] | None = None

    def mask(
        self, queries: Queries, allow: Ragged | None = None, deny: Ragged | None = None
    ) -> Mask:
        """Return which items each query may be given; `allow` and `deny` list more of the same, a
        row per query.
        """
        if self.allow is not None:
            lists = (
                repeat(self.allow, len(queries))
                if allow is None
                else (np.intersect1d(a, self.allow) for a in allow)
            )
            allow = Ragged.of(lists)
        if self.deny is not None:
            everyone = Ragged.of(repeat(self.deny, len(queries)))
            deny = everyone if deny is None else deny.joined(everyone)
        if self.exclude_seen:
            deny = queries.history if deny is None else deny.joined(queries.history)
        return Mask.of(len(queries), allow, deny)


class Ranker(Protocol):
    """What every grounding is, once built: queries in, slates of real items out, in any batch the
    same.
    """

    section: config_rank.Recommend

    @property
    def work(self) -> Work:
        """What was asked of the model since `work` was last cleared."""
        ...

    def slates(self, queries: Queries, k: int) -> Slates:
        """Return a slate of `k` items for each query, each of which has an item left."""
        ...

    def prompts(self, queries: Queries) -> list[list[int]]:
        """Return each query's prompt as tokens."""
        ...

    def answerable(self, queries: Queries) -> NDArray[np.intp]:
        """Return which queries have an item left that they may be given."""
        ...

    def batches(self, sharing: int = 1) -> Batches:
        """Return what divides queries into batches that fit into memory."""
        ...

    def columns(self, found: Slates) -> dict[str, list[Any]]:
        """Return what else is to be kept with slates that it gave: columns of Parquet, a value per
        query.
        """
        ...


@dataclass(frozen=True)
class GroundingInputs:
    """What a grounding is built of."""

    lm: LanguageModel
    encoder: Encoder
    trie: Trie
    recipe: Recipe
    popularity: NDArray[np.int64]
    folder: Path
    """Where it may keep files."""
    identity: str = ""
    """Changes with the weights of `lm` and of `base`, and with the data set."""
    base: Callable[[], LanguageModel] | None = None
    """Returns the model before it was tuned."""
    assistant: Assistant | None = None
    allow: NDArray[np.integer] | None = None
    deny: NDArray[np.integer] | None = None


def search_grounding(parts: GroundingInputs) -> SearchRanker:
    """Return the grounding `search`: titles are decoded within the catalogue."""
    section = parts.recipe.recommend
    search = Search(
        parts.lm.model,
        parts.trie,
        section.score,
        temperature=section.temperature,
        instruction=parts.encoder.head,
    )
    return SearchRanker(search, parts.encoder, section, parts.assistant, parts.allow, parts.deny)


@dataclass(frozen=True)
class SearchRanker:
    """A search together with the words it reads: histories in, ranked items out."""

    search: Search
    encoder: Encoder
    section: config_rank.Recommend
    assistant: Assistant | None = None
    allow: NDArray[np.integer] | None = None
    """The only items that may be recommended to anyone; any where None."""
    deny: NDArray[np.integer] | None = None
    """Items that may be recommended to nobody."""

    def slates(
        self, queries: Queries, k: int, allow: Ragged | None = None, deny: Ragged | None = None
    ) -> Slates:
        """Return a slate of `k` items for each query.

        `allow` and `deny` list items that may or may not be recommended, a row per query, besides
        the recipe's rules.
        """
        prompts = self.prompts(queries)
        mask = self.mask(queries, allow, deny)
        guide = self.assistant.guide(queries) if self.assistant else None
        if self.section.mode == "all":
            return Slates.from_scores(queries.ids, self.search.all(prompts, mask, guide), k)
        answer = self._search(prompts, k, mask, guide)
        return Slates(queries.ids, answer.items, answer.scores)

    def prompts(self, queries: Queries) -> list[list[int]]:
        """Return each query's prompt as tokens."""
        return [self.encoder.prompt(row) for row in queries.history]

    @property
    def rules(self) -> Rules:
        """What may be recommended."""
        return Rules(self.section.exclude_seen, self.allow, self.deny)

    @property
    def work(self) -> Work:
        """What the search has asked of the model."""
        return self.search.work

    def mask(
        self, queries: Queries, allow: Ragged | None = None, deny: Ragged | None = None
    ) -> Mask:
        """Return which items each query may be given."""
        return self.rules.mask(queries, allow, deny)

    def answerable(self, queries: Queries) -> NDArray[np.intp]:
        """Return which queries have an item left that they may be given."""
        return np.flatnonzero(self.mask(queries).leaves_any(len(self.search.trie.item_order)))

    def batches(self, sharing: int = 1) -> Batches:
        """Return what divides queries into batches that fit into memory."""
        section = self.section
        search = self.search
        one = Need(1, 0, tree_tokens(search.scoring, section), bytes_per_token(search.model))
        smaller = {
            "exact": f"budget={section.budget // 2 or 1}",
            "beam": "beams=…",
            "all": "mode=exact",
        }[section.mode]
        return Batches(search.model.device, one, f"recommend.{smaller}", section, sharing)

    def columns(self, found: Slates) -> dict[str, list[Any]]:
        """Return nothing more to be kept with its slates."""
        return {}

    def _search(self, prompts: list[list[int]], k: int, mask: Mask, guide: Guide | None) -> Answer:
        if self.section.mode == "beam":
            beams = max(k, self.section.beams)
            penalty = self.section.length_penalty
            return self.search.beam(prompts, k, beams, mask, guide, length_penalty=penalty)
        return self.search.exact(
            prompts, k, mask, guide, width=self.section.width, budget=self.section.budget
        )


@dataclass(frozen=True)
class Shards:
    """The files in `folder` that hold slates for so many `queries`, `size` of them each."""

    folder: Path
    queries: int
    size: int

    def __len__(self) -> int:
        return -(-self.queries // self.size)

    def path(self, shard: int) -> Path:
        """Return the file of a shard."""
        return self.folder / f"{shard * self.size:09d}.parquet"

    def rows(self, shard: int) -> NDArray[np.int64]:
        """Return which queries a shard holds."""
        return np.arange(shard * self.size, min((shard + 1) * self.size, self.queries))

    def missing(self) -> list[int]:
        """Return the shards that are not there."""
        return [shard for shard in range(len(self)) if not self.path(shard).exists()]


class Writer:
    """Searches and writes shards. `sharing` processes divide this machine's memory."""

    def __init__(self, ranker: Ranker, queries: Queries, folder: Path, sharing: int = 1) -> None:
        self.shards = Shards(folder, len(queries), ranker.section.shard_size)
        self._ranker = ranker
        self._queries = queries
        self._batches = ranker.batches(sharing)

    def write(self, shard: int) -> None:
        """Write a shard, unless it is there already."""
        if self.shards.path(shard).exists():
            return
        queries = self._queries.take(self.shards.rows(shard))
        work = self._ranker.work
        work.clear()
        self._batches.fit(len(queries), max(map(len, self._ranker.prompts(queries))))
        slates, columns = self._search(queries)
        save_slates(slates, self.shards.path(shard), work, columns)

    def _search(self, queries: Queries) -> tuple[Slates, dict[str, list[Any]]]:
        """Return slates in the queries' order, an empty one where no item is left to a query; and
        further columns.
        """
        k = self._ranker.section.k
        items = np.full((len(queries), k), NO_ITEM, np.int32)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        columns: dict[str, list[Any]] = {}
        some = self._ranker.answerable(queries)
        for rows, found in self._batches.run(
            queries.take(some), lambda q: self._ranker.slates(q, k)
        ):
            items[some[rows]] = found.items
            scores[some[rows]] = found.scores
            for name, values in self._ranker.columns(found).items():
                column = columns.setdefault(name, [None] * len(queries))
                for row, value in zip(some[rows], values, strict=True):
                    column[row] = value
        return Slates(queries.ids, items, scores), columns


def recommend(
    ranker: Ranker, queries: Queries, folder: Path, processes: Processes = SINGLE_PROCESS
) -> Slates:
    """Return slates for `queries`, writing each shard to `folder`; shards that are there already
    are kept.

    Several processes divide the shards, and return when all are there.
    """
    if not len(queries):
        return Slates.from_scores(queries.ids, np.empty((0, 0), np.float32), ranker.section.k)
    writer = Writer(ranker, queries, folder, processes.local_world_size)
    for shard in progress(processes.share(len(writer.shards)), "recommending"):
        writer.write(shard)
    processes.wait(lambda: not writer.shards.missing(), "their slates")
    return load_slates(folder)


def save_slates(
    slates: Slates,
    path: Path,
    work: Work | None = None,
    more: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """Write slates to a Parquet file, atomically, and with them the `work` they took and `more`
    columns.
    """
    columns = {
        "query_id": slates.query_ids,
        "items": list(slates.items),
        "scores": list(slates.scores),
    }
    types = [
        ("query_id", pa.int64()),
        ("items", pa.list_(pa.int32())),
        ("scores", pa.list_(pa.float32())),
    ]
    table = pa.table(columns, schema=pa.schema(types))
    for name, values in (more or {}).items():
        table = table.append_column(name, pa.array(values))
    with atomic_write(path) as part:
        pq.write_table(
            table.replace_schema_metadata({_WORK: json.dumps(vars(work))} if work else None), part
        )


def work_of(folder: Path) -> Work:
    """Return the work that all slates of a folder took, whoever did it and when."""
    total = Work()
    for path in sorted(folder.glob("*.parquet")):
        noted = (pq.read_schema(path).metadata or {}).get(_WORK.encode(), b"{}")
        total.add(Work(**json.loads(noted)))
    return total


def load_slates(folder: Path) -> Slates:
    """Return all slates of a folder of shards, in order; raise `ArtifactError` where there are
    none.
    """
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise ArtifactError("no slates here", value=folder, accepted="a finished `recommend` stage")
    return Slates.concatenate([_read(path) for path in files])


def _read(path: Path) -> Slates:
    table = pq.read_table(path)
    ids = table["query_id"].to_numpy()
    shape = (len(ids), -1) if len(ids) else (0, 0)
    items, scores = (
        table[c].combine_chunks().flatten().to_numpy().reshape(shape) for c in ("items", "scores")
    )
    if items.size and items.min() < NO_ITEM:
        raise ArtifactError("slates with impossible items", value=path)
    return Slates(ids, items.astype(np.int32), scores.astype(np.float32))
