"""Turn histories and titles into token ids, for one tokenizer, template and catalogue.

A prompt is tokenised as one text, as in the papers' code, so that published checkpoints see the
tokens they were trained on. An answer is tokenised as it follows the prompt, and always to the same
tokens. A running list joins the ids of answers. Prompts that are too long lose their oldest items,
never the instruction or the answer. Knows nothing about models.
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

__all__ = ["END", "IGNORED", "PAD", "START", "UNLIMITED", "Encoder", "Example", "train_tokenizer"]

IGNORED = -100
"""Label of a token that does not count in the loss."""

CHUNK = 1 << 14
"""Number of titles that are tokenised at a time."""

SAMPLED_ITEMS = 256
"""Number of items from which the common prefix of all prompts is estimated."""

UNLIMITED = 1 << 40
"""Stands for the tokenizers that know no limit."""

PAD = 0
START = 1
END = 2
"""Ids of the special tokens of a tokenizer made by `train_tokenizer`."""


@dataclass(frozen=True)
class Example:
    """One training row: `labels[i]` is `input_ids[i]` if the token is learned, else -100."""

    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerBase:
    """Return a byte-level BPE tokenizer trained on `texts`, which round-trips any text.

    Merges may cross spaces, so a frequent title becomes few tokens.
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
    """Turns histories into prompts, and items into answers.

    `answers[i]` are the tokens the model writes for item `i`. `cutoff_len` limits prompt and answer
    together, in tokens; `trimmed` counts the prompts that lost items to it.
    """

    template: Template
    tokenizer: PreTrainedTokenizerBase
    titles: Sequence[str]
    cutoff_len: int
    seed: int = 0
    """Seed of the choice between instructions for each training example."""
    learned: Ragged | None = None
    """1 for each token of `answers` that is learned, 0 for the others; None: all are learned."""
    texts: Sequence[str] = ()
    """The text of each item in an answer (see `text/answers`); the titles by default."""
    answers: Ragged = field(init=False)
    trimmed: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        t = self.template
        self.texts = self.texts or self.titles
        after_item = t.item.split("{title}")[1]
        self.answers = self._answers_after(t.tail or after_item, self._end())
        longest = int(self.answers.lengths.max())
        # Room for a prompt after which any answer has to fit.
        self._room_for_all = self.cutoff_len - longest
        # A model has no positions past what its tokenizer says: answers have to fit before that.
        at_most = int(min(self.tokenizer.model_max_length, UNLIMITED)) - longest
        self._room = self._room_for_all
        if not t.running:
            self._room = max(self._room_for_all, min(self.cutoff_len, at_most))
        # [I]: about how many tokens an item takes in the history; exact in a running list.
        around = len(self._ids(t.separator + t.item.replace("{title}", "")))
        self._cost = self.answers.lengths + (0 if t.running else around)
        # The length of the prompt with an empty history, for each instruction.
        self._empty = [len(self._whole([], number)) for number in range(len(t.heads))]
        if (missing := max(self._empty) - self._room_for_all) > 0:
            raise ConfigError(
                "the longest answer does not fit after the instruction",
                value=f"cutoff_len = {self.cutoff_len}",
                accepted=f"at least {self.cutoff_len + missing}",
                next_step=f"--set train.cutoff_len={self.cutoff_len + missing}",
            )

    @cached_property
    def shared_prefix(self) -> list[int]:
        """The tokens with which (almost) all prompts of the search begin."""
        sample = range(min(len(self.titles), SAMPLED_ITEMS))
        prompts = [self._whole([], 0), *(self._whole([item], 0) for item in sample)]
        # What the first and the last in sorted order share, all between them share too.
        first = min(prompts)
        last = max(prompts)
        return [token for i, token in enumerate(first) if first[: i + 1] == last[: i + 1]]

    def prompt(
        self, history: NDArray[np.integer] | Sequence[int], instruction: int = 0
    ) -> list[int]:
        """Return the tokens of the prompt for a history of item numbers, oldest first.

        The oldest items are left out if they do not fit into `cutoff_len`. Nothing is reserved for
        the answer, which is not known yet; a running list leaves room for the longest.
        """
        return self._counted(history, instruction, self._room)

    def _counted(
        self, history: NDArray[np.integer] | Sequence[int], instruction: int, room: int
    ) -> list[int]:
        ids, fitting = self._fitted(history, instruction, room)
        self.trimmed += fitting < len(history)
        return ids

    def tokenize(self, text: str, limit: int) -> list[int]:
        """Return the start token and the tokens of a text without context, at most `limit`."""
        return [*self._start(), *self._ids(text)][:limit]

    def end_token_mask(self, vocabulary: int) -> NDArray[np.bool_]:
        """Return which tokens end an answer: the end token, or every token with a newline. [V]."""
        ends = np.zeros(vocabulary, np.bool_)
        if self.template.end:
            ends[self._end()] = True
            return ends
        # The model's vocabulary may be padded beyond the tokenizer's.
        ids = range(min(vocabulary, len(self.tokenizer)))
        ends[: len(ids)] = [
            "\n" in text for text in self.tokenizer.batch_decode([[i] for i in ids])
        ]
        if isinstance(end := self.tokenizer.eos_token_id, int):
            ends[end] = True
        return ends

    def n_items_that_fit(
        self, history: NDArray[np.integer] | Sequence[int], target: int | None = None
    ) -> int:
        """Return how many of the latest items fit into `cutoff_len` with the answer `target`, by
        default with the longest one.
        """
        return self._fitted(history, 0, self._room_before(target))[1]

    def _room_before(self, target: int | None) -> int:
        """Return the room for a prompt before an answer, or before any; running lists are cut
        where any would fit.
        """
        if target is None or self.template.running:
            return self._room_for_all
        return self.cutoff_len - len(self.answers[target])

    def example(
        self,
        history: NDArray[np.integer],
        target: int,
        *,
        train_on_inputs: bool = False,
        varied: bool = False,
    ) -> Example:
        """Return one training row: the prompt for `history`, then the answer `target`.

        The oldest items are left out if they do not fit into `cutoff_len` with this answer. If
        `varied`, the instruction is drawn for this example, else it is the first.
        """
        instruction = self._draw_instruction(history, target) if varied else 0
        room = self._room_before(target)
        prompt = np.array(self._counted(history, instruction, room), np.int32)
        before = prompt if train_on_inputs else np.full_like(prompt, IGNORED)
        ids = self.answers[target]
        labels = self._labels(target)
        return Example(np.concatenate([prompt, ids]), np.concatenate([before, labels]))

    def running(self, items: NDArray[np.integer]) -> Example:
        """Return one training row in which each of `items` is learned from those before it."""
        start = np.array(self._whole([], 0), np.int32)
        ids = np.concatenate([start, *(self.answers[i] for i in items)])
        return Example(
            ids, np.concatenate([np.full_like(start, IGNORED), *(self._labels(i) for i in items)])
        )

    def cuts(self, items: NDArray[np.integer], first: float = 1.0) -> NDArray[np.int64]:
        """Return where to cut a sequence so that each piece, as a running list, fits `cutoff_len`.

        Both ends are included. The first piece gets the share `first` of the room, so that cuts can
        differ from epoch to epoch.
        """
        room = self.cutoff_len - self._empty[0]
        cuts = [0]
        used = round((1 - first) * room)
        for index, length in enumerate(self.answers.lengths[items]):
            used += length
            if used > room and index > 0:
                cuts.append(index)
                used = length
        return np.array([*cuts, len(items)])

    def _fitted(
        self, history: NDArray[np.integer] | Sequence[int], instruction: int, most: int
    ) -> tuple[list[int], int]:
        """Return the longest prompt of at most `most` tokens, and its number of items."""
        # Estimate the number of items from their separate costs, newest first.
        taken = self._cost[np.asarray(history, np.int64)[::-1]].cumsum()
        room = most - self._empty[instruction]
        n = int(np.searchsorted(taken, room, side="right"))
        ids = self._whole(history[len(history) - n :], instruction)
        if self.template.running:
            return ids, n
        # Merges across items make them shorter or longer than alone, so correct the estimate.
        while len(ids) > most and n > 0:
            n -= 1
            ids = self._whole(history[len(history) - n :], instruction)
        while n < len(history):
            longer = self._whole(history[len(history) - n - 1 :], instruction)
            if len(longer) > most:
                break
            ids = longer
            n += 1
        return ids, n

    def _whole(self, history: NDArray[np.integer] | Sequence[int], instruction: int) -> list[int]:
        """Return the tokens of the prompt for a history of which nothing is left out."""
        t = self.template
        if t.running:
            return [
                *self._start(),
                *self._ids(t.head),
                *(int(i) for item in history for i in self.answers[item]),
            ]
        return self._start() + self._ids(
            t.text([self.titles[item] for item in history], instruction)
        )

    def _draw_instruction(self, history: NDArray[np.integer], target: int) -> int:
        """Return the instruction of a training example, the same in every epoch and process."""
        example = np.array([self.seed, target, *history], np.int64).tobytes()
        return int.from_bytes(blake2b(example, digest_size=8).digest(), "little") % len(self._empty)

    def _labels(self, item: int) -> NDArray[np.int32]:
        ids = self.answers[item]
        return ids if self.learned is None else np.where(self.learned[item] == 1, ids, IGNORED)

    def _start(self) -> list[int]:
        """Return the token that starts every prompt: the start token, or else the end token."""
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
        # A title may contain the text of a special token; it must not become that token.
        encoded = self.tokenizer(
            texts, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False
        )
        return encoded["input_ids"]  # type: ignore[return-value]

    def _answers_after(self, context: str, end: Sequence[int]) -> Ragged:
        """Return the tokens of each answer as it follows `context`, and `end` after each."""
        parts = []
        for start in range(0, len(self.texts), CHUNK):
            texts = [self.template.answer_text(t) for t in self.texts[start : start + CHUNK]]
            parts.append(Ragged.of([*ids, *end] for ids in self._after(context, texts)))
        return Ragged.concatenate(parts)

    def _after(self, context: str, texts: list[str]) -> list[list[int]]:
        """Return the tokens of each text as it follows `context`.

        If a token would span the two, the text is tokenised at the start of a line instead, and if
        a token spans that boundary too, without any context.
        """
        tokens: dict[int, list[int]] = {}
        for prefix in (context, "\n", ""):
            left = [i for i in range(len(texts)) if i not in tokens]
            before = self._ids(prefix)
            together = self._batch([prefix + texts[i] for i in left]) if left else []
            tokens |= {
                i: ids[len(before) :]
                for i, ids in zip(left, together, strict=True)
                if ids[: len(before)] == before
            }
        return [tokens[i] for i in range(len(texts))]
