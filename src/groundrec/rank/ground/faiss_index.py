"""The nearest items by a FAISS index, for catalogues too large to compare every text with every
title.

The catalogue is divided into parts around centres, and only the parts nearest to a text are looked
at, so an item can be lost; those found are ranked by exact distances. Knows nothing about texts or
titles; only embeddings.
"""

from __future__ import annotations

import warnings
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundrec.core.errors import MissingDependency
from groundrec.core.files import atomic_write
from groundrec.rank.ground.nearest import Vote, nearest, nearest_of

__all__ = ["Index"]

PARTS = 4
"""Number of parts, as a multiple of the square root of the number of items."""
LOOKED_AT = 32
"""Parts searched for each text."""
SPARE = 64
"""Candidates of a text beyond `k`, since some may not be recommended."""


class Index:
    """A FAISS index of items' embeddings [I, D], kept in a file."""

    def __init__(self, items: Tensor, file: Path) -> None:
        self._items = items
        faiss = _faiss()
        if not file.exists():
            parts = min(ceil(PARTS * sqrt(len(items))), len(items))
            index = faiss.index_factory(items.shape[1], f"IVF{parts},Flat")
            index.cp.min_points_per_centroid = 1  # no warning for small catalogues
            index.train(items.numpy())
            index.add(items.numpy())
            with atomic_write(file) as part:
                faiss.write_index(index, str(part))
        self._index = faiss.read_index(str(file))
        self._index.nprobe = LOOKED_AT

    def nearest(self, texts: Tensor, k: int, vote: Vote, allowed: Tensor) -> tuple[Tensor, Tensor]:
        """Return the `k` nearest allowed items among those found, as `ground.nearest` does among
        all.

        A query for which fewer than `k` were found is compared with every item. Shapes as there.
        """
        voting = texts[:, :1] if vote == "best" else texts
        each = min(k + SPARE, len(self._items))
        _, found = self._index.search(voting.reshape(-1, texts.shape[2]).cpu().numpy(), each)
        candidates = _distinct(torch.from_numpy(found).to(texts.device).view(len(texts), -1))
        allowed_here = allowed.gather(1, candidates.clamp(min=0)) & (candidates >= 0)
        numbers, apart = nearest_of(
            texts, self._items, candidates.masked_fill(~allowed_here, -1), k, vote
        )
        few = (allowed_here.sum(1) < allowed.sum(1).clamp(max=k)).nonzero().flatten()
        if len(few):
            numbers = torch.nn.functional.pad(numbers, (0, k - numbers.shape[1]), value=-1)
            apart = torch.nn.functional.pad(apart, (0, k - apart.shape[1]), value=torch.inf)
            numbers[few], apart[few] = nearest(texts[few], self._items, k, vote, allowed[few])
        return numbers, apart


def _distinct(numbers: Tensor) -> Tensor:
    """Return each row sorted, with repeats replaced by -1. Shape: [Q, c]."""
    rising = numbers.sort(dim=1).values
    again = torch.zeros_like(rising, dtype=torch.bool)
    again[:, 1:] = rising[:, 1:] == rising[:, :-1]
    return rising.masked_fill(again, -1)


def _faiss() -> Any:
    try:
        with warnings.catch_warnings():  # its wrapper's types have no module
            warnings.simplefilter("ignore", DeprecationWarning)
            import faiss  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingDependency("faiss", "faiss") from None
    return faiss
