"""One plain loop that fits the sequential models, with validation, early stopping and exact resume.

Every random choice of an epoch comes from the seed and the epoch's number, so a resumed run repeats
the uninterrupted one bit for bit on one CPU process. Knows nothing about signals or language
models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy.optimize import minimize_scalar

from groundrec.core import config_signals
from groundrec.core.errors import TrainingError
from groundrec.core.runs import atomic_write
from groundrec.core.track import Metrics, log, progress
from groundrec.core.types import NO_ITEM, Queries, Ragged, Scores
from groundrec.signals.objectives import Objective, objective
from groundrec.signals.sequential import NETWORKS, NextItem, pad

__all__ = ["calibrate", "fit", "mean_ndcg", "ndcg", "validator", "windows"]


@dataclass
class _Standing:
    """Where a run stands after `epoch` epochs; `best_epoch` is 0 before the first validation."""

    epoch: int = 0
    best: float = -math.inf
    best_epoch: int = 0


def fit(
    sequences: Ragged,
    item_count: int,
    section: config_signals.Sequential,
    seed: int,
    folder: Path,
    validate: Callable[[NextItem], float] | None,
    device: str | torch.device = "cpu",
    *,
    network: str = "sasrec",
    robust: bool = False,
    moments: NDArray[np.integer] | None = None,
    metrics: Metrics | None = None,
) -> NextItem:
    """Return the `network` of the epoch that `validate` likes best (the last epoch without
    `validate`).

    Work found in `folder` is resumed. `moments` [values of `sequences`] numbers the moments:
    neighbours with the same number happened at once, so their order is drawn anew in each epoch.
    `robust` trains it with DROS's objective.
    """
    if not len(sequences.values):
        raise TrainingError(
            "no training sequences", value=f"{len(sequences)} users", accepted="at least one item"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with _seeded(seed, 0, device):
        model = NETWORKS[network](item_count, section).to(device)
    name = f"{network}-dros" if robust else network
    popularity = np.bincount(sequences.values, minlength=item_count) if robust else None
    loss_of = objective(section, popularity)
    optimizer = torch.optim.AdamW(
        model.parameters(), section.learning_rate, weight_decay=section.weight_decay
    )
    standing = _resume(folder, model, optimizer)
    if standing.epoch:
        log.info(f"  {name}: resumed after epoch {standing.epoch}")
    for epoch in progress(range(standing.epoch + 1, section.epochs + 1), name):
        if _out_of_patience(standing, section.patience):
            break
        with _seeded(seed, epoch, device):
            rng = np.random.default_rng([seed, epoch])
            rows = list(_batches(_reorder(sequences, moments, rng), section, rng))
            loss = _epoch(model, optimizer, loss_of, rows, section, epoch)
        if not math.isfinite(loss):
            raise TrainingError(
                "the sequential model's loss is no longer a number",
                value=f"{loss} in epoch {epoch}",
                accepted="a smaller learning rate",
                next_step=f"--set sequential.learning_rate={section.learning_rate / 3:.1g}",
            )
        standing.epoch = epoch
        score = validate(model) if validate else None
        if score is None or score > standing.best:
            standing.best = score if score is not None else standing.best
            standing.best_epoch = epoch
        _checkpoint(folder, model, optimizer, standing)
        _tell(name, metrics, epoch, loss, score)
    model.load_state_dict(load_file(_weights(folder, standing.best_epoch)))
    return model.eval()


def calibrate(model: NextItem, queries: Queries) -> None:
    """Set the network's `scale` so that its scores are log-probabilities: the most likely one of
    `queries`' targets.
    """
    rows = queries.targets.rows
    items = queries.targets.values
    scores = torch.from_numpy(model.scores(queries.history)).double() / model.scale.item()

    def surprise(log_scale: float) -> float:
        return -(math.exp(log_scale) * scores).log_softmax(1)[rows, items].mean().item()

    if len(items):
        found: Any = minimize_scalar(surprise, bounds=(-5, 5), method="bounded")
        model.scale.fill_(math.exp(found.x))


def windows(sequences: Ragged, length: int, rng: np.random.Generator) -> Ragged:
    """Return every sequence cut into pieces of at most `length` items; each item is in exactly one
    piece.

    A longer sequence is cut every `length` items, beginning at a random place, so cuts fall
    elsewhere in each epoch.
    """
    sizes = sequences.lengths
    first = np.where(sizes > length, rng.integers(1, length + 1, len(sizes)), length)
    within = np.arange(len(sequences.values)) - np.repeat(sequences.offsets[:-1], sizes)
    cut = (within == 0) | ((within - np.repeat(first, sizes)) % length == 0)
    return Ragged(
        sequences.values, np.append(np.flatnonzero(cut), len(sequences.values)).astype(np.int64)
    )


def ndcg(scores: Scores, targets: Ragged, k: int = 10) -> NDArray[np.float64]:
    """Return one NDCG@k per row of `scores` [q, I] for sets of targets; an item that ties with a
    target is above it.
    """
    rows = targets.rows
    items = targets.values
    own = scores[rows, items]
    ranks = np.array(
        [np.count_nonzero(scores[r] >= s) for r, s in zip(rows, own, strict=True)], dtype=np.int64
    )
    gains = np.where(np.isfinite(own) & (ranks <= k), 1 / np.log2(ranks + 1), 0.0)
    ideal = np.append(0.0, np.cumsum(1 / np.log2(np.arange(k) + 2)))[np.minimum(targets.lengths, k)]
    return np.bincount(rows, gains, len(targets)) / np.maximum(ideal, 1e-12)


def mean_ndcg(model: NextItem, queries: Queries, batch_size: int = 256) -> float:
    """Return the model's mean NDCG@10 over `queries`; items of a query's history are not ranked."""
    values = []
    for start in range(0, len(queries), batch_size):
        batch = queries.take(np.arange(start, min(start + batch_size, len(queries))))
        scores = model.scores(batch.history)
        scores[batch.history.rows, batch.history.values] = -np.inf
        values.append(ndcg(scores, batch.targets))
    return float(np.concatenate(values).mean())


def validator(queries: Queries, seed: int, size: int = 1000) -> Callable[[NextItem], float] | None:
    """Return a function that gives a model's mean NDCG@10 on `size` of the queries; None where
    there are none.
    """
    sample = queries.sample(size, seed)
    return (lambda model: mean_ndcg(model, sample)) if len(sample) else None


def _epoch(
    model: NextItem,
    optimizer: torch.optim.Optimizer,
    loss_of: Objective,
    batches: list[NDArray[np.int64]],
    section: config_signals.Sequential,
    epoch: int,
) -> float:
    model.train()
    total = torch.zeros((), device=model.bias.device)
    for step, batch in enumerate(batches):
        _set_rate(optimizer, section, epoch - 1 + step / len(batches))
        items = torch.from_numpy(batch).to(model.bias.device)
        present = items != NO_ITEM
        loss = loss_of(model, model.encode(items[:, :-1])[present], items[present])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += loss.detach()
    return total.item() / len(batches)


def _reorder(
    sequences: Ragged, moments: NDArray[np.integer] | None, rng: np.random.Generator
) -> Ragged:
    if moments is None:
        return sequences
    rows = sequences.rows
    starts = np.append(True, (moments[1:] != moments[:-1]) | (rows[1:] != rows[:-1]))
    order = np.lexsort((rng.random(len(rows)), np.cumsum(starts)))
    return Ragged(sequences.values[order], sequences.offsets)


def _batches(
    sequences: Ragged, section: config_signals.Sequential, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Yield padded windows [b, L] (an item to predict, and up to `max_length` before it), batches
    in random order.
    """
    pieces = windows(sequences, section.max_length + 1, rng)
    order = np.lexsort((rng.random(len(pieces)), pieces.lengths))
    groups = np.split(order, np.arange(section.batch_size, len(order), section.batch_size))
    for g in rng.permutation(len(groups)):
        rows = pieces.take(groups[g])
        yield pad(rows, int(rows.lengths.max()))


def _set_rate(
    optimizer: torch.optim.Optimizer, section: config_signals.Sequential, epochs: float
) -> None:
    """Set the learning rate: it rises over the first epoch, then falls to 0 along a cosine."""
    rate = (
        section.learning_rate
        * min(1.0, epochs + 0.05)
        * (1 + math.cos(math.pi * epochs / section.epochs))
        / 2
    )
    for group in optimizer.param_groups:
        group["lr"] = rate


@contextmanager
def _seeded(seed: int, epoch: int, device: str | torch.device) -> Iterator[None]:
    devices = [device] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))
        yield


def _out_of_patience(standing: _Standing, patience: int) -> bool:
    return bool(patience) and standing.epoch - standing.best_epoch >= patience


def _weights(folder: Path, epoch: int) -> Path:
    return folder / f"epoch-{epoch:04d}.safetensors"


def _checkpoint(
    folder: Path, model: NextItem, optimizer: torch.optim.Optimizer, standing: _Standing
) -> None:
    """Write the weights, then the state that names them, then drop weights that no longer matter."""
    with atomic_write(_weights(folder, standing.epoch)) as part:
        save_file(model.state_dict(), part)
    with atomic_write(folder / "state.pt") as part:
        torch.save({**asdict(standing), "optimizer": optimizer.state_dict()}, part)
    kept = {_weights(folder, standing.epoch), _weights(folder, standing.best_epoch)}
    for file in set(folder.glob("epoch-*.safetensors")) - kept:
        file.unlink()


def _resume(folder: Path, model: NextItem, optimizer: torch.optim.Optimizer) -> _Standing:
    if not (folder / "state.pt").exists():
        return _Standing()
    state = torch.load(folder / "state.pt", map_location=model.bias.device, weights_only=True)
    optimizer.load_state_dict(state.pop("optimizer"))
    standing = _Standing(**state)
    model.load_state_dict(load_file(_weights(folder, standing.epoch)))
    return standing


def _tell(name: str, metrics: Metrics | None, epoch: int, loss: float, score: float | None) -> None:
    values = {"epoch": epoch, "loss": loss} | ({} if score is None else {"ndcg@10": score})
    log.info(f"  {name}: " + ", ".join(f"{what} {value:.4g}" for what, value in values.items()))
    if metrics:
        metrics.write(**values)
