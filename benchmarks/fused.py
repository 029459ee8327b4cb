"""What the exact search by model and signal together reads, beside the search without a signal.

    python benchmarks/fused.py [RUN] [--queries 200] [--signals co-occurrence] [--alphas .2 .5 .8]
        [--scores renormalised full] [--check 20] [--sizes 10000 60000]

RUN (`runs/demo` when left out) is a run with a trained model and signals. Every query is searched
for alone, for its ten best items by alpha · log p_LM + (1 - alpha) · log p_signal; items of its
history are left out. Tree tokens are those that the model reads after the prompt. `not in 50` are
the items of the fused ten that are not among the model's own first fifty, which a re-ranking of
these would lose. A weight that the run has chosen on validation is marked with a star.

With `--check`, the slates of as many queries are compared with `fuse.mix` of all items' scores; the
script refuses to print where one differs. With `--sizes`, it also prints what the bounds take for
random catalogues of so many items, 8 queries at once, in milliseconds of a processor: a signal's
log-probabilities, the best of them below every node, and instead of the latter a table of range
maxima over the items, [log2 I, I] for each query, without any look-up in it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from groundrec.app.stages.artefacts import open_run
from groundrec.app.stages.fusion import choices
from groundrec.core.track import progress
from groundrec.core.types import Queries, Ragged, Scores, Slates
from groundrec.rank.fuse import mix
from groundrec.rank.groundings import LoadedModel
from groundrec.rank.search.goals import FusedGoal, FusedSignal
from groundrec.rank.search.masks import Mask
from groundrec.rank.search.scoring import ScoreKind, TrieScoring
from groundrec.rank.search.search import Search
from groundrec.text.trie import Trie

K = 10
DEEP = 50
BUDGET = 2**20
"""Tree tokens of one query: every slate is proved."""


@dataclass(frozen=True)
class Found:
    """Each query's slate, and the tree tokens it took. Shapes: [Q, k] and [Q]."""

    items: NDArray[np.int32]
    tree_tokens: NDArray[np.int64]


def answers(
    loaded: LoadedModel, score: ScoreKind, queries: Queries, k: int, signal: FusedSignal | None
) -> Found:
    """Return the slates of all queries, searched for one by one."""
    encoder = loaded.encoder
    search = Search(loaded.lm.model, loaded.trie, score, instruction=encoder.shared_prefix)
    items, tokens = [], []
    name = f"alpha {signal.alpha:.2f}" if signal else f"the model's {k}"
    for i in progress(range(len(queries)), name):
        row = np.array([i])
        history = queries.history.take(row)
        one = FusedSignal(signal.scores[row], signal.alpha) if signal else None
        search.work.clear()
        found = search.exact(
            [encoder.prompt(history[0])], k, Mask.of(1, deny=history), signal=one, budget=BUDGET
        )
        assert search.work.unproved == 0
        items.append(found.items)
        tokens.append(search.work.tree_tokens)
    return Found(np.concatenate(items), np.array(tokens))


def check(
    loaded: LoadedModel, score: ScoreKind, queries: Queries, signal: FusedSignal, found: Found
) -> None:
    """Raise `AssertionError` where a slate is not that of all items' mixed scores."""
    encoder = loaded.encoder
    search = Search(loaded.lm.model, loaded.trie, score, instruction=encoder.shared_prefix)
    for i in progress(range(len(queries)), "comparing with all items"):
        row = np.array([i])
        history = queries.history.take(row)
        everything = search.all([encoder.prompt(history[0])], Mask.of(1, deny=history))
        mixed = mix(everything, signal.scores[row], signal.alpha)
        best = Slates.from_scores(row, mixed, K).scores[0]
        np.testing.assert_allclose(mixed[0, found.items[i]], best, atol=1e-3)


def lost(found: Found, deep: Found) -> float:
    """Return how many items of the slates are missing from the deeper ones, on average."""
    missing = [
        len(set(a.tolist()) - set(b.tolist())) for a, b in zip(found.items, deep.items, strict=True)
    ]
    return float(np.mean(missing))


def bounds(loaded: LoadedModel, sizes: list[int], queries: int = 8) -> None:
    """Print what the best signal below every node takes, for random catalogues."""
    table = Table("items", "nodes", "log p: ms a query", "below: ms", "MB", "ranges: ms", "MB")
    rng = np.random.default_rng(0)
    for size in sizes:
        lengths = rng.integers(4, 14, size)
        words = 2 + rng.zipf(1.3, lengths.sum()).clip(max=4000)
        rows = np.split(words, lengths.cumsum()[:-1])
        trie = Trie.compile(Ragged.of([np.append(row, 1) for row in rows]))
        scoring = TrieScoring(loaded.lm.model, trie, "renormalised")
        signal = FusedSignal(rng.normal(size=(queries, size)).astype(np.float32), 0.5)
        mask = Mask.of(queries)
        terms = signal.terms(mask)
        log_p = _milliseconds(lambda g=signal, m=mask: g.terms(m))
        below = _milliseconds(lambda s=scoring, t=terms: FusedGoal(s, t, 0.5))
        ranges = _milliseconds(lambda t=terms: range_maxima(t))
        table.add_row(
            f"{size:,}",
            f"{len(trie):,}",
            f"{log_p / queries:.2f}",
            f"{below / queries:.2f}",
            f"{8 * len(trie) / 1e6:.1f}",
            f"{ranges / queries:.2f}",
            f"{sum(level.nbytes for level in range_maxima(terms)) / queries / 1e6:.1f}",
        )
    Console(width=120).print(table)


def range_maxima(terms: Scores) -> list[Scores]:
    """Return the maxima over 1, 2, 4, … neighbouring items of each row."""
    levels = [terms]
    while (width := 2 ** (len(levels) - 1)) < levels[-1].shape[1]:
        levels.append(np.maximum(levels[-1][:, :-width], levels[-1][:, width:]))
    return levels


def _milliseconds(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(15):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return 1000 * statistics.median(seconds)


def weights(run: Path, signal: str, alphas: list[float]) -> Iterator[tuple[float, str]]:
    """Yield the weights to try, and a star where the run has chosen one."""
    choice = choices(run / "fuse").get(signal)
    chosen = [choice["alpha"]] if choice and "alpha" in choice else []
    for alpha in sorted({*alphas, *chosen}):
        yield alpha, "*" if alpha in chosen else ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/demo"))
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--signals", nargs="*", help="the run's fused signals when left out")
    parser.add_argument("--alphas", type=float, nargs="*", default=[0.2, 0.5, 0.8])
    parser.add_argument("--scores", nargs="*", default=["renormalised", "full"])
    parser.add_argument("--check", type=int, default=0, metavar="QUERIES")
    parser.add_argument("--sizes", type=int, nargs="*", default=[])
    options = parser.parse_args()
    x = open_run(options.run)
    loaded = x.search_ranker(guided=False).inputs.loaded
    queries = x.dataset.test.sample(options.queries, 0)
    signals: dict[str, Scores] = {
        name: x.signal(name).scores(queries) for name in options.signals or x.recipe.fuse.signals
    }
    table = Table(
        "score", "signal", "alpha", "tree tokens: median", "mean", "× median", "not in 50"
    )
    for score in options.scores:
        plain = answers(loaded, score, queries, K, None)
        deep = answers(loaded, score, queries, DEEP, None)
        median = float(np.median(plain.tree_tokens))
        table.add_row(score, "none", "", f"{median:.0f}", f"{plain.tree_tokens.mean():.0f}", "", "")
        for name, scores in signals.items():
            for alpha, star in weights(options.run, name, options.alphas):
                signal = FusedSignal(scores, alpha)
                found = answers(loaded, score, queries, K, signal)
                some = queries.take(np.arange(min(options.check, len(queries))))
                check(loaded, score, some, signal, found)
                read = float(np.median(found.tree_tokens))
                table.add_row(
                    score,
                    name,
                    f"{alpha:.2f}{star}",
                    f"{read:.0f}",
                    f"{found.tree_tokens.mean():.0f}",
                    f"{read / median:.2f}" if median else "",
                    f"{lost(found, deep):.2f}",
                )
    print(f"{len(queries)} test queries, {len(loaded.trie):,} nodes")
    if options.check:
        print(f"{options.check} slates of each row are those of all items' scores")
    Console(width=120).print(table)
    if options.sizes:
        bounds(loaded, options.sizes)


if __name__ == "__main__":
    main()
