"""What is measured of a data set, with answers counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from groundrec.core.config import Prepare
from groundrec.core.types import Catalogue
from groundrec.data.dataset import load
from groundrec.data.prepare import prepare
from groundrec.data.summary import (
    count_events,
    filter_counts,
    leakage,
    summarize,
    title_word_counts,
    train_popularity,
)
from tests.data.conftest import Event, WriteShop
from tests.shops import queries_of

CATALOGUE = Catalogue(("a", "b", "c", "d"), ("One film", "One film", "A much longer title", "x"))
SPLITS = {
    "train": queries_of([("ann", 10, [0], [1]), ("ann", 20, [0, 1], [2, 0]), ("bo", 30, [1], [1])]),
    "valid": queries_of([("bo", 35, [1, 1], [0])], 3),
    "test": queries_of([("ann", 25, [0, 1, 2, 0], [3]), ("cy", 40, [2, 2, 2], [1])], 4),
}


def test_events_are_every_target_and_the_history_before_the_first() -> None:
    assert count_events(SPLITS) == (1 + 1 + 2 + 1) + (1 + 1 + 1) + (3 + 1)


def test_measure() -> None:
    assert summarize(CATALOGUE, SPLITS) == {
        "users": 3,
        "items": 4,
        "events": 12,
        "density": 1.0,
        "duplicate_titles": 1,
        "time_span": ["1970-01-01T00:00:10Z", "1970-01-01T00:00:40Z"],
    }


def test_leakage() -> None:
    assert leakage(SPLITS) == {
        "train_events_at_or_after_first_test_moment": 0.25,
        "train_events_at_or_after_a_test_moment_on_average": pytest.approx(1 - (3 / 4 + 4 / 4) / 2),
        "test_queries_of_users_unseen_in_train": 0.5,
        "test_targets_unseen_in_train": 0.5,
    }


def test_popularity_counts_the_targets_of_train() -> None:
    assert train_popularity(SPLITS, 4).tolist() == [1, 2, 1, 0]


def test_words_are_between_blanks() -> None:
    assert title_word_counts(CATALOGUE.titles).tolist() == [2, 2, 4, 1]


def test_filters_say_what_was_taken_and_what_was_left() -> None:
    rows = {
        "read": 100,
        "bad": 3,
        "bad_items": 7,
        "duplicate_events": 0,
        "outside_k_core": 40,
        "kept": 57,
    }
    assert filter_counts(rows) == [
        ("bad", 3, 97),
        ("duplicate_events", 0, 97),
        ("outside_k_core", 40, 57),
    ]
    assert filter_counts({}) == []


@pytest.mark.parametrize("protocol", ["global-time", "leave-one-out"])
def test_what_is_measured_is_what_was_prepared(
    protocol: str, shop: WriteShop, regulars: list[Event], tmp_path: Path
) -> None:
    """The card of a data set, counted while it was made, agrees with its queries."""
    section = Prepare(k_core=0, valid_share=0.25, test_share=0.25, protocol=protocol)
    card = prepare(shop(regulars), section, 0, tmp_path / "out")
    dataset = load(tmp_path / "out")
    splits = {name: dataset.split(name) for name in SPLITS}
    measured = summarize(dataset.catalogue, splits)
    assert {key: card[key] for key in measured} == measured
    assert leakage(splits) == card["leakage"]
