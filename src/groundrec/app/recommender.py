"""A trained run as one object: histories in, titles out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from groundrec.app.stages.artefacts import open_run
from groundrec.app.stages.item_names import ItemNames
from groundrec.app.stages.made_from import SEARCH, Finished, model_inputs
from groundrec.app.stages.names import title
from groundrec.core.errors import SearchError
from groundrec.core.types import NO_ITEM, Catalogue, Queries, Ragged, Slates

if TYPE_CHECKING:
    from groundrec.rank.groundings import Ranker
    from groundrec.rank.recommend import SearchRanker
    from groundrec.rank.search.explain import Explanation

__all__ = ["Explained", "Recommendation", "Recommender"]


@dataclass(frozen=True)
class Recommendation:
    """One recommended item, and what recommends it."""

    item_id: str
    title: str
    score: float
    """Its log-probability where the catalogue is searched; where texts are grounded, minus its
    distance.
    """
    method: str
    """What answered, as reports name it."""


@dataclass(frozen=True)
class Explained:
    """The path of one item: its tokens as text, and what `rank.search.explain` says of each."""

    title: str
    pieces: list[str]
    path: Explanation


class Recommender:
    """Recommends real items of a run's catalogue to anyone whose history is in that catalogue."""

    def __init__(
        self, catalogue: Catalogue, ranker: Ranker, item_names: ItemNames, now: int, method: str
    ) -> None:
        """Answer by `ranker`, which is called `method`, as of `now`, in integer seconds UTC."""
        self.method = method
        self._catalogue = catalogue
        self._ranker = ranker
        self._items = item_names.items
        self._now = now

    @classmethod
    def load(cls, run: str | Path, method: str | None = None) -> Recommender:
        """Return the recommender of a run directory; raise `ArtifactError` unless its training has
        finished.

        It answers by the first of `recommend.methods`, or by the grounding `method`. A run whose
        settings changed since its model was trained is refused too.
        """
        x = open_run(Path(run))
        x.run.require("train", model_inputs(x.recipe, Finished(x.run)))
        method = method or x.recipe.recommend.methods[0]
        ranker = x.ranker(method)
        ranker.batches()  # loads the model now, not in the first request's thread
        now = int(x.dataset.test.times.max()) + 1
        return cls(x.dataset.catalogue, ranker, x.item_names, now, title(x.recipe, method))

    def recommend(
        self,
        history: Sequence[str],
        k: int = 10,
        *,
        allow: Sequence[str] | None = None,
        deny: Sequence[str] | None = None,
    ) -> list[Recommendation]:
        """Return the `k` best items after `history`, titles or item ids, oldest first.

        Where `allow` is given, nothing else is recommended; nothing in `deny` ever is (out of
        stock, another category). Raises `DataError` for a name that is not in the catalogue.
        """
        allow_list = self._listed(allow)
        deny_list = self._listed(deny)
        slates = self._slates(self._query(history), k, allow_list, deny_list)
        return [
            Recommendation(
                self._catalogue.item_ids[item],
                self._catalogue.titles[item],
                float(score),
                self.method,
            )
            for item, score in zip(slates.items[0], slates.scores[0], strict=True)
            if item != NO_ITEM
        ]

    @property
    def explains(self) -> bool:
        """Whether `explain` works: a search scores token by token, a grounding does not."""
        from groundrec.rank.recommend import SearchRanker

        return isinstance(self._ranker, SearchRanker)

    def explain(
        self, history: Sequence[str], item: str, *, beams: Sequence[int] = (5, 10, 20, 50)
    ) -> Explained:
        """Return how `item` comes by its score after `history`, and where beam searches lose it.

        Raises `DataError` for a name that is not in the catalogue, `SearchError` for an item that
        may not be recommended, such as one of the history.
        """
        from groundrec.rank.recommend import SearchRanker
        from groundrec.rank.search.explain import explain

        ranker = self._ranker
        if not isinstance(ranker, SearchRanker):
            raise SearchError(
                "only a search scores an item token by token",
                value=self.method,
                accepted="a recommender that searches the catalogue",
                next_step=f'Recommender.load(run, "{SEARCH}")',
            )
        query = self._query(history)
        number = self._items(item)[0]
        self._refuse_forbidden(ranker, query, number)
        guide = ranker.assistant.guide(query) if ranker.assistant else None
        found = explain(
            ranker.search, ranker.prompts(query)[0], number, ranker.mask(query), guide, beams=beams
        )
        pieces = ranker.encoder.tokenizer.batch_decode([[step.token] for step in found.steps])
        return Explained(self._catalogue.titles[number], pieces, found)

    def _slates(self, query: Queries, k: int, allow: Ragged | None, deny: Ragged | None) -> Slates:
        if allow is None and deny is None:
            return self._ranker.slates(query, k)
        if "allow" not in signature(self._ranker.slates).parameters:
            raise SearchError(
                "this grounding takes no lists with a query",
                value=self.method,
                accepted="the lists of the recipe, recommend.allow and recommend.deny",
                next_step=f"leave the lists out, or ask the method {SEARCH}",
            )
        from groundrec.rank.recommend import SearchRanker

        if isinstance(self._ranker, SearchRanker):
            self._refuse_empty(self._ranker, query, allow, deny)
        ask = partial(self._ranker.slates, query, k)
        return ask(allow=allow, deny=deny)

    def _refuse_forbidden(self, ranker: SearchRanker, query: Queries, item: int) -> None:
        """Raise `SearchError` where `item` may not be recommended after the history of `query`."""
        if ranker.mask(query).allows(np.array([0]), np.array([item]))[0]:
            return
        if item in query.history.values:
            what = "this item is in the history already"
            accepted = (
                "an item outside the history, as recommend.exclude_seen leaves seen items out"
            )
        else:
            what = "this item may not be recommended"
            accepted = (
                "an item that recommend.allow names, where there is one, and not recommend.deny"
            )
        raise SearchError(
            what,
            value=self._catalogue.titles[item],
            accepted=accepted,
            next_step="name another item",
        )

    def _refuse_empty(
        self, ranker: SearchRanker, query: Queries, allow: Ragged | None, deny: Ragged | None
    ) -> None:
        """Raise `SearchError` where the lists leave nothing to recommend after the history."""
        if ranker.mask(query, allow, deny).leaves_any(len(self._catalogue))[0]:
            return
        listed = allow.values if allow is not None else np.array([], np.int32)
        in_history = bool(len(listed)) and bool(np.isin(listed, query.history.values).all())
        why = "is in the history already" if in_history else "is denied or in the history already"
        titles = ", ".join(self._catalogue.titles[int(item)] for item in np.unique(listed))
        raise SearchError(
            f"everything allowed {why}",
            value=titles or None,
            accepted="at least one allowed item that is neither denied nor in the history",
            next_step="name another item with --allow, or fewer with --deny",
        )

    def _query(self, history: Sequence[str]) -> Queries:
        return Queries.of(Ragged.of([[self._items(name)[0] for name in history]]), self._now)

    def _listed(self, names: Sequence[str] | None) -> Ragged | None:
        return (
            None
            if names is None
            else Ragged.of([[item for name in names for item in self._items(name)]])
        )
