"""The rows that training reads: one per example, whole lists, or prefix trees; and the loss of a
batch of them.

Knows nothing about optimisers or checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from groundrec.core import config_learn
from groundrec.core.errors import TrainingError
from groundrec.core.track import log
from groundrec.core.types import PreparedDataset, Queries
from groundrec.models.forward import logits_at
from groundrec.text.tokens import IGNORED, Encoder, Example
from groundrec.train.packing import Block, Tree, anchored_blocks, tree_masks, with_padding_ends

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "Domain",
    "PaddedRows",
    "Row",
    "Rows",
    "collate",
    "learned_tokens",
    "summed_loss",
    "training_rows",
    "validation_rows",
]

T = TypeVar("T")
Row = dict[str, torch.Tensor]


class Rows(Dataset[Row]):
    """Training rows as the Trainer reads them. Row `i` of epoch `e` is always the same."""

    def __init__(self, length: int, row: Callable[[int, int], Example | Tree]) -> None:
        self._length = length
        self._row_of = row
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Move on to an epoch; called by the data loader, on resume too."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> Row:
        row = self._row_of(i, self._epoch)
        return row.row() if isinstance(row, Tree) else _row(row)


def _row(example: Example) -> Row:
    """Return an example as the Trainer reads it, learning as `Tree.row` has it. Shapes: [T], and
    [R] for the others.
    """
    tokens = torch.from_numpy(example.input_ids).long()
    sources = torch.from_numpy(np.flatnonzero(example.labels[1:] != IGNORED))
    return {
        "input_ids": tokens,
        "sources": sources,
        "labels": tokens[sources + 1],
        "weights": torch.ones_like(sources),
    }


class _Joined(Rows):
    """The rows of several data sets, one below the other."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])
        super().__init__(int(self._ends[-1]), self._row)

    def set_epoch(self, epoch: int) -> None:
        """Move all on to an epoch."""
        super().set_epoch(epoch)
        for part in self._parts:
            part.set_epoch(epoch)

    def _row(self, i: int, epoch: int) -> Example | Tree:
        part = self._parts[which := int(np.searchsorted(self._ends, i, side="right"))]
        return part._row_of(i - int(self._ends[which]) + len(part), epoch)


class PaddedRows(Dataset[Row]):
    """Rows, and behind them some that teach nothing, so that their number is a multiple of what is
    read at once.
    """

    def __init__(self, rows: Rows, multiple: int) -> None:
        self.rows = rows
        self._filler = _filler_row(rows[0]) if len(rows) else {}
        self._length = -(-len(rows) // multiple) * multiple

    def set_epoch(self, epoch: int) -> None:
        """Move on to an epoch."""
        self.rows.set_epoch(epoch)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> Row:
        if i >= self._length:
            raise IndexError(i)
        return self.rows[i] if i < len(self.rows) else self._filler


def _filler_row(like: Row) -> Row:
    one = torch.zeros(1, dtype=torch.long)
    none = torch.zeros(0, dtype=torch.long)
    found = {**dict.fromkeys(like, none), "input_ids": one}
    return {**found, "position_ids": one, "ends": one + 1} if "ends" in like else found


@dataclass(frozen=True)
class Domain:
    """A data set to learn from, and what makes tokens of it."""

    dataset: PreparedDataset
    encoder: Encoder
    name: str = ""


def training_rows(domains: Sequence[Domain], section: config_learn.Train, seed: int) -> Rows:
    """Return the rows of the training splits, `section.max_examples` of each domain where given.

    They are trees, whole sequences for a running template, else a row per target.
    """
    parts = [_rows(domain, section, seed) for domain in domains]
    if len(parts) > 1:
        for domain, rows in zip(domains, parts, strict=True):
            log.info(f"  {domain.name}: {len(rows):,} rows to train on")
    return _together(parts)


def validation_rows(domains: Sequence[Domain], limit: int, seed: int) -> Rows:
    """Return a random `limit` of each validation split's examples, a row each."""
    examples = [_examples(domain.dataset.valid, domain.encoder, limit, seed) for domain in domains]
    return _together([_listed(some) for some in examples])


def _together(parts: Sequence[Rows]) -> Rows:
    return parts[0] if len(parts) == 1 else _Joined(parts)


def _rows(domain: Domain, section: config_learn.Train, seed: int) -> Rows:
    train = domain.dataset.train
    encoder = domain.encoder
    if section.packing == "tree":
        rows = _trees(train, encoder, section, seed)
    elif encoder.template.running:
        rows = _RunningRows(train, encoder, section, seed)
    else:
        rows = _listed(_examples(train, encoder, section.max_examples, seed, section))
    if not len(rows):
        raise TrainingError(
            "no training examples",
            value=domain.name or None,
            accepted="a data set with training queries that have a history",
        )
    return rows


def _listed(examples: Sequence[Example]) -> Rows:
    return Rows(len(examples), lambda i, _: examples[i])


def _trees(queries: Queries, encoder: Encoder, section: config_learn.Train, seed: int) -> Rows:
    blocks = _whole_blocks(
        list(anchored_blocks(queries, encoder, section.tree_targets)), section.max_examples, seed
    )
    trees = []
    alone = 0
    for block in blocks:
        examples = block.examples(encoder, train_on_inputs=section.train_on_inputs)
        alone += sum(len(example.input_ids) for example in examples)
        trees.append(Tree.of(examples))
    targets = sum(len(block.targets) for block in blocks)
    tokens = sum(len(tree.tokens) for tree in trees)
    if trees:
        log.info(
            f"  {targets:,} examples in {len(trees):,} trees: {tokens:,} tokens instead of"
            f" {alone:,}"
        )
    return Rows(len(trees), lambda i, _: trees[i])


def _whole_blocks(blocks: list[Block], limit: int | None, seed: int) -> list[Block]:
    """Return random blocks, in their old order, with `limit` targets in all: the last one drawn is
    cut short.
    """
    if limit is None:
        return blocks
    left = limit
    chosen = {}
    for i in np.random.default_rng(seed).permutation(len(blocks)).tolist():
        if left > 0:
            chosen[i] = blocks[i].first(left)
            left -= len(chosen[i].targets)
    return [chosen[i] for i in sorted(chosen)]


class _RunningRows(Rows):
    """Rows that hold each user's items once, cut at `cutoff_len`.

    Each epoch draws anew where the cuts fall, how the items of one moment, which have no order,
    follow each other, and which items are left out. A user has as many rows in every epoch; the
    last may be empty.
    """

    def __init__(
        self, queries: Queries, encoder: Encoder, section: config_learn.Train, seed: int
    ) -> None:
        self._sequences = queries.sequences()
        self._encoder = encoder
        self._section = section
        self._seed = seed
        self._moments = np.append(0, np.cumsum(np.diff(queries.moments()) != 0))
        rows = [
            (u, j)
            for u, items in enumerate(self._sequences)
            for j in range(len(encoder.cuts(items)))
        ]
        self._rows = _sample(rows, section.max_examples, seed)
        super().__init__(len(self._rows), self._row)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the cuts of an epoch."""
        super().set_epoch(epoch)
        shares = np.random.default_rng([self._seed, epoch]).random(len(self._sequences))
        self._cuts = [
            self._encoder.cuts(items, s) for items, s in zip(self._sequences, shares, strict=True)
        ]

    def _row(self, i: int, epoch: int) -> Example:
        user, piece = self._rows[i]
        cuts = self._sequences.offsets[user] + self._cuts[user]
        a, b = cuts[piece : piece + 2] if piece + 1 < len(cuts) else (cuts[-1], cuts[-1])
        draw = np.random.default_rng([self._seed, epoch, i]).random((2, b - a))
        order = np.lexsort([draw[0], self._moments[a:b]])
        kept = order[draw[1] >= self._section.drop_items]
        return self._encoder.running(self._sequences.values[a:b][kept])


def _examples(
    queries: Queries,
    encoder: Encoder,
    limit: int | None,
    seed: int,
    section: config_learn.Train | None = None,
) -> list[Example]:
    """Return one row per target of the queries that have a history; a random `limit` of rows where
    given.

    With a section they are for training: the prompt may be learned too, and its instruction may
    vary.
    """
    some = queries.take(np.flatnonzero(queries.history.lengths > 0))
    pairs = [(query.history, int(target)) for query in some for target in query.targets]
    chosen = _sample(pairs, limit, seed)
    options = {"train_on_inputs": section.train_on_inputs, "varied": True} if section else {}
    return [encoder.example(history, target, **options) for history, target in chosen]


def _sample(rows: list[T], limit: int | None, seed: int) -> list[T]:
    if limit is None or limit >= len(rows):
        return rows
    chosen = np.random.default_rng(seed).choice(len(rows), limit, replace=False)
    return [rows[i] for i in np.sort(chosen)]


def collate(rows: list[Row]) -> Row:
    """Return rows, or trees, as one batch, padded on the right. Under causal attention rows need no
    mask.
    """
    batch = {name: pad_sequence([r[name] for r in rows], batch_first=True) for name in rows[0]}
    return {**batch, "ends": with_padding_ends(batch["ends"])} if "ends" in batch else batch


def learned_tokens(batch: Row) -> torch.Tensor:
    """Return how many tokens a batch teaches, counted once for each example that learns them."""
    return batch["weights"].sum()


def summed_loss(
    model: torch.nn.Module, batch: Row, unwrapped: PreTrainedModel | None = None
) -> tuple[torch.Tensor, object]:
    """Return the cross entropy of the learned tokens, summed, and the model's outputs.

    Logits are computed for the tokens before learned ones only, and kept in fp32 at least.
    `unwrapped` is the model without what distributed training puts around it. Nothing here waits
    for the device.
    """
    own = unwrapped if unwrapped is not None else cast("PreTrainedModel", model)
    inputs = {"input_ids": batch["input_ids"], **_places(own, batch)}
    outputs = logits_at(model, batch["sources"], **inputs, use_cache=False)
    logits = outputs.logits.flatten(0, 1)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = cross_entropy(logits, batch["labels"].flatten(), reduction="none")
    return losses @ batch["weights"].flatten().to(losses.dtype), outputs


def _places(model: PreTrainedModel, batch: Row) -> dict[str, Any]:
    """Return where a tree's tokens stand and what they see; a row's stand one behind the other."""
    if "ends" not in batch:
        return {}
    depth = batch["position_ids"]
    return {"position_ids": depth, "attention_mask": tree_masks(model, batch["ends"], depth)}
