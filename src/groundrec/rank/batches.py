"""Many queries through a search, as many at once as memory holds; what is found does not depend on
how many.

Knows nothing about what is asked of the search, nor what becomes of the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from groundrec.core import config_rank
from groundrec.core.errors import SearchError
from groundrec.core.track import log
from groundrec.core.types import Queries
from groundrec.rank.search.memory import (
    SHARE,
    Need,
    free_bytes,
    is_out_of_memory,
    readable,
    size_of,
)

__all__ = ["Batches"]

T = TypeVar("T")


class Batches:
    """Divides queries into batches. `sharing` processes divide this machine's memory.

    `one` is what a query without a prompt needs, `smaller` the setting that makes it less.
    """

    def __init__(
        self,
        device: torch.device,
        one: Need,
        smaller: str,
        section: config_rank.Recommend,
        sharing: int = 1,
    ) -> None:
        self._section = section
        self._size = section.batch_size
        self._one = one
        self._smaller = smaller
        free = free_bytes(device, sharing)
        self._limit = size_of(section.memory_limit) if section.memory_limit else int(SHARE * free)
        self._said = False

    def fit(self, queries: int, longest: int) -> None:
        """Predict what keys and values of prompts of at most `longest` tokens take; lower the batch
        to the limit.
        """
        one = replace(self._one, prompt=longest)
        wanted = min(self._size, queries)
        if self._section.memory_limit and one.total > self._limit:
            raise self._too_little(f"recommend.memory_limit is less than keys and values of {one}")
        size = max(1, min(wanted, self._limit // one.total))
        if size < wanted or not self._said:
            why = (
                f"; {wanted} at once would take more than {readable(self._limit)}"
                if size < wanted
                else ""
            )
            log.info(f"  keys and values: {replace(one, queries=size)}{why}")
            self._said = True
        if size < wanted:
            self._size = size

    def run(
        self, queries: Queries, ask: Callable[[Queries], T]
    ) -> Iterator[tuple[NDArray[np.intp], T]]:
        """Yield which queries each batch held, and what `ask` returned for it; every query is in
        one batch.

        Batches hold queries of like length, which wastes the least padding. Where memory runs out,
        the batch is halved. Raises `SearchError` where one query alone does not fit.
        """
        by_length = np.argsort(queries.history.lengths, kind="stable")
        done = 0
        while done < len(queries):
            rows = by_length[done : done + self._size]
            if (found := self._try(queries.take(rows), ask)) is not None:
                yield rows, found
                done += len(rows)

    def _try(self, queries: Queries, ask: Callable[[Queries], T]) -> T | None:
        """Return what `ask` returns; None where memory ran out, and then half as many are asked at
        once.
        """
        try:
            return ask(queries)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(queries) == 1:
                raise self._too_little(str(error).partition("\n")[0]) from None
        self._size = len(queries) // 2
        # Only here, after the `except`: until then the error holds the tensors of the search.
        torch.cuda.empty_cache()
        log.warning(
            f"  out of memory with {len(queries)} queries at once: going on with {self._size}"
        )
        return None

    def _too_little(self, why: str) -> SearchError:
        return SearchError(
            "one query alone does not fit into memory",
            value=why,
            accepted=(
                "more memory (and recommend.memory_limit), or a search that holds fewer tokens"
            ),
            next_step=f"--set {self._smaller}",
        )
