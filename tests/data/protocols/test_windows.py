"""Windows of one target per event, against plain Python; what is kept in `events.parquet`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundrec.data.arrays import as_texts, bytes_of
from groundrec.data.digests import hash_texts, quoted
from groundrec.data.events import Events, read_events, write_events
from groundrec.data.protocols.windows import one_query_per_event, target_query_ids

COUNTS = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def events_of(counts: list[int], times: list[int]) -> Events:
    """Return users with so many events each, oldest first; item n is the n-th event's."""
    user = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    drawn = np.array([times[i % len(times)] for i in range(len(user))], np.int64)
    return Events(
        np.array([f"user {i}" for i in range(len(counts))]),
        user,
        drawn[np.lexsort((drawn, user))],
        np.arange(len(user), dtype=np.int32),
        np.arange(len(user), dtype=np.int32) % 2,
        ("5.0", ""),
    )


@given(
    counts=COUNTS,
    times=st.lists(st.integers(0, 5), min_size=1, max_size=50),
    least=st.integers(1, 3),
    most=st.integers(1, 4),
)
def test_every_event_with_enough_before_it_is_a_target(
    counts: list[int], times: list[int], least: int, most: int
) -> None:
    events = events_of(counts, times)
    expected = []
    for u, name in enumerate(events.users):
        own = np.flatnonzero(events.user == u).tolist()
        expected += [
            (str(name), int(events.time[e]), own[max(0, i - most) : i], [e])
            for i, e in enumerate(own)
            if i >= least
        ]
    expected.sort(key=lambda row: row[1])
    splits = one_query_per_event(events, min_history=least, max_history=most)
    found = [query for part in splits.values() for query in part]
    assert [(q.user, q.time, q.history.tolist(), q.targets.tolist()) for q in found] == expected
    assert [q.id for q in found] == list(range(len(expected)))
    assert len(splits["train"]) == int(len(expected) * 0.8)
    assert len(splits["train"]) + len(splits["valid"]) == int(len(expected) * 0.9)
    ids = target_query_ids(events, splits)
    assert {int(e): int(i) for e, i in enumerate(ids) if i >= 0} == {
        row[3][0]: i for i, row in enumerate(expected)
    }


def test_blocks_do_not_show() -> None:
    train = one_query_per_event(events_of([9, 9, 9], [3, 1, 2]), min_history=1, max_history=10)[
        "train"
    ]
    whole = [(q.id, q.user, q.history.tolist()) for q in train]
    assert [(q.id, q.user, q.history.tolist()) for block in train.blocks(2) for q in block] == whole


@settings(deadline=None)
@given(counts=COUNTS)
def test_events_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int]
) -> None:
    events, file = (
        events_of(counts, [7, 8, 9]),
        tmp_path_factory.mktemp("events") / "events.parquet",
    )
    ids = np.arange(len(events), dtype=np.int64) - 1
    digest = write_events(events, ids, file)
    found, found_ids, found_digest = read_events(file)
    assert found_digest == digest
    assert found_ids.tolist() == ids.tolist()
    for name in ("users", "user", "time", "items"):
        assert getattr(found, name).tolist() == getattr(events, name).tolist()
    texts = [[e.ratings[r] for r in e.rating] for e in (events, found)]
    assert texts[0] == texts[1]


def test_another_rating_is_another_digest(tmp_path: Path) -> None:
    events, ids = events_of([3], [1]), np.arange(3)
    other = Events(
        events.users,
        events.user,
        events.time,
        events.items,
        events.rating[::-1] * 0,
        events.ratings,
    )
    assert write_events(events, ids, tmp_path / "a") != write_events(other, ids, tmp_path / "b")


@given(texts=st.lists(st.text("ab,\"'\\é\u2028\n ", max_size=4), min_size=1, max_size=5))
def test_quoted_texts_are_json(texts: list[str]) -> None:
    joined = bytes(bytes_of(quoted(as_texts(texts))))
    assert b"[" + joined[2:] + b"]" == json.dumps(texts).encode()
    assert hash_texts(texts) == hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def test_bytes_of_a_slice() -> None:
    assert bytes(bytes_of(as_texts(["ab", "c", "de"]).slice(1, 2))) == b"cde"
    assert bytes(bytes_of(pa.array([], pa.string()))) == b""
