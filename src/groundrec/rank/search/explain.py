"""Why an item ranks where it does: its path, token by token, and where beams of each width drop it.

The path is scored by one plain forward pass over prompt and answer, without the tree, so it also
checks the search. Knows nothing about titles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from groundrec.core.errors import SearchError
from groundrec.core.types import NO_ITEM
from groundrec.rank.search.beam import BeamSearch
from groundrec.rank.search.masks import Guide, Mask, guide_steps
from groundrec.rank.search.scoring import TrieMask
from groundrec.rank.search.search import Search

__all__ = ["Explanation", "Step", "explain"]


@dataclass(frozen=True)
class Step:
    """One token of the path."""

    token: int
    choices: int
    """Tokens that lead to an allowed item here; 1 where the token is forced."""
    log_p: float
    """Its log-probability over the whole vocabulary."""
    log_p_choices: float
    """Its log-probability over the choices; 0 where it is forced."""
    log_p_signal: float
    """The guide's log-probability; 0 where there is none, or no choice."""
    total: float
    """The score of the path so far, as the search counts it."""


@dataclass(frozen=True)
class Explanation:
    """The path of one item after one prompt."""

    steps: list[Step]
    rank: int | None
    """Rank of the item in the exact slate, from 1; None if it is not among the first `k`."""
    dropped_at: dict[int, int | None]
    """For each beam width, the step, from 1, at which the item is dropped; None if it is kept.

    The last step if the item was finished, but others scored better.
    """


@torch.inference_mode()
def explain(
    search: Search,
    prompt: list[int],
    item: int,
    mask: Mask | None = None,
    guide: Guide | None = None,
    *,
    beams: Sequence[int] = (5, 10, 20, 50),
    k: int = 50,
) -> Explanation:
    """Return how `item` comes by its score; raise `SearchError` where the mask forbids it."""
    mask = mask or Mask.of(1)
    if not mask.allows(np.array([0]), np.array([item]))[0]:
        raise SearchError(
            "the item may not be recommended here",
            value=item,
            accepted="an item that the mask allows",
        )
    nodes = _path(search, item)
    states = [(node, used + 1) for node in nodes for used in range(len(search.trie.edge(node)))]
    slate = search.exact([prompt], k, mask, guide).items[0]
    ranks = np.flatnonzero(slate[slate != NO_ITEM] == item)
    return Explanation(
        steps=_steps(search, prompt, nodes, mask, guide),
        rank=int(ranks[0]) + 1 if len(ranks) else None,
        dropped_at={
            width: _dropped_at(
                BeamSearch(search.branches([prompt], mask, guide), width, width), states
            )
            for width in beams
        },
    )


def _path(search: Search, item: int) -> list[int]:
    """Return the nodes from the root's child to the leaf of `item`."""
    trie = search.trie
    position = int(np.flatnonzero(trie.item_order == item)[0])
    holds = (trie.item_lo <= position) & (position < trie.item_hi)
    node = int(np.flatnonzero((trie.child_counts == 0) & holds)[0])
    nodes = []
    while node > 0:
        nodes.append(node)
        node = int(trie.parent[node])
    return nodes[::-1]


def _steps(
    search: Search, prompt: list[int], nodes: list[int], mask: Mask, guide: Guide | None
) -> list[Step]:
    """Return the path's tokens, T in all, scored by one forward pass."""
    trie = search.trie
    scoring = search.scoring
    tokens = [int(t) for node in nodes for t in trie.edge(node)]
    # Row t holds the logits of token t, which come from the token before it. Shape: [T, V].
    ids = torch.tensor([[*prompt, *tokens]], device=scoring.depth.device)
    logits = search.model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
    logits = logits / scoring.temperature
    trie_mask = TrieMask(scoring, mask)
    signal = guide_steps(trie, guide, mask)[0] if guide else torch.zeros(len(trie))  # [N]
    alpha = guide.alpha if guide else 1.0
    # The node that each choice enters, by the index of its edge's first token; others are forced.
    entered = {int(trie.depth[trie.parent[node]]): node for node in nodes}
    total = 0.0
    steps = []
    for index, token in enumerate(tokens):
        log_p = float(logits[index, token] - logits[index].logsumexp(0))
        choices = 1
        log_p_choices = 0.0
        log_p_signal = 0.0
        if node := entered.get(index):
            alternatives = _choices(search, int(trie.parent[node]), trie_mask)
            choices = len(alternatives)
            log_p_choices = float(logits[index, token] - logits[index, alternatives].logsumexp(0))
            log_p_signal = float(signal[node])
        counted = log_p_choices if scoring.renormalised else log_p
        total += alpha * counted + ((1 - alpha) * log_p_signal if guide else 0)
        steps.append(Step(token, choices, log_p, log_p_choices, log_p_signal, total))
    return steps


def _choices(search: Search, node: int, trie_mask: TrieMask) -> list[int]:
    """Return the tokens after `node` that lead to an allowed item."""
    trie = search.trie
    children = trie.children[trie.child_start[node] : trie.child_start[node + 1]].astype(np.int64)
    on_device = torch.from_numpy(children).to(search.scoring.depth.device)
    allowed = trie_mask.allowed(on_device[None])[0].cpu().numpy()
    return trie.first_tokens[children[allowed]].tolist()


def _dropped_at(beam: BeamSearch, states: list[tuple[int, int]]) -> int | None:
    """Return the step at which a beam search drops a path; None if it is kept to the end.

    `states` are the path after each step: a node, and how many tokens of its edge were taken.
    """
    beam.begin()
    for step, (node, used) in enumerate(states, 1):
        if not beam.continues():
            return step
        beam.step()
        if step < len(states) and not beam.is_alive(node, used):
            return step
    while beam.continues():
        beam.step()
    return None if beam.has_kept(states[-1][0]) else len(states)
