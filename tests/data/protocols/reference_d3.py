"""The protocol `d3` and its files once more, in plain Python: what the fast way is compared with.

Everything is a list or a dictionary in memory; nothing is shared with the package.
"""

from __future__ import annotations

import csv
import io
import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

__all__ = ["published_files"]

Row = dict[str, Any]
HEAD = (
    "user_id",
    *("item_asins", "item_asin"),
    *("history_item_id", "item_id"),
    *("history_item_title", "item_title"),
    *("history_rating", "rating"),
    *("history_timestamp", "timestamp"),
)


def published_files(
    reviews: list[Row],
    metadata: list[Row],
    category: str,
    *,
    k: int = 5,
    begin: tuple[int, int] = (2017, 10),
    end: tuple[int, int] = (2018, 11),
    least: int = 10_000,
) -> dict[str, bytes] | None:
    """Return the contents of each file by its path; None where no review is left, or a part would
    be empty.
    """
    year, month = begin
    titles = [(row["asin"], row.get("title")) for row in metadata]
    while True:
        titles = [(item, None if title is None else cleaned(title)) for item, title in titles]
        left = core(inside(reviews, good(titles), (year, month), end), k)
        if year == 1996 or len({r["asin"] for r in left}) >= least:
            break
        year -= 1
    shown, number = good(titles), numbers(left)
    samples = sorted(windows(left, number, shown), key=lambda sample: sample[-1])
    parts = {"train": samples[: int(len(samples) * 0.8)]}
    parts["valid"] = samples[len(parts["train"]) : int(len(samples) * 0.9)]
    parts["test"] = samples[int(len(samples) * 0.9) :]
    if not all(parts.values()):
        return None
    name = f"{category}_{k}_{year}-{month}-{end[0]}-{end[1]}"
    info = "".join(f"{shown[item]}\t{n}\n" for item, n in number.items())
    files = {f"{part}/{name}.csv": as_csv(rows) for part, rows in parts.items()}
    return {**files, f"info/{name}.txt": info.encode()}


def cleaned(title: str) -> str:
    return title.replace("&quot;", '"').replace("&amp;", "&").strip(" ").strip('"')


def good(titles: list[tuple[str, str | None]]) -> dict[str, str]:
    """Return the last title of each item of which all titles can be shown."""
    bad = {item for item, title in titles if title is None or not presentable(title)}
    return {item: title for item, title in titles if item not in bad and title is not None}


def presentable(title: str) -> bool:
    return "<span id" not in title and len(title) > 1 and len(title.split(" ")) <= 20


def inside(
    reviews: list[Row], titles: dict[str, str], begin: tuple[int, int], end: tuple[int, int]
) -> list[Row]:
    first, last = (datetime(year, month, 1, tzinfo=UTC).timestamp() for year, month in (begin, end))
    return [r for r in reviews if first <= r["unixReviewTime"] <= last and r["asin"] in titles]


def core(reviews: list[Row], k: int) -> list[Row]:
    while True:
        users, items = (Counter(r[key] for r in reviews) for key in ("reviewerID", "asin"))
        kept = [r for r in reviews if users[r["reviewerID"]] >= k and items[r["asin"]] >= k]
        if len(kept) == len(reviews):
            return kept
        reviews = kept


def numbers(reviews: list[Row]) -> dict[str, int]:
    """Return the number of each item, by number."""
    items = list(dict.fromkeys(r["asin"] for r in reviews))
    random.Random(42).shuffle(items)
    return {item: number for number, item in enumerate(items)}


def windows(
    reviews: list[Row], number: dict[str, int], titles: dict[str, str]
) -> Iterator[list[Any]]:
    """Yield a row for each review that has an earlier one of its user, user by user."""
    by_user: dict[str, list[Row]] = {}
    for review in reviews:
        by_user.setdefault(review["reviewerID"], []).append(review)
    for user, own in by_user.items():
        own.sort(key=lambda r: r["unixReviewTime"])
        told = [
            (r["asin"], number[r["asin"]], titles[r["asin"]], r["overall"], r["unixReviewTime"])
            for r in own
        ]
        for i in range(1, len(told)):
            history = zip(*told[max(0, i - 10) : i], strict=True)
            pairs = zip(map(list, history), told[i], strict=True)
            yield [user, *(cell for pair in pairs for cell in pair)]


def as_csv(rows: list[list[Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([list(HEAD), *rows])
    return text.getvalue().encode()
