"""The search beside transformers' `generate`, and how it grows with the catalogue.

    python benchmarks/search.py RUN [--queries 40] [--generate 8] [--batch 8] [--ways beam exact]
        [--cutoff-len 512] [--sizes 1682 10000 100000 1000000]

RUN is a finished training, e.g. of `groundrec run smollm2-search --until train`. Both
sides answer the same test queries with ten items, taking turns in one process. `generate` gets ten
beams, `length_penalty=0`, `early_stopping="never"` and a `prefix_allowed_tokens_fn` over the same
titles; its answers are compared with ours.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from groundrec.app.stages.artefacts import Artefacts
from groundrec.core.files import read_json
from groundrec.core.recipe import Recipe
from groundrec.core.runs import Run
from groundrec.core.types import NO_ITEM, Ragged
from groundrec.models import language
from groundrec.rank.search.search import Search
from groundrec.text.tokens import Encoder
from groundrec.text.trie import Trie

K = 10
BATCH = 8
WAYS = ("beam", "exact")


@dataclass
class Timing:
    """Seconds per query, and what the model was asked to do."""

    seconds: list[float] = field(default_factory=list)
    model_seconds: float = 0.0
    search: Search | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def queries(self) -> int:
        return len(self.seconds)


class Clock:
    """Adds up the time spent inside the model."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.seconds = 0.0
        self._started = 0.0
        model.register_forward_pre_hook(self._start)
        model.register_forward_hook(self._stop)

    def _start(self, *_: Any) -> None:
        self._started = time.perf_counter()

    def _stop(self, *_: Any) -> None:
        self.seconds += time.perf_counter() - self._started


def batches(prompts: list[list[int]], size: int) -> Iterator[list[list[int]]]:
    for start in range(0, len(prompts), size):
        yield prompts[start : start + size]


def timed(timing: Timing, clock: Clock, work: Callable[[], Any], queries: int) -> Any:
    before, start = clock.seconds, time.perf_counter()
    result = work()
    timing.seconds += [(time.perf_counter() - start) / queries] * queries
    timing.model_seconds += clock.seconds - before
    return result


def prefixes(answers: Ragged) -> dict[tuple[int, ...], list[int]]:
    """Return what may follow each prefix of a title."""
    follow: dict[tuple[int, ...], set[int]] = {}
    for row in answers:
        tokens = tuple(row.tolist())
        for i, token in enumerate(tokens):
            follow.setdefault(tokens[:i], set()).add(token)
    return {prefix: sorted(tokens) for prefix, tokens in follow.items()}


def generate(
    model: Any, prompt: list[int], follow: dict[tuple[int, ...], list[int]], end: int, longest: int
) -> Any:
    """Return what transformers' own beam search writes: token rows and scores."""

    def allowed(_: int, ids: torch.Tensor) -> list[int]:
        return follow.get(tuple(ids[len(prompt) :].tolist()), [end])

    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        num_beams=K,
        num_return_sequences=K,
        max_new_tokens=longest,
        length_penalty=0.0,
        early_stopping="never",
        do_sample=False,
        prefix_allowed_tokens_fn=allowed,
        eos_token_id=end,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    return out.sequences[:, len(prompt) :].tolist(), out.sequences_scores.tolist()


def beside_generate(
    lm: language.LanguageModel,
    encoder: Encoder,
    trie: Trie,
    prompts: list[list[int]],
    few: int,
    batch: int,
    ways: Sequence[str],
) -> None:
    """Print both sides on the same queries; refuse to print where their answers differ."""
    model, clock = lm.model, Clock(lm.model)
    follow, end = prefixes(encoder.answers), int(encoder.answers[0][-1])
    longest = int(encoder.answers.lengths.max())
    rows: dict[str, Timing] = {"generate, 10 beams": Timing()}
    for score in ("full", "renormalised"):
        for way in ways:
            for size in (1, batch):
                rows[f"{way} 10, {score}, batch {size}"] = Timing(
                    search=Search(model, trie, score, instruction=encoder.shared_prefix)
                )
    compared = 0
    each = -(-few * batch // len(prompts))
    for chunk in batches(sorted(prompts, key=len), batch):  # batches of like length, as in a run
        for name, timing in rows.items():
            if timing.search is None:
                for prompt in chunk[:each]:
                    written = timed(
                        timing, clock, lambda p=prompt: generate(model, p, follow, end, longest), 1
                    )
                    compared += compare(
                        written, Search(model, trie, "full").beam([prompt], K, K), trie, end
                    )
                continue
            size = int(name.rsplit(" ", 1)[1])
            ask = timing.search.beam if name.startswith("beam") else timing.search.exact
            for part in batches(chunk if size > 1 else chunk[:each], size):
                timed(
                    timing,
                    clock,
                    lambda p=part, f=ask: f(p, K, K) if f.__name__ == "beam" else f(p, K),
                    len(part),
                )
    print(f"{compared} queries with the same {K} items and scores (within 1e-3) as generate")
    show(rows)


def compare(written: Any, ours: Any, trie: Trie, end: int) -> int:
    """Return 1; raise `AssertionError` where the two lists of items or their scores differ."""
    theirs = {}
    for tokens, score in zip(*written, strict=True):
        if score > -1e6:
            theirs[tuple(tokens[: tokens.index(end) + 1])] = score
    leaf = {
        i: tuple(trie.path(n))
        for n in np.flatnonzero(trie.child_counts == 0)
        for i in trie.items(n).tolist()
    }
    found: dict[tuple[int, ...], float] = {}
    for item, score in zip(ours.items[0], ours.scores[0], strict=True):
        if item != NO_ITEM:
            found.setdefault(leaf[int(item)], float(score))
    assert set(found) <= set(theirs), f"other items: {set(found) ^ set(theirs)}"
    assert all(abs(found[row] - theirs[row]) < 1e-3 for row in found), "other scores"
    return 1


def show(rows: dict[str, Timing]) -> None:
    base = next(iter(rows.values())).median
    table = Table(
        "search",
        "queries",
        "s per query",
        "× generate",
        "passes",
        "model tokens",
        "in the model",
        "proved",
    )
    for name, t in rows.items():
        work = t.search.work if t.search else None
        proved = f"{1 - work.unproved / t.queries:.0%}" if work and name.startswith("exact") else ""
        table.add_row(
            name,
            str(t.queries),
            f"{t.median:.3f}",
            f"{base / t.median:.1f}",
            f"{work.passes / t.queries:.1f}" if work else "",
            f"{work.tokens / t.queries:.0f}" if work else "",
            f"{t.model_seconds / sum(t.seconds):.0%}",
            proved,
        )
    Console(width=120).print(table)


def titles(size: int, real: tuple[str, ...], seed: int = 0) -> list[str]:
    """Return the real titles, and as many more as needed, made of their words and years."""
    rng = np.random.default_rng(seed)
    words = np.array(sorted({word for title in real for word in title.rsplit(" (", 1)[0].split()}))
    found = dict.fromkeys(real[:size])
    while (missing := size - len(found)) > 0:
        lengths, years = rng.integers(2, 6, missing), rng.integers(1930, 2000, missing)
        chosen = words[rng.integers(len(words), size=(missing, 5))].tolist()
        made = (
            f"{' '.join(row[:n])} ({year})"
            for row, n, year in zip(chosen, lengths, years, strict=True)
        )
        found |= dict.fromkeys(made)
    return list(found)


def growth(
    lm: language.LanguageModel, encoder: Encoder, prompts: list[list[int]], sizes: list[int]
) -> None:
    """Print what the trie and a search cost for growing catalogues; the sizes take turns."""
    table = Table(
        "titles",
        "tokens in s",
        "trie in s",
        "trie MB",
        "nodes",
        "beam 10: s per query",
        "exact 10: s per query",
    )
    searches, costs = {}, {}
    for size in sizes:
        start = time.perf_counter()
        grown = Encoder(
            encoder.template,
            encoder.tokenizer,
            titles(size, tuple(encoder.titles)),
            encoder.cutoff_len,
        )
        tokens = time.perf_counter()
        trie = Trie.compile(grown.answers)
        done = time.perf_counter()
        size_mb = sum(a.nbytes for a in vars(trie).values()) / 1e6
        costs[size] = (tokens - start, done - tokens, size_mb, len(trie))
        searches[size] = Search(lm.model, trie, "renormalised")
    times: dict[tuple[int, str], list[float]] = {}
    for part in batches(prompts, BATCH):
        for size, search in searches.items():
            for way in ("beam", "exact"):
                start = time.perf_counter()
                search.beam(part, K, K) if way == "beam" else search.exact(part, K)
                times.setdefault((size, way), []).append((time.perf_counter() - start) / len(part))
    for size, (tokens, compiled, mb, nodes) in costs.items():
        beam, exact = (statistics.median(times[size, way]) for way in ("beam", "exact"))
        cells = [
            f"{tokens:.1f}",
            f"{compiled:.1f}",
            f"{mb:.0f}",
            f"{nodes:,}",
            f"{beam:.3f}",
            f"{exact:.3f}",
        ]
        table.add_row(f"{size:,}", *cells)
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/smollm2-search"))
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--generate", type=int, default=8, help="queries that generate answers too")
    parser.add_argument(
        "--batch", type=int, default=BATCH, help="queries searched for at once, beside one"
    )
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=WAYS)
    parser.add_argument(
        "--cutoff-len", type=int, help="longest prompt and answer in tokens, instead of the run's"
    )
    parser.add_argument("--sizes", type=int, nargs="*", default=[1682, 10_000, 100_000, 1_000_000])
    options = parser.parse_args()
    given = read_json(options.run / "config.json")
    given["train"]["cutoff_len"] = options.cutoff_len or given["train"]["cutoff_len"]
    x = Artefacts(Recipe.model_validate(given), Run(options.run))
    lm = language.load(options.run / "train")
    lm.model.to(language.default_device()).eval()  # type: ignore[arg-type]
    encoder = x.encoder(lm.tokenizer)
    trie = Trie.compile(encoder.answers, x.dataset.popularity())
    queries = x.dataset.test.sample(options.queries, 0)
    prompts = [encoder.prompt(row) for row in queries.history]
    print(
        f"{len(prompts)} test queries, prompts of {np.mean([len(p) for p in prompts]):.0f} tokens,"
        f" {len(trie):,} nodes"
    )
    beside_generate(lm, encoder, trie, prompts, options.generate, options.batch, options.ways)
    if options.sizes:
        growth(lm, encoder, prompts[: 2 * BATCH], options.sizes)


if __name__ == "__main__":
    main()
