"""What beam search loses: beams of several widths against the exact ten best items, on a run's test
queries.

    python benchmarks/beams.py [RUN] [--queries 500] [--beams 5 10 20 50] [--needed] [--narrowest]

RUN (`runs/demo` when left out) is a finished training. Items of the history are left out, as in a
run. A lost item is one of the exact ten that the beam search does not return among its own ten; a
beam of five returns five. With `--needed`, exact search runs one node at a time too: it then opens
no node that any proof by its bound could spare.

With `--narrowest`, each query is also searched for alone, with wider and wider beams until one
returns the exact ten, and the medians of both searches' tree tokens are printed: those the model
reads after the prompt.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from groundrec.app.stages.artefacts import Artefacts
from groundrec.core.files import read_json
from groundrec.core.recipe import Recipe
from groundrec.core.runs import Run
from groundrec.core.track import progress
from groundrec.core.types import NO_ITEM, Queries, Slates
from groundrec.evaluate.metrics import metric_function
from groundrec.models import language
from groundrec.rank.search.beam import BeamSearch
from groundrec.rank.search.masks import Mask
from groundrec.rank.search.search import Answer, Search
from groundrec.text.tokens import Encoder
from groundrec.text.trie import Trie

K, BATCH, WIDTH = 10, 8, 24
WIDER = (10, 11, 12, 13, 14, 16, 18, 20, 22, 24, 28, 32, 36, 40, 48, 56, 64, 80, 96, 128, 192, 256)
"""The beams of `--narrowest`."""


def answers(
    search: Search, encoder: Encoder, queries: Queries, beams: int | None, width: int
) -> Slates:
    """Return each query's ten best items, by a beam search, or exactly if `beams` is None."""
    parts: list[Slates] = []
    for start in progress(
        range(0, len(queries), BATCH), "exact" if beams is None else f"{beams} beams"
    ):
        batch = queries.take(np.arange(start, min(start + BATCH, len(queries))))
        prompts, mask = (
            [encoder.prompt(row) for row in batch.history],
            Mask.of(len(batch), deny=batch.history),
        )
        found = (
            search.exact(prompts, K, mask, width=width)
            if beams is None
            else _beam(search, prompts, beams, mask)
        )
        parts.append(Slates(batch.ids, found.items, found.scores))
    return Slates.concatenate(parts)


def _beam(search: Search, prompts: list[list[int]], beams: int, mask: Mask) -> Answer:
    k = min(K, beams)
    found, missing = search.beam(prompts, k, beams, mask), ((0, 0), (0, K - k))
    items = np.pad(found.items, missing, constant_values=NO_ITEM)
    return Answer(items, np.pad(found.scores, missing, constant_values=-np.inf), found.gap)


@torch.inference_mode()
def narrowest(search: Search, encoder: Encoder, queries: Queries) -> NDArray[np.int64]:
    """Return four numbers for each query: the tree tokens of the exact search, as many as it needs
    if it reads one node at a time, the narrowest beam of `WIDER` that returns the same items, and
    the tree tokens of that beam, which reads no forced token early; -1 for the last two where none
    of the beams does. Shape: [Q, 4].
    """
    leaf_of = np.empty(len(search.trie.item_order), np.int64)
    leaf_of[search.trie.item_order] = search.scoring.leaf_of.cpu().numpy()
    rows = []
    for i in progress(range(len(queries)), "narrowest beam"):
        one = queries.take(np.array([i]))
        read = []
        items = np.empty(0, np.int32)
        for width in (WIDTH, 1):
            search.work.clear()
            items = answers(search, encoder, one, None, width).items[0]
            read.append(search.work.tree_tokens)
        wanted = set(leaf_of[items[items != NO_ITEM]].tolist())
        rows.append([*read, *_narrowest(search, encoder.prompt(one.history[0]), one, wanted)])
    return np.array(rows)


def _narrowest(
    search: Search, prompt: list[int], query: Queries, wanted: set[int]
) -> tuple[int, int]:
    """Return the narrowest beam that returns the leaves `wanted`, and its tree tokens."""
    for width in WIDER:
        branches = search.branches([prompt], Mask.of(1, deny=query.history))
        leaves, _ = BeamSearch(branches, width, K, stride=1).run()
        if wanted <= set(leaves[0].tolist()):
            return width, int(branches.spent.sum())
    return -1, -1


def show_narrowest(found: dict[str, NDArray[np.int64]]) -> None:
    """Print the medians of both searches, for each score."""
    table = Table(
        "score",
        "exact: tree tokens",
        "one node at a time",
        "narrowest beam",
        "its tree tokens",
        "exact reads no more",
        "no beam found all",
    )
    for score, rows in found.items():
        known = rows[rows[:, 2] > 0]
        medians = (f"{value:.0f}" for value in np.median(known, axis=0))
        no_more = 1 - float((known[:, 0] > known[:, 3]).sum()) / len(rows)
        table.add_row(score, *medians, f"{no_more:.0%} of queries", str(len(rows) - len(known)))
    Console(width=120).print(table)


def lost(exact: Slates, found: Slates) -> tuple[float, float]:
    """Return the mean number of exact items that are missing, and the share of queries that miss
    none.
    """
    missing = [
        len(set(truth[truth != NO_ITEM].tolist()) - set(row.tolist()))
        for truth, row in zip(exact.items, found.items, strict=True)
    ]
    return float(np.mean(missing)), float(np.mean(np.array(missing) == 0))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/demo"))
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--beams", type=int, nargs="*", default=[5, 10, 20, 50])
    parser.add_argument("--scores", nargs="*", default=["renormalised", "full"])
    parser.add_argument("--needed", action="store_true", help="also what a proof cannot spare")
    parser.add_argument("--narrowest", action="store_true", help="also beside the narrowest beam")
    options = parser.parse_args()
    x = Artefacts(Recipe.model_validate(read_json(options.run / "config.json")), Run(options.run))
    lm = language.load(options.run / "train")
    lm.model.to(language.default_device()).eval()  # type: ignore[arg-type]
    encoder, queries = x.encoder(lm.tokenizer), x.dataset.test.sample(options.queries, 0)
    trie, ndcg = Trie.compile(encoder.answers, x.dataset.popularity()), metric_function(f"ndcg@{K}")
    table = Table(
        "score",
        "search",
        "items lost of 10",
        "queries that lose none",
        "NDCG@10",
        "model tokens a query",
    )
    beside: dict[str, NDArray[np.int64]] = {}
    for score in options.scores:
        exact = None
        if options.narrowest:
            search = Search(lm.model, trie, score, instruction=encoder.shared_prefix)
            beside[score] = narrowest(search, encoder, queries)
        ways = [
            (None, WIDTH),
            *([(None, 1)] if options.needed else []),
            *((beams, WIDTH) for beams in options.beams),
        ]
        for beams, width in ways:
            search = Search(lm.model, trie, score, instruction=encoder.shared_prefix)
            found = answers(search, encoder, queries, beams, width)
            exact = exact or found
            items, whole = lost(exact, found)
            proved = f"{1 - search.work.unproved / len(queries):.1%} proved"
            exactly = f"exact, {proved}" if width > 1 else f"exact, one node at a time, {proved}"
            name = f"beam of {beams}" if beams else exactly
            tokens = f"{search.work.tokens / len(queries):.0f}"
            table.add_row(
                score,
                name,
                f"{items:.2f}",
                f"{whole:.0%}",
                f"{ndcg(found, queries).mean():.4f}",
                tokens,
            )
    Console(width=120).print(table)
    if beside:
        show_narrowest(beside)


if __name__ == "__main__":
    main()
