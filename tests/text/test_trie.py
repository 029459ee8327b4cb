"""The compiled tree against the plain definition of a prefix tree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundrec.core.errors import DataError
from groundrec.core.types import Ragged
from groundrec.text.trie import ROOT, Trie

END = 0
titles = st.lists(st.lists(st.integers(1, 4), max_size=5), min_size=1, max_size=25)


def compiled(
    rows: list[list[int]], priority: list[int] | None = None
) -> tuple[Trie, list[tuple[int, ...]]]:
    sequences = [(*row, END) for row in rows]
    return (
        Trie.compile(Ragged.of(sequences), None if priority is None else np.array(priority)),
        sequences,
    )


@given(titles)
@settings(max_examples=300, deadline=None)
def test_leaves_are_the_distinct_sequences_with_every_item_that_is_written_so(
    rows: list[list[int]],
) -> None:
    trie, sequences = compiled(rows)
    leaves = [n for n in range(len(trie)) if trie.child_counts[n] == 0]
    found = {tuple(trie.path(n)): set(trie.items(n).tolist()) for n in leaves}
    expected: dict[tuple[int, ...], set[int]] = {}
    for item, sequence in enumerate(sequences):
        expected.setdefault(sequence, set()).add(item)
    assert found == expected


@given(titles)
@settings(max_examples=300, deadline=None)
def test_inner_nodes_are_where_sequences_part_and_hold_what_starts_so(
    rows: list[list[int]],
) -> None:
    trie, sequences = compiled(rows)
    for node in range(len(trie)):
        path = tuple(trie.path(node))
        assert trie.depth[node] == len(path)
        assert set(trie.items(node).tolist()) == {
            i for i, s in enumerate(sequences) if s[: len(path)] == path
        }
        children = trie.children[trie.child_start[node] : trie.child_start[node + 1]]
        assert all(trie.parent[c] == node for c in children)
        continuations = {
            s[len(path)] for s in sequences if s[: len(path)] == path and len(s) > len(path)
        }
        assert set(trie.first_tokens[children].tolist()) == continuations
        assert len(children) != 1 or node == ROOT


def test_items_with_one_title_come_by_priority_then_number() -> None:
    trie, _ = compiled([[1, 2], [1, 2], [1, 2], [3]], priority=[5, 9, 5, 0])
    leaf = next(n for n in range(len(trie)) if trie.path(n) == [1, 2, END])
    assert trie.items(leaf).tolist() == [1, 0, 2]


def test_a_title_that_begins_another_has_its_own_leaf() -> None:
    trie, _ = compiled([[1], [1, 2]])
    assert [trie.path(n) for n in range(len(trie)) if trie.child_counts[n] == 0] == [
        [1, END],
        [1, 2, END],
    ]


def test_unended_prefixes_and_empty_sequences_are_refused() -> None:
    with pytest.raises(DataError, match="continues another"):
        Trie.compile(Ragged.of([[1], [1, 2]]))
    with pytest.raises(DataError, match="without tokens"):
        Trie.compile(Ragged.of([[1], []]))


def test_saved_and_loaded_trees_are_equal(tmp_path) -> None:
    trie, _ = compiled([[1, 2, 3], [1, 2], [4]])
    trie.save(tmp_path / "trie.npz")
    again = Trie.load(tmp_path / "trie.npz")
    assert again.path(3) == trie.path(3)
    assert np.array_equal(again.item_order, trie.item_order)


@given(titles)
@settings(max_examples=300, deadline=None)
def test_a_choice_is_where_the_catalogue_goes_on_in_more_than_one_way(
    rows: list[list[int]],
) -> None:
    trie, sequences = compiled(rows)
    expected = [
        [
            int(len({other[j] for other in sequences if other[:j] == s[:j]}) > 1)
            for j in range(len(s))
        ]
        for s in sequences
    ]
    assert [row.tolist() for row in trie.choices(Ragged.of(sequences))] == expected
