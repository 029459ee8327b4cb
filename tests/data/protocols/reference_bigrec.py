"""The protocols `bigrec-movie` and `bigrec-game` and their files once more, in plain Python: what
the package is compared with.

Everything is a list or a dictionary in memory; nothing is shared with the package.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import pandas

__all__ = ["Sample", "Words", "published_files", "published_games", "published_movies"]

SAMPLED = 5000
LENGTH = 10


class Words(NamedTuple):
    """What stands in every row, and before the titles of a history."""

    instruction: str
    head: str


class Sample(NamedTuple):
    """One row before it is written."""

    user: str
    history: list[str]
    target: str
    likes: list[Any]
    like: Any
    time: int


def published_movies(
    movies: bytes, ratings: str, above: float = 3.0
) -> dict[str, list[Sample]] | None:
    """Return the samples of each split; None where a part would be empty."""
    lines = movies.decode("iso-8859-1").replace("\r\n", "\n").split("\n")
    titles = dict(line.split("::")[:2] for line in lines if line)
    by_user: dict[str, list[tuple[str, Any, int]]] = {}
    for line in ratings.splitlines():
        user, movie, rating, time = line.split("::")
        by_user.setdefault(user, []).append((titles[movie], int(float(rating) > above), int(time)))
    return split(windows(by_user, shorter_too=False))


def published_games(
    reviews: list[dict[str, Any]], metadata: list[dict[str, Any]]
) -> dict[str, list[Sample]] | None:
    """Return the samples of each split; None where a part would be empty."""
    titles = {row["asin"]: row["title"] for row in metadata if len(row.get("title", "")) > 1}
    by_user: dict[str, list[tuple[str, Any, int]]] = {}
    for row in reviews:
        if row["asin"] in titles and "overall" in row:
            told = (titles[row["asin"]], row["overall"], row["unixReviewTime"])
            by_user.setdefault(row["reviewerID"], []).append(told)
    return split(windows(by_user, shorter_too=True))


def windows(by_user: dict[str, list[tuple[str, Any, int]]], *, shorter_too: bool) -> list[Sample]:
    found = []
    for user, own in by_user.items():
        own = sorted(own, key=lambda event: event[2])
        first = min(LENGTH, len(own) - 1) if shorter_too else LENGTH
        for i in range(first, len(own)):
            before = own[max(0, i - LENGTH) : i]
            title, like, time = own[i]
            found.append(
                Sample(user, [e[0] for e in before], title, [e[1] for e in before], like, time)
            )
    return sorted(found, key=lambda sample: sample.time)


def split(samples: list[Sample]) -> dict[str, list[Sample]] | None:
    first, second = int(len(samples) * 0.8), int(len(samples) * 0.9)
    parts = {"train": samples[:first], "valid": samples[first:second], "test": samples[second:]}
    return parts if all(parts.values()) else None


def published_json(samples: Iterable[Sample], words: Words) -> str:
    rows = []
    for sample in samples:
        named = ", ".join(f'"{title}"' for title in sample.history)
        row = {
            "instruction": words.instruction,
            "input": f"{words.head}{named}\n ",
            "output": f'"{sample.target}"',
        }
        rows.append(row)
    return json.dumps(rows, indent=4)


def published_files(parts: dict[str, list[Sample]], words: Words) -> dict[str, str]:
    """Return the contents of each file by its name; a sample of fewer rows than 5,000 is all of
    them, shuffled.
    """
    files = {f"{name}.json": published_json(samples, words) for name, samples in parts.items()}
    for name in ("valid", "test"):
        rows = pandas.Series(range(len(parts[name])))
        chosen = rows.sample(n=min(SAMPLED, len(rows)), random_state=42)
        files[f"{name}_{SAMPLED}.json"] = published_json((parts[name][i] for i in chosen), words)
    return files
