"""What every registered signal must obey, a stranger's too: found through the registry, never listed here."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from groundrec.core.errors import ArtifactError
from groundrec.core.recipe import Recipe
from groundrec.core.registry import names, resolve
from groundrec.core.types import PreparedDataset, Queries, Ragged
from groundrec.rank.signals import Signal
from tests.shops import planted_shop

RECIPE = Recipe.model_validate(
    {"sequential": {"hidden": 16, "layers": 1, "epochs": 30, "batch_size": 8, "learning_rate": 0.01, "dropout": 0}}
)
SHOP = planted_shop()
GIVEN = {"external"}
"""Signals that are read, not fitted: they know queries by their ids alone, and have tests of their own."""
FINDS_AMONG = {
    "popularity": 12,
    "recent-popularity": 12,
    "item-knn": 2,
    "co-occurrence": 1,
    "sasrec": 1,
    "gru4rec": 1,
    "caser": 1,
}
"""The planted item is among so many best unseen ones; other signals must at least score it."""


@pytest.fixture(scope="module", params=sorted(set(names("signals")) - GIVEN))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def signal(name: str, tmp_path_factory: pytest.TempPathFactory) -> Signal:
    return fitted(name, SHOP, tmp_path_factory.mktemp(name))


def fitted(name: str, shop: PreparedDataset, folder: Path) -> Signal:
    signal = resolve("signals", name)(RECIPE)
    signal.fit(shop, folder)
    return signal


def with_history(queries: Queries, rows: list[list[int]]) -> Queries:
    return dataclasses.replace(queries.take(np.arange(len(rows))), history=Ragged.of(rows))


def test_scores_are_finite_floats_one_per_item_even_without_a_history(signal: Signal) -> None:
    queries = with_history(SHOP.test, [[], [3], [1, 2, 1], list(range(12)) * 20])
    scores = signal.scores(queries)
    assert scores.shape == (4, 12)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()


def test_no_queries_have_no_scores(signal: Signal) -> None:
    assert signal.scores(SHOP.test.take(np.arange(0))).shape == (0, 12)


def test_the_planted_next_item_is_found(name: str, signal: Signal) -> None:
    scores = signal.scores(SHOP.test)
    for query, row in zip(SHOP.test, scores, strict=True):
        unseen = np.setdiff1d(np.arange(12), query.history)
        better = np.count_nonzero(row[unseen] > row[query.targets[0]])
        assert better < FINDS_AMONG.get(name, 12)


def test_the_future_changes_nothing(name: str, signal: Signal, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    test = SHOP.test
    shuffled = dataclasses.replace(
        test,
        times=test.times + 10**6,
        history=Ragged.of(rng.permutation(12)[:7] for _ in range(len(test))),
        targets=Ragged.of(rng.permutation(12)[:2] for _ in range(len(test))),
    )
    other = fitted(name, dataclasses.replace(SHOP, test=shuffled), tmp_path)
    np.testing.assert_array_equal(other.scores(test), signal.scores(test))
    blind = dataclasses.replace(test, targets=shuffled.targets, ids=test.ids + 7, times=test.times + 1)
    np.testing.assert_array_equal(signal.scores(blind), signal.scores(test))


def test_a_saved_signal_scores_the_same_and_a_missing_one_is_an_error(
    name: str, signal: Signal, tmp_path: Path
) -> None:
    kind = resolve("signals", name)
    with pytest.raises(ArtifactError):
        kind.load(tmp_path / "nothing", RECIPE)
    signal.save(tmp_path / "saved")
    np.testing.assert_array_equal(kind.load(tmp_path / "saved", RECIPE).scores(SHOP.test), signal.scores(SHOP.test))


def test_nothing_saved_is_a_pickle(signal: Signal, tmp_path: Path) -> None:
    signal.save(tmp_path)
    assert {file.suffix for file in tmp_path.iterdir()} <= {".npz", ".safetensors", ".json", ".parquet"}
    for file in tmp_path.glob("*.npz"):
        with np.load(file, allow_pickle=False) as arrays:
            assert all(arrays[key].dtype != object for key in arrays)


def test_a_batch_scores_like_its_rows(signal: Signal) -> None:
    queries = with_history(SHOP.test, [[], [3], [1, 2, 1], list(range(12)) * 6, [5, 4]])
    singles = np.concatenate([signal.scores(queries.take(np.array([i]))) for i in range(len(queries))])
    np.testing.assert_allclose(signal.scores(queries), singles, rtol=1e-4, atol=1e-5)
    turned = signal.scores(queries.take(np.arange(len(queries))[::-1]))
    np.testing.assert_allclose(turned[::-1], singles, rtol=1e-4, atol=1e-5)


def test_fitting_twice_gives_the_same_scores(name: str, signal: Signal, tmp_path: Path) -> None:
    np.testing.assert_array_equal(fitted(name, SHOP, tmp_path).scores(SHOP.test), signal.scores(SHOP.test))


def test_only_popularity_is_blind_to_the_order_of_a_history(name: str, signal: Signal) -> None:
    forward, backward = signal.scores(with_history(SHOP.test, [[2, 3, 4, 8], [8, 4, 3, 2]]))
    assert np.array_equal(forward, backward) == (name in ("popularity", "recent-popularity"))
