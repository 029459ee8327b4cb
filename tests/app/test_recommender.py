"""A trained run as an object and as a command."""

from __future__ import annotations

import json

import pytest

from groundrec.app.recommender import Recommender
from groundrec.core.errors import DataError
from tests.app.conftest import FILMS, Tiny, title
from tests.commands import command


@pytest.fixture(scope="module")
def recommender(tiny: Tiny) -> Recommender:
    return Recommender.load(tiny.run)


def test_answers_are_films_of_the_catalogue_that_were_not_seen(recommender: Recommender) -> None:
    history = [title(i) for i in range(4, 12)]
    found = recommender.recommend(history, k=10)
    assert len({r.item_id for r in found}) == 10
    assert {r.title for r in found} <= {title(i) for i in range(FILMS)} - set(history)
    assert all(r.title == title(int(r.item_id[1:])) for r in found)
    scores = [r.score for r in found]
    assert scores == sorted(scores, reverse=True)


def test_the_planted_next_film_comes_first(recommender: Recommender) -> None:
    starts = range(0, FILMS, 3)
    firsts = [
        recommender.recommend([title(start + i) for i in range(8)], k=1)[0].title
        for start in starts
    ]
    right = sum(first == title(start + 8) for first, start in zip(firsts, starts, strict=True))
    assert right > len(starts) / 2


def test_titles_and_item_ids_name_the_same_films(recommender: Recommender) -> None:
    by_title = recommender.recommend([title(3), title(4)], k=5)
    assert recommender.recommend(["f3", "f4"], k=5) == by_title


def test_all_but_the_history_can_be_had_and_no_more(recommender: Recommender) -> None:
    found = recommender.recommend(["f1", "f2"], k=10 * FILMS)
    assert {r.item_id for r in found} == {f"f{i}" for i in range(FILMS)} - {"f1", "f2"}


def test_an_empty_history_is_answered(recommender: Recommender) -> None:
    assert len(recommender.recommend([], k=3)) == 3


def test_a_film_that_is_not_there_is_refused(recommender: Recommender) -> None:
    with pytest.raises(DataError, match=r"did you mean 'Film 7 \(1977\)'"):
        recommender.recommend(["film 7 (1977)"])


def test_the_command_prints_what_the_object_returns(tiny: Tiny, recommender: Recommender) -> None:
    expected = recommender.recommend([title(3), "f4"], k=5)
    as_json = command("recommend", tiny.run, title(3), "f4", "-k", 5, "--json")
    assert (as_json.code, as_json.err) == (0, "")
    assert json.loads(as_json.out) == [vars(r) for r in expected]
    lines = command("recommend", tiny.run, title(3), "f4", "-k", 5).out.splitlines()
    for place, (line, r) in enumerate(zip(lines, expected, strict=True), 1):
        assert line.split()[0] == str(place)
        assert line.endswith(f"{r.title}  [{r.item_id}]")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--allow", title(3)), f"everything allowed is in the history already: {title(3)}"),
        (
            ("--allow", title(4), "--deny", title(4)),
            f"everything allowed is denied or in the history already: {title(4)}",
        ),
    ],
)
def test_lists_that_leave_nothing_are_refused_in_titles(
    tiny: Tiny, asked: tuple[str, ...], said: str
) -> None:
    done = command("recommend", tiny.run, title(3), *asked)
    assert done.code == 2
    assert f"error: {said}\n" in done.err
    assert "next: name another item" in done.err


def test_an_item_of_the_history_is_refused_by_its_title(tiny: Tiny) -> None:
    done = command("explain-item", tiny.run, title(3), title(3))
    assert done.code == 2
    assert f"error: this item is in the history already: {title(3)}\n" in done.err
