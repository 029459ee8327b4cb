"""The words of rows written as instructions, and rows from words.

A row is an instruction, an input with the titles of a history, and an output with the next title.
The words around the titles are whatever their author chose; `infer_words` finds them. Knows nothing
about files and prompts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["InputForm", "Row", "RowWords", "unwrapped"]

MOST_SEPARATORS = 20
"""A title with more separators in it is not recognised as one."""


class Row(NamedTuple):
    """One row of a file."""

    instruction: str
    input: str
    output: str


@dataclass(frozen=True)
class InputForm:
    """The text around the titles of an input, marks around each title included."""

    prefix: str
    separator: str
    suffix: str

    def titles(self, text: str, ambiguous: Collection[str] = ()) -> list[str] | None:
        """Return the titles of an input, None where it is not of this form.

        `ambiguous` are the titles that contain the separator themselves; the longest match wins.
        """
        stop = len(text) - len(self.suffix)
        start = len(self.prefix)
        if start >= stop or not text.startswith(self.prefix) or not text.endswith(self.suffix):
            return None
        pieces = text[start:stop].split(self.separator)
        titles = list(self._merged(pieces, ambiguous)) if ambiguous else pieces
        return titles if all(titles) else None

    def _merged(self, pieces: Sequence[str], ambiguous: Collection[str]) -> Iterator[str]:
        """Yield the pieces, those of an ambiguous title together."""
        start = 0
        while start < len(pieces):
            joined = pieces[start]
            stop = start + 1
            longest = (joined, stop)
            while stop < len(pieces) and stop - start <= MOST_SEPARATORS:
                joined = f"{joined}{self.separator}{pieces[stop]}"
                stop += 1
                if joined in ambiguous:
                    longest = (joined, stop)
            title, start = longest
            yield title


@dataclass(frozen=True)
class RowWords:
    """The words of a file's rows, in which a history and a target become a row."""

    instructions: tuple[str, ...]
    """Every instruction, the most frequent first."""
    before: str
    """The input up to the first title, or the mark that opens it."""
    marks: tuple[str, str]
    """What opens and closes each title of an input."""
    separator: str
    after: str
    output_marks: tuple[str, str]
    """What opens and closes the title of an output."""

    @property
    def form(self) -> InputForm:
        """The form of an input that has titles."""
        opening, closing = self.marks
        return InputForm(
            self.before + opening, closing + self.separator + opening, closing + self.after
        )

    def row(self, history: Sequence[str], target: str) -> Row:
        """Return the row of a history and a target, given by their titles."""
        form = self.form
        text = self.before + self.after
        if history:
            text = form.prefix + form.separator.join(history) + form.suffix
        return Row(self.instructions[0], text, target.join(self.output_marks))

    def histories(self, text: str, ambiguous: Collection[str]) -> list[str] | None:
        """Return the titles of an input, which may be none; None if it has other words."""
        if text == self.before + self.after:
            return []
        return self.form.titles(text, ambiguous)

    def target(self, output: str) -> str | None:
        """Return the title of an output, None if it has other words."""
        return unwrapped(output, self.output_marks)

    def as_card(self) -> dict[str, Any]:
        """Return the words as a data set's card keeps them."""
        return {
            "instructions": list(self.instructions),
            "before": self.before,
            "marks": list(self.marks),
            "separator": self.separator,
            "after": self.after,
            "output_marks": list(self.output_marks),
        }

    @classmethod
    def of_card(cls, words: Mapping[str, Any]) -> RowWords:
        """Return the words that a card keeps."""
        opening, closing = words["marks"]
        before, after = words["output_marks"]
        return cls(
            tuple(words["instructions"]),
            words["before"],
            (opening, closing),
            words["separator"],
            words["after"],
            (before, after),
        )


def unwrapped(text: str, marks: tuple[str, str]) -> str | None:
    """Return the text between two marks, None where either is missing or it is empty."""
    opening, closing = marks
    stop = len(text) - len(closing)
    if len(opening) < stop and text.startswith(opening) and text.endswith(closing):
        return text[len(opening) : stop]
    return None
