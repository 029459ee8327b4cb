"""Amazon reviews and metadata in the shape of 2018, made up, with everything odd that the real
files hold.

Knows nothing about what is done with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DAY", "Shape", "item_id", "write_amazon"]

DAY = 86_400
BLOCK = 50_000
TEXTS = 500
WORDS = (
    *(
        "the",
        "a",
        "of",
        "and",
        "light",
        "night",
        "garden",
        "tea",
        "music",
        "stone",
        "river",
        "small",
        "great",
        "blue",
    ),
    *(
        "red",
        "history",
        "practical",
        "complete",
        "guide",
        "edition",
        "volume",
        "set",
        "pack",
        "wooden",
        "classic",
    ),
    *("story", "winter", "kitchen", "travel", "for", "with", "by", "in", "on"),
)
ODD_TITLES = (
    "Tom &amp; Jerry",
    "Tom &amp;amp; Jerry &amp;quot;Live&amp;quot;",
    "&quot;Quoted&quot;",
    '"In quotes"',
    ' " spaces inside quotes " ',
    "&amp;quot; twice wrapped &amp;quot;",
    "It's here",
    'It\'s "both" kinds',
    "Say &quot;hi&quot;, don't",
    "tab\there",
    "two\nlines",
    "carriage\rreturn",
    "commas, everywhere, always",
    "back\\slash",
    "Amélie — 東京物語 🎵",
    "no\u00a0break\u200bspace\u2028line\u0085next\x7f",
    "two  blanks",
    "single 'quotes'",
    "7",
    "",
    '""',
    " ",
    "&quot;",
    "&#39;numeric&#39; &lt;b&gt;",
    '<span id="productTitle" class="a-size-large">Wrapped</span>',
    " ".join(["word"] * 20),
    " ".join(["word"] * 21),
    "&quot; " + " ".join(["word"] * 20),
    " ".join(["word"] * 19) + "  last",
)


@dataclass(frozen=True)
class Shape:
    """How much there is, and when: `recent` is the share of reviews in the last year, the rest
    falls before it.
    """

    users: int = 400
    items: int = 120
    reviews: int = 6_000
    recent: float = 0.5
    first_day: int = 9_862
    """Days since 1970: 1997-01-01."""
    last_day: int = 17_805
    """Days since 1970: 2018-10-01."""
    text: int = 235
    """Characters of a review's text, on average."""
    odd: float = 0.2
    """Share of items with an odd title or odd metadata."""


def item_id(number: int) -> str:
    """Return the id of item `number` as Amazon writes it: ten characters, some only digits."""
    return f"B{number:09d}" if number % 3 else f"{number:010d}"


def write_amazon(folder: Path, category: str, shape: Shape, seed: int = 0) -> tuple[Path, Path]:
    """Write `<category>_5.json` and `meta_<category>.json`, one JSON object a line; return their
    paths.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    reviews, metadata = folder / f"{category}_5.json", folder / f"meta_{category}.json"
    with metadata.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in _metadata(shape, rng))
    with reviews.open("w", encoding="utf-8") as file:
        lines = _reviews(shape, rng)
        while block := list(islice(lines, BLOCK)):
            file.writelines(block)
    return reviews, metadata


def _metadata(shape: Shape, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Yield one row for most items, two for some, none for others, and some for items that nobody
    reviewed.
    """
    odd = rng.random(shape.items) < shape.odd
    kinds = rng.integers(0, len(ODD_TITLES) + 6, shape.items)
    for number in rng.permutation(shape.items).tolist():
        title, kind = _plain_title(rng), int(kinds[number]) - len(ODD_TITLES)
        if not odd[number]:
            yield _meta(number, title)
        elif kind < 0:
            yield _meta(number, ODD_TITLES[kind])
        elif kind < 5:
            second = (title, _plain_title(rng), None, '<span id="x">', "x")[kind]
            yield from rng.permuted([_meta(number, title), _meta(number, second)]).tolist()
        if number % 50 == 0:
            yield _meta(shape.items + number, title)


def _plain_title(rng: np.random.Generator) -> str:
    return " ".join(WORDS[i] for i in rng.integers(0, len(WORDS), rng.integers(2, 12))).capitalize()


def _meta(number: int, title: str | None) -> dict[str, Any]:
    row = {
        "category": ["Books"],
        "description": ["<p>Said &quot;so&quot;.</p>"],
        "brand": "",
        "also_buy": [],
    }
    return {
        **row,
        **({} if title is None else {"title": title}),
        "price": "$7.99",
        "asin": item_id(number),
    }


def _reviews(shape: Shape, rng: np.random.Generator) -> Iterator[str]:
    texts = [json.dumps(_text(shape.text, rng)) for _ in range(TEXTS)]
    for start in range(0, shape.reviews, BLOCK):
        size = min(BLOCK, shape.reviews - start)
        columns = (
            _skewed(shape.users, size, rng),
            _skewed(shape.items, size, rng),
            _days(shape, size, rng),
        )
        repeated = rng.random(size) < 0.02
        for column in columns[: 2 + int(rng.integers(2))]:
            column[1:][repeated[1:]] = column[:-1][repeated[1:]]
        ratings, chosen = rng.integers(1, 6, size), rng.integers(0, TEXTS, size)
        for user, item, day, rating, text in zip(
            *(c.tolist() for c in (*columns, ratings, chosen)), strict=True
        ):
            yield (
                f'{{"overall": {rating}.0, "verified": true, "reviewerID": "A{user * 7919:013d}",'
                f' "asin": "{item_id(item)}", "style": {{"Format:": " Paperback"}}, "reviewerName":'
                f' "Someone \\u00e9", "reviewText": {texts[text]}, "summary": "Five \\"stars\\"",'
                f' "unixReviewTime": {day * DAY}}}\n'
            )


def _text(length: int, rng: np.random.Generator) -> str:
    words = rng.integers(0, len(WORDS), max(1, int(length * rng.uniform(0.4, 1.6) / 5)))
    return 'It\'s "fine".\n' + " ".join(WORDS[i] for i in words)


def _skewed(count: int, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return numbers below `count`, the small ones more often."""
    return (rng.random(size) ** 1.6 * count).astype(np.int64)


def _days(shape: Shape, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    early = shape.first_day + rng.random(size) ** 0.5 * (shape.last_day - 365 - shape.first_day)
    late = shape.last_day - 365 * rng.random(size)
    return np.where(rng.random(size) < shape.recent, late, early).astype(np.int64)
