"""Compare groundrec's SASRec or GRU4Rec with RecBole's on the same split and training events.

    python benchmarks/sequential.py [RUN] [--network sasrec|gru4rec] [--budget SECONDS] [--epochs N]

RUN (default `runs/demo`) is a run with a prepared data set. Both networks have hidden size 64 and 2
layers and train in one process. groundrec's trains with the recipe's settings. RecBole's trains
with RecBole's defaults (dropout .5 for SASRec, .3 for GRU4Rec; Adam, 1e-3) on one example per
target with the last 20 items, until it has used `--budget` seconds of processor time (default: as
much as groundrec's). It is validated every quarter of an epoch, which does not count towards the
budget, and its best state is kept. With `--epochs`, both train for this number of epochs, however
long they take. Both are measured by the same code on all test queries.

Needs: pip install --no-deps recbole==1.2.1 colorlog==4.7.2 colorama==0.4.4 texttable thop
tensorboard protobuf
"""

from __future__ import annotations

import argparse
import copy
import importlib
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from groundrec.core.files import read_json
from groundrec.core.recipe import Recipe
from groundrec.core.types import PreparedDataset, Queries, Ragged, Scores, Slates
from groundrec.data.dataset import load
from groundrec.evaluate.metrics import per_query
from groundrec.rank.fuse import exclude
from groundrec.signals.networks import GRU4Rec, SASRec
from groundrec.signals.sequential import pad

LENGTH = 20
BATCH = 512
SEED = 0
OURS = {"sasrec": SASRec, "gru4rec": GRU4Rec}
SETTINGS: dict[str, dict[str, Any]] = {
    "sasrec": {
        "n_layers": 2,
        "n_heads": 2,
        "hidden_size": 64,
        "inner_size": 256,
        "hidden_dropout_prob": 0.5,
        "attn_dropout_prob": 0.5,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "initializer_range": 0.02,
    },
    "gru4rec": {"embedding_size": 64, "hidden_size": 64, "num_layers": 2, "dropout_prob": 0.3},
}
Score = Callable[[Queries], Scores]


def main() -> None:
    """Train both networks and print one line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", nargs="?", default="runs/demo", type=Path)
    parser.add_argument("--network", choices=OURS, default="sasrec")
    parser.add_argument("--budget", type=float)
    parser.add_argument("--epochs", type=int)
    options = parser.parse_args()
    dataset = load(options.run / "prepare")
    recipe = Recipe.model_validate(read_json(options.run / "config.json"))
    if options.epochs:
        section = recipe.sequential.model_copy(update={"epochs": options.epochs, "patience": 0})
        recipe = recipe.model_copy(update={"sequential": section})
    seconds = ours(options.network, dataset, recipe)
    budget = math.inf if options.epochs else options.budget or seconds
    recbole(options.network, dataset, budget, options.epochs or math.inf)


def ours(network: str, dataset: PreparedDataset, recipe: Recipe) -> float:
    """Train groundrec's network; return its processor time in seconds, validation included."""
    start = time.process_time()
    signal = OURS[network](recipe)
    signal.fit(dataset, Path(tempfile.mkdtemp()))
    seconds = time.process_time() - start
    report("groundrec", signal.scores, dataset, seconds)
    return seconds


def recbole(network: str, dataset: PreparedDataset, budget: float, epochs: float) -> None:
    """Train RecBole's network for `budget` processor seconds, without validation, or `epochs`."""
    try:
        module = importlib.import_module(f"recbole.model.sequential_recommender.{network}")
    except ImportError as error:
        sys.exit(f"RecBole cannot be imported ({error})\n{(__doc__ or '').splitlines()[-1]}")
    torch.manual_seed(SEED)
    model = getattr(module, OURS[network].__name__)(
        _settings(network), _Dataset(len(dataset.catalogue))
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches = _Batches(dataset.train)
    sample = dataset.valid.sample(1000, SEED)
    best = -1.0
    best_state = model.state_dict()
    used = 0.0
    epoch = 0.0
    while used < budget and epoch < epochs:
        for batch in batches.quarter():
            start = time.process_time()
            model.train()
            optimizer.zero_grad()
            model.calculate_loss(batch).backward()
            optimizer.step()
            used += time.process_time() - start
        epoch += 0.25
        value = ndcg(_scorer(model), sample)
        print(
            f"  RecBole epoch {epoch:5.2f}, {used:6.1f} s, validation NDCG@10 {value:.4f}",
            file=sys.stderr,
        )
        if value > best:
            best = value
            best_state = copy.deepcopy(model.state_dict())
    model.load_state_dict(best_state)
    report(f"RecBole, {epoch:.2f} epochs", _scorer(model), dataset, used)


class _Dataset:
    """The part of RecBole's data set that its models use: the number of items with padding."""

    def __init__(self, items: int) -> None:
        self._items = items

    def num(self, field: str) -> int:
        return self._items + 1


class _Batches:
    """Shuffled examples of a target and the `LENGTH` items before it, by quarters of an epoch."""

    def __init__(self, train: Queries) -> None:
        pairs = [
            (s[max(0, k - LENGTH) : k], s[k]) for s in train.sequences() for k in range(1, len(s))
        ]
        # RecBole numbers items from 1 and pads with 0.
        self._items = torch.from_numpy(pad(Ragged.of(h for h, _ in pairs), LENGTH) + 1)
        self._targets = torch.tensor([int(t) for _, t in pairs]) + 1
        self._random = torch.Generator().manual_seed(SEED)
        self._left: list[torch.Tensor] = []

    def quarter(self) -> list[dict[str, torch.Tensor]]:
        if not self._left:
            order = torch.randperm(len(self._targets), generator=self._random)
            self._left = list(order.chunk(4))
        rows = self._left.pop().split(BATCH)
        return [{**_inputs(self._items[r]), "i": self._targets[r]} for r in rows]


def _inputs(items: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"i_list": items, "len": (items > 0).sum(1).clamp(min=1)}


def _scorer(model: Any) -> Score:
    def scores(queries: Queries) -> Scores:
        model.eval()
        items = torch.from_numpy(pad(queries.history, LENGTH) + 1)
        with torch.inference_mode():
            parts = [
                model.full_sort_predict(_inputs(part)).numpy()[:, 1:] for part in items.split(256)
            ]
        return np.concatenate(parts)

    return scores


def _settings(network: str) -> dict[str, Any]:
    return {
        "USER_ID_FIELD": "u",
        "ITEM_ID_FIELD": "i",
        "LIST_SUFFIX": "_list",
        "ITEM_LIST_LENGTH_FIELD": "len",
        "NEG_PREFIX": "neg_",
        "MAX_ITEM_LIST_LENGTH": LENGTH,
        "device": torch.device("cpu"),
        "loss_type": "CE",
        **SETTINGS[network],
    }


def ndcg(scores: Score, queries: Queries) -> float:
    """Return mean NDCG@10, leaving out the items of each history."""
    slates = Slates.from_scores(queries.ids, exclude(scores(queries), queries.history), 10)
    return float(per_query(slates, queries, [10], ["ndcg"])["ndcg@10"].mean())


def report(name: str, scores: Score, dataset: PreparedDataset, seconds: float) -> None:
    """Print NDCG@10 on validation and test, and processor seconds."""
    valid = ndcg(scores, dataset.valid)
    test = ndcg(scores, dataset.test)
    print(
        f"{name:<22} NDCG@10 valid {valid:.4f}  test {test:.4f}  {seconds:6.1f} processor seconds",
        flush=True,
    )


if __name__ == "__main__":
    main()
