"""What `groundrec tokenize` shows, as JSON-shaped data and as lines on the terminal.

Knows nothing about tokenizers.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

from rich.console import Console
from rich.markup import escape

__all__ = [
    "ExampleTokens",
    "Shown",
    "TextTokens",
    "TokenizerFacts",
    "VocabularyEntry",
    "print_tokens",
]


class TokenizerFacts(TypedDict):
    """A tokenizer at a glance; `special` has each special token's text and id."""

    vocabulary: int
    special: dict[str, tuple[str, int]]
    padding_side: str
    truncation_side: str
    chat_template: bool


class VocabularyEntry(TypedDict):
    """An entry of the vocabulary, or what a text that is not one is made of."""

    id: int | None
    piece: str
    text: str
    made_of: NotRequired[list[str]]


class TextTokens(TypedDict):
    """One text as tokens. All lists have one entry per token."""

    text: str
    ids: list[int]
    pieces: list[str]
    places: list[list[int] | None]
    """Where each token begins and ends in the text; None if the tokenizer does not know."""
    attention_mask: list[int]
    special: list[int]
    decoded: str
    comes_back: bool
    cut_off: int


class ExampleTokens(TypedDict):
    """One training example as tokens; `learned` marks those that the loss counts."""

    history: list[str]
    target: str
    left_out: int
    text: str
    ids: list[int]
    pieces: list[str]
    learned: list[int]


class Shown(TypedDict):
    """Everything that one call shows."""

    tokenizer: TokenizerFacts
    vocabulary: NotRequired[list[VocabularyEntry]]
    decoded: NotRequired[str]
    example: NotRequired[ExampleTokens]
    batch: NotRequired[list[TextTokens]]


def print_tokens(shown: Shown) -> None:
    """Print everything that was asked for."""
    console = Console(highlight=False, soft_wrap=True)
    facts = shown["tokenizer"]
    special = ", ".join(
        f"{name} {text} {number}" for name, (text, number) in facts["special"].items()
    )
    console.print(f"vocabulary {facts['vocabulary']:,}; {escape(special)}")
    console.print(
        f"pads on the {facts['padding_side']}, truncates on the {facts['truncation_side']}"
    )
    for entry in shown.get("vocabulary", []):
        what = f" is {entry['id']}"
        if "made_of" in entry:
            what = f" is not a token; it is made of {entry['made_of']}"
        console.print(escape(f"{entry['piece']!r}{what}"))
    if "decoded" in shown:
        console.print(escape(repr(shown["decoded"])))
    for row in shown.get("batch", []):
        _print_text(console, row)
    if "example" in shown:
        _print_example(console, shown["example"])


def _print_text(console: Console, row: TextTokens) -> None:
    count = sum(row["attention_mask"])
    end = "" if row["comes_back"] else "; decoding does not give the text back"
    console.print(escape(f"\n{row['text']!r}: {count} tokens, {row['cut_off']} cut off{end}"))
    columns = (row["ids"], row["pieces"], row["places"], row["attention_mask"])
    for number, piece, place, mask in zip(*columns, strict=True):
        padding = "" if mask else " padding"
        console.print(escape(f"{number:>8}  {piece!r:<24} {place or ''}{padding}"))


def _print_example(console: Console, row: ExampleTokens) -> None:
    learned = f"{sum(row['learned'])} of them learned (*)"
    left_out = f"{row['left_out']} of the oldest items left out"
    console.print(f"\n{len(row['ids'])} tokens, {learned}; {left_out}")
    for number, piece, mark in zip(row["ids"], row["pieces"], row["learned"], strict=True):
        console.print(escape(f"{'*' if mark else ' '} {number:>8}  {piece!r}"))
