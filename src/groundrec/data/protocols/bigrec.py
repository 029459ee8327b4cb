"""The protocols `bigrec-movie` and `bigrec-game`: how the notebooks of BIGRec (arXiv 2308.08434)
prepare their data.

Every interaction counts, repeated ones too, and there is no k-core. A user's interactions are put
in order of time, equal times as in the file; a history is the 10 before its target; queries are put
in order of time, equal times user by user, users in the order of the file; 80% are for training,
10% for validation, the rest for testing.

- `bigrec-movie` (MovieLens-10M) has a query for each rating behind the 10th of its user. A rating above `like_above`
  becomes 1, any other 0; both are in histories and are targets. Items are all films of the list, in its order.
  `movies.dat` is read as ISO-8859-1, although that of MovieLens-10M is UTF-8: `é` becomes `Ã©`.
- `bigrec-game` (Amazon Video Games, the published 5-core) has the same queries, and for each user with 10 reviews or
  fewer one more: the last review behind all others, perhaps none. Titles are as they stand in the metadata, of several
  the last; a review without a rating, or of an item without a title of two characters, is left out.

The notebook for games numbers items differently each time it is run; here they come in the order in
which the users' lists name them. Knows nothing about models, nor about the published files.
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
LEAST_TITLE = {"bigrec-movie": 1, "bigrec-game": 2}
UNUSED = ("k_core", "min_rating", "valid_share", "test_share")
NOTES = (
    (
        "A history holds what comes before the target in its user's list, that of the same second"
        " and of earlier validation and test queries included."
    ),
    "There is no k-core, and a pair of user and item may occur more than once.",
)
LIKES = "A rating above {} is 1, any other 0; nothing is left out for its rating."
MISREAD = "{:,} titles are spoilt: the list is UTF-8 and is read as ISO-8859-1, as published."


def movie(raw: RawData, section: Prepare, seed: int, folder: Path) -> Prepared:
    """Protocol: MovieLens as BIGRec prepares it; the recipe's seed changes nothing."""
    del seed
    ratings, titles, rows = _usable(raw, section, folder)
    notes = [*NOTES, LIKES.format(section.like_above)]
    if raw.encoding == "utf-8":
        told = {item: title.encode().decode("iso-8859-1") for item, title in titles.items()}
        notes.append(MISREAD.format(sum(told[item] != title for item, title in titles.items())))
        titles = told
    _refuse_unlisted(ratings, titles)
    number = as_numpy(index_in(ratings.items, as_texts(titles)))
    rated = _rated(ratings)
    events = _liked(ratings, section.like_above).events(rated, number)
    rows = {**rows, "without_rating": len(ratings) - len(events)}
    return _prepared(Catalogue(tuple(titles), tuple(titles.values())), events, section, rows, notes)


def game(raw: RawData, section: Prepare, seed: int, folder: Path) -> Prepared:
    """Protocol: Amazon's video games as BIGRec prepares them; the recipe's seed changes nothing."""
    del seed
    reviews, titles, rows = _usable(raw, section, folder)
    titled = _titled(reviews, titles)
    kept = titled & _rated(reviews)
    events = reviews.events(kept, np.arange(len(reviews.items), dtype=np.int32))
    items, seen = by_first_appearance(events.items, len(reviews.items))
    ids = reviews.items.take(as_arrow(seen)).to_pylist()
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
    """Return the usable interactions, the title of each item in the order of the list, and the rows
    read.
    """
    if given := [name for name in UNUSED if name in section.model_fields_set]:
        raise ConfigError(
            f"the protocol `{section.protocol}` has no use for a setting",
            value=f"prepare.{given[0]}",
            accepted="prepare.max_history"
            + " and prepare.like_above" * (section.protocol == "bigrec-movie"),
            next_step="leave it out, or --set prepare.protocol=global-time",
        )
    found, items, rows = read_usable(raw, section, folder)
    return found, _titles(items, LEAST_TITLE[section.protocol]), rows


def _titles(items: ir.Table, least: int) -> dict[str, str]:
    """Return the last title of at least so many characters of each item, items in the order of
    their first.
    """
    title: Column = items.title
    listed = to_arrow(
        items.filter(title.length() >= least).order_by("row").select("item_id", "title")
    )
    return dict(zip(listed["item_id"].to_pylist(), listed["title"].to_pylist(), strict=True))


def _titled(found: CodedEvents, titles: Mapping[str, str]) -> NDArray[np.bool_]:
    """Return which interactions are with an item that has a title. Shape: [N]."""
    has_title = index_in(found.items, as_texts(titles)).is_valid().cast(pa.uint8())
    return as_numpy(has_title).astype(bool)[found.item]


def _rated(found: CodedEvents) -> NDArray[np.bool_]:
    """Return which interactions have a rating. Shape: [N]."""
    return np.array([text != "" for text in found.ratings.to_pylist()], bool)[found.rating]


def _liked(found: CodedEvents, above: float) -> CodedEvents:
    """Return the interactions with 1 for a rating above a number, and 0 for any other."""
    likes = np.array(
        [text != "" and float(text) > above for text in found.ratings.to_pylist()], np.int32
    )
    return replace(found, rating=likes[found.rating], ratings=as_texts(["0", "1"]))


def _prepared(
    catalogue: Catalogue,
    events: Events,
    section: Prepare,
    rows: Mapping[str, int],
    notes: list[str] | tuple[str, ...],
) -> Prepared:
    history = section.max_history or MAX_HISTORY
    least = history
    if section.protocol == "bigrec-game":
        least = np.minimum(history, np.bincount(events.user) - 1)[events.user]
    splits = one_query_per_event(events, min_history=least, max_history=history)
    log_split_sizes(splits)
    if not all(map(len, splits.values())):
        raise DataError(
            "too few interactions to split them",
            value=(
                f"{len(events):,} of {len(events.users):,} users, {sum(map(len, splits.values()))}"
                " with a history"
            ),
            accepted=f"ten or more, each with {history} earlier ones of its user",
            next_step="--set prepare.max_history=… lower, or add data",
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
        f"{int((~titled).sum()):,} ratings are of items without a title",
        value=f"item {item}, the first of them",
        accepted="a title for every item that is rated, as the published notebook needs",
        next_step="get the list of items again, or take out those ratings",
    )
