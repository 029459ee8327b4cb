"""What a language model is trained for: the rows it learns from, and the loss of a batch of them.

Knows nothing about optimisers or checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from groundrec.core import config_learn
from groundrec.models.forward import logits_at
from groundrec.text.tokens import IGNORED, Example
from groundrec.train.packing import Tree, tree_masks
from groundrec.train.rows import Domain, Row, Rows, training_rows, validation_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Batch", "CrossEntropy", "Objective", "TreeBatch", "collate", "filler", "learned_logits"]


@dataclass(frozen=True, eq=False)
class Batch(Mapping[str, torch.Tensor]):
    """Q rows of up to T tokens, of which up to R are learned, padded on the right.

    Each token attends to those before it, so padding needs no mask. transformers' Trainer and
    Accelerate read a batch as a mapping of its fields.
    """

    input_ids: torch.Tensor
    """Shape: [Q, T]."""
    logit_positions: torch.Tensor
    """The position of the token before each learned one. Shape: [Q, R]."""
    labels: torch.Tensor
    """The learned tokens. Shape: [Q, R]."""
    weights: torch.Tensor
    """How many examples learn each of them; 0 for padding. Shape: [Q, R]."""

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Batch:
        """Return a batch of rows."""
        positions = [np.flatnonzero(e.labels[1:] != IGNORED) for e in examples]
        pairs = zip(examples, positions, strict=True)
        return Batch(
            input_ids=_padded(e.input_ids for e in examples),
            logit_positions=_padded(positions),
            labels=_padded(e.input_ids[before + 1] for e, before in pairs),
            weights=_padded(np.ones_like(before) for before in positions),
        )

    def __getitem__(self, name: str) -> torch.Tensor:
        return vars(self)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(vars(self))

    def __len__(self) -> int:
        return len(vars(self))

    @property
    def size(self) -> int:
        """The number of rows."""
        return len(self.input_ids)

    def learned_tokens(self) -> torch.Tensor:
        """Return how many tokens are learned, counted once for each example that learns them."""
        return self.weights.sum()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Return the batch on a device."""
        moved = {name: value.to(device, non_blocking=non_blocking) for name, value in self.items()}
        return type(self)(**moved)


@dataclass(frozen=True, eq=False)
class TreeBatch(Batch):
    """Prefix trees instead of rows: each token attends to its ancestors."""

    position_ids: torch.Tensor
    """The depth of each token. Shape: [Q, T]."""
    subtree_ends: torch.Tensor
    """As in `Tree`; padding attends to itself. Shape: [Q, T]."""

    @classmethod
    def of_trees(cls, trees: Sequence[Tree]) -> TreeBatch:
        """Return a batch of trees."""
        learned = [tree.weights > 0 for tree in trees]
        pairs = list(zip(trees, learned, strict=True))
        subtree_ends = _padded(tree.subtree_ends for tree in trees)
        itself = torch.arange(1, subtree_ends.shape[1] + 1).expand_as(subtree_ends)
        return cls(
            input_ids=_padded(tree.input_ids for tree in trees),
            logit_positions=_padded(tree.parents[chosen] for tree, chosen in pairs),
            labels=_padded(tree.input_ids[chosen] for tree, chosen in pairs),
            weights=_padded(tree.weights[chosen] for tree, chosen in pairs),
            position_ids=_padded(tree.depth for tree in trees),
            subtree_ends=torch.where(subtree_ends == 0, itself, subtree_ends),
        )


def _padded(arrays: Iterable[NDArray[np.integer]]) -> torch.Tensor:
    """Return arrays as the rows of one tensor, zeros on the right. Shapes: [·] → int64 [Q, ·]."""
    return pad_sequence([torch.from_numpy(a).long() for a in arrays], batch_first=True)


def collate(rows: Sequence[Row]) -> Batch:
    """Return rows, or trees, as one batch."""
    if isinstance(rows[0], Tree):
        return TreeBatch.of_trees(cast("Sequence[Tree]", rows))
    return Batch.of(cast("Sequence[Example]", rows))


def filler(like: Row) -> Row:
    """Return a row, or a tree, of one token that teaches nothing."""
    row = Example(np.zeros(1, np.int32), np.full(1, IGNORED, np.int32))
    return Tree.of([row]) if isinstance(like, Tree) else row


def learned_logits(
    model: torch.nn.Module, batch: Batch, unwrapped: PreTrainedModel | None = None
) -> torch.Tensor:
    """Return the logits that predict the learned tokens, in fp32 or better. Shape: [Q × R, V].

    `unwrapped` is the model without the wrappers of distributed training. Other logits are not
    computed, and nothing here waits for the device.
    """
    own = unwrapped if unwrapped is not None else cast("PreTrainedModel", model)
    inputs: dict[str, Any] = {"input_ids": batch.input_ids}
    if isinstance(batch, TreeBatch):
        inputs["position_ids"] = batch.position_ids
        inputs["attention_mask"] = tree_masks(own, batch.subtree_ends, batch.position_ids)
    outputs = logits_at(model, batch.logit_positions, **inputs, use_cache=False)
    logits = outputs.logits.flatten(0, 1)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class Objective(Protocol):
    """What is learned, and how well it is known. Built with the recipe's `[objective]`."""

    def training_rows(
        self, domains: Sequence[Domain], section: config_learn.Train, seed: int
    ) -> Rows:
        """Return the rows of the training splits, or the trees where `section.packing` says so."""
        ...

    def validation_rows(self, domains: Sequence[Domain], limit: int, seed: int) -> Rows:
        """Return rows of up to `limit` random examples of each validation split."""
        ...

    def filler(self, like: Row) -> Row:
        """Return a row of the same kind that teaches nothing: it fills up the last batch."""
        ...

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Return rows as one batch."""
        ...

    def summed_loss(
        self, model: torch.nn.Module, batch: Batch, unwrapped: PreTrainedModel | None = None
    ) -> torch.Tensor:
        """Return the loss, summed over `batch.learned_tokens()`; `unwrapped` as `learned_logits`.

        The Trainer divides it by the learned tokens of a whole optimiser step.
        """
        ...


class CrossEntropy:
    """Predict each learned token. Others may inherit and override `token_losses`."""

    def __init__(self, settings: config_learn.Objective | None = None) -> None:
        self.settings = settings or config_learn.Objective()

    training_rows = staticmethod(training_rows)
    validation_rows = staticmethod(validation_rows)
    filler = staticmethod(filler)
    collate = staticmethod(collate)

    def token_losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss of each learned token. Shapes: [N, V] and [N] → [N]."""
        return cross_entropy(logits, labels, reduction="none")

    def summed_loss(
        self, model: torch.nn.Module, batch: Batch, unwrapped: PreTrainedModel | None = None
    ) -> torch.Tensor:
        """Return the token losses, summed, each counted once for each example that learns it."""
        logits = learned_logits(model, batch, unwrapped)
        losses = self.token_losses(logits, batch.labels.flatten())
        return losses @ batch.weights.flatten().to(losses.dtype)
