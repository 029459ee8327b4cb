"""Prompts of rows of a published test file as tokens, in a script's words or a template's.

Knows nothing about models, nor where words come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from groundrec.core.types import Ragged
from groundrec.data.exchange.test_files import TestRow, quoted_list
from groundrec.text.prompts import Template
from groundrec.text.script_words import BIGRecWords, D3Words
from groundrec.text.tokens import Encoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["BIGRecPrompts", "D3Prompts", "RowPrompts", "TemplatePrompts"]

UNCUT = 1 << 30
"""The scripts cut no prompt."""


class RowPrompts(Protocol):
    """The prompts of rows, and the answers that may follow them."""

    def tokens(self, row: TestRow) -> list[int]:
        """Return the tokens of a row's prompt."""
        ...

    def input(self, row: TestRow) -> str:
        """Return what a result shows as the row's input."""
        ...

    def answers(self, titles: Sequence[str]) -> Ragged:
        """Return the tokens of each title as an answer."""
        ...

    def answer_text(self, title: str) -> str:
        """Return a title as the model writes it."""
        ...


@dataclass(frozen=True)
class BIGRecPrompts:
    """A row's own instruction and input, in the words of BIGRec's script."""

    words: BIGRecWords
    tokenizer: PreTrainedTokenizerBase

    def tokens(self, row: TestRow) -> list[int]:
        """Return the prompt as the tokenizer gives it, with its special tokens."""
        text = self.words.prompt(row.fields["instruction"], row.fields["input"])
        return list(self.tokenizer(text)["input_ids"])  # type: ignore[arg-type]

    def input(self, row: TestRow) -> str:
        """Return the row's own input."""
        return row.fields["input"]

    def answers(self, titles: Sequence[str]) -> Ragged:
        """Return each title in quotation marks and the end token."""
        return _encoder(self._template, self.tokenizer, titles).answers

    def answer_text(self, title: str) -> str:
        """Return the title in quotation marks."""
        return self._template.answer_text(title)

    @property
    def _template(self) -> Template:
        tail = self.words.prompt("", "\0").partition("\0")[2]
        return Template(item='"{title}"', tail=tail, answer='"{title}"', end=True)


@dataclass(frozen=True)
class D3Prompts:
    """A history in the words of D3's script."""

    words: D3Words
    tokenizer: PreTrainedTokenizerBase

    def tokens(self, row: TestRow) -> list[int]:
        """Return the start token, where there is one, and two parts, each tokenised by itself."""
        parts = self.words.prompt(quoted_list(row.history))
        start = self.tokenizer.bos_token_id
        ids = [start] if isinstance(start, int) else []
        return [*ids, *(token for part in parts for token in self._plain(part))]

    def input(self, row: TestRow) -> str:
        """Return the input in the script's words."""
        return self.words.input(quoted_list(row.history))

    def answers(self, titles: Sequence[str]) -> Ragged:
        """Return each title in quotation marks, a line break and the end token."""
        return _encoder(self._template, self.tokenizer, titles).answers

    def answer_text(self, title: str) -> str:
        """Return the title in quotation marks and a line break."""
        return self._template.answer_text(title)

    def _plain(self, text: str) -> list[int]:
        """Return tokens without the special ones that some tokenizers put around a text."""
        ids = list(self.tokenizer(text)["input_ids"])  # type: ignore[arg-type]
        start, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        while ids and ids[0] == start:
            ids = ids[1:]
        while ids and ids[-1] == end:
            ids = ids[:-1]
        return ids

    @property
    def _template(self) -> Template:
        return Template(item='"{title}"', tail=self.words.tail, answer='"{title}"\n', end=True)


@dataclass(frozen=True)
class TemplatePrompts:
    """A history in the words of a template, tokenised as `groundrec train` does."""

    template: Template
    tokenizer: PreTrainedTokenizerBase
    titles: tuple[str, ...]
    """Every title of a history, each once."""
    cutoff_len: int = UNCUT

    def tokens(self, row: TestRow) -> list[int]:
        """Return the prompt, without the oldest titles where it would be too long."""
        return self._encoder.prompt([self._numbers[title] for title in row.history])

    def input(self, row: TestRow) -> str:
        """Return the row's own input, or else its titles in quotation marks."""
        return row.fields.get("input", quoted_list(row.history))

    def answers(self, titles: Sequence[str]) -> Ragged:
        """Return each title as the template writes answers."""
        return _encoder(self.template, self.tokenizer, titles).answers

    def answer_text(self, title: str) -> str:
        """Return a title as the template writes answers."""
        return self.template.answer_text(title)

    @cached_property
    def _encoder(self) -> Encoder:
        return _encoder(self.template, self.tokenizer, self.titles, self.cutoff_len)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {title: number for number, title in enumerate(self.titles)}


def _encoder(
    template: Template,
    tokenizer: PreTrainedTokenizerBase,
    titles: Sequence[str],
    cutoff_len: int = UNCUT,
) -> Encoder:
    return Encoder(template, tokenizer, titles, cutoff_len)
