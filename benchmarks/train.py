"""Fine-tuning: prefix trees beside a row for each example, and both beside transformers' own
Trainer.

    OMP_NUM_THREADS=1 python benchmarks/train.py [--blocks 2] [--templates d3 list] [--moments]
        [--tree-attention sdpa]

SmolLM2-135M on MovieLens-100k, histories of up to ten items, blocks of 20 targets, LoRA (r = 8 on
q_proj and v_proj), fp32; only answers are learned. Each item has its own history, all before it in
time and file, as D3's windows have; with `--moments`, items of one second share theirs, as
groundrec prepares them. All sides train on the same examples of the same model, each in a process
of its own, a block's worth a turn, so that a busy machine slows them alike; each takes its first
turn once before anything is timed. `rows` and `Trainer` read the rows of all blocks sorted by
length, the best that grouping by length can do with many rows, in micro batches of 4 (trees: one).
`Trainer` is transformers' with the settings of the public train.py: rows padded on the left to a
multiple of 8, logits of every token.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainerCallback

from groundrec.core.alive import peak_bytes
from groundrec.core.config import Data, Prepare
from groundrec.core.config_learn import Train
from groundrec.core.config_model import Model
from groundrec.core.track import log
from groundrec.core.types import Queries, Ragged
from groundrec.data.dataset import load
from groundrec.data.prepare import prepare
from groundrec.models.attention import FLEX
from groundrec.models.language import LanguageModel, open_base
from groundrec.text.prompts import load_template
from groundrec.text.tokens import Encoder, Example
from groundrec.train.adapters import with_lora
from groundrec.train.objectives import CrossEntropy
from groundrec.train.packing import Tree, anchored_blocks, check_attention
from groundrec.train.rows import Rows
from groundrec.train.trainer import ObjectiveTrainer, arguments

TARGETS, MICRO, HISTORY, SEED = 20, 4, 10, 0
SIDES = ("Trainer", "rows", "tree")
_turns: list[Callable[[], float]] = []
"""In the process of a side: what it does in each turn, returning the seconds."""


@dataclass(frozen=True)
class Work:
    """What a side reads in all: tokens, with padding, and examples; and the process's bytes before
    training.
    """

    tokens: list[int]
    examples: list[int]
    loaded: int


def main() -> None:
    """Measure every template; print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, default=2, help="blocks of 20 targets, one a turn")
    parser.add_argument("--templates", nargs="+", default=["d3", "list"])
    parser.add_argument(
        "--moments", action="store_true", help="items of one second share a history"
    )
    parser.add_argument(
        "--tree-attention", choices=("sdpa", FLEX), default="sdpa", help="as train.tree_attention"
    )
    options = parser.parse_args()
    check_attention(Train(packing="tree", tree_attention=options.tree_attention))
    table = Table(
        "template",
        "side",
        "tokens",
        "targets per s",
        "× rows (each turn)",
        "peak GB",
        "above the model",
    )
    for template in options.templates:
        measured(table, template, options.blocks, options.moments, options.tree_attention)
    Console(width=120).print(table)


def measured(table: Table, template: str, blocks: int, moments: bool, attention: str) -> None:
    """Add the rows of a template."""
    fork = get_context("spawn")
    pools = {side: ProcessPoolExecutor(1, fork) for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        prepare(
            Data(source="movielens-100k"),
            Prepare(k_core=0, max_history=HISTORY),
            SEED,
            Path(folder),
        )
        work = {
            side: (
                pool.submit(
                    begin, side, template, blocks, moments, attention, Path(folder)
                ).result()
            )
            for side, pool in pools.items()
        }
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for side in SIDES:
        pools[side].submit(
            train, 0
        ).result()  # not counted: a process's memory is new to it, its first passes slow
    for turn in range(blocks):
        for side in SIDES if turn % 2 else SIDES[::-1]:
            seconds[side].append(pools[side].submit(train, turn).result())
    for side, pool in pools.items():
        speed = np.array(work[side].examples) / seconds[side]
        ratios = speed / (np.array(work["rows"].examples) / seconds["rows"])
        peak = pool.submit(peak_bytes).result()
        table.add_row(
            template,
            side,
            f"{sum(work[side].tokens):,}",
            f"{statistics.median(speed):.2f}",
            f"{statistics.median(ratios):.2f} ({', '.join(f'{r:.2f}' for r in ratios)})",
            f"{peak / 1e9:.2f}",
            f"{(peak - work[side].loaded) / 1e9:.2f}",
        )
        pool.shutdown()


def begin(
    side: str, template: str, blocks: int, moments: bool, attention: str, folder: Path
) -> Work:
    """Make ready what this process does in each turn."""
    dataset = load(folder)
    lm = open_base(Model(base_model="smollm2-135m"), [], SEED)
    encoder = Encoder(load_template(template), lm.tokenizer, dataset.catalogue.titles, 1024)
    full = (
        b
        for b in anchored_blocks(queries(dataset.train, moments=moments), encoder, TARGETS)
        if len(b.targets) == TARGETS
    )
    examples = [block.examples(encoder) for block in islice(full, blocks)]
    model = with_lora(lm.model, Train(method="lora"))
    loaded = peak_bytes()
    if side == "tree":
        trees = [Tree.of(rows) for rows in examples]
        _turns[:] = [ours(model, [tree], 1, attention) for tree in trees]
        return Work([len(tree.input_ids) for tree in trees], [TARGETS] * blocks, loaded)
    ordered = sorted((e for rows in examples for e in rows), key=lambda e: len(e.input_ids))
    groups = [ordered[i : i + MICRO] for i in range(0, len(ordered), MICRO)]
    parts = [[e for group in groups[turn::blocks] for e in group] for turn in range(blocks)]
    multiple = 8 if side == "Trainer" else 1
    _turns[:] = [
        theirs(lm, model, part) if side == "Trainer" else ours(model, part, MICRO) for part in parts
    ]
    return Work([padded(part, multiple) for part in parts], [len(part) for part in parts], loaded)


def queries(train: Queries, *, moments: bool) -> Queries:
    """Return the training queries with users in random order, so that the first blocks are
    anybody's.

    One query for each item, with all items before it, unless `moments` are kept.
    """
    users, numbers = np.unique(train.users, return_inverse=True)
    names = np.array(
        [f"{place:06d}" for place in np.random.default_rng(SEED).permutation(len(users))]
    )
    if moments:
        return replace(train, users=names[numbers])
    rows = [
        (u, k, items[max(0, k - HISTORY) : k], items[k])
        for u, items in enumerate(train.sequences())
        for k in range(1, len(items))
    ]
    return Queries(
        np.arange(len(rows)),
        names[[u for u, *_ in rows]],
        np.array([k for _, k, *_ in rows]),
        Ragged.of(history for _, _, history, _ in rows),
        Ragged.of([target] for *_, target in rows),
    )


def padded(rows: list[Example], multiple: int) -> int:
    """Return how many tokens rows are, padding included."""
    widths = [
        len(rows[min(i + MICRO, len(rows)) - 1].input_ids) for i in range(0, len(rows), MICRO)
    ]
    return sum(-(-w // multiple) * multiple * MICRO for w in widths)


def settings(micro: int) -> Any:
    """Return the Trainer's arguments: one optimiser step a turn, nothing saved or validated, rows
    in their order.
    """
    section = Train(epochs=1, warmup_steps=0, batch_size=32 * micro, micro_batch_size=micro)
    found = arguments(section, SEED, Path(tempfile.gettempdir()) / "groundrec-benchmark")
    found.eval_strategy = found.save_strategy = found.logging_strategy = "no"
    found.load_best_model_at_end, found.train_sampling_strategy = False, "sequential"
    return found


def timed(trainer: Any) -> float:
    """Return the seconds of an epoch, without what a Trainer does before and behind it."""
    begun: list[float] = []
    taken: list[float] = []

    class Clock(TrainerCallback):
        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            begun.append(time.perf_counter())

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()
            taken.append(time.perf_counter() - begun[0])

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Clock())
    trainer.train()
    return taken[0]


def ours(model: Any, rows: list[Any], micro: int, attention: str = "sdpa") -> Callable[[], float]:
    """Return a turn with groundrec's loss."""
    read = Rows(len(rows), lambda i, _: rows[i])
    trainer = ObjectiveTrainer(
        CrossEntropy(),
        model=model,
        args=settings(micro),
        train_dataset=read,
        tree_attention=attention,
    )
    return partial(timed, trainer)


def theirs(lm: LanguageModel, model: Any, rows: list[Example]) -> Callable[[], float]:
    """Return a turn of transformers' Trainer as the public code sets it up."""
    lm.tokenizer.padding_side = "left"
    read: Any = [
        {
            "input_ids": e.input_ids.tolist(),
            "attention_mask": [1] * len(e.input_ids),
            "labels": e.labels.tolist(),
        }
        for e in rows
    ]
    padding = DataCollatorForSeq2Seq(
        lm.tokenizer, pad_to_multiple_of=8, return_tensors="pt", padding=True
    )
    return partial(
        timed, Trainer(model=model, args=settings(MICRO), train_dataset=read, data_collator=padding)
    )


def train(turn: int) -> float:
    """Return the seconds of a turn."""
    return _turns[turn]()


if __name__ == "__main__":
    log.setLevel("WARNING")
    main()
