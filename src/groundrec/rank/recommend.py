"""Slates for many queries, shard by shard: what is written stays written, and the next start goes on behind it.

Knows nothing about metrics or signals.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from groundrec.core import config
from groundrec.core.errors import ArtifactError
from groundrec.core.runs import atomic_write
from groundrec.core.track import progress
from groundrec.core.types import NO_ITEM, Queries, Ragged, Slates
from groundrec.rank.below import Mask
from groundrec.rank.search import Answer, Search
from groundrec.text.tokens import Encoder

__all__ = ["Recommender", "load_slates", "recommend", "save_slates"]

SHARD = 256
"""Queries per file."""


@dataclass(frozen=True)
class Recommender:
    """A search together with the words it reads: histories in, ranked items out."""

    search: Search
    encoder: Encoder
    section: config.Recommend

    def slates(self, query_ids: NDArray[np.int64], history: Ragged, k: int) -> Slates:
        """Return a slate of `k` items for each history of item numbers, oldest first."""
        prompts = [self.encoder.prompt(row) for row in history]
        mask = Mask.of(len(history), deny=history if self.section.exclude_seen else None)
        if self.section.mode == "all":
            return Slates.from_scores(query_ids, self.search.all(prompts, mask), k)
        answer = self._search(prompts, k, mask)
        return Slates(query_ids, answer.items, answer.scores)

    def _search(self, prompts: list[list[int]], k: int, mask: Mask) -> Answer:
        if self.section.mode == "beam":
            beams, penalty = max(k, self.section.beams), self.section.length_penalty
            return self.search.beam(prompts, k, beams, mask, length_penalty=penalty)
        return self.search.exact(prompts, k, mask, width=self.section.width, budget=self.section.budget)


def recommend(recommender: Recommender, queries: Queries, folder: Path) -> Slates:
    """Return slates for `queries`, writing each shard to `folder`; shards that are there already are kept."""
    shards = range(0, len(queries), SHARD)
    for start in progress(shards, "recommending"):
        path = folder / f"{start:09d}.parquet"
        if not path.exists():
            save_slates(_shard(recommender, queries.take(np.arange(start, min(start + SHARD, len(queries))))), path)
    return load_slates(folder)


def _shard(recommender: Recommender, queries: Queries) -> Slates:
    """Search in batches of like length, which wastes the least padding; return slates in the queries' order."""
    size, k = recommender.section.batch_size, recommender.section.k
    by_length = np.argsort(queries.history.lengths, kind="stable")
    batches = [queries.take(by_length[i : i + size]) for i in range(0, len(queries), size)]
    found = Slates.concatenate([recommender.slates(b.ids, b.history, k) for b in batches])
    back = np.argsort(by_length)
    return Slates(found.query_ids[back], found.items[back], found.scores[back])


def save_slates(slates: Slates, path: Path) -> None:
    """Write slates to a Parquet file, atomically."""
    columns = {"query_id": slates.query_ids, "items": list(slates.items), "scores": list(slates.scores)}
    types = [("query_id", pa.int64()), ("items", pa.list_(pa.int32())), ("scores", pa.list_(pa.float32()))]
    with atomic_write(path) as part:
        pq.write_table(pa.table(columns, schema=pa.schema(types)), part)


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
