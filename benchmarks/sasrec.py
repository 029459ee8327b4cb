"""groundrec's SASRec beside RecBole's: same split, same training events, hidden 64, 2 layers, one process.

    python benchmarks/sasrec.py [RUN] [--budget SECONDS]

RUN (`runs/demo` when left out) is a run whose data set is prepared. Ours trains with the recipe's settings. RecBole's
class trains with RecBole's own defaults (dropout .5, Adam 1e-3), one example per target with the last 20 items, until
it has used `--budget` seconds of processor time (those that ours took, when left out), validated after every quarter
of an epoch outside its budget, best state kept. Both are measured by the same code on all test queries.

Needs: pip install --no-deps recbole==1.2.1 colorlog==4.7.2 colorama==0.4.4 texttable thop tensorboard
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from groundrec.core.recipe import Recipe
from groundrec.core.runs import read_json
from groundrec.core.types import PreparedDataset, Queries, Ragged, Scores, Slates
from groundrec.data.dataset import load
from groundrec.evaluate.metrics import per_query
from groundrec.models.sequential import pad
from groundrec.rank.fuse import exclude
from groundrec.rank.networks import SASRec as Ours

LENGTH, BATCH, SEED = 20, 512, 0
Score = Callable[[Queries], Scores]


def main() -> None:
    """Train both, print one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", default="runs/demo", type=Path)
    parser.add_argument("--budget", type=float)
    arguments = parser.parse_args()
    dataset = load(arguments.run / "dataset")
    seconds = ours(dataset, Recipe.model_validate(read_json(arguments.run / "config.json")))
    recbole(dataset, arguments.budget or seconds)


def ours(dataset: PreparedDataset, recipe: Recipe) -> float:
    """Train groundrec's SASRec; return the processor seconds it took, validation included."""
    start = time.process_time()
    signal = Ours(recipe)
    signal.fit(dataset, Path(tempfile.mkdtemp()))
    seconds = time.process_time() - start
    report("groundrec", signal.scores, dataset, seconds)
    return seconds


def recbole(dataset: PreparedDataset, budget: float) -> None:
    """Train RecBole's SASRec for `budget` processor seconds, validation excluded."""
    try:
        from recbole.model.sequential_recommender.sasrec import SASRec  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        sys.exit(f"RecBole cannot be imported ({error})\n{(__doc__ or '').splitlines()[-1]}")
    torch.manual_seed(SEED)
    model = SASRec(_settings(), _Dataset(len(dataset.catalogue)))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches, sample = _Batches(dataset.train), dataset.valid.sample(1000, SEED)
    best, kept, used, epoch = -1.0, model.state_dict(), 0.0, 0.0
    while used < budget:
        for batch in batches.quarter():
            start = time.process_time()
            model.train()
            optimizer.zero_grad()
            model.calculate_loss(batch).backward()
            optimizer.step()
            used += time.process_time() - start
        epoch += 0.25
        value = ndcg(_scorer(model), sample)
        print(f"  RecBole epoch {epoch:5.2f}, {used:6.1f} s, validation NDCG@10 {value:.4f}", file=sys.stderr)
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
    """One example per target and its last `LENGTH` items, in random order, a quarter of an epoch at a time."""

    def __init__(self, train: Queries) -> None:
        pairs = [(s[max(0, k - LENGTH) : k], s[k]) for s in train.sequences() for k in range(1, len(s))]
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
            parts = [model.full_sort_predict(_inputs(part)).numpy()[:, 1:] for part in items.split(256)]
        return np.concatenate(parts)

    return scores


def _settings() -> dict[str, Any]:
    return {
        "USER_ID_FIELD": "u",
        "ITEM_ID_FIELD": "i",
        "LIST_SUFFIX": "_list",
        "ITEM_LIST_LENGTH_FIELD": "len",
        "NEG_PREFIX": "neg_",
        "MAX_ITEM_LIST_LENGTH": LENGTH,
        "device": torch.device("cpu"),
        "n_layers": 2,
        "n_heads": 2,
        "hidden_size": 64,
        "inner_size": 256,
        "hidden_dropout_prob": 0.5,
        "attn_dropout_prob": 0.5,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "initializer_range": 0.02,
        "loss_type": "CE",
    }


def ndcg(scores: Score, queries: Queries) -> float:
    """Return mean NDCG@10; items of the history are not ranked."""
    slates = Slates.from_scores(queries.ids, exclude(scores(queries), queries.history), 10)
    return float(per_query(slates, queries, [10], ["ndcg"])["ndcg@10"].mean())


def report(name: str, scores: Score, dataset: PreparedDataset, seconds: float) -> None:
    """Print NDCG@10 on validation and test, and processor seconds."""
    valid, test = (ndcg(scores, part) for part in (dataset.valid, dataset.test))
    print(f"{name:<22} NDCG@10 valid {valid:.4f}  test {test:.4f}  {seconds:6.1f} processor seconds", flush=True)


if __name__ == "__main__":
    main()
