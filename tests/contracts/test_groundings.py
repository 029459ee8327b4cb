"""What every registered grounding must obey, a stranger's too: found through the registry, never listed here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from groundrec.core.config_learn import Model
from groundrec.core.recipe import Recipe
from groundrec.core.registry import names, resolve
from groundrec.core.types import NO_ITEM, Queries, Ragged, Slates
from groundrec.models.language import LanguageModel, scratch
from groundrec.rank.recommend import Parts, Ranker, recommend
from groundrec.text.prompts import Template
from groundrec.text.tokens import Encoder
from groundrec.text.trie import Trie
from tests.shops import planted_shop

SHOP = planted_shop()
TITLES = [*SHOP.catalogue.titles[:10], "Title 3", "Title 3"]
"""Three items of one title among twelve."""
SCRATCH = {"hidden": 32, "layers": 2, "heads": 2, "vocabulary": 300, "dropout": 0.0}
K = 6


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    torch.manual_seed(3)
    made = scratch(Model.model_validate({"scratch": SCRATCH}), TITLES)
    for parameter in made.model.parameters():
        parameter.data.mul_(3.0)
    made.model.eval()
    return made


@pytest.fixture(params=names("groundings"))
def build(request: pytest.FixtureRequest, lm: LanguageModel, tmp_path: Path) -> Any:
    """Return a function that builds the grounding, with settings."""

    def with_settings(**sections: Any) -> Ranker:
        ground = {"texts": 2, "max_new_tokens": 12, **sections.pop("ground", {})}
        ranked = {"k": K, **sections.pop("recommend", {})}
        recipe = Recipe.model_validate({"recommend": ranked, "ground": ground, "evaluate": {"ks": [1, K]}})
        encoder = Encoder(Template(item="{title}, ", answer="{title}\n"), lm.tokenizer, TITLES, 256)
        popularity = np.arange(len(TITLES))
        trie = Trie.compile(encoder.answers, popularity)
        return resolve("groundings", request.param)(
            Parts(lm, encoder, trie, recipe, popularity, tmp_path / "kept", **sections)
        )

    return with_settings


def queries(rows: list[list[int]] | None = None) -> Queries:
    return Queries.of(Ragged.of(rows or [[0], [1, 2, 3], [4, 5, 6, 7, 8, 9, 4, 5, 6, 7], [3, 11], [2]]), 0)


def test_slates_hold_items_of_the_catalogue_once_and_scores_descend(build: Any) -> None:
    found = build().slates(queries(), K)
    assert (found.items.dtype, found.scores.dtype) == (np.int32, np.float32)
    assert found.items.shape == found.scores.shape == (5, K)
    assert ((found.items >= 0) & (found.items < len(TITLES))).all()
    assert all(len(set(row)) == K for row in found.items.tolist())
    assert np.isfinite(found.scores).all()
    assert (np.diff(found.scores, axis=1) <= 0).all()


def test_nothing_seen_and_nothing_denied_is_recommended_and_only_what_is_allowed(build: Any) -> None:
    allow, deny = np.array([0, 3, 7, 8, 10, 11], np.int32), np.array([8], np.int32)
    found = build(allow=allow, deny=deny).slates(queries(), K)
    for query, row in zip(queries(), found.items, strict=True):
        rest = set(allow.tolist()) - {8} - set(query.history.tolist())
        assert row[: len(rest)].tolist() == [i for i in row if i in rest]
        assert set(row[: len(rest)].tolist()) == rest
        assert (row[len(rest) :] == NO_ITEM).all()
        assert np.isneginf(found.scores[found.items == NO_ITEM]).all()
    everyone = build(recommend={"exclude_seen": False}).slates(queries(), len(TITLES))
    assert all(sorted(row) == list(range(len(TITLES))) for row in everyone.items.tolist())


def test_items_of_one_title_stand_together_the_most_popular_first(build: Any) -> None:
    found = build(recommend={"exclude_seen": False}).slates(queries(), len(TITLES))
    for row, scores in zip(found.items.tolist(), found.scores, strict=True):
        places = [row.index(item) for item in (11, 10, 3)]
        assert places == [places[0], places[0] + 1, places[0] + 2]
        assert len(set(scores[places])) == 1


@pytest.mark.parametrize("decoding", ["beam", "sample"])
def test_a_query_alone_gets_what_it_gets_in_a_batch_whatever_the_padding(build: Any, decoding: str) -> None:
    ranker, some = build(ground={"decoding": decoding, "vote": "mean"}), queries()
    together = ranker.slates(some, K)
    alone = Slates.concatenate([ranker.slates(some.take(np.array([i])), K) for i in range(len(some))])
    turned = ranker.slates(some.take(np.arange(len(some))[::-1]), K)
    for other in (alone, Slates(some.ids, turned.items[::-1], turned.scores[::-1])):
        np.testing.assert_array_equal(other.items, together.items)
        np.testing.assert_allclose(other.scores, together.scores, rtol=1e-4, atol=1e-4)


def test_shards_hold_the_same_and_a_query_without_an_item_left_gets_an_empty_slate(build: Any, tmp_path: Path) -> None:
    some = queries([[0], list(range(12)), [4, 5], [7]])
    ranker = build(recommend={"batch_size": 2, "shard_size": 3})
    (tmp_path / "slates").mkdir()
    found = recommend(ranker, some, tmp_path / "slates")
    assert (found.items[1] == NO_ITEM).all()
    kept = np.array([0, 2, 3])
    np.testing.assert_array_equal(found.items[kept], ranker.slates(some.take(kept), K).items)
    assert len(list((tmp_path / "slates").iterdir())) == 2
