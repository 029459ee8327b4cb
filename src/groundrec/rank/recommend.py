"""Slates for many queries, shard by shard: what is written stays written, and the next start goes on behind it.

Knows nothing about metrics or signals.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from groundrec.core import config_rank
from groundrec.core.errors import ArtifactError, SearchError
from groundrec.core.processes import ALONE, Processes
from groundrec.core.runs import atomic_write
from groundrec.core.track import log, progress
from groundrec.core.types import NO_ITEM, Queries, Ragged, Slates
from groundrec.rank.below import Guide, Mask, Mass
from groundrec.rank.memory import SHARE, Need, free_bytes, is_out_of_memory, readable, size_of, tree_tokens
from groundrec.rank.search import Answer, Search, Work
from groundrec.rank.signals import Signal
from groundrec.rank.tree import bytes_per_token
from groundrec.text.tokens import Encoder

__all__ = ["Assistant", "Recommender", "Shards", "Writer", "load_slates", "recommend", "save_slates", "work_of"]

_WORK = "work"
"""Key of a file's metadata."""


@dataclass(frozen=True)
class Assistant:
    """A collaborative signal that takes part in the search, as in D3, and how much the language model counts."""

    signal: Signal
    alpha: float
    mass: Mass

    def guide(self, queries: Queries) -> Guide:
        """Return the guide of a batch of queries."""
        return Guide(self.signal.scores(queries), self.alpha, self.mass)


@dataclass(frozen=True)
class Recommender:
    """A search together with the words it reads: histories in, ranked items out."""

    search: Search
    encoder: Encoder
    section: config_rank.Recommend
    assistant: Assistant | None = None

    def slates(self, queries: Queries, k: int, allow: Ragged | None = None, deny: Ragged | None = None) -> Slates:
        """Return a slate of `k` items for each query.

        `allow` and `deny` list items that may or may not be recommended, a row per query, besides the recipe's rules.
        """
        prompts, mask = self.prompts(queries), self.mask(queries, allow, deny)
        guide = self.assistant.guide(queries) if self.assistant else None
        if self.section.mode == "all":
            return Slates.from_scores(queries.ids, self.search.all(prompts, mask, guide), k)
        answer = self._search(prompts, k, mask, guide)
        return Slates(queries.ids, answer.items, answer.scores)

    def prompts(self, queries: Queries) -> list[list[int]]:
        """Return each query's prompt as tokens."""
        return [self.encoder.prompt(row) for row in queries.history]

    def mask(self, queries: Queries, allow: Ragged | None = None, deny: Ragged | None = None) -> Mask:
        """Return which items each query may be given."""
        if self.section.exclude_seen:
            deny = queries.history if deny is None else deny.joined(queries.history)
        return Mask.of(len(queries), allow, deny)

    def _search(self, prompts: list[list[int]], k: int, mask: Mask, guide: Guide | None) -> Answer:
        if self.section.mode == "beam":
            beams, penalty = max(k, self.section.beams), self.section.length_penalty
            return self.search.beam(prompts, k, beams, mask, guide, length_penalty=penalty)
        return self.search.exact(prompts, k, mask, guide, width=self.section.width, budget=self.section.budget)


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
    """Searches and writes shards, as many queries at once as memory holds; a slate does not depend on how many.

    `sharing` processes divide this machine's memory.
    """

    def __init__(self, recommender: Recommender, queries: Queries, folder: Path, sharing: int = 1) -> None:
        section, search = recommender.section, recommender.search
        self.shards = Shards(folder, len(queries), section.shard_size)
        self._recommender, self._queries, self._size = recommender, queries, section.batch_size
        self._tree, self._token = tree_tokens(search.paths, section), bytes_per_token(search.model)
        free = free_bytes(search.model.device, sharing)
        self._limit = size_of(section.memory_limit) if section.memory_limit else int(SHARE * free)
        self._said = False

    def write(self, shard: int) -> None:
        """Write a shard, unless it is there already."""
        if self.shards.path(shard).exists():
            return
        queries, search = self._queries.take(self.shards.rows(shard)), self._recommender.search
        search.work = Work()
        self._fit(queries)
        save_slates(self._search(queries), self.shards.path(shard), search.work)

    def _fit(self, queries: Queries) -> None:
        """Predict what keys and values take; lower the batch to what the limit allows."""
        longest = max(map(len, self._recommender.prompts(queries)))
        one, wanted = Need(1, longest, self._tree, self._token), min(self._size, len(queries))
        if self._recommender.section.memory_limit and one.total > self._limit:
            raise self._too_little(f"recommend.memory_limit is less than keys and values of {one}")
        size = max(1, min(wanted, self._limit // one.total))
        if size < wanted or not self._said:
            why = f"; {wanted} at once would take more than {readable(self._limit)}" if size < wanted else ""
            log.info(f"  keys and values: {replace(one, queries=size)}{why}")
            self._said = True
        if size < wanted:
            self._size = size

    def _search(self, queries: Queries) -> Slates:
        """Search in batches of like length, which wastes the least padding; return slates in the queries' order."""
        by_length = np.argsort(queries.history.lengths, kind="stable")
        found, done = [], 0
        while done < len(queries):
            batch = queries.take(by_length[done : done + self._size])
            if (slates := self._try(batch)) is not None:
                found.append(slates)
                done += len(batch)
        every, back = Slates.concatenate(found), np.argsort(by_length)
        return Slates(every.query_ids[back], every.items[back], every.scores[back])

    def _try(self, queries: Queries) -> Slates | None:
        """Return slates; None where memory ran out, and then half as many queries are searched at once."""
        try:
            return self._recommender.slates(queries, self._recommender.section.k)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(queries) == 1:
                raise self._too_little(str(error).partition("\n")[0]) from None
        self._size = len(queries) // 2
        torch.cuda.empty_cache()  # only here: the error, gone by now, held the tensors of the search
        log.warning(f"  out of memory with {len(queries)} queries at once: going on with {self._size}")
        return None

    def _too_little(self, why: str) -> SearchError:
        section = self._recommender.section
        smaller = {"exact": f"budget={section.budget // 2 or 1}", "beam": "beams=…", "all": "mode=exact"}[section.mode]
        return SearchError(
            "one query alone does not fit into memory",
            value=why,
            accepted="more memory (and recommend.memory_limit), or a search that holds fewer tokens",
            next_step=f"--set recommend.{smaller}",
        )


def recommend(recommender: Recommender, queries: Queries, folder: Path, processes: Processes = ALONE) -> Slates:
    """Return slates for `queries`, writing each shard to `folder`; shards that are there already are kept.

    Several processes divide the shards, and return when all are there.
    """
    writer = Writer(recommender, queries, folder, processes.local_world)
    for shard in progress(processes.share(len(writer.shards)), "recommending"):
        writer.write(shard)
    processes.wait(lambda: not writer.shards.missing(), "their slates")
    return load_slates(folder)


def save_slates(slates: Slates, path: Path, work: Work | None = None) -> None:
    """Write slates to a Parquet file, atomically, and with them the `work` they took."""
    columns = {"query_id": slates.query_ids, "items": list(slates.items), "scores": list(slates.scores)}
    types = [("query_id", pa.int64()), ("items", pa.list_(pa.int32())), ("scores", pa.list_(pa.float32()))]
    table = pa.table(columns, schema=pa.schema(types))
    with atomic_write(path) as part:
        pq.write_table(table.replace_schema_metadata({_WORK: json.dumps(vars(work))} if work else None), part)


def work_of(folder: Path) -> Work:
    """Return the work that all slates of a folder took, whoever did it and when."""
    total = Work()
    for path in sorted(folder.glob("*.parquet")):
        noted = (pq.read_schema(path).metadata or {}).get(_WORK.encode(), b"{}")
        total.add(Work(**json.loads(noted)))
    return total


def load_slates(folder: Path) -> Slates:
    """Return all slates of a folder of shards, in order; raise `ArtifactError` where there are none."""
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise ArtifactError("no slates here", value=folder, accepted="a finished `recommend` stage")
    return Slates.concatenate([_read(path) for path in files])


def _read(path: Path) -> Slates:
    table = pq.read_table(path)
    ids = table["query_id"].to_numpy()
    shape = (len(ids), -1) if len(ids) else (0, 0)
    items, scores = (table[c].combine_chunks().flatten().to_numpy().reshape(shape) for c in ("items", "scores"))
    if items.size and items.min() < NO_ITEM:
        raise ArtifactError("slates with impossible items", value=path)
    return Slates(ids, items.astype(np.int32), scores.astype(np.float32))
