"""Histories and titles to token ids, for one tokenizer, template and catalogue.

A prompt is tokenised as one text, as the code of the papers does, so that a checkpoint made
elsewhere sees the tokens it knows; an answer is tokenised behind it, where a title has one
spelling. A running list is answers, joined by ids. What is too long loses its oldest items; never
the instruction or the answer. Knows nothing about models.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
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

SOME = 256
"""Items by which it is found out what all prompts have in common."""

PAD = 0
START = 1
END = 2
"""Ids of the special tokens of a tokenizer made by `train_tokenizer`."""


@dataclass(frozen=True)
class Example:
    """One training row: `labels[i]` is token `i` itself where it is learned, else -100."""

    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerBase:
    """Return a byte-level BPE tokenizer learned from `texts`; it spells any text, and decoding
    gives it back.

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

    `answers[i]` are the tokens the model writes for item `i`. `cutoff_len` bounds prompt and answer
    together, in tokens; `trimmed` counts the prompts that lost history to it.
    """

    template: Template
    tokenizer: PreTrainedTokenizerBase
    titles: Sequence[str]
    cutoff_len: int
    seed: int = 0
    """Draws the instruction of each training example, where the template leaves several."""
    learned: Ragged | None = None
    """1 where a token of an answer is learned, 0 where not; rows as `answers`. All are learned when
    None.
    """
    texts: Sequence[str] = ()
    """How each item is written in an answer (`text/answers`); its title when empty."""
    answers: Ragged = field(init=False)
    trimmed: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        t = self.template
        self.texts = self.texts or self.titles
        after_item = t.item.split("{title}")[1]
        self.answers = self._answers_after(t.tail or after_item, self._end())
        longest = int(self.answers.lengths.max())
        self._most = self.cutoff_len - longest
        around = len(self._ids(t.separator + t.item.replace("{title}", "")))
        self._cost = self.answers.lengths + (0 if t.running else around)
        self._empty = [len(self._whole([], head)) for head in range(len(t.heads))]
        if (missing := max(self._empty) - self._most) > 0:
            raise ConfigError(
                "the longest answer does not fit behind the instruction",
                value=f"cutoff_len = {self.cutoff_len}",
                accepted=f"at least {self.cutoff_len + missing}",
                next_step=f"--set train.cutoff_len={self.cutoff_len + missing}",
            )

    @cached_property
    def head(self) -> list[int]:
        """The tokens that prompts begin with when they are searched with; one for whose history
        they differ is rare.
        """
        some = range(min(len(self.titles), SOME))
        prompts = [self._whole([], 0), *(self._whole([item], 0) for item in some)]
        least = min(prompts)
        most = max(prompts)
        return [a for i, a in enumerate(least) if least[: i + 1] == most[: i + 1]]

    def prompt(self, history: NDArray[np.integer] | Sequence[int], head: int = 0) -> list[int]:
        """Return the tokens of the prompt for a history of item numbers, oldest first, with one of
        the heads.

        The oldest items that do not fit `cutoff_len` beside the longest answer are left out.
        """
        ids, fitting = self._fitted(history, head)
        self.trimmed += fitting < len(history)
        return ids

    def tokenize(self, text: str, most: int) -> list[int]:
        """Return the tokens of a text by itself, behind the start token; the first `most` of them."""
        return [*self._start(), *self._ids(text)][:most]

    def end_token_mask(self, vocabulary: int) -> NDArray[np.bool_]:
        """Return which tokens end an answer: the end token, or all that hold a newline. Shape: [V]."""
        found = np.zeros(vocabulary, np.bool_)
        if self.template.end:
            found[self._end()] = True
            return found
        ids = range(min(vocabulary, len(self.tokenizer)))
        found[: len(ids)] = [
            "\n" in text for text in self.tokenizer.batch_decode([[i] for i in ids])
        ]
        if isinstance(end := self.tokenizer.eos_token_id, int):
            found[end] = True
        return found

    def n_items_that_fit(self, history: NDArray[np.integer] | Sequence[int]) -> int:
        """Return how many items of a history, the latest ones, fit `cutoff_len` beside the longest
        answer.
        """
        return self._fitted(history, 0)[1]

    def example(
        self,
        history: NDArray[np.integer],
        target: int,
        *,
        train_on_inputs: bool = False,
        varied: bool = False,
    ) -> Example:
        """Return one row that teaches to answer `target` after `history`.

        Where `varied`, with the instruction that is drawn for this example, else with the first.
        """
        prompt = np.array(
            self.prompt(history, self._drawn(history, target) if varied else 0), np.int32
        )
        before = prompt if train_on_inputs else np.full_like(prompt, IGNORED)
        ids = self.answers[target]
        labels = self._labels(target)
        return Example(np.concatenate([prompt, ids]), np.concatenate([before, labels]))

    def running(self, items: NDArray[np.integer]) -> Example:
        """Return one row in which each of `items` is learned after those before it."""
        head = np.array(self._whole([], 0), np.int32)
        ids = np.concatenate([head, *(self.answers[i] for i in items)])
        return Example(
            ids, np.concatenate([np.full_like(head, IGNORED), *(self._labels(i) for i in items)])
        )

    def cuts(self, items: NDArray[np.integer], first: float = 1.0) -> NDArray[np.int64]:
        """Return where to cut a long sequence so that each piece fits `cutoff_len` as a running
        list; ends included.

        The first piece gets the share `first` of that room, so that cuts can fall elsewhere in each
        epoch.
        """
        room = self.cutoff_len - self._empty[0]
        cuts = [0]
        used = round((1 - first) * room)
        for place, length in enumerate(self.answers.lengths[items]):
            used += length
            if used > room and place > 0:
                cuts.append(place)
                used = length
        return np.array([*cuts, len(items)])

    def _fitted(
        self, history: NDArray[np.integer] | Sequence[int], head: int
    ) -> tuple[list[int], int]:
        """Return the longest prompt that leaves room for every answer, and how many items are in
        it.
        """
        taken = self._cost[np.asarray(history, np.int64)[::-1]].cumsum()
        n = int(np.searchsorted(taken, self._most - self._empty[head], side="right"))
        ids = self._whole(history[len(history) - n :], head)
        if self.template.running:
            return ids, n
        # Next to each other, items may have fewer tokens than alone, or more.
        while len(ids) > self._most:
            n -= 1
            ids = self._whole(history[len(history) - n :], head)
        while n < len(history):
            longer = self._whole(history[len(history) - n - 1 :], head)
            if len(longer) > self._most:
                break
            ids = longer
            n = n + 1
        return ids, n

    def _whole(self, history: NDArray[np.integer] | Sequence[int], head: int) -> list[int]:
        """Return the tokens of the prompt for a history of which nothing is left out."""
        t = self.template
        if t.running:
            return [
                *self._start(),
                *self._ids(t.head),
                *(int(i) for item in history for i in self.answers[item]),
            ]
        return self._start() + self._ids(t.text([self.titles[item] for item in history], head))

    def _drawn(self, history: NDArray[np.integer], target: int) -> int:
        """Return the number of the head of a training example, always the same one."""
        example = np.array([self.seed, target, *history], np.int64).tobytes()
        return int.from_bytes(blake2b(example, digest_size=8).digest(), "little") % len(self._empty)

    def _labels(self, item: int) -> NDArray[np.int32]:
        ids = self.answers[item]
        return ids if self.learned is None else np.where(self.learned[item] == 1, ids, IGNORED)

    def _start(self) -> list[int]:
        """Return the tokens every prompt begins with: the tokenizer's own start token, or its end
        token.
        """
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if isinstance(token, int):
                return [token]
        raise DataError(
            "the tokenizer has neither a start nor an end token", value=self.tokenizer.name_or_path
        )

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
        found = self.tokenizer(
            texts, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False
        )
        return found["input_ids"]  # type: ignore[return-value]

    def _answers_after(self, context: str, end: Sequence[int]) -> Ragged:
        """Return the tokens of each answer as it follows `context`, with `end` after each."""
        parts = []
        for start in range(0, len(self.texts), CHUNK):
            texts = [self.template.answer_text(t) for t in self.texts[start : start + CHUNK]]
            parts.append(Ragged.of([*ids, *end] for ids in self._after(context, texts)))
        return Ragged.concatenate(parts)

    def _after(self, context: str, texts: list[str]) -> list[list[int]]:
        """Return the tokens of each text as it follows `context`.

        Where the two would share a token, as the text begins a line; where that does not come apart
        either, alone.
        """
        found: dict[int, list[int]] = {}
        for words in (context, "\n", ""):
            left = [i for i in range(len(texts)) if i not in found]
            before = self._ids(words)
            together = self._batch([words + texts[i] for i in left]) if left else []
            found |= {
                i: ids[len(before) :]
                for i, ids in zip(left, together, strict=True)
                if ids[: len(before)] == before
            }
        return [found[i] for i in range(len(texts))]
