"""Answers to prompts that are given as tokens, without histories of a catalogue.

A query's `history` holds its prompt's tokens here. One ranker lets the model write freely, the
other decodes titles of a list; both go through the shards, batches and processes of
`rank/recommend`. Knows nothing about the text of prompts, nor about files of results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from groundrec.core.config_rank import Recommend
from groundrec.core.errors import DataError
from groundrec.core.types import NO_ITEM, Queries, Scores, Slates
from groundrec.models.language import LanguageModel
from groundrec.rank.batches import Batches
from groundrec.rank.ground.generate import GenerationSettings, generate
from groundrec.rank.search.masks import Guide
from groundrec.rank.search.memory import Need, tree_tokens
from groundrec.rank.search.search import Search, Work
from groundrec.rank.search.tree_reader import bytes_per_token
from groundrec.text.trie import Trie

__all__ = ["TEXTS", "FreeWriter", "ListSearch", "TextSlates"]

TEXTS = "texts"
"""The column of slates that holds what was written."""


@dataclass(frozen=True)
class TextSlates(Slates):
    """Slates without items, and the texts of each query, likeliest first."""

    texts: tuple[list[str], ...] = ()


@dataclass(frozen=True)
class _Prompted:
    """What both rankers answer alike."""

    section: Recommend
    work: Work = field(default_factory=Work)

    def prompts(self, queries: Queries) -> list[list[int]]:
        """Return each query's prompt as tokens."""
        return [row.tolist() for row in queries.history]

    def answerable(self, queries: Queries) -> NDArray[np.intp]:
        """Return the positions of all queries."""
        return np.arange(len(queries))


@dataclass(frozen=True)
class FreeWriter(_Prompted):
    """Texts by beam search over the whole vocabulary."""

    load: Callable[[], LanguageModel] = field(kw_only=True)
    settings: GenerationSettings = field(kw_only=True)

    @cached_property
    def lm(self) -> LanguageModel:
        """The language model."""
        return self.load()

    @cached_property
    def _ends(self) -> torch.Tensor:
        """Which tokens end a text: the tokenizer's end token. Shape: [V], bool."""
        ends = torch.zeros(self.lm.model.config.get_text_config().vocab_size, dtype=torch.bool)
        end = self.lm.tokenizer.eos_token_id
        if not isinstance(end, int):
            raise DataError("the tokenizer has no end token", value=self.lm.tokenizer.name_or_path)
        ends[end] = True
        return ends

    def slates(self, queries: Queries, k: int) -> TextSlates:
        """Return the texts of each query; there are `k` places and no items."""
        prompts = self.prompts(queries)
        ids = queries.ids.tolist()
        written = generate(self.lm.model, prompts, self._ends, self.settings, ids)
        texts = tuple(self._decoded(*pair) for pair in zip(prompts, written, strict=True))
        lengths = [len(text) for row in written for text in row]
        silent = sum(not any(row) for row in texts)
        self.work.add(Work(1 + max(lengths), sum(map(len, prompts)) + sum(lengths), silent=silent))
        shape = (len(queries), k)
        nothing = np.full(shape, NO_ITEM, np.int32), np.full(shape, -np.inf, np.float32)
        return TextSlates(queries.ids, *nothing, texts)

    def _decoded(self, prompt: list[int], written: list[list[int]]) -> list[str]:
        """Return texts as they read after their prompt: a token can mean a blank only there."""
        decode = self.lm.tokenizer.batch_decode
        before, *whole = decode(
            [prompt, *([*prompt, *text] for text in written)], skip_special_tokens=True
        )
        return [
            str(text)[len(before) :]
            if str(text).startswith(str(before))
            else str(decode([ids], skip_special_tokens=True)[0])
            for text, ids in zip(whole, written, strict=True)
        ]

    def batches(self, sharing: int = 1) -> Batches:
        """Return what divides queries into batches that fit into memory."""
        model = self.lm.model
        each = self.settings.texts * bytes_per_token(model)
        one = Need(1, 0, self.settings.longest, each)
        return Batches(model.device, one, "ground.num_texts=…", self.section, sharing)

    def columns(self, slates: Slates) -> dict[str, list[Any]]:
        """Return the texts."""
        assert isinstance(slates, TextSlates)
        return {TEXTS: list(slates.texts)}


@dataclass(frozen=True)
class ListSearch(_Prompted):
    """Titles of a list, by the beams or the exact search of `section.mode`.

    A signal takes part with the weight 1 - `alpha`: `signal` returns its scores of all titles for
    query numbers. Shape: [q] → [q, U].
    """

    load: Callable[[], LanguageModel] = field(kw_only=True)
    trie: Trie = field(kw_only=True)
    signal: Callable[[NDArray[np.int64]], Scores] | None = field(default=None, kw_only=True)
    alpha: float = field(default=1.0, kw_only=True)
    instruction: Sequence[int] = field(default=(), kw_only=True)
    """Tokens that every prompt begins with."""

    @cached_property
    def search(self) -> Search:
        """The search."""
        return Search(
            self.load().model,
            self.trie,
            self.section.score,
            temperature=self.section.temperature,
            instruction=self.instruction,
        )

    def slates(self, queries: Queries, k: int) -> Slates:
        """Return the best `k` titles of each query, by their numbers."""
        s = self.section
        prompts = self.prompts(queries)
        guide = Guide(self.signal(queries.ids), self.alpha) if self.signal else None
        found = (
            self.search.beam(prompts, k, k, None, guide, length_penalty=s.length_penalty)
            if s.mode == "beam"
            else self.search.exact(
                prompts, k, None, guide, width=s.tokens_per_pass, budget=s.budget
            )
        )
        self.work.add(self.search.work)
        self.search.work.clear()
        return Slates(queries.ids, found.items, found.scores)

    def batches(self, sharing: int = 1) -> Batches:
        """Return what divides queries into batches that fit into memory."""
        search = self.search
        tokens = tree_tokens(search.scoring, self.section)
        one = Need(1, 0, tokens, bytes_per_token(search.model))
        return Batches(search.model.device, one, "recommend.budget=…", self.section, sharing)

    def columns(self, slates: Slates) -> dict[str, list[Any]]:
        """Return no further columns."""
        return {}
