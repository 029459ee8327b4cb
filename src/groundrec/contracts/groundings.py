"""What every grounding promises. Knows nothing about which groundings there are."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from groundrec.contracts.base_models import TITLES, grounding_inputs
from groundrec.contracts.rules import check_rules
from groundrec.core.config_model import Model
from groundrec.core.recipe import Recipe
from groundrec.core.types import NO_ITEM, Queries, Ragged, Slates
from groundrec.models.language import LanguageModel, scratch
from groundrec.rank.groundings import GroundingInputs, LoadedModel, Ranker
from groundrec.rank.recommend import recommend
from groundrec.rank.slates import SavedSlates

__all__ = ["RULES", "GroundingCase", "check_grounding", "small_model"]

SCRATCH = {"hidden": 32, "layers": 2, "heads": 2, "vocabulary": 300, "dropout": 0.0}
ITEMS = len(TITLES)
K = 6
SAME = (13, 12, 3)
"""The items of one title, the most popular first."""


@dataclass(frozen=True)
class GroundingCase:
    """A grounding and the model it is built on; rules may write into `folder`."""

    build: Callable[[GroundingInputs], Ranker]
    lm: LanguageModel
    folder: Path

    def ranker(
        self,
        recommend: dict[str, Any] | None = None,
        ground: dict[str, Any] | None = None,
        *,
        loads: bool = True,
        allow: NDArray[np.integer] | None = None,
        deny: NDArray[np.integer] | None = None,
    ) -> Ranker:
        """Return the grounding, built with settings of `[recommend]` and `[ground]`.

        Without `loads`, loading the model fails.
        """
        recipe = Recipe.of(
            {
                "recommend": {"k": K, **(recommend or {})},
                "ground": {"texts": 2, "max_new_tokens": 12, **(ground or {})},
                "evaluate.ks": [1, K],
            }
        )
        inputs = grounding_inputs(self.lm, recipe, self.folder / "kept", allow, deny)
        return self.build(inputs if loads else replace(inputs, load=_refuse_to_load))


def _refuse_to_load() -> LoadedModel:
    raise AssertionError("the model was loaded")


def small_model() -> LanguageModel:
    """Return a small model with random weights, far from uniform, so that rankings are decided."""
    torch.manual_seed(3)
    made = scratch(Model.model_validate({"scratch": SCRATCH}), TITLES)
    for parameter in made.model.parameters():
        parameter.data.mul_(3.0)
    made.model.eval()
    return made


def check_grounding(build: Callable[[GroundingInputs], Ranker]) -> None:
    """Raise `AssertionError` at the first rule that a grounding breaks."""
    with tempfile.TemporaryDirectory() as folder:
        check_rules(GroundingCase(build, small_model(), Path(folder)), RULES)


def ranks_real_items(case: GroundingCase) -> None:
    """A slate holds items of the catalogue, each once, by falling finite scores.

    Items are int32, scores float32.
    """
    found = case.ranker().slates(_queries(), K)
    assert (found.items.dtype, found.scores.dtype) == (
        np.int32,
        np.float32,
    ), f"{found.items.dtype} {found.scores.dtype}"
    assert found.items.shape == found.scores.shape == (5, K), (
        f"{found.items.shape} {found.scores.shape}"
    )
    assert ((found.items >= 0) & (found.items < ITEMS)).all(), found.items
    assert all(len(set(row)) == K for row in found.items.tolist()), found.items
    assert np.isfinite(found.scores).all(), found.scores
    assert (np.diff(found.scores, axis=1) <= 0).all(), found.scores


def keeps_to_the_lists(case: GroundingCase) -> None:
    """Nothing seen and nothing denied is recommended, only what is allowed, and all of that."""
    allow = np.array([0, 3, 7, 8, 12, 13], np.int32)
    deny = np.array([8], np.int32)
    found = case.ranker(allow=allow, deny=deny).slates(_queries(), K)
    for query, row, scores in zip(_queries(), found.items, found.scores, strict=True):
        rest = set(allow.tolist()) - {8} - set(query.history.tolist())
        assert set(row[: len(rest)].tolist()) == rest, (
            f"{row} instead of {rest} after {query.history}"
        )
        assert (row[len(rest) :] == NO_ITEM).all(), row
        assert np.isneginf(scores[len(rest) :]).all(), scores
    everyone = case.ranker({"exclude_seen": False}).slates(_queries(), ITEMS)
    assert all(sorted(row) == list(range(ITEMS)) for row in everyone.items.tolist()), everyone.items


def keeps_a_title_together(case: GroundingCase) -> None:
    """Items of one title have one score and stand together, the most popular first."""
    found = case.ranker({"exclude_seen": False}).slates(_queries(), ITEMS)
    for row, scores in zip(found.items.tolist(), found.scores, strict=True):
        places = [row.index(item) for item in SAME]
        assert places == list(range(places[0], places[0] + len(SAME))), (
            f"items {SAME} are at {places}"
        )
        assert len(set(scores[places])) == 1, scores[places]


def ranks_a_batch_like_its_rows(case: GroundingCase) -> None:
    """A query gets the same slate alone, in a batch, and in another order, whatever is random in
    it.
    """
    for decoding in ("beam", "sample"):
        ranker = case.ranker(ground={"decoding": decoding, "vote": "mean"})
        some = _queries()
        together = ranker.slates(some, K)
        alone = Slates.concatenate(
            [ranker.slates(some.take(np.array([i])), K) for i in range(len(some))]
        )
        turned = ranker.slates(some.take(np.arange(len(some))[::-1]), K)
        for other in (alone, Slates(some.ids, turned.items[::-1], turned.scores[::-1])):
            np.testing.assert_array_equal(other.items, together.items)
            np.testing.assert_allclose(other.scores, together.scores, rtol=1e-4, atol=1e-4)


def fills_shards(case: GroundingCase) -> None:
    """Written in shards, slates are the same; a query with nothing left to recommend gets an empty
    one.
    """
    some = _queries([0], list(range(ITEMS)), [4, 5], [7])
    ranker = case.ranker({"batch_size": 2, "shard_size": 3})
    folder = Path(tempfile.mkdtemp(dir=case.folder))
    found = recommend(ranker, some, folder)
    kept = np.array([0, 2, 3])
    assert (found.items[1] == NO_ITEM).all(), found.items[1]
    np.testing.assert_array_equal(found.items[kept], ranker.slates(some.take(kept), K).items)
    assert len(list(folder.glob("*.parquet"))) == 2, sorted(folder.iterdir())


def scores_every_item_from_its_slates(case: GroundingCase) -> None:
    """Saved slates give every item a score, the best to those of the slate, without the model."""
    for vote in ("best", "mean"):
        queries = _queries([0], list(range(ITEMS)), [4, 5], [7], [])
        settings = {"batch_size": 2, "shard_size": 3}
        folder = Path(tempfile.mkdtemp(dir=case.folder))
        slates = recommend(case.ranker(settings, {"vote": vote}), queries, folder)
        saved = SavedSlates(folder)
        ranker = case.ranker(settings, {"vote": vote}, loads=False)
        scores = ranker.scores(queries, saved)
        assert (scores.shape, scores.dtype) == ((5, ITEMS), np.float32), scores
        assert not np.isnan(scores).any(), scores
        for query, row, slate in zip(queries, scores, slates.items, strict=True):
            allowed = np.delete(row, query.history)
            best = np.sort(allowed)[::-1][: (slate != NO_ITEM).sum()]
            _close(row[slate[slate != NO_ITEM]], best)
        backwards = np.arange(len(queries))[::-1]
        _close(ranker.scores(queries.take(backwards), saved)[::-1], scores)
        alone = [ranker.scores(queries.take(np.array([i])), saved) for i in range(len(queries))]
        _close(np.concatenate(alone), scores)


def _close(one: NDArray[np.floating], other: NDArray[np.floating]) -> None:
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


RULES = (
    ranks_real_items,
    keeps_to_the_lists,
    keeps_a_title_together,
    ranks_a_batch_like_its_rows,
    fills_shards,
    scores_every_item_from_its_slates,
)


def _queries(*rows: list[int]) -> Queries:
    return Queries.of(
        Ragged.of(rows or [[0], [1, 2, 3], [4, 5, 6, 7, 8, 9, 4, 5, 6, 7], [3, 13], [2]]), 0
    )
