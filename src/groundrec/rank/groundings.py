"""What a grounding is: how one is described, what it is built from, and what it answers.

Knows nothing about which groundings there are, nor about files of slates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from groundrec.core import config_rank
from groundrec.core.recipe import Recipe
from groundrec.core.registry import resolve
from groundrec.core.types import Queries, Ragged, Scores, Slates
from groundrec.rank.batches import Batches
from groundrec.rank.search.masks import Guide, Mask, Mass
from groundrec.rank.search.search import Work
from groundrec.rank.slates import SavedSlates
from groundrec.signals.counts import Signal
from groundrec.text.tokens import Encoder
from groundrec.text.trie import Trie

if TYPE_CHECKING:
    from groundrec.models.language import LanguageModel

__all__ = [
    "Answerer",
    "Assistant",
    "Grounding",
    "GroundingInputs",
    "LoadedModel",
    "Ranker",
    "Rules",
    "find_grounding",
]


@dataclass(frozen=True)
class Assistant:
    """A collaborative signal mixed into the search, as in D3; `alpha` is the model's weight."""

    signal: Signal
    alpha: float
    mass: Mass

    def guide(self, queries: Queries) -> Guide:
        """Return the guide of a batch of queries."""
        return Guide(self.signal.scores(queries), self.alpha, self.mass)


@dataclass(frozen=True)
class Rules:
    """What may be recommended: only `allow` (anything where None), never `deny`, nothing seen."""

    exclude_seen: bool
    allow: NDArray[np.integer] | None = None
    deny: NDArray[np.integer] | None = None

    def mask(
        self, queries: Queries, allow: Ragged | None = None, deny: Ragged | None = None
    ) -> Mask:
        """Return which items each query may be given.

        `allow` and `deny` restrict each query further: lists of items, a row per query.
        """
        if self.allow is not None:
            lists = (
                repeat(self.allow, len(queries))
                if allow is None
                else (np.intersect1d(row, self.allow) for row in allow)
            )
            allow = Ragged.of(lists)
        if self.deny is not None:
            everyone = Ragged.of(repeat(self.deny, len(queries)))
            deny = everyone if deny is None else deny.joined(everyone)
        if self.exclude_seen:
            deny = queries.history if deny is None else deny.joined(queries.history)
        return Mask.of(len(queries), allow, deny)


class Answerer(Protocol):
    """Queries in, slates out, the same in any batch."""

    @property
    def section(self) -> config_rank.Recommend:
        """The recipe's section `[recommend]`."""
        ...

    @property
    def work(self) -> Work:
        """What the model was asked to compute since `work` was last cleared."""
        ...

    def slates(self, queries: Queries, k: int) -> Slates:
        """Return a slate of `k` items for each query; every query has an item left."""
        ...

    def prompts(self, queries: Queries) -> list[list[int]]:
        """Return each query's prompt as tokens."""
        ...

    def answerable(self, queries: Queries) -> NDArray[np.intp]:
        """Return the positions of the queries that have an item left to recommend."""
        ...

    def batches(self, sharing: int = 1) -> Batches:
        """Return what divides queries into batches that fit into memory."""
        ...

    def columns(self, slates: Slates) -> dict[str, list[Any]]:
        """Return what to save beside slates it made: Parquet columns, one value per query."""
        ...


class Ranker(Answerer, Protocol):
    """A grounding once built: slates of real items, and the scores of every item."""

    def scores(self, queries: Queries, saved: SavedSlates) -> Scores:
        """Return the score of every item, from the saved slates alone. Shape: [q, I].

        Never loads the model. Among the items that a query may be given, those of its slate score
        highest.
        """
        ...


class LoadedModel(NamedTuple):
    """A language model, and the catalogue in its tokens."""

    lm: LanguageModel
    encoder: Encoder
    trie: Trie


@dataclass(frozen=True)
class GroundingInputs:
    """What a grounding is built from. The model is loaded when first used, and only then."""

    recipe: Recipe
    texts: Sequence[str]
    """How each item is written in an answer: its title, unless the recipe says otherwise. Shape:
    [I].
    """
    popularity: NDArray[np.int64]
    """How often each item was taken. Shape: [I]."""
    folder: Path
    """Where the grounding may keep files."""
    load: Callable[[], LoadedModel]
    load_base: Callable[[], LanguageModel] | None = None
    """Loads the model as it was before training."""
    identity: str = ""
    """Changes with the weights of both models and with the data set."""
    assistant: Assistant | None = None
    allow: NDArray[np.integer] | None = None
    """The only items that may be recommended to anyone; any where None."""
    deny: NDArray[np.integer] | None = None
    """Items that may be recommended to nobody."""

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model, its encoder and its trie."""
        return self.load()

    @property
    def lm(self) -> LanguageModel:
        """The language model."""
        return self.loaded.lm

    @property
    def encoder(self) -> Encoder:
        """Turns histories and titles into tokens."""
        return self.loaded.encoder

    @property
    def trie(self) -> Trie:
        """The catalogue's trie."""
        return self.loaded.trie

    @property
    def rules(self) -> Rules:
        """What may be recommended."""
        return Rules(self.recipe.recommend.exclude_seen, self.allow, self.deny)


@dataclass(frozen=True)
class Grounding:
    """A way to ground, and what a report and a run need to know of it before it is built."""

    build: Callable[[GroundingInputs], Ranker]
    title: str
    """Its name in a report."""
    short_title: str
    """Its name in a report when fused with a signal."""
    settings: tuple[str, ...] = ("recommend", "ground")
    """The sections of the recipe that its slates depend on."""
    can_prove: bool = False
    """Whether it proves its slates where `recommend.mode` is `exact`."""

    def __call__(self, inputs: GroundingInputs) -> Ranker:
        """Return the grounding, built."""
        return self.build(inputs)


def find_grounding(name: str) -> Grounding:
    """Return the grounding registered as `name`; a plain function is reported by that name."""
    found = resolve("groundings", name)
    return found if isinstance(found, Grounding) else Grounding(found, name, name)
