"""The best items of the catalogue under a language model: every answer is an item that exists.

Only paths of the catalogue's trie are ever scored. The score of an item is the sum of the
log-probabilities of its tokens; `full` normalises each over the whole vocabulary, as BIGRec and D3
sum it, `renormalised` over the tokens that lead to an allowed item, so a forced token costs nothing
and the items' probabilities sum to one. A checkpoint's own generation settings
(sampling, penalties) are ignored.

Knows nothing about users, the text of prompts or how a signal was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from groundrec.core.errors import SearchError
from groundrec.core.types import NO_ITEM, Ragged, Scores, Slates
from groundrec.rank.search.beam import WHOLE, BeamSearch
from groundrec.rank.search.branches import Branches
from groundrec.rank.search.exact import BestFirst, BestLeaves, best_columns
from groundrec.rank.search.exhaustive import score_leaves
from groundrec.rank.search.goals import AllowedGoal, FusedGoal, FusedSignal, Goal
from groundrec.rank.search.masks import Guide, Mask, check_shape
from groundrec.rank.search.scoring import NEVER, ScoreKind, TrieMask, TrieScoring
from groundrec.rank.search.tree_reader import Instruction, TreeReader
from groundrec.text.trie import ROOT, Trie

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Answer", "ScoreKind", "Search", "Work"]


@dataclass
class Work:
    """What the model was asked to compute: forward passes of batches, and tokens of all queries.

    `tree_tokens` are those of `tokens` that follow a prompt. `unproved` counts the queries of
    `exact` that exhausted their budget, `silent` those for which the model wrote nothing.
    """

    passes: int = 0
    tokens: int = 0
    tree_tokens: int = 0
    unproved: int = 0
    silent: int = 0

    def add(self, other: Work) -> None:
        """Add other work."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def clear(self) -> None:
        """Reset all counters to 0."""
        for field in fields(self):
            setattr(self, field.name, 0)


@dataclass(frozen=True)
class Answer:
    """The best items for Q queries."""

    items: NDArray[np.int32]
    """Best first; -1 where a query has fewer. Shape: [Q, k]."""
    scores: Scores
    """Shape: [Q, k]."""
    gap: NDArray[np.float32]
    """How much better than the last item another might score; 0 where proved. Shape: [Q]."""

    @classmethod
    def of_signal(cls, signal: FusedSignal, mask: Mask, k: int) -> Answer:
        """Return the answer to a `signal` of alpha = 0, for which no model is needed."""
        terms = signal.terms(mask)
        best = Slates.from_scores(np.arange(len(terms)), terms, k)
        return cls(best.items, best.scores, np.zeros(len(terms), np.float32))


class Search:
    """Finds items of one catalogue with one model. Batching never changes a result.

    Several threads may search with one object. They share the model, the trie and its tensors, and
    the instruction's keys and values, all of which are only read: a forward pass registers no hook
    and replaces no layer, and each search has a cache, masks and tensors of its own. The counters
    of `work` are added under a lock; clear them while no other thread searches.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        trie: Trie,
        score: ScoreKind = "full",
        *,
        temperature: float = 1.0,
        instruction: Sequence[int] = (),
    ) -> None:
        """Prepare to search with `model`.

        Args:
            model: Any transformers causal language model with a standard cache.
            trie: The catalogue, in the model's tokens.
            score: `full` or `renormalised`.
            temperature: Divides the logits.
            instruction: Tokens that prompts begin with; read once, here.
        """
        if temperature <= 0:
            raise SearchError("not a temperature", value=temperature, accepted="a number above 0")
        self.model = model
        self.trie = trie
        self.scoring = TrieScoring(model, trie, score, temperature)
        self._instruction = Instruction.read(model, instruction)
        self.work = Work()
        self._lock = Lock()

    @torch.inference_mode()
    def beam(
        self,
        prompts: list[list[int]],
        k: int,
        beams: int,
        mask: Mask | None = None,
        guide: Guide | None = None,
        length_penalty: float = 0.0,
    ) -> Answer:
        """Return the `k` best items found by beam search; `gap` is infinite.

        The same as transformers' `generate` with `early_stopping="never"` and prefixes constrained
        to the catalogue: the best item is lost if `beams` others score better at one of its tokens.
        """
        if beams < k:
            raise SearchError(
                "fewer beams than places in the slate", value=beams, accepted=f"at least {k}"
            )
        branches, mask = self._branches(prompts, mask, guide)
        keep = beams if length_penalty else k
        leaves, scores = BeamSearch(
            branches, beams, keep, length_penalty, stride=self._stride(len(prompts))
        ).run()
        self._count(branches)
        items, best = self._items(leaves, scores, k, mask, Goal())
        return Answer(items, best, np.full(len(prompts), np.inf, np.float32))

    @torch.inference_mode()
    def exact(
        self,
        prompts: list[list[int]],
        k: int,
        mask: Mask | None = None,
        guide: Guide | None = None,
        *,
        signal: FusedSignal | None = None,
        width: int = 24,
        budget: int = 4096,
    ) -> Answer:
        """Return the `k` best items, proved by best-first search.

        With a `signal`, they are the best by model and signal together, and so are their scores,
        which `goals` defines; ties go to the smaller item number. With alpha = 1, they are those
        without it, and with alpha = 0 the signal's, for which nothing is read.

        A query that exhausts its `budget` of tree tokens is completed by a beam search of `k`
        beams, ranked as the items are, and its `gap` is not 0. About `width` tokens are read at
        once, which changes only how fast.
        """
        mask = self._checked(len(prompts), mask, guide)
        goal = Goal()
        if signal:
            signal.check(len(prompts), len(self.trie.item_order))
            if signal.alpha == 0:
                return Answer.of_signal(signal, mask, k)
            goal = FusedGoal(self.scoring, signal.terms(mask), signal.alpha)
        branches = Branches(
            self.scoring, self._reader(prompts), TrieMask(self.scoring, mask, guide)
        )
        best = BestFirst(branches, goal, k, width, budget).run()
        self._count(branches)
        del branches  # frees its keys and values before those of the beam search are computed
        unproved = np.flatnonzero((best.bound > NEVER).cpu().numpy())
        if len(unproved):
            rows = torch.from_numpy(unproved).to(best.bound.device)
            trie_mask = TrieMask(self.scoring, mask, guide).take(rows)
            reader = self._reader([prompts[i] for i in unproved])
            best = self._complete(Branches(self.scoring, reader, trie_mask), goal, best, rows)
            self._add_work(Work(unproved=len(unproved)))
        gap = torch.where(best.bound > NEVER, best.bound - best.scores[:, -1], 0).clamp(min=0)
        items, scores = self._items(best.leaves, best.log_p, k, mask, goal)
        return Answer(items, scores, gap.float().cpu().numpy())

    @torch.inference_mode()
    def score(
        self, prompts: list[list[int]], items: Ragged, mask: Mask | None = None, *, width: int = 64
    ) -> Scores:
        """Return the exact scores of some `items`, a row per prompt; -inf elsewhere. Shape: [Q, I].

        They are the scores that `all` gives under the same `mask`.
        """
        branches, mask = self._branches(prompts, mask, None)
        goal = AllowedGoal(TrieMask(self.scoring, Mask.of(len(prompts), allow=items)))
        most = max(1, int(items.lengths.max()))
        best = BestFirst(branches, goal, most, width, 2**62).run()
        self._count(branches)
        table = np.full((len(prompts), len(self.trie.item_order)), np.float32(NEVER))
        ranked, scores = self._items(best.leaves, best.log_p, table.shape[1], mask, goal)
        rows, ranks = np.nonzero(ranked != NO_ITEM)
        table[rows, ranked[rows, ranks]] = scores[rows, ranks]
        wanted = Mask.of(len(prompts), allow=items).dense(table.shape[1])
        return np.where(wanted, table, np.float32(NEVER))

    @torch.inference_mode()
    def all(
        self, prompts: list[list[int]], mask: Mask | None = None, guide: Guide | None = None
    ) -> Scores:
        """Return the exact score of every item; -inf where `mask` forbids it. Shape: [Q, I]."""
        branches, mask = self._branches(prompts, mask, guide)
        leaves = np.flatnonzero(self.trie.child_counts == 0)
        total = (
            score_leaves(self.scoring, branches.reader, branches.trie_mask).cpu().numpy()[:, leaves]
        )
        self._count(branches)
        # Leaves tile the items in the trie's order: [Q, leaves] → [Q, I], then to item numbers.
        scores = np.empty((len(prompts), len(self.trie.item_order)), np.float32)
        width = self.trie.item_hi[leaves] - self.trie.item_lo[leaves]
        scores[:, self.trie.item_order] = np.repeat(total, width, axis=1)
        return np.where(mask.dense(scores.shape[1]), scores, np.float32(NEVER))

    def _stride(self, queries: int) -> int:
        """Return how many forced tokens a beam search reads at once, which changes only how fast.

        A few more tokens cost a pass next to nothing, except on a CPU that reads several queries:
        there each one costs, so none is read for a hypothesis that may be dropped inside an edge.
        """
        several = queries > 1 and self.model.device.type == "cpu"
        return 1 if several and not self.scoring.renormalised else WHOLE

    def _complete(
        self, branches: Branches, goal: Goal, best: BestLeaves, rows: Tensor
    ) -> BestLeaves:
        """Return the best leaves with what a beam search of `rows` [q] adds, by the same goal."""
        goal = goal.take(rows)
        k = best.leaves.shape[1]
        stride = self._stride(len(rows))
        leaf, log_p = BeamSearch(branches, k, k, stride=stride, goal=goal).run()
        self._count(branches)
        known = best.leaves[rows].where(best.scores[rows] > NEVER, ROOT)
        # A leaf that both searches found counts once: [q, k, 1] against [q, 1, k].
        log_p = log_p.masked_fill((leaf[:, :, None] == known[:, None]).any(2), NEVER)
        score = torch.cat([best.scores[rows], goal.bound(leaf, log_p)], 1)
        leaf = torch.cat([best.leaves[rows], leaf], 1)
        log_p = torch.cat([best.log_p[rows], log_p], 1).masked_fill(score == NEVER, NEVER)
        column = best_columns(score, goal.order(leaf), k)
        return BestLeaves(
            best.leaves.index_copy(0, rows, leaf.gather(1, column)),
            best.scores.index_copy(0, rows, score.gather(1, column)),
            best.log_p.index_copy(0, rows, log_p.gather(1, column)),
            best.bound,
        )

    def branches(
        self, prompts: list[list[int]], mask: Mask | None = None, guide: Guide | None = None
    ) -> Branches:
        """Read the prompts, and return the trie after each, not yet read."""
        return self._branches(prompts, mask, guide)[0]

    def _branches(
        self, prompts: list[list[int]], mask: Mask | None, guide: Guide | None
    ) -> tuple[Branches, Mask]:
        mask = self._checked(len(prompts), mask, guide)
        trie_mask = TrieMask(self.scoring, mask, guide)
        return Branches(self.scoring, self._reader(prompts), trie_mask), mask

    def _checked(self, queries: int, mask: Mask | None, guide: Guide | None) -> Mask:
        """Return the mask, one that allows everything where there is none, if both can be used."""
        mask = mask or Mask.of(queries)
        mask.check(len(self.trie.item_order))
        if guide:
            check_shape(guide.scores, queries, len(self.trie.item_order))
        return mask

    def _reader(self, prompts: list[list[int]]) -> TreeReader:
        return TreeReader(self.scoring.model, prompts, self._instruction)

    def _count(self, branches: Branches) -> None:
        reader = branches.reader
        tokens = reader.tokens + branches.read_before + int(branches.spent.sum())
        self._add_work(Work(reader.passes, tokens, tokens - reader.prompt_tokens))

    def _add_work(self, work: Work) -> None:
        with self._lock:
            self.work.add(work)

    def _items(
        self, leaf: Tensor, log_p: Tensor, k: int, mask: Mask, goal: Goal
    ) -> tuple[NDArray[np.int32], Scores]:
        """Return the best `k` items of the leaves [Q, n], of -inf none, and their scores.

        A leaf stands for all items of one title: they follow each other in the trie's order.
        Shapes: [Q, k], twice.
        """
        trie = self.trie
        q = len(leaf)
        scores = log_p.cpu().numpy()
        leaves = np.where(np.isneginf(scores), ROOT, leaf.cpu().numpy())  # the root: no leaf
        # All items of all leaves in one list, query by query, best leaf first: `width` items for
        # each of the Q · n leaves, `row` and `item` of length m = width.sum().
        width = np.where(leaves == ROOT, 0, trie.item_hi[leaves] - trie.item_lo[leaves]).ravel()
        row = np.repeat(np.arange(q).repeat(leaves.shape[1]), width)
        index = np.arange(width.sum()) - np.repeat(width.cumsum() - width, width)
        item = trie.item_order[np.repeat(trie.item_lo[leaves].ravel(), width) + index]
        order, score = goal.rank(row, item, np.repeat(scores.ravel(), width))
        # A leaf is kept for one allowed item; its others may be forbidden.
        order = order[(mask.allows(row, item) & ~np.isneginf(score))[order]]
        row = row[order]
        item = item[order]
        score = score[order]
        # `row` ascends, so an item's rank is its distance from the first item of its row.
        rank = np.arange(len(row)) - np.searchsorted(row, row)
        inside = rank < k
        items = np.full((q, k), NO_ITEM, np.int32)
        best = np.full((q, k), NEVER, np.float32)
        items[row[inside], rank[inside]] = item[inside]
        best[row[inside], rank[inside]] = score[inside]
        return items, best
