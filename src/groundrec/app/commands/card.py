"""The card of a data set: what it holds and what it leaks, as a table, as JSON and as one picture.

Knows nothing about how a data set is made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from groundrec.core.errors import ConfigError
from groundrec.core.types import PreparedDataset
from groundrec.data.dataset import SPLITS, load
from groundrec.data.summary import filter_counts, summarize, title_word_counts, train_popularity

__all__ = ["card_of", "draw", "show"]

COLOURS = {"train": "language", "valid": "third", "test": "fused"}
BINS = 60
HEADINGS = {"users": "users", "items": "items", "events": "interactions", "density": "density"}


def show(
    folder: Path,
    tokenizer: Path | None = None,
    picture: Path | None = None,
    *,
    as_json: bool = False,
) -> None:
    """Print the card of the data set in `folder`, or of the run there, and write its picture.

    Titles are counted in tokens of `tokenizer`, else of the run's model, else in words.
    """
    folder = folder / "dataset" if (folder / "dataset").is_dir() else folder
    dataset = load(folder)
    lengths, unit = _title_lengths(
        dataset, tokenizer or folder.parent / "model", asked=tokenizer is not None
    )
    card = card_of(dataset, lengths, unit)
    draw(dataset, card, lengths, picture or folder / "card.png")
    if as_json:
        print(json.dumps(card, ensure_ascii=False))
        return
    _print(card)
    print(f"picture  {picture or folder / 'card.png'}")


def card_of(dataset: PreparedDataset, lengths: NDArray[np.int64], unit: str) -> dict[str, Any]:
    """Return what is on record of the data set, and what its titles and its training events say."""
    splits = {name: dataset.split(name) for name in SPLITS}
    recorded = (
        dataset.card
        if "items" in dataset.card
        else {**summarize(dataset.catalogue, splits), **dataset.card}
    )
    trained = train_popularity(splits, len(dataset.catalogue))
    quantiles = np.quantile(lengths, (0.5, 0.95)).astype(int).tolist()
    return {
        "fingerprint": dataset.fingerprint,
        **recorded,
        "title_lengths": {
            "unit": unit,
            "median": quantiles[0],
            "p95": quantiles[1],
            "longest": int(lengths.max()),
        },
        "items_no_target_in_train": int((trained == 0).sum()),
    }


def _title_lengths(
    dataset: PreparedDataset, where: Path, *, asked: bool
) -> tuple[NDArray[np.int64], str]:
    """Return how long each title is, and in what."""
    titles = list(dataset.catalogue.titles)
    file = where / "tokenizer.json" if where.is_dir() else where
    if not file.is_file():
        if asked:
            raise ConfigError(
                "no tokenizer there",
                value=where,
                accepted="tokenizer.json, or a folder that has one",
            )
        return title_word_counts(titles), "words"
    from tokenizers import Tokenizer

    encoded = Tokenizer.from_file(str(file)).encode_batch(titles, add_special_tokens=False)
    return np.array([len(e.ids) for e in encoded], np.int64), f"tokens of {file}"


def _print(card: Mapping[str, Any]) -> None:
    table = Table("", "", show_header=False)
    for section in _sections(card):
        for what, value in section:
            table.add_row(what, value)
        table.add_section()
    Console(highlight=False).print(table)
    for note in card.get("notes", ()):
        print(f"- {note}")


def _sections(card: Mapping[str, Any]) -> Iterator[list[tuple[str, str]]]:
    """Yield the table's lines, part by part."""
    rows: Mapping[str, int] = card.get("rows", {})
    yield [
        ("rows read", f"{rows.get('read', 0):,}"),
        *(
            (f"− {_plain(name)}", f"{taken:,}, leaves {left:,}")
            for name, taken, left in filter_counts(rows)
        ),
        *(
            [("metadata rows that are bad", f"{rows['bad_items']:,}")]
            if "bad_items" in rows
            else []
        ),
    ]
    yield [(name, f"{card[key]:,}") for key, name in HEADINGS.items() if key in card]
    lengths = card["title_lengths"]
    yield [
        (
            f"title length in {lengths['unit']}",
            "median {median}, 95% at most {p95}, longest {longest}".format(**lengths),
        ),
        ("titles that another item has too", f"{card.get('duplicate_titles', 0):,}"),
        *([("time", " to ".join(card["time_span"]))] if "time_span" in card else []),
    ]
    yield [(name, _split(counts)) for name, counts in card.get("splits", {}).items()]
    leaks = [(_plain(name), f"{share:.1%}") for name, share in card.get("leakage", {}).items()]
    yield [*leaks, ("items that are no target in train", f"{card['items_no_target_in_train']:,}")]


def _split(counts: Mapping[str, Any]) -> str:
    """Return one line about a split; an import may not know its users and times."""
    parts = [f"{counts['queries']:,} queries", f"{counts['targets']:,} targets"]
    if "users" in counts:
        parts.append(f"{counts['users']:,} users")
    parts.append(
        f"history {counts['history_median']:g} in the middle, {counts['history_max']:,} at most"
    )
    if counts.get("first"):
        parts.append(f"{counts['first'][:10]} to {counts['last'][:10]}")
    return ", ".join(parts)


def _plain(name: str) -> str:
    return name.replace("_", " ")


def draw(
    dataset: PreparedDataset, card: Mapping[str, Any], lengths: NDArray[np.int64], path: Path
) -> None:
    """Write the picture: what each filter left, how long titles are, and when the queries were."""
    from groundrec.evaluate import charts

    draws: list[Callable[[Any], None]] = [
        lambda axes: _draw_filters(axes, card.get("rows", {}), charts.PALETTE)
    ]
    draws.append(
        lambda axes: _draw_lengths(axes, lengths, card["title_lengths"]["unit"], charts.PALETTE)
    )
    if "time_span" in card:
        draws.append(lambda axes: _draw_times(axes, dataset, charts.PALETTE))
    charts.save(path, draws)


def _draw_filters(axes: Any, rows: Mapping[str, int], palette: Mapping[str, str]) -> None:
    steps = [
        ("read", rows.get("read", 0)),
        *((f"− {_plain(name)}", left) for name, _, left in filter_counts(rows)),
    ]
    for y, (_, left) in enumerate(steps):
        axes.barh(y, left, height=0.6, color=palette["language"], alpha=0.75)
        axes.annotate(
            f"{left:,}", (left, y), (4, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.set_yticks(range(len(steps)), [name for name, _ in steps])
    axes.tick_params(axis="y", labelcolor=palette["ink"])
    axes.set_ylim(len(steps) - 0.4, -0.6)
    axes.set_xlim(0, 1.25 * max(left for _, left in steps) or 1)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.set_title("Rows left behind each filter")


def _draw_lengths(
    axes: Any, lengths: NDArray[np.int64], unit: str, palette: Mapping[str, str]
) -> None:
    edges = np.arange(lengths.max() + 2) - 0.5
    axes.hist(
        lengths, bins=edges if len(edges) <= BINS else BINS, color=palette["third"], alpha=0.75
    )
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.set_xlabel(unit.split(" of ")[0])
    axes.set_title("Titles by length")


def _draw_times(axes: Any, dataset: PreparedDataset, palette: Mapping[str, str]) -> None:
    times = {name: dataset.split(name).times for name in SPLITS}
    every = np.concatenate(list(times.values()))
    edges = np.linspace(every.min(), every.max() + 1, BINS + 1)
    days = edges.astype(np.int64).astype("datetime64[s]")
    floor = np.zeros(BINS + 1)
    for name, values in times.items():
        counts = np.histogram(values, edges)[0]
        top = floor + np.append(counts, counts[-1])
        axes.fill_between(
            days,
            floor,
            top,
            step="post",
            color=palette[COLOURS[name]],
            alpha=0.75,
            lw=0,
            label=name,
        )
        floor = top
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.legend()
    axes.set_title("Queries by time")
