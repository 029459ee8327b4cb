"""Histories and titles to token ids, for one tokenizer, template and catalogue.

Every part of a prompt is tokenised in its context and joined by ids, so training, search and prompts agree to the
token, and a title has one spelling. What is too long loses its oldest items; never the instruction or the answer.
Knows nothing about models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from groundrec.core.errors import ConfigError, DataError
from groundrec.core.types import Ragged
from groundrec.text.prompts import Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["END", "IGNORED", "PAD", "START", "Encoder", "Example", "train_tokenizer"]

IGNORED = -100
"""Label of a token that is read but not learned."""

CHUNK = 1 << 14
"""Titles that are tokenised at a time."""

PAD, START, END = 0, 1, 2
"""Ids of the special tokens of a tokenizer made by `train_tokenizer`."""


@dataclass(frozen=True)
class Example:
    """One training row: `labels[i]` is token `i` itself where it is learned, else -100."""

    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerBase:
    """Return a byte-level BPE tokenizer learned from `texts`; it spells any text, and decoding gives it back.

    Merges may cross blanks, so a frequent title becomes few tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]  # PAD, START, END
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )


@dataclass
class Encoder:
    """Turns histories into prompts, and titles into answers.

    `answers[i]` are the tokens the model writes for item `i`. `cutoff_len` bounds prompt and answer together, in
    tokens; `trimmed` counts the prompts that lost history to it.
    """

    template: Template
    tokenizer: PreTrainedTokenizerBase
    titles: Sequence[str]
    cutoff_len: int
    learned: Ragged | None = None
    """1 where a token of an answer is learned, 0 where not; rows as `answers`. All are learned when None."""
    answers: Ragged = field(init=False)
    trimmed: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        t = self.template
        start = self._start()
        self._head = start + self._ids(t.head)
        self._tail = self._after(t.head or t.separator, [t.tail])[0] if t.tail else []
        behind_item = t.item.split("{title}")[1]
        self.answers = self._titles_after(t.tail or behind_item, t.answer_text, self._end())
        if t.running:
            self._first = self._later = self.answers
        else:
            self._first = self._titles_after(t.head, partial(t.item_text, first=True))
            self._later = self._titles_after(behind_item, partial(t.item_text, first=False))
        # Whichever item comes first in a prompt has no separator before it; room is kept for the longer form.
        self._cost = np.maximum(self._first.lengths, self._later.lengths)
        longest = int(self.answers.lengths.max())
        self._room = self.cutoff_len - len(self._head) - len(self._tail) - longest
        if self._room < 0:
            raise ConfigError(
                "the longest answer does not fit behind the instruction",
                value=f"cutoff_len = {self.cutoff_len}",
                accepted=f"at least {self.cutoff_len - self._room}",
                next_step=f"--set train.cutoff_len={self.cutoff_len - self._room}",
            )

    @property
    def head(self) -> list[int]:
        """The tokens that every prompt begins with."""
        return list(self._head)

    def prompt(self, history: NDArray[np.integer] | Sequence[int]) -> list[int]:
        """Return the tokens of the prompt for a history of item numbers, oldest first.

        The oldest items that do not fit `cutoff_len` beside the longest answer are left out.
        """
        fitting = self.fitting(history)
        self.trimmed += fitting < len(history)
        kept = [self._later[item] for item in history[len(history) - fitting :]]
        if kept:
            kept[0] = self._first[history[len(history) - fitting]]
        return [*self._head, *(int(t) for ids in kept for t in ids), *self._tail]

    def spelled(self, text: str, most: int) -> list[int]:
        """Return the tokens of a text by itself, behind the start token; the first `most` of them."""
        return [*self._start(), *self._ids(text)][:most]

    def ends(self, vocabulary: int) -> NDArray[np.bool_]:
        """Return which tokens end an answer: the end token, or all that hold a newline. Shape: [V]."""
        found = np.zeros(vocabulary, np.bool_)
        if self.template.end:
            found[self._end()] = True
            return found
        ids = range(min(vocabulary, len(self.tokenizer)))
        found[: len(ids)] = ["\n" in text for text in self.tokenizer.batch_decode([[i] for i in ids])]
        if isinstance(end := self.tokenizer.eos_token_id, int):
            found[end] = True
        return found

    def fitting(self, history: NDArray[np.integer] | Sequence[int]) -> int:
        """Return how many items of a history, the latest ones, fit `cutoff_len` beside the longest answer."""
        taken = self._cost[np.asarray(history, np.int64)[::-1]].cumsum()
        return int(np.searchsorted(taken, self._room, side="right"))

    def example(self, history: NDArray[np.integer], target: int, *, train_on_inputs: bool = False) -> Example:
        """Return one row that teaches to answer `target` after `history`."""
        prompt = np.array(self.prompt(history), np.int32)
        before = prompt if train_on_inputs else np.full_like(prompt, IGNORED)
        ids, labels = self.answers[target], self._labels(target)
        return Example(np.concatenate([prompt, ids]), np.concatenate([before, labels]))

    def running(self, items: NDArray[np.integer]) -> Example:
        """Return one row in which each of `items` is learned after those before it."""
        head = np.array(self._head, np.int32)
        ids = np.concatenate([head, *(self.answers[i] for i in items)])
        return Example(ids, np.concatenate([np.full_like(head, IGNORED), *(self._labels(i) for i in items)]))

    def cuts(self, items: NDArray[np.integer], first: float = 1.0) -> NDArray[np.int64]:
        """Return where to cut a long sequence so that each piece fits `cutoff_len` as a running list; ends included.

        The first piece gets the share `first` of that room, so that cuts can fall elsewhere in each epoch.
        """
        room = self.cutoff_len - len(self._head)
        cuts, used = [0], round((1 - first) * room)
        for place, length in enumerate(self.answers.lengths[items]):
            used += length
            if used > room and place > 0:
                cuts.append(place)
                used = length
        return np.array([*cuts, len(items)])

    def _labels(self, item: int) -> NDArray[np.int32]:
        ids = self.answers[item]
        return ids if self.learned is None else np.where(self.learned[item] == 1, ids, IGNORED)

    def _start(self) -> list[int]:
        """Return the tokens every prompt begins with: the tokenizer's own start token, or its end token."""
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if isinstance(token, int):
                return [token]
        raise DataError("the tokenizer has neither a start nor an end token", value=self.tokenizer.name_or_path)

    def _end(self) -> list[int]:
        if not self.template.end:
            return []
        token = self.tokenizer.eos_token_id
        if not isinstance(token, int):
            raise DataError(
                "the template ends answers with an end token, and the tokenizer has none",
                value=self.tokenizer.name_or_path,
            )
        return [token]

    def _ids(self, text: str) -> list[int]:
        return self._batch([text])[0] if text else []

    def _batch(self, texts: list[str]) -> list[list[int]]:
        found = self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False)
        return found["input_ids"]  # type: ignore[return-value]

    def _titles_after(self, context: str, spell: Callable[[str], str], end: Sequence[int] = ()) -> Ragged:
        """Return the tokens of each title, spelled as it follows `context`, and `end` behind each."""
        parts = []
        for start in range(0, len(self.titles), CHUNK):
            texts = [spell(title) for title in self.titles[start : start + CHUNK]]
            parts.append(Ragged.of([*ids, *end] for ids in self._after(context, texts)))
        return Ragged.stacked(parts)

    def _after(self, context: str, texts: list[str]) -> list[list[int]]:
        """Return the tokens of each text as it follows `context`.

        Where the two would share a token, as the text begins a line; where that does not come apart either, alone.
        """
        found: dict[int, list[int]] = {}
        for words in (context, "\n", ""):
            left = [i for i in range(len(texts)) if i not in found]
            before = self._ids(words)
            together = self._batch([words + texts[i] for i in left]) if left else []
            found |= {
                i: ids[len(before) :] for i, ids in zip(left, together, strict=True) if ids[: len(before)] == before
            }
        return [found[i] for i in range(len(texts))]
