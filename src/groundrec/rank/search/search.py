"""The best items of the catalogue under a language model: the answer to "how do I know that the
item exists?".

Only scoring of the catalogue's trie are ever scored, so every answer is an item. The score of an item
is the sum of the log-probabilities of its tokens; `full` normalises each over the whole vocabulary,
as BIGRec and D3 sum it, `renormalised` over the tokens that lead to an allowed item, so a forced
token costs nothing and the items' probabilities sum to one. A checkpoint's own generation settings
(sampling, penalties) are never looked at.

Knows nothing about users, prompts' words or how a signal was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from groundrec.core.errors import SearchError
from groundrec.core.types import NO_ITEM, Ragged, Scores
from groundrec.rank.search.beam import WHOLE, BeamSearch
from groundrec.rank.search.branches import Branches
from groundrec.rank.search.exact import BestFirst, BestLeaves
from groundrec.rank.search.exhaustive import score_leaves
from groundrec.rank.search.masks import Guide, Mask
from groundrec.rank.search.scoring import NEVER, ScoreKind, TrieMask, TrieScoring
from groundrec.rank.search.tree_reader import Instruction, TreeReader
from groundrec.text.trie import ROOT, Trie

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Answer", "ScoreKind", "Search", "Work"]


@dataclass
class Work:
    """What a search asked of the model: forward passes of a batch, and tokens of all its queries.

    `unproved` counts the queries of `exact` that ran out of budget, `silent` those to which nothing
    was written.
    """

    passes: int = 0
    tokens: int = 0
    unproved: int = 0
    silent: int = 0

    def add(self, other: Work) -> None:
        """Add another search's work."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def clear(self) -> None:
        """Begin anew."""
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
    """How much better than the last item an unlisted one might score: 0 where the slate is proved.
    Shape: [Q].
    """


class Search:
    """Finds items of one catalogue with one model. Results do not depend on how queries are
    batched.
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
            instruction: Tokens that all prompts begin with; read once.
        """
        if temperature <= 0:
            raise SearchError("not a temperature", value=temperature, accepted="a number above 0")
        self.model = model
        self.trie = trie
        self.scoring = TrieScoring(model, trie, score, temperature)
        self._instruction = Instruction.read(model, instruction)
        self.work = Work()

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
        """Return the `k` best items found by beam search.

        The same as transformers' `generate` with `early_stopping="never"` and prefixes constrained
        to the catalogue: the best item can be lost where its first tokens look worse than those of
        `beams` others. `gap` is infinite.
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
        return self._answer(leaves, scores, torch.full_like(scores[:, 0], torch.inf), k, mask)

    @torch.inference_mode()
    def exact(
        self,
        prompts: list[list[int]],
        k: int,
        mask: Mask | None = None,
        guide: Guide | None = None,
        *,
        width: int = 24,
        budget: int = 4096,
    ) -> Answer:
        """Return the `k` best items, proved by best-first search.

        A query that has read `budget` tree tokens is finished by a beam search of `k` beams, and
        its `gap` is not 0. About `width` tokens are read at once: it changes how fast, never what.
        """
        branches, mask = self._branches(prompts, mask, guide)
        found = BestFirst(branches, k, width, budget).run()
        self._count(branches)
        del branches  # its keys and values: those of the dive take their place
        open_ = np.flatnonzero((found.bound > NEVER).cpu().numpy())
        leaves = found.leaves
        scores = found.scores
        if len(open_):
            self.work.unproved += len(open_)
            trie_mask = TrieMask(self.scoring, mask, guide).take(
                torch.from_numpy(open_).to(found.bound.device)
            )
            some = Branches(self.scoring, self._reader([prompts[i] for i in open_]), trie_mask)
            leaves, scores = self._dive(some, found, open_, k)
        gap = torch.where(found.bound > NEVER, found.bound - scores[:, -1], 0).clamp(min=0)
        return self._answer(leaves, scores, gap, k, mask)

    @torch.inference_mode()
    def score(
        self, prompts: list[list[int]], items: Ragged, mask: Mask | None = None, *, width: int = 64
    ) -> Scores:
        """Return the exact scores of some `items` for each prompt, -inf for all others. Shape: [Q,
        I].

        They are the scores that `all` gives under the same `mask`.
        """
        branches, mask = self._branches(prompts, mask, None)
        goal = TrieMask(self.scoring, Mask.of(len(prompts), allow=items))
        most = max(1, int(items.lengths.max()))
        found = BestFirst(branches, most, width, 2**62, goal).run()
        self._count(branches)
        table = np.full((len(prompts), len(self.trie.item_order)), np.float32(NEVER))
        leaves = found.leaves.cpu().numpy()
        scores = found.scores.cpu().numpy()
        numbers, values = self._items(leaves, scores, table.shape[1], mask)
        rows, places = np.nonzero(numbers != NO_ITEM)
        table[rows, numbers[rows, places]] = values[rows, places]
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
        scores = np.empty((len(prompts), len(self.trie.item_order)), np.float32)
        width = self.trie.item_hi[leaves] - self.trie.item_lo[leaves]
        scores[:, self.trie.item_order] = np.repeat(total, width, axis=1)
        return np.where(mask.dense(scores.shape[1]), scores, np.float32(NEVER))

    def _stride(self, queries: int) -> int:
        """Return how many forced tokens a beam search reads at once: it changes how fast, never
        what.

        A pass takes about as long for a few more tokens, except where a processor reads for several
        queries: there it is slower with each, and none are read for hypotheses that are dropped
        inside an edge.
        """
        several = queries > 1 and self.model.device.type == "cpu"
        return 1 if several and not self.scoring.renormalised else WHOLE

    def _dive(
        self, branches: Branches, found: BestLeaves, rows: NDArray[np.intp], k: int
    ) -> tuple[Tensor, Tensor]:
        """Return all leaves found [Q, k], and their scores, those of `rows` with what a beam search
        of them adds.
        """
        more, more_scores = BeamSearch(branches, k, k, stride=self._stride(len(rows))).run()
        self._count(branches)
        leaves = found.leaves.clone()
        scores = found.scores.clone()
        at = torch.from_numpy(rows).to(more.device)
        known = leaves[at].where(scores[at] > NEVER, ROOT)
        twice = (more[:, :, None] == known[:, None]).any(2)
        every = torch.cat([scores[at], more_scores.masked_fill(twice, NEVER)], 1)
        scores[at], best = every.topk(k, dim=1)
        leaves[at] = torch.cat([leaves[at], more], 1).gather(1, best)
        return leaves, scores

    def branches(
        self, prompts: list[list[int]], mask: Mask | None = None, guide: Guide | None = None
    ) -> Branches:
        """Return the prompts, read, and the trie behind each, not yet read."""
        return self._branches(prompts, mask, guide)[0]

    def _branches(
        self, prompts: list[list[int]], mask: Mask | None, guide: Guide | None
    ) -> tuple[Branches, Mask]:
        mask = mask or Mask.of(len(prompts))
        mask.check(len(self.trie.item_order))
        if guide and guide.scores.shape != (len(prompts), len(self.trie.item_order)):
            raise SearchError(
                "the signal was made for another catalogue, or for other queries",
                value=f"{guide.scores.shape[0]} queries and {guide.scores.shape[1]} items",
                accepted=f"{len(prompts)} queries and {len(self.trie.item_order)} items",
            )
        return Branches(
            self.scoring, self._reader(prompts), TrieMask(self.scoring, mask, guide)
        ), mask

    def _reader(self, prompts: list[list[int]]) -> TreeReader:
        return TreeReader(self.scoring.model, prompts, self._instruction)

    def _count(self, branches: Branches) -> None:
        reader = branches.reader
        self.work.add(
            Work(reader.passes, reader.tokens + branches.read_before + int(branches.spent.sum()))
        )

    def _answer(self, leaves: Tensor, scores: Tensor, gap: Tensor, k: int, mask: Mask) -> Answer:
        items, best = self._items(leaves.cpu().numpy(), scores.cpu().numpy(), k, mask)
        return Answer(items, best, gap.float().cpu().numpy())

    def _items(
        self, leaves: NDArray[np.int64], scores: Scores, k: int, mask: Mask
    ) -> tuple[NDArray[np.int32], Scores]:
        """Return the items of `leaves` [Q, n] and their scores, best first, those of one leaf in
        the trie's order.
        """
        trie = self.trie
        q = len(leaves)
        items = np.full((q, k), NO_ITEM, np.int32)
        best = np.full((q, k), NEVER, np.float32)
        leaves = np.where(np.isneginf(scores), ROOT, leaves)
        width = np.where(leaves == ROOT, 0, trie.item_hi[leaves] - trie.item_lo[leaves]).ravel()
        row = np.repeat(np.arange(q).repeat(leaves.shape[1]), width)
        place = np.arange(width.sum()) - np.repeat(width.cumsum() - width, width)
        item = trie.item_order[np.repeat(trie.item_lo[leaves].ravel(), width) + place]
        score = np.repeat(scores.ravel(), width)
        keep = mask.allows(row, item)
        row = row[keep]
        item = item[keep]
        score = score[keep]
        column = np.arange(len(row)) - np.searchsorted(row, row)
        inside = column < k
        items[row[inside], column[inside]] = item[inside]
        best[row[inside], column[inside]] = score[inside]
        return items, best
