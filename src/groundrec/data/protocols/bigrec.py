"""The protocols `bigrec-movie` and `bigrec-game`: data prepared as in the notebooks of BIGRec.

(arXiv 2308.08434.) Every interaction counts, including repeated ones, and there is no k-core. A
user's interactions are sorted by time, equal times as in the file; a history is the 10 before its
target. Queries are sorted by time, equal times by user, users in the order of the file: 80%
training, 10% validation, the rest test.

- `bigrec-movie` (MovieLens-10M) has a query for each rating after its user's 10th. A rating above
  `like_above` becomes 1, any other 0; both occur in histories and as targets. The catalogue is the
  whole list of films, in its order. `movies.dat` is read as ISO-8859-1 although that of
  MovieLens-10M is UTF-8: `é` becomes `Ã©`.
- `bigrec-game` (Amazon Video Games, the published 5-core) has the same queries, and one more for
  each user with at most 10 reviews: the last one, with all others (if any) as its history. A title
  is the last one in the metadata, unchanged. A review without a rating is dropped, and so is one
  of an item whose title has fewer than two characters.

The notebook for games numbers items differently in every run; here the order is that of the users'
lists. Knows nothing about models or published files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from groundrec.core.config import Prepare
from groundrec.core.errors import ConfigError, DataError
from groundrec.core.types import Catalogue
from groundrec.data.arrays import as_arrow, as_numpy, as_texts
from groundrec.data.events import Events
from groundrec.data.protocols.clean import read_usable
from groundrec.data.protocols.coded import CodedEvents, by_first_appearance, index_in
from groundrec.data.protocols.windows import Prepared, log_split_sizes, one_query_per_event
from groundrec.data.raw.files import Column, to_arrow
from groundrec.data.sources.table import RawData

__all__ = ["game", "movie"]

MAX_HISTORY = 10
MIN_TITLE_LENGTH = {"bigrec-movie": 1, "bigrec-game": 2}
UNUSED = ("k_core", "min_rating", "valid_share", "test_share")
NOTES = (
    (
        "A history contains what precedes the target in its user's list, including the same second"
        " and earlier validation and test queries."
    ),
    "There is no k-core, and a user may have several events with the same item.",
)
LIKES = "A rating above {} becomes 1, any other 0; no event is dropped because of its rating."
MISREAD = "{:,} titles are garbled: the list is UTF-8 but read as ISO-8859-1, as published."


def movie(raw: RawData, section: Prepare, seed: int, folder: Path) -> Prepared:
    """Protocol: prepare MovieLens like BIGRec; the recipe's seed has no effect."""
    del seed
    ratings, titles, rows = _usable(raw, section, folder)
    notes = [*NOTES, LIKES.format(section.like_above)]
    if raw.encoding == "utf-8":
        misread = {item: title.encode().decode("iso-8859-1") for item, title in titles.items()}
        notes.append(MISREAD.format(sum(misread[item] != title for item, title in titles.items())))
        titles = misread
    _refuse_unlisted(ratings, titles)
    number = as_numpy(index_in(ratings.items, as_texts(titles)))
    rated = _rated(ratings)
    events = _liked(ratings, section.like_above).events(rated, number)
    rows = {**rows, "without_rating": len(ratings) - len(events)}
    return _prepared(Catalogue(tuple(titles), tuple(titles.values())), events, section, rows, notes)


def game(raw: RawData, section: Prepare, seed: int, folder: Path) -> Prepared:
    """Protocol: prepare Amazon's video games like BIGRec; the recipe's seed has no effect."""
    del seed
    reviews, titles, rows = _usable(raw, section, folder)
    titled = _titled(reviews, titles)
    kept = titled & _rated(reviews)
    events = reviews.events(kept, np.arange(len(reviews.items), dtype=np.int32))
    items, appeared = by_first_appearance(events.items, len(reviews.items))
    ids = reviews.items.take(as_arrow(appeared)).to_pylist()
    rows = {
        **rows,
        "without_title": int((~titled).sum()),
        "without_rating": int((titled & ~kept).sum()),
    }
    catalogue = Catalogue(tuple(ids), tuple(titles[item] for item in ids))
    return _prepared(catalogue, replace(events, items=items), section, rows, NOTES)


def _usable(
    raw: RawData, section: Prepare, folder: Path
) -> tuple[CodedEvents, dict[str, str], dict[str, int]]:
    """Return the good interactions, the title of each item in list order, and counts of rows."""
    if given := [name for name in UNUSED if name in section.model_fields_set]:
        raise ConfigError(
            f"the protocol `{section.protocol}` does not use this setting",
            value=f"prepare.{given[0]}",
            accepted="prepare.max_history"
            + " and prepare.like_above" * (section.protocol == "bigrec-movie"),
            next_step="remove it, or --set prepare.protocol=global-time",
        )
    interactions, items, rows = read_usable(raw, section, folder)
    return interactions, _titles(items, MIN_TITLE_LENGTH[section.protocol]), rows


def _titles(items: ir.Table, min_length: int) -> dict[str, str]:
    """Return each item's last title with at least `min_length` characters, by first appearance."""
    title: Column = items.title
    listed = to_arrow(
        items.filter(title.length() >= min_length).order_by("row").select("item_id", "title")
    )
    return dict(zip(listed["item_id"].to_pylist(), listed["title"].to_pylist(), strict=True))


def _titled(interactions: CodedEvents, titles: Mapping[str, str]) -> NDArray[np.bool_]:
    """Return which interactions have an item with a title. Shape: [N]."""
    has_title = index_in(interactions.items, as_texts(titles)).is_valid().cast(pa.uint8())
    return as_numpy(has_title).astype(bool)[interactions.item]


def _rated(interactions: CodedEvents) -> NDArray[np.bool_]:
    """Return which interactions have a rating. Shape: [N]."""
    return np.array([text != "" for text in interactions.ratings.to_pylist()], bool)[
        interactions.rating
    ]


def _liked(interactions: CodedEvents, above: float) -> CodedEvents:
    """Return the interactions with rating 1 where it was above `above`, and 0 elsewhere."""
    likes = np.array(
        [text != "" and float(text) > above for text in interactions.ratings.to_pylist()], np.int32
    )
    return replace(interactions, rating=likes[interactions.rating], ratings=as_texts(["0", "1"]))


def _prepared(
    catalogue: Catalogue,
    events: Events,
    section: Prepare,
    rows: Mapping[str, int],
    notes: list[str] | tuple[str, ...],
) -> Prepared:
    history = section.max_history or MAX_HISTORY
    min_history: int | NDArray[np.integer] = history
    if section.protocol == "bigrec-game":
        # the last review of a user with few reviews is a query, too: [U] → [E]
        min_history = np.minimum(history, np.bincount(events.user) - 1)[events.user]
    splits = one_query_per_event(events, min_history=min_history, max_history=history)
    log_split_sizes(splits)
    if not all(map(len, splits.values())):
        raise DataError(
            "too few interactions to split them",
            value=(
                f"{len(events):,} of {len(events.users):,} users, {sum(map(len, splits.values()))}"
                " with a history"
            ),
            accepted=f"at least ten, each with {history} earlier ones of its user",
            next_step="--set prepare.max_history=… to a lower value, or add data",
        )
    return Prepared(
        catalogue, events, splits, {**rows, "kept": len(events)}, {"notes": list(notes)}
    )


def _refuse_unlisted(ratings: CodedEvents, titles: Mapping[str, str]) -> None:
    titled = _titled(ratings, titles)
    if titled.all():
        return
    item = ratings.items[int(ratings.item[~titled][0])].as_py()
    raise DataError(
        f"{int((~titled).sum()):,} ratings are for items without a title",
        value=f"item {item} is the first of them",
        accepted="a title for every rated item, as in the published notebook",
        next_step="get the list of items again, or remove those ratings",
    )
