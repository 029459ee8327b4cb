"""The protocols `bigrec-movie` and `bigrec-game` and their files against the reference
implementation.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from groundrec.core.config import Data, Prepare
from groundrec.core.errors import ConfigError, DataError
from groundrec.data.dataset import DatasetReader, load
from groundrec.data.exchange.write_others import bigrec as export
from groundrec.data.prepare import prepare
from tests.data.amazon import ODD_TITLES, item_id
from tests.data.protocols.reference_bigrec import (
    Sample,
    Words,
    published_files,
    published_games,
    published_movies,
)

WORDS = Words('Say "what" is next.', "Seen so far — in order:")
MOVIE, GAME = Prepare(protocol="bigrec-movie"), Prepare(protocol="bigrec-game")
FILMS = [
    "Amélie (2001)",
    "Misérables, Les",
    'Say "hi", "you"',
    "x",
    " blank ",
    "x",
    "東京物語",
    "&amp; co",
    "7",
    "nan",
]
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]


def write_movies(folder: Path, ratings: str, titles: list[str], encoding: str = "utf-8") -> bytes:
    """Write the two files of MovieLens; return those of the items."""
    movies = "".join(f"{7 * n}::{title}::Drama|War\n" for n, title in enumerate(titles)).encode(
        encoding
    )
    (folder / "movies.dat").write_bytes(movies)
    (folder / "ratings.dat").write_text(ratings, encoding="utf-8")
    return movies


def write_games(
    folder: Path, reviews: list[dict[str, Any]], metadata: list[dict[str, Any]]
) -> None:
    for name, rows in (("Video_Games_5", reviews), ("meta_Video_Games", metadata)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.json").write_text(lines, encoding="utf-8")


def movies_of(folder: Path, section: Prepare = MOVIE) -> dict[str, Any]:
    return prepare(Data(source="movielens", path=folder), section, 0, folder / "out")


def games_of(folder: Path, section: Prepare = GAME) -> dict[str, Any]:
    return prepare(
        Data(source="amazon", path=folder, category="Video_Games"), section, 0, folder / "out"
    )


def exported(folder: Path) -> dict[str, str]:
    """Return the JSON files in the words of the reference."""
    template = folder / "words.toml"
    pairs = {"instruction": WORDS.instruction, "input": f"{WORDS.head}{{titles}}\n "}
    template.write_text(
        "".join(f"{key} = {json.dumps(text)}\n" for key, text in pairs.items()), encoding="utf-8"
    )
    files = export(DatasetReader(folder / "out"), folder / "files", template)
    return {file.name: file.read_text(encoding="utf-8") for file in files if file.suffix == ".json"}


def compare(folder: Path, parts: dict[str, list[Sample]] | None, made: Any) -> None:
    """Check that what `made` prepares has the reference's samples and files; None stands for an
    error.
    """
    if parts is None:
        with pytest.raises(DataError):
            made(folder)
        assert not (folder / "out" / "dataset.json").exists()
        return
    made(folder)
    assert exported(folder) == published_files(parts, WORDS)
    dataset = load(folder / "out")
    for name, samples in parts.items():
        told = [(query.user, query.time) for query in dataset.split(name)]
        assert told == [(sample.user, sample.time) for sample in samples]
    assert likes_told(folder / "out") == [
        (str(s.like), [str(x) for x in s.likes]) for p in parts.values() for s in p
    ]


def likes_told(out: Path) -> list[tuple[str, list[str]]]:
    """Return the rating of each target and those of its history, in the order of the queries."""
    events, query_ids = DatasetReader(out).events()
    ratings = [events.ratings[code] for code in events.rating]
    dataset, at = load(out), {query: event for event, query in enumerate(query_ids.tolist())}
    lengths = [
        (q.id, len(q.history)) for name in ("train", "valid", "test") for q in dataset.split(name)
    ]
    return [
        (ratings[at[query]], ratings[at[query] - length : at[query]]) for query, length in lengths
    ]


RATING = st.tuples(
    st.sampled_from(["1", "2", "31", "4 x"]),
    st.integers(0, len(FILMS) - 1),
    st.sampled_from(["0.5", "3", "3.0", "3.5", "4"]),
    st.integers(1, 6),
)


@settings(max_examples=25, deadline=None, phases=PHASES)
@given(
    ratings=st.lists(RATING, min_size=30, max_size=90),
    encoding=st.sampled_from(["utf-8", "latin-1"]),
)
def test_any_ratings_give_the_reference_files_or_an_error(
    tmp_path_factory: pytest.TempPathFactory,
    ratings: list[tuple[str, int, str, int]],
    encoding: str,
) -> None:
    folder = tmp_path_factory.mktemp("films")
    titles = [t for t in FILMS if t.isascii() or encoding == "utf-8" or t != "東京物語"]
    lines = "".join(f"{u}::{7 * (i % len(titles))}::{r}::{t}\n" for u, i, r, t in ratings)
    movies = write_movies(folder, lines, titles, encoding)
    compare(folder, published_movies(movies, lines), movies_of)


REVIEW = st.fixed_dictionaries(
    {
        "reviewerID": st.sampled_from(["A1", "B,2", "D é", "A3", "A4", "A5"]),
        "asin": st.sampled_from([item_id(n) for n in range(6)]),
        "unixReviewTime": st.integers(1_500_000_000, 1_500_000_005),
    },
    optional={"overall": st.sampled_from([5.0, 4.0, 3.0, 1.5])},
)
META = st.tuples(
    st.sampled_from([item_id(n) for n in range(7)]), st.sampled_from([*ODD_TITLES, "Plain", "nan"])
)


@settings(max_examples=25, deadline=None, phases=PHASES)
@given(
    reviews=st.lists(REVIEW, min_size=8, max_size=90),
    metadata=st.lists(META, min_size=6, max_size=12),
)
def test_any_reviews_give_the_reference_files_or_an_error(
    tmp_path_factory: pytest.TempPathFactory,
    reviews: list[dict[str, Any]],
    metadata: list[tuple[str, str]],
) -> None:
    folder = tmp_path_factory.mktemp("games")
    rows = [{"asin": item, "title": title} for item, title in metadata]
    write_games(folder, reviews, rows)
    compare(folder, published_games(reviews, rows), games_of)


def ratings_of(users: int = 3, length: int = 14) -> str:
    return "".join(
        f"{user}::{7 * ((user + step) % len(FILMS))}::{1 + step % 5}::{100 + step}\n"
        for user in range(users)
        for step in range(length)
    )


def test_a_sample_of_a_large_split_is_that_of_pandas(tmp_path: Path) -> None:
    lines = ratings_of(users=20, length=2_600)
    parts = published_movies(write_movies(tmp_path, lines, FILMS), lines)
    assert parts
    assert len(parts["valid"]) > 5_000
    movies_of(tmp_path)
    files = exported(tmp_path)
    assert files == published_files(parts, WORDS)
    assert len(json.loads(files["valid_5000.json"])) == 5_000


def test_a_list_in_utf_8_is_read_as_published_and_the_card_says_so(tmp_path: Path) -> None:
    write_movies(tmp_path, ratings_of(), FILMS)
    card = movies_of(tmp_path)
    assert load(tmp_path / "out").catalogue.titles[:2] == ("AmÃ©lie (2001)", "MisÃ©rables, Les")
    assert "3 titles are garbled: the list is UTF-8" in card["notes"][-1]
    write_movies(tmp_path, ratings_of(), FILMS[:6], "latin-1")
    (tmp_path / "ratings.dat").write_text(
        ratings_of().replace("::42::", "::0::").replace("::49::", "::0::")
    )
    lines = (
        (tmp_path / "ratings.dat").read_text().replace("::56::", "::0::").replace("::63::", "::0::")
    )
    (tmp_path / "ratings.dat").write_text(lines)
    card = movies_of(tmp_path)
    assert load(tmp_path / "out").catalogue.titles[0] == "Amélie (2001)"
    assert "garbled" not in card["notes"][-1]


def test_the_catalogue_of_films_is_the_list_also_what_nobody_rated(tmp_path: Path) -> None:
    write_movies(tmp_path, ratings_of(length=12), [*FILMS, "Never seen"])
    with (tmp_path / "movies.dat").open("a") as file:
        file.write("0::Listed again::Drama\n")
    card = movies_of(tmp_path)
    catalogue = load(tmp_path / "out").catalogue
    assert catalogue.titles[0] == "Listed again"
    assert catalogue.titles[-1] == "Never seen"
    assert (card["items"], card["rows"]["kept"]) == (len(FILMS) + 1, 36)


def test_where_a_like_begins_can_be_moved_and_changes_no_query(tmp_path: Path) -> None:
    write_movies(tmp_path, ratings_of(), FILMS)
    movies_of(tmp_path)
    before, likes = load(tmp_path / "out").fingerprint, likes_told(tmp_path / "out")
    movies_of(tmp_path, MOVIE.model_copy(update={"like_above": 1.5}))
    assert load(tmp_path / "out").fingerprint == before
    fewer, more = (
        sum(like == "1" for like, _ in told) for told in (likes, likes_told(tmp_path / "out"))
    )
    assert 0 < fewer < more


def test_a_history_of_another_length_is_exactly_so_long(tmp_path: Path) -> None:
    write_movies(tmp_path, ratings_of(), FILMS)
    movies_of(tmp_path, MOVIE.model_copy(update={"max_history": 4}))
    dataset = load(tmp_path / "out")
    assert {len(q.history) for name in ("train", "valid", "test") for q in dataset.split(name)} == {
        4
    }
    assert len(dataset.train) == int(3 * 10 * 0.8)


def test_a_film_that_is_rated_but_not_listed_is_named(tmp_path: Path) -> None:
    write_movies(tmp_path, ratings_of(), FILMS[:-1])
    with pytest.raises(
        DataError, match=r"3 ratings are for items without a title: item 63 is the first of them"
    ):
        movies_of(tmp_path)


@pytest.mark.parametrize("section", [MOVIE, GAME], ids=["movie", "game"])
@pytest.mark.parametrize(
    ("name", "value"), [("k_core", 5), ("min_rating", 3.0), ("test_share", 0.2)]
)
def test_a_setting_without_use_is_refused(
    section: Prepare, name: str, value: float, tmp_path: Path
) -> None:
    write_movies(tmp_path, ratings_of(), FILMS)
    write_games(tmp_path, [], [])
    given = Prepare(protocol=section.protocol, **{name: value})
    with pytest.raises(
        ConfigError, match=rf"`{section.protocol}` does not use this setting: prepare\.{name}"
    ):
        movies_of(tmp_path, given)


def test_likes_of_another_protocol_are_refused() -> None:
    with pytest.raises(ConfigError, match="applies only to the protocol `bigrec-movie`"):
        Prepare(protocol="bigrec-game", like_above=4.0)


def test_too_few_ratings_say_how_many_there_are(tmp_path: Path) -> None:
    write_movies(tmp_path, ratings_of(users=2, length=12), FILMS)
    with pytest.raises(DataError, match=r"24 of 2 users, 4 with a history"):
        movies_of(tmp_path)
