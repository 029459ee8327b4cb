"""The protocol `d3` and its files against the reference implementation, and its refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from groundrec.core.config import D3, Data, Prepare
from groundrec.core.errors import ConfigError, DataError
from groundrec.data import dataset
from groundrec.data.dataset import DatasetReader, load
from groundrec.data.exchange.write_d3 import d3 as export
from groundrec.data.prepare import prepare
from tests.data.amazon import DAY, ODD_TITLES, Shape, item_id, write_amazon
from tests.data.protocols.reference_d3 import published_files

SMALL = Shape(users=150, items=60, reviews=2_000)
FEW = Prepare(protocol="d3", d3=D3(min_items=30))


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def prepared(folder: Path, category: str, section: Prepare, out: Path) -> dict[str, Any]:
    return prepare(Data(source="amazon", path=folder, category=category), section, 0, out)


def exported(out: Path, to: Path) -> dict[str, bytes]:
    return {
        file.relative_to(to).as_posix(): file.read_bytes()
        for file in export(DatasetReader(out), to)
    }


def compare(folder: Path, shape: Shape, section: Prepare, seed: int = 0) -> dict[str, Any]:
    """Write made-up reviews, prepare and export them both ways, and return the card."""
    reviews, metadata = write_amazon(folder, "Toys", shape, seed)
    card = prepared(folder, "Toys", section, folder / "out")
    expected = published_files(
        read(reviews), read(metadata), "Toys", k=section.k_core, least=section.d3.min_items
    )
    assert exported(folder / "out", folder / "files") == expected
    return card


def test_a_small_catalogue_walks_back_to_1996_to_the_byte(tmp_path: Path) -> None:
    card = compare(tmp_path, SMALL, Prepare(protocol="d3"))
    assert card["window"] == {"st_year": 1996, "st_month": 10, "ed_year": 2018, "ed_month": 11}
    rows = card["rows"]
    taken = [
        rows[name] for name in ("bad", "outside_window", "without_good_title", "outside_k_core")
    ]
    assert rows["read"] == SMALL.reviews
    assert rows["kept"] == card["events"] == rows["read"] - sum(taken)


def test_enough_items_stay_in_the_first_window_to_the_byte(tmp_path: Path) -> None:
    card = compare(tmp_path, SMALL, FEW.model_copy(update={"k_core": 3}))
    assert card["window"]["st_year"] == 2017
    assert card["rows"]["outside_window"] > 0
    assert card["time_span"][0] >= "2017-10-01"


@pytest.mark.slow
def test_more_than_ten_thousand_items_to_the_byte(tmp_path: Path) -> None:
    shape = Shape(users=20_000, items=14_000, reviews=400_000, recent=0.9, text=20)
    card = compare(tmp_path, shape, Prepare(protocol="d3"))
    assert card["items"] > 10_000
    assert card["window"]["st_year"] == 2017


BEGIN, END = 1_506_816_000, 1_541_030_400
TIMES = st.sampled_from(
    [BEGIN - 1, BEGIN, BEGIN + DAY, BEGIN + DAY + 1, END - 1, END, END + 1, BEGIN - 400 * DAY]
)
REVIEW = st.fixed_dictionaries(
    {
        "reviewerID": st.sampled_from(["A1", "B,2", 'C"3"', "D é"]),
        "asin": st.sampled_from([item_id(n) for n in range(5)]),
        "unixReviewTime": TIMES,
        "overall": st.sampled_from([5.0, 4.0, 3, 1.5]),
    }
)
TITLES = st.one_of(
    st.sampled_from(ODD_TITLES), st.sampled_from(["Plain", "Another one", 'It\'s, "so"']), st.none()
)
META = st.tuples(st.sampled_from([item_id(n) for n in range(6)]), TITLES)


@settings(max_examples=30, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    reviews=st.lists(REVIEW, min_size=12, max_size=60),
    metadata=st.lists(META, min_size=5, max_size=9),
    k=st.integers(0, 3),
    least=st.integers(1, 4),
)
def test_any_reviews_give_the_reference_files_or_an_error(
    tmp_path_factory: pytest.TempPathFactory,
    reviews: list[dict[str, Any]],
    metadata: list[tuple[str, str | None]],
    k: int,
    least: int,
) -> None:
    folder = tmp_path_factory.mktemp("shop")
    rows = [
        {"asin": item, **({} if title is None else {"title": title})} for item, title in metadata
    ]
    for name, lines in (("Toys", reviews), ("meta_Toys", rows)):
        (folder / f"{name}.json").write_text(
            "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
        )
    section = Prepare(protocol="d3", k_core=k, d3=D3(st_year=1998, min_items=least))
    expected = published_files(reviews, rows, "Toys", k=k, begin=(1998, 10), least=least)
    if expected is None:
        with pytest.raises(DataError):
            prepared(folder, "Toys", section, folder / "out")
        assert not (folder / "out" / "dataset.json").exists()
    else:
        prepared(folder, "Toys", section, folder / "out")
        assert exported(folder / "out", folder / "files") == expected


def test_the_data_set_is_what_models_are_trained_on(tmp_path: Path) -> None:
    write_amazon(tmp_path, "Toys", SMALL)
    prepared(tmp_path, "Toys", FEW, tmp_path / "out")
    loaded = load(tmp_path / "out")
    lengths = [len(query.history) for query in loaded.train]
    assert (min(lengths), max(lengths)) == (1, 10)
    assert all(len(query.targets) == 1 for query in loaded.test)
    assert (
        loaded.train.times.max()
        <= loaded.valid.times.min()
        <= loaded.valid.times.max()
        <= loaded.test.times.min()
    )
    sizes = [len(loaded.split(name)) for name in ("train", "valid", "test")]
    assert sizes[0] == int(sum(sizes) * 0.8)
    assert sizes[0] + sizes[1] == int(sum(sizes) * 0.9)


def test_titles_among_the_interactions_of_a_table_are_read(tmp_path: Path) -> None:
    rows = [f"u{n % 7},i{n % 5},{1_510_000_000 + n},Title {n % 5}" for n in range(70)]
    (tmp_path / "events.csv").write_text(
        "user,item,time,title\n" + "".join(f"{row}\n" for row in rows)
    )
    card = prepare(
        Data(source="table", path=tmp_path / "events.csv"),
        Prepare(protocol="d3"),
        0,
        tmp_path / "out",
    )
    assert card["rows"]["kept"] == 70
    assert set(load(tmp_path / "out").catalogue.titles) == {f"Title {n}" for n in range(5)}


def test_a_shorter_history_and_another_seed(tmp_path: Path) -> None:
    write_amazon(tmp_path, "Toys", SMALL)
    data = Data(source="amazon", path=tmp_path, category="Toys")
    prints = []
    for seed in (0, 1):
        prepare(data, FEW.model_copy(update={"max_history": 2}), seed, tmp_path / str(seed))
        prints.append(load(tmp_path / str(seed)).fingerprint)
    assert prints[0] == prints[1]
    assert max(len(query.history) for query in load(tmp_path / "0").train) == 2


def test_an_empty_window_says_when_the_reviews_are(tmp_path: Path) -> None:
    write_amazon(tmp_path, "Toys", SMALL)
    section = Prepare(protocol="d3", d3=D3(st_year=2019, ed_year=2020))
    message = (
        r"the time window contains no review: 2019-10 to 2020-11; the reviews are from"
        r" 199\d-.* to 2018-"
    )
    with pytest.raises(DataError, match=message) as error:
        prepared(tmp_path, "Toys", section, tmp_path / "out")
    assert "--st_year" in error.value.next_step
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_nothing_left_behind_the_core_is_an_error(tmp_path: Path) -> None:
    write_amazon(tmp_path, "Toys", SMALL)
    with pytest.raises(
        DataError, match=r"no item is left after the 900-core: 2,000 reviews in the longest"
    ):
        prepared(
            tmp_path,
            "Toys",
            Prepare(protocol="d3", k_core=900, d3=D3(st_year=1998)),
            tmp_path / "out",
        )


def test_a_window_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="the time window ends before it starts: from 2018-11 to 2018-11"
    ):
        D3(st_year=2018, st_month=11)


def test_a_setting_that_would_do_nothing_is_refused(tmp_path: Path) -> None:
    write_amazon(tmp_path, "Toys", SMALL)
    with pytest.raises(ConfigError, match=r"does not use this setting: prepare\.min_rating"):
        prepared(tmp_path, "Toys", Prepare(protocol="d3", min_rating=3), tmp_path / "out")


def test_bad_rows_are_set_aside_and_the_rest_is_as_without_them(tmp_path: Path) -> None:
    reviews, metadata = write_amazon(tmp_path, "Toys", SMALL)
    prepared(tmp_path, "Toys", FEW, tmp_path / "clean")
    lines = reviews.read_text().splitlines(keepends=True)
    late = json.dumps(
        {"reviewerID": "A", "asin": item_id(1), "unixReviewTime": 1_541_030_400_000, "overall": 5.0}
    )
    early = json.dumps(
        {"reviewerID": "A", "asin": item_id(1), "unixReviewTime": -5, "overall": 5.0}
    )
    reviews.write_text("".join([lines[0], "not JSON\n", f"{late}\n", *lines[1:], f"{early}\n"]))
    with metadata.open("a") as file:
        file.write('{"title": "Nobody\'s"}\n')
    with pytest.raises(
        DataError,
        match=r"meta_Toys\.json, line \d+, column item: the item id is.*\(4 bad rows in total\)",
    ):
        prepared(tmp_path, "Toys", FEW, tmp_path / "out")
    section = FEW.model_copy(update={"bad_rows": "quarantine"})
    card = prepared(tmp_path, "Toys", section, tmp_path / "out")
    assert (card["rows"]["bad"], card["rows"]["bad_items"]) == (3, 1)
    assert load(tmp_path / "out").fingerprint == load(tmp_path / "clean").fingerprint


def test_a_disk_that_fills_up_leaves_the_older_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_amazon(tmp_path, "Toys", SMALL)
    prepared(tmp_path, "Toys", FEW, tmp_path / "out")
    before = load(tmp_path / "out").fingerprint

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset, "write_events", full)
    with pytest.raises(DataError, match="the disk is full") as error:
        prepared(tmp_path, "Toys", FEW.model_copy(update={"k_core": 2}), tmp_path / "out")
    assert error.value.accepted
    assert error.value.next_step
    assert load(tmp_path / "out").fingerprint == before


def test_where_every_row_is_bad_the_window_is_empty(tmp_path: Path) -> None:
    write_amazon(tmp_path, "Toys", Shape(users=3, items=3, reviews=1))
    (tmp_path / "Toys_5.json").write_text(
        '{"reviewerID": "", "asin": "B1", "unixReviewTime": 1, "overall": 5}\n'
    )
    with pytest.raises(DataError, match=r"the time window contains no review.*no reviews"):
        prepared(tmp_path, "Toys", Prepare(protocol="d3", bad_rows="quarantine"), tmp_path / "out")
