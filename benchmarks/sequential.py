"""groundrec's SASRec or GRU4Rec beside RecBole's: same split, same training events, hidden 64, 2
layers, one process.

    python benchmarks/sequential.py [RUN] [--network sasrec|gru4rec] [--budget SECONDS] [--epochs N]

RUN (`runs/demo` when left out) is a run whose data set is prepared. Ours trains with the recipe's
settings. RecBole's class trains with RecBole's own defaults (SASRec: dropout .5; GRU4Rec: .3; Adam
1e-3), one example per target with the last 20 items, until it has used `--budget` seconds of
processor time (those that ours took, when left out); validated after every quarter of an epoch
outside its budget, best state kept. With `--epochs` each takes so many passes over the same events,
whatever they cost. Both are measured by the same code on all test queries.

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

LENGTH, BATCH, SEED = 20, 512, 0
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
    """Train both, print one line each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", nargs="?", default="runs/demo", type=Path)
    parser.add_argument("--network", choices=OURS, default="sasrec")
    parser.add_argument("--budget", type=float)
    parser.add_argument("--epochs", type=int)
    a = parser.parse_args()
    dataset = load(a.run / "prepare")
    recipe = Recipe.model_validate(read_json(a.run / "config.json"))
    if a.epochs:
        passes = recipe.sequential.model_copy(update={"epochs": a.epochs, "patience": 0})
        recipe = recipe.model_copy(update={"sequential": passes})
    seconds = ours(a.network, dataset, recipe)
    recbole(a.network, dataset, math.inf if a.epochs else a.budget or seconds, a.epochs or math.inf)


def ours(network: str, dataset: PreparedDataset, recipe: Recipe) -> float:
    """Train groundrec's network; return the processor seconds it took, validation included."""
    start = time.process_time()
    signal = OURS[network](recipe)
    signal.fit(dataset, Path(tempfile.mkdtemp()))
    seconds = time.process_time() - start
    report("groundrec", signal.scores, dataset, seconds)
    return seconds


def recbole(network: str, dataset: PreparedDataset, budget: float, epochs: float) -> None:
    """Train RecBole's network for `budget` processor seconds, validation excluded, or for `epochs`."""
    try:
        module = importlib.import_module(f"recbole.model.sequential_recommender.{network}")
    except ImportError as error:
        sys.exit(f"RecBole cannot be imported ({error})\n{(__doc__ or '').splitlines()[-1]}")
    torch.manual_seed(SEED)
    model = getattr(module, OURS[network].__name__)(
        _settings(network), _Dataset(len(dataset.catalogue))
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches, sample = _Batches(dataset.train), dataset.valid.sample(1000, SEED)
    best, kept, used, epoch = -1.0, model.state_dict(), 0.0, 0.0
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
            best, kept = value, copy.deepcopy(model.state_dict())
    model.load_state_dict(kept)
    report(f"RecBole, {epoch:.2f} epochs", _scorer(model), dataset, used)


class _Dataset:
    """What RecBole's model asks of a data set: the number of items, padding included."""

    def __init__(self, items: int) -> None:
        self._items = items

    def num(self, field: str) -> int:
        return self._items + 1


class _Batches:
    """One example per target and its last `LENGTH` items, in random order, a quarter of an epoch at
    a time.
    """

    def __init__(self, train: Queries) -> None:
        pairs = [
            (s[max(0, k - LENGTH) : k], s[k]) for s in train.sequences() for k in range(1, len(s))
        ]
        self._items = torch.from_numpy(pad(Ragged.of(h for h, _ in pairs), LENGTH) + 1)
        self._targets = torch.tensor([int(t) for _, t in pairs]) + 1
        self._random, self._left = torch.Generator().manual_seed(SEED), []

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
    """Return mean NDCG@10; items of the history are not ranked."""
    slates = Slates.from_scores(queries.ids, exclude(scores(queries), queries.history), 10)
    return float(per_query(slates, queries, [10], ["ndcg"])["ndcg@10"].mean())


def report(name: str, scores: Score, dataset: PreparedDataset, seconds: float) -> None:
    """Print NDCG@10 on validation and test, and processor seconds."""
    valid, test = (ndcg(scores, part) for part in (dataset.valid, dataset.test))
    print(
        f"{name:<22} NDCG@10 valid {valid:.4f}  test {test:.4f}  {seconds:6.1f} processor seconds",
        flush=True,
    )


if __name__ == "__main__":
    main()
