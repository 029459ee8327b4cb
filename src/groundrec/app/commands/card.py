"""The card of a data set: what it holds and what it leaks, as a table, as JSON and as one picture.

Knows nothing about how a data set is made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict, cast

import numpy as np
from numpy.typing import NDArray
from rich.table import Column, Table
from rich.text import Text

from groundrec.app.commands.terminal import print_next, print_table
from groundrec.core.errors import ConfigError
from groundrec.core.inputs import step_folder
from groundrec.core.types import PreparedDataset
from groundrec.data.dataset import SPLITS, load
from groundrec.data.exchange.row_words import RowWords
from groundrec.data.shared_rows import SHARED, count_shared
from groundrec.data.summary import (
    filter_counts,
    in_figures,
    summarize,
    title_word_counts,
    train_popularity,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Card", "card_of", "draw", "print_card"]

COLOURS = {"train": "language", "valid": "third", "test": "fused"}
BINS = 60
EXAMPLE = ("A", "B")
"""Titles of the history in an example of the words of a row; `C` is the next one."""
COUNTS: dict[Literal["users", "items", "events", "density"], str] = {
    "users": "users",
    "items": "items",
    "events": "interactions",
    "density": "density",
}


class TitleLengths(TypedDict):
    """How long titles are, in tokens or words."""

    unit: str
    median: int
    p95: int
    longest: int


class SplitCounts(TypedDict):
    """What one split holds; an imported data set may not know its users and times."""

    queries: int
    targets: int
    users: NotRequired[int]
    history_median: float
    history_max: int
    first: NotRequired[str]
    last: NotRequired[str]


class Card(TypedDict):
    """Everything a card may show, as `--json` prints it."""

    fingerprint: str
    rows: NotRequired[dict[str, int]]
    users: int
    items: int
    events: int
    density: float
    duplicate_titles: NotRequired[int]
    time_span: NotRequired[list[str]]
    splits: NotRequired[dict[str, SplitCounts]]
    leakage: NotRequired[dict[str, float]]
    notes: NotRequired[list[str]]
    words: NotRequired[dict[str, object]]
    title_lengths: TitleLengths
    items_no_target_in_train: int


def print_card(
    folder: Path,
    tokenizer: Path | None = None,
    picture: Path | None = None,
    *,
    as_json: bool = False,
) -> None:
    """Print the card of the data set in `folder`, or of the run there, and draw its picture.

    Titles are measured in tokens of `tokenizer`, else of the run's model, else in words.
    """
    prepared = step_folder(folder, "prepare")
    folder = prepared if prepared.is_dir() else folder
    dataset = load(folder)
    lengths, unit = _title_lengths(
        dataset,
        tokenizer or step_folder(folder.parent, "train"),
        is_asked_for=tokenizer is not None,
    )
    card = card_of(dataset, lengths, unit)
    picture = picture or folder / "card.png"
    draw(dataset, card, lengths, picture)
    if as_json:
        print(json.dumps(card, ensure_ascii=False))
        return
    table = Table("", Column(overflow="fold"), show_header=False)
    for section in _sections(card):
        for what, value in section:
            table.add_row(Text(what), Text(value))
        table.add_section()
    print_table(table)
    for note in card.get("notes", ()):
        print(f"- {note}")
    if words := card.get("words"):
        row = RowWords.of_card(words).row(EXAMPLE, "C")
        print(f"words    {json.dumps(row._asdict(), ensure_ascii=False)}")
    print(f"picture  {picture}")
    print_next("run", "d3/d3", "--set", f"data.dataset={folder}", "--dry-run")


def card_of(dataset: PreparedDataset, lengths: NDArray[np.int64], unit: str) -> Card:
    """Return the recorded card of a data set, with its title lengths and unseen items added."""
    splits = {name: dataset.split(name) for name in SPLITS}
    recorded = dict(dataset.card)
    if "items" not in recorded:
        recorded = {**summarize(dataset.catalogue, splits), **recorded}
    leakage = recorded.get("leakage", {})
    if not {*SHARED.values()} <= leakage.keys():
        # Imported by a version that did not look.
        shared = count_shared(
            splits, users_known="users" in recorded, times_known="time_span" in recorded
        )
        recorded = {**recorded, "leakage": {**leakage, **shared}}
    trained = train_popularity(splits, len(dataset.catalogue))
    median, p95 = np.quantile(lengths, (0.5, 0.95)).astype(int).tolist()
    longest = int(lengths.max())
    card = {
        "fingerprint": dataset.fingerprint,
        **recorded,
        "title_lengths": TitleLengths(unit=unit, median=median, p95=p95, longest=longest),
        "items_no_target_in_train": int((trained == 0).sum()),
    }
    return cast(Card, card)


def _title_lengths(
    dataset: PreparedDataset, where: Path, *, is_asked_for: bool
) -> tuple[NDArray[np.int64], str]:
    """Return the length of each title, and its unit."""
    titles = list(dataset.catalogue.titles)
    file = where / "tokenizer.json" if where.is_dir() else where
    if not file.is_file():
        if is_asked_for:
            raise ConfigError(
                "tokenizer not found",
                value=where,
                accepted="tokenizer.json, or a folder with it",
                next_step="leave out --tokenizer to count words",
            )
        return title_word_counts(titles), "words"
    from tokenizers import Tokenizer

    encoded = Tokenizer.from_file(str(file)).encode_batch(titles, add_special_tokens=False)
    return np.array([len(e.ids) for e in encoded], np.int64), f"tokens of {file}"


def _sections(card: Card) -> Iterator[list[tuple[str, str]]]:
    """Yield the table's lines, part by part."""
    rows = card.get("rows", {})
    read = [("rows read", f"{rows.get('read', 0):,}")]
    for name, taken, left in filter_counts(rows):
        read.append((f"− {_in_words(name)}", f"{taken:,}, leaves {left:,}"))
    if "bad_items" in rows:
        read.append(("bad metadata rows", f"{rows['bad_items']:,}"))
    yield read
    yield [(name, f"{card[key]:,}") for key, name in COUNTS.items() if key in card]
    lengths = card["title_lengths"]
    title_length = "median {median}, 95% at most {p95}, longest {longest}".format(**lengths)
    titles = [
        (f"title length in {lengths['unit']}", title_length),
        ("titles shared with another item", f"{card.get('duplicate_titles', 0):,}"),
    ]
    if "time_span" in card:
        titles.append(("time", " to ".join(card["time_span"])))
    yield titles
    yield [(name, _format_split(counts)) for name, counts in card.get("splits", {}).items()]
    leaks = [(_in_words(name), in_figures(leak)) for name, leak in card.get("leakage", {}).items()]
    unseen = f"{card['items_no_target_in_train']:,}"
    yield [*leaks, ("items never a target in train", unseen)]


def _format_split(counts: SplitCounts) -> str:
    parts = [f"{counts['queries']:,} queries", f"{counts['targets']:,} targets"]
    if "users" in counts:
        parts.append(f"{counts['users']:,} users")
    parts.append(f"median history {counts['history_median']:g}, longest {counts['history_max']:,}")
    first = counts.get("first")
    last = counts.get("last")
    if first and last:
        parts.append(f"{first[:10]} to {last[:10]}")
    return ", ".join(parts)


def _in_words(name: str) -> str:
    return name.replace("_", " ")


def draw(dataset: PreparedDataset, card: Card, lengths: NDArray[np.int64], path: Path) -> None:
    """Draw what each filter left, how long titles are, and when the queries were."""
    from groundrec.evaluate import charts

    unit = card["title_lengths"]["unit"]
    panels: list[Callable[[Axes], None]] = [
        lambda axes: _draw_filters(axes, card.get("rows", {}), charts.PALETTE),
        lambda axes: _draw_lengths(axes, lengths, unit, charts.PALETTE),
    ]
    if "time_span" in card:
        panels.append(lambda axes: _draw_times(axes, dataset, charts.PALETTE))
    charts.save(path, panels)


def _draw_filters(axes: Axes, rows: Mapping[str, int], palette: Mapping[str, str]) -> None:
    steps = [("read", rows.get("read", 0))]
    steps += [(f"− {_in_words(name)}", left) for name, _, left in filter_counts(rows)]
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
    axes.set_title("Rows left after each filter")


def _draw_lengths(
    axes: Axes, lengths: NDArray[np.int64], unit: str, palette: Mapping[str, str]
) -> None:
    # One bar per length, as long as there is room for that.
    edges = np.arange(lengths.max() + 2) - 0.5
    bins = edges.tolist() if len(edges) <= BINS else BINS
    axes.hist(lengths, bins=bins, color=palette["third"], alpha=0.75)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.set_xlabel(unit.split(" of ")[0])
    axes.set_title("Titles by length")


def _draw_times(axes: Axes, dataset: PreparedDataset, palette: Mapping[str, str]) -> None:
    """Draw the queries of the splits over time, stacked."""
    times = {name: dataset.split(name).times for name in SPLITS}
    every = np.concatenate(list(times.values()))
    edges = np.linspace(every.min(), every.max() + 1, BINS + 1)
    days = edges.astype(np.int64).astype("datetime64[s]")
    floor = np.zeros(BINS + 1)
    for name, values in times.items():
        counts = np.histogram(values, edges)[0]
        # A step has one value more than there are bins: its last is drawn to the right edge.
        top = floor + np.append(counts, counts[-1])
        colour = palette[COLOURS[name]]
        axes.fill_between(days, floor, top, step="post", color=colour, alpha=0.75, lw=0, label=name)
        floor = top
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.legend()
    axes.set_title("Queries by time")
