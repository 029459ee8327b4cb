"""One search asked by several threads at once: each gets the bytes that it would get alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

from groundrec.core.types import Ragged
from groundrec.rank.search.masks import Guide
from groundrec.rank.search.scoring import ScoreKind
from groundrec.rank.search.search import Answer, Search
from groundrec.text.trie import Trie
from tests.rank.models import END, MODELS, VOCABULARY

THREADS, ROUNDS, ITEMS = 8, 3, 60
RNG = np.random.default_rng(5)
CATALOGUE = [(*RNG.integers(2, VOCABULARY, RNG.integers(1, 6)).tolist(), END) for _ in range(ITEMS)]
SIGNAL = RNG.normal(0, 2, (1, ITEMS)).astype(np.float32)
PROMPTS = [
    [[3, *RNG.integers(2, VOCABULARY, RNG.integers(1, 20)).tolist()] for _ in range(ROUNDS)]
    for _ in range(THREADS)
]
"""The histories of each thread, asked one after the other."""

Ask = Callable[[Search, list[int]], Answer | np.ndarray]
WAYS: dict[str, Ask] = {
    "exact": lambda search, prompt: search.exact([prompt], 10),
    "budget": lambda search, prompt: search.exact([prompt], 10, budget=8),
    "beam": lambda search, prompt: search.beam([prompt], 10, 12),
    "guided": lambda search, prompt: search.exact([prompt], 10, guide=Guide(SIGNAL, 0.6, "sum")),
    "all": lambda search, prompt: search.all([prompt]),
}


@pytest.fixture(autouse=True)
def switches() -> Iterator[None]:
    """Let threads take turns a thousand times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


def as_bytes(answer: Answer | np.ndarray) -> bytes:
    if isinstance(answer, np.ndarray):
        return answer.tobytes()
    return answer.items.tobytes() + answer.scores.tobytes() + answer.gap.tobytes()


@pytest.mark.parametrize("name", ["llama", "gemma3"])
@pytest.mark.parametrize("kind", ["full", "renormalised"])
@pytest.mark.parametrize("way", WAYS)
def test_each_thread_gets_the_slates_of_a_single_thread(
    way: str, kind: ScoreKind, name: str
) -> None:
    trie = Trie.compile(Ragged.of(CATALOGUE))
    search = Search(MODELS[name], trie, kind, instruction=[3])
    start = Barrier(THREADS)

    def slates(prompts: list[list[int]]) -> list[bytes]:
        return [as_bytes(WAYS[way](search, prompt)) for prompt in prompts]

    def at_once(prompts: list[list[int]]) -> list[bytes]:
        start.wait()
        return slates(prompts)

    alone = [slates(prompts) for prompts in PROMPTS]
    assert len({row for rows in alone for row in rows}) > THREADS
    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(at_once, PROMPTS)) == alone
