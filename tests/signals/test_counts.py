"""Each signal against counts made by hand or by the plainest loop."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundrec.core.errors import ArtifactError
from groundrec.core.recipe import Recipe
from groundrec.core.types import Catalogue, PreparedDataset, Queries
from groundrec.signals.counts import CoOccurrence, ItemKNN, Popularity
from groundrec.signals.networks import SASRec
from tests.shops import planted_shop, queries_of

ITEMS = 6
walks = st.lists(
    st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=9), min_size=1, max_size=5
)
histories = st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=6), min_size=1, max_size=4)
DEFAULTS = Recipe.model_validate({})
FEW = Recipe.model_validate(
    {
        "item_knn": {"last_n": 3, "smoothing": 0.1},
        "co_occurrence": {"window": 2, "last_n": 3, "smoothing": 0.1},
    }
)


def shop_of(sequences: list[list[int]]) -> PreparedDataset:
    rows = [
        (f"u{u}", step, seq[:step], [item])
        for u, seq in enumerate(sequences)
        for step, item in enumerate(seq)
    ]
    names = tuple(str(i) for i in range(ITEMS))
    return PreparedDataset(
        Catalogue(names, names), queries_of(rows), queries_of([]), queries_of([]), "shop"
    )


def asked(rows: list[list[int]]) -> Queries:
    return queries_of([(f"q{i}", 10**6, row, [0]) for i, row in enumerate(rows)])


def blend(votes: np.ndarray, sequences: list[list[int]], smoothing: float) -> np.ndarray:
    counts = np.bincount(np.concatenate(sequences), minlength=ITEMS) + 1.0
    popularity = counts / counts.sum()
    if not votes.sum():
        return np.log(popularity)
    return np.log((1 - smoothing) * votes / votes.sum() + smoothing * popularity)


def test_popularity_is_the_log_of_counts_plus_one() -> None:
    signal = Popularity(DEFAULTS)
    signal.fit(shop_of([[0, 1, 1], [1, 5]]), Path())
    expected = np.log(np.array([2, 4, 1, 1, 1, 2]) / 11)
    np.testing.assert_allclose(
        signal.scores(asked([[3], []])), np.stack([expected, expected]), rtol=1e-5
    )


@given(walks, histories)
@settings(max_examples=150, deadline=None)
def test_item_knn_is_the_cosine_of_who_took_what(
    sequences: list[list[int]], rows: list[list[int]]
) -> None:
    signal = ItemKNN(FEW)
    signal.fit(shop_of(sequences), Path())
    took = np.array([[item in seq for seq in sequences] for item in range(ITEMS)], float)
    for row, scores in zip(rows, signal.scores(asked(rows)), strict=True):
        votes = np.zeros(ITEMS)
        for age, item in enumerate(row[::-1][:3]):
            for other in set(range(ITEMS)) - {item}:
                norm = np.linalg.norm(took[item]) * np.linalg.norm(took[other])
                votes[other] += 0.8**age * (took[item] @ took[other] / norm if norm else 0)
        np.testing.assert_allclose(scores, blend(votes, sequences, 0.1), rtol=1e-4, atol=1e-5)


@given(walks, histories)
@settings(max_examples=150, deadline=None)
def test_co_occurrence_counts_what_follows(
    sequences: list[list[int]], rows: list[list[int]]
) -> None:
    signal = CoOccurrence(FEW)
    signal.fit(shop_of(sequences), Path())
    follows: defaultdict[tuple[int, int], float] = defaultdict(float)
    for seq in sequences:
        for a in range(len(seq)):
            for b in range(a + 1, min(a + 3, len(seq))):
                follows[seq[a], seq[b]] += 1 / (b - a)
    damped = np.bincount(np.concatenate(sequences), minlength=ITEMS) + 20.0
    for row, scores in zip(rows, signal.scores(asked(rows)), strict=True):
        votes = np.zeros(ITEMS)
        for age, i in enumerate(row[::-1][:3]):
            for j in range(ITEMS):
                votes[j] += follows[i, j] / damped[i] ** 0.5 / damped[j] ** 0.3 / (age + 1) ** 0.5
        np.testing.assert_allclose(scores, blend(votes, sequences, 0.1), rtol=1e-4, atol=1e-5)


def test_a_hundred_thousand_items_need_no_square_table() -> None:
    items = 100_000
    rows = [("a", 0, [], [7]), ("a", 1, [7], [99_999]), ("b", 2, [], [7]), ("b", 3, [7], [99_999])]
    names = tuple(map(str, range(items)))
    shop = PreparedDataset(
        Catalogue(names, names), queries_of(rows), queries_of([]), queries_of([]), "large"
    )
    for kind in (ItemKNN, CoOccurrence):
        signal = kind(DEFAULTS)
        signal.fit(shop, Path())
        assert signal.table.nnz <= 2
        assert signal.scores(asked([[7]])).argmax() == 99_999


def test_moments_number_what_happened_at_once() -> None:
    queries = queries_of(
        [("a", 5, [8, 9], [1, 2]), ("b", 6, [], [3]), ("a", 7, [8, 9, 1, 2], [4, 5, 6])]
    )
    assert list(map(list, queries.sequences())) == [[8, 9, 1, 2, 4, 5, 6], [3]]
    numbers = queries.moments()
    together = (numbers[1:] == numbers[:-1]).tolist()
    assert together == [False, False, True, False, True, True, False]


def test_sasrec_finds_the_planted_item_and_resumes_instead_of_training_again(
    tmp_path: Path,
) -> None:
    recipe = Recipe.model_validate(
        {
            "sequential": {
                "hidden": 16,
                "layers": 1,
                "epochs": 30,
                "batch_size": 8,
                "learning_rate": 0.01,
                "dropout": 0,
            }
        }
    )
    shop, signal = planted_shop(), SASRec(recipe)
    signal.fit(shop, tmp_path)
    assert signal.scores(shop.test).argmax(1).tolist() == shop.test.targets.values.tolist()
    trained = (tmp_path / "state.pt").stat().st_mtime_ns
    again = SASRec(recipe)
    again.fit(shop, tmp_path)
    assert (tmp_path / "state.pt").stat().st_mtime_ns == trained
    np.testing.assert_array_equal(again.scores(shop.test), signal.scores(shop.test))


def test_sasrec_says_when_it_was_not_fitted(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not fitted"):
        SASRec(DEFAULTS).scores(asked([[1]]))
    with pytest.raises(ArtifactError, match="not fitted"):
        SASRec(DEFAULTS).save(tmp_path)
