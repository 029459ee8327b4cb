"""A small data set with a planted pattern: item i + 1 always follows item i, the first the last.

Knows nothing about what is tested with it.
"""

from __future__ import annotations

import numpy as np

from groundrec.core.types import Catalogue, PreparedDataset, Queries, Ragged

__all__ = ["planted_shop", "queries_of"]


def queries_of(rows: list[tuple[str, int, list[int], list[int]]], first_id: int = 0) -> Queries:
    """Return queries from rows of (user, time, history, targets)."""
    return Queries(
        np.arange(first_id, first_id + len(rows)),
        np.array([user for user, *_ in rows], dtype=np.str_),
        np.array([time for _, time, *_ in rows], dtype=np.int64),
        Ragged.of(history for _, _, history, _ in rows),
        Ragged.of(targets for *_, targets in rows),
    )


def planted_shop(
    items: int = 12, users: int = 24, length: int = 6, seed: int = 0
) -> PreparedDataset:
    """Return a data set with `length` training targets, one valid and one test target per user."""
    starts = np.random.default_rng(seed).permutation(np.arange(users) % items)
    walks = [((start + np.arange(length + 2)) % items).tolist() for start in starts]
    splits = {name: [] for name in ("train", "valid", "test")}
    for user, walk in enumerate(walks):
        for step, item in enumerate(walk):
            name = "train" if step < length else ("valid" if step == length else "test")
            splits[name].append((f"user {user}", 1000 * step + user, walk[:step], [item]))
    train = queries_of(splits["train"])
    valid = queries_of(splits["valid"], 1000)
    catalogue = Catalogue(
        tuple(f"id {i}" for i in range(items)), tuple(f"Title {i}" for i in range(items))
    )
    return PreparedDataset(
        catalogue, train, valid, queries_of(splits["test"], 2000), fingerprint=f"shop {seed}"
    )
