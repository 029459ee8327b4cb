"""What beam search loses: beams of several widths against the exact ten best items, on a run's test
queries.

    python benchmarks/beams.py [RUN] [--queries 500] [--beams 5 10 20 50] [--needed]

RUN (`runs/demo` when left out) is a finished training. Items of the history are left out, as in a
run. A lost item is one of the exact ten that the beam search does not return among its own ten; a
beam of five returns five. With `--needed`, exact search runs one node at a time too: it then opens
no node that any proof by its bound could spare.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
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
from groundrec.rank.search.masks import Mask
from groundrec.rank.search.search import Answer, Search
from groundrec.text.tokens import Encoder
from groundrec.text.trie import Trie

K, BATCH, WIDTH = 10, 8, 24


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
    for score in options.scores:
        exact = None
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


if __name__ == "__main__":
    main()
