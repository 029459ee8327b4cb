from __future__ import annotations

import hashlib
import logging
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groundrec.core.config import Data, Prepare
from groundrec.core.errors import ConfigError, DataError
from groundrec.core.types import PreparedDataset, Query
from groundrec.data.dataset import SPLITS, load
from groundrec.data.prepare import prepare
from groundrec.data.protocols.by_time import (
    Splitter,
    group_moments,
    split_by_time,
    split_last_two,
    split_queries,
)
from tests.data.conftest import Event, WriteShop

LOOSE = Prepare(k_core=0, valid_share=0.25, test_share=0.25)


def prepared(data: Data, section: Prepare, folder: Path, seed: int = 0) -> PreparedDataset:
    prepare(data, section, seed, folder)
    return load(folder)


def queries(dataset: PreparedDataset) -> list[Query]:
    return [query for name in SPLITS for query in dataset.split(name)]


def ids(dataset: PreparedDataset, items: np.ndarray) -> list[str]:
    return [dataset.catalogue.item_ids[i] for i in items]


def test_two_events_in_one_second_are_one_moment(
    shop: WriteShop, regulars: list[Event], tmp_path: Path
) -> None:
    dataset = prepared(shop([*regulars, (1, 7, 3001)]), LOOSE, tmp_path / "out")
    (moment,) = [q for q in queries(dataset) if q.user == "1" and q.time == 3001]
    assert ids(dataset, moment.history) == ["1", "2"]
    by_digest = sorted("37", key=lambda item: hashlib.md5(f"1|{item}|0".encode()).hexdigest())
    assert ids(dataset, moment.targets) == by_digest
    (after,) = [q for q in queries(dataset) if q.user == "1" and q.time == 4001]
    assert ids(dataset, after.history) == ["1", "2", *by_digest]


def test_the_seed_decides_the_order_inside_a_moment(
    shop: WriteShop, regulars: list[Event], tmp_path: Path
) -> None:
    data = shop([*regulars, *((1, item, 3001) for item in range(7, 20))])
    orders = [prepared(data, LOOSE, tmp_path / "out", seed).fingerprint for seed in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]


def test_global_time_cuts_at_one_time_for_everyone(
    shop: WriteShop, regulars: list[Event], tmp_path: Path
) -> None:
    dataset = prepared(shop(regulars), LOOSE, tmp_path / "out")
    assert dataset.train.times.max() < dataset.valid.times.min()
    assert dataset.valid.times.max() < dataset.test.times.min()
    assert [len(dataset.split(name).targets.values) for name in SPLITS] == [12, 6, 6]
    assert dataset.card["leakage"]["train_events_at_or_after_first_test_moment"] == 0  # type: ignore[index]


def test_query_ids_run_on_and_train_gives_the_users_sequences(
    shop: WriteShop, regulars: list[Event], tmp_path: Path
) -> None:
    dataset = prepared(shop(regulars), LOOSE, tmp_path / "out")
    assert [q.id for q in queries(dataset)] == list(range(24))
    assert [ids(dataset, row) for row in dataset.train.sequences()] == [["1", "2", "3"]] * 4


def test_history_keeps_the_most_recent(
    shop: WriteShop, regulars: list[Event], tmp_path: Path
) -> None:
    dataset = prepared(
        shop(regulars), LOOSE.model_copy(update={"max_history": 2}), tmp_path / "out"
    )
    last = next(q for q in dataset.test if q.user == "1" and q.time == 6001)
    assert ids(dataset, last.history) == ["4", "5"]


def test_a_user_who_starts_in_test_has_no_query_there_but_the_card_counts_it(
    shop: WriteShop, regulars: list[Event], tmp_path: Path
) -> None:
    card = prepare(shop([*regulars, (9, 1, 6100), (9, 2, 6200)]), LOOSE, 0, tmp_path / "out")
    dataset = load(tmp_path / "out")
    (query,) = [q for q in queries(dataset) if q.user == "9"]
    assert ids(dataset, query.history) == ["1"]
    assert card["skipped_without_history"]["test"] == {"queries": 1, "events": 1}
    assert card["leakage"]["test_queries_of_users_unseen_in_train"] > 0


def test_items_are_numbered_as_numbers_or_else_as_text(
    shop: WriteShop, regulars: list[Event], tmp_path: Path
) -> None:
    numbers = prepared(shop([*regulars, (1, 10, 1)]), LOOSE, tmp_path / "a")
    assert numbers.catalogue.item_ids == ("1", "2", "3", "4", "5", "6", "10")
    texts = prepared(shop([*regulars, (1, "1b", 1), (1, 10, 2)]), LOOSE, tmp_path / "b")
    assert texts.catalogue.item_ids == ("1", "10", "1b", "2", "3", "4", "5", "6")


def test_leave_one_out_takes_the_last_two_moments_and_warns(
    shop: WriteShop,
    regulars: list[Event],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("groundrec"), "propagate", True)
    early = [("early", item, item) for item in range(1, 4)]
    short = [("short", item, item) for item in range(1, 3)]
    section = Prepare(protocol="leave-one-out", k_core=0)
    dataset = prepared(shop([*regulars, *early, *short]), section, tmp_path / "out")
    assert {q.user: ids(dataset, q.targets) for q in dataset.test} == {
        **{str(u): ["6"] for u in range(1, 5)},
        "early": ["3"],
    }
    assert {q.user: ids(dataset, q.targets) for q in dataset.valid} == {
        **{str(u): ["5"] for u in range(1, 5)},
        "early": ["2"],
    }
    assert {q.user for q in dataset.train} >= {"short"}
    assert dataset.card["leakage"]["train_events_at_or_after_first_test_moment"] == pytest.approx(
        16 / 19
    )  # type: ignore[index]
    assert "leave-one-out: for the average test query, 16.8% of the training events" in caplog.text


def test_duplicates_and_low_ratings_are_dropped_and_counted(
    tmp_path: Path, regulars: list[Event]
) -> None:
    path = tmp_path / "rated.csv"
    rows = [(*event, 5) for event in regulars] + [
        (1, 1, 1001, 3),
        (1, 8, 1500, 2),
        (2, 8, 1500, ""),
    ]
    path.write_text(
        "user,item,time,rating\n" + "".join(",".join(map(str, row)) + "\n" for row in rows)
    )
    card = prepare(
        Data(source="table", path=path),
        LOOSE.model_copy(update={"min_rating": 4.0}),
        0,
        tmp_path / "out",
    )
    counts = {"duplicate_events": 1, "below_min_rating": 2, "outside_k_core": 0, "kept": 24}
    assert card["rows"] == {"read": 27, "bad": 0, "bad_items": 0, **counts}


def test_two_users_are_too_few(shop: WriteShop, regulars: list[Event], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too few users are left after reading: 2 with 12 events"):
        prepare(shop(e for e in regulars if e[0] in (1, 2)), LOOSE, 0, tmp_path / "out")
    with pytest.raises(
        DataError,
        match=r"after the 5-core: 0 with 0 events.*2 users, 6 items, 12 events[\s\S]*k_core=0",
    ):
        prepare(shop(e for e in regulars if e[0] in (1, 2)), Prepare(), 0, tmp_path / "out")


def test_an_empty_split_is_refused_and_the_old_data_set_stays(
    shop: WriteShop, regulars: list[Event], tmp_path: Path
) -> None:
    before = prepared(shop(regulars), LOOSE, tmp_path / "out").fingerprint
    with pytest.raises(
        DataError, match=r"the \w+ split is empty[\s\S]*at 1 different times[\s\S]*prepare\."
    ):
        prepare(shop((u, i, 7) for u, i, _ in regulars), LOOSE, 0, tmp_path / "out")
    assert load(tmp_path / "out").fingerprint == before


def test_shares_must_leave_something_to_train_on() -> None:
    with pytest.raises(ConfigError, match="leave nothing to train on"):
        Prepare(valid_share=0.5, test_share=0.5)


def test_unknown_protocol_names_the_known(
    shop: WriteShop, regulars: list[Event], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="did you mean 'global-time'"):
        prepare(shop(regulars), Prepare(protocol="global-tme"), 0, tmp_path / "out")


EVENTS = st.lists(
    st.tuples(st.sampled_from("abcde"), st.integers(0, 5), st.integers(0, 30)),
    min_size=1,
    max_size=60,
)


@given(
    events=EVENTS,
    splitter=st.sampled_from([split_by_time, split_last_two]),
    max_history=st.integers(1, 9),
)
def test_every_event_is_a_target_once_or_counted_and_every_history_is_the_past(
    events: list[tuple[str, int, int]], splitter: Splitter, max_history: int
) -> None:
    ordered = sorted(set(events), key=lambda e: (e[0], e[2], e[1]))
    users, number = np.unique([user for user, *_ in ordered], return_inverse=True)
    items, times = np.array([e[1:] for e in ordered]).T
    moments = group_moments(number.astype(np.int32), times, items.astype(np.int32))
    splits, skipped = split_queries(moments, splitter(moments, LOOSE), users, max_history)
    queries = [query for part in splits.values() for query in part]
    targets = [(q.user, item, q.time) for q in queries for item in q.targets.tolist()]
    assert (
        len(targets)
        == len(set(targets))
        == len(ordered) - sum(s["events"] for s in skipped.values())
    )
    assert set(targets) <= set(ordered)
    for q in queries:
        past = [item for user, item, time in ordered if user == q.user and time < q.time]
        assert q.history.tolist() == past[-max_history:]
        assert past or q.id < len(splits["train"])


@given(events=EVENTS)
def test_global_time_never_trains_on_what_happens_at_or_after_a_test_moment(
    events: list[tuple[str, int, int]],
) -> None:
    ordered = sorted(set(events), key=lambda e: (e[0], e[2]))
    _, number = np.unique([user for user, *_ in ordered], return_inverse=True)
    times = np.array([time for *_, time in ordered])
    moments = group_moments(number.astype(np.int32), times, np.zeros(len(ordered), np.int32))
    split = split_by_time(moments, LOOSE)
    for earlier, later in ((0, 1), (1, 2), (0, 2)):
        assert moments.time[split == earlier].max(initial=-1) < moments.time[split == later].min(
            initial=99
        )
    assert moments.sizes[split == 2].sum() >= round(0.25 * len(ordered)) - 1


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 99))
def test_the_order_of_the_file_changes_nothing(
    shop: WriteShop, regulars: list[Event], tmp_path: Path, seed: int
) -> None:
    events = [*regulars, *((user, item, 3000) for user in range(1, 5) for item in (7, 8, 9))]
    titles = {str(item): f"Film {item % 4}" for item in range(1, 10)}
    straight = prepared(shop(events, titles), LOOSE, tmp_path / "out")
    mixed = random.Random(seed)
    mixed.shuffle(events)
    shuffled_titles = dict(mixed.sample(sorted(titles.items()), len(titles)))
    assert (
        prepared(shop(events, shuffled_titles), LOOSE, tmp_path / "again").fingerprint
        == straight.fingerprint
    )
