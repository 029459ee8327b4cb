"""The training loop of the sequential models: validation, early stopping and exact resume.

Every random choice in an epoch depends only on the seed and the epoch number, so on one CPU process
a resumed run repeats an uninterrupted one bit for bit. Knows nothing about signals or language
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
from groundrec.core.files import atomic_write
from groundrec.core.track import Metrics, log, progress
from groundrec.core.types import NO_ITEM, Queries, Ragged, Scores
from groundrec.signals.objectives import Objective, objective
from groundrec.signals.sequential import NETWORKS, NextItem, pad

__all__ = ["calibrate", "fit", "mean_ndcg", "ndcg", "validator", "windows"]


@dataclass
class _TrainingState:
    """The state of a run after `epoch` epochs; `best_epoch` is 0 before the first epoch ends."""

    epoch: int = 0
    best: float = -math.inf
    best_epoch: int = 0

    def finish_epoch(self, epoch: int, score: float | None) -> None:
        """Count the epoch, and keep it as the best if it scores higher or nothing is scored."""
        self.epoch = epoch
        if score is None:
            self.best_epoch = epoch
        elif score > self.best:
            self.best = score
            self.best_epoch = epoch


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
    """Return the network after its best epoch on `validate`, or after the last one without it.

    A run that stopped in `folder` is resumed. `moments` numbers the values of `sequences`: items
    that share a moment are shuffled in each epoch. `robust` trains with the objective of DROS.
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
    state = _resume(folder, model, optimizer)
    if state.epoch:
        log.info(f"  {name}: resumed after epoch {state.epoch}")
    for epoch in progress(range(state.epoch + 1, section.epochs + 1), name):
        if _out_of_patience(state, section.patience):
            break
        with _seeded(seed, epoch, device):
            rng = np.random.default_rng([seed, epoch])
            rows = list(_batches(_reorder(sequences, moments, rng), section, rng))
            loss = _epoch(model, optimizer, loss_of, rows, section, epoch)
        _check_finite(loss, epoch, section.learning_rate)
        score = validate(model) if validate else None
        state.finish_epoch(epoch, score)
        _checkpoint(folder, model, optimizer, state)
        _log_epoch(name, metrics, epoch, loss, score)
    model.load_state_dict(load_file(_weights(folder, state.best_epoch)))
    return model.eval()


def calibrate(model: NextItem, queries: Queries) -> None:
    """Set the network's `scale` to the one under which the targets of `queries` are most likely."""
    rows = queries.targets.rows
    items = queries.targets.values
    scores = torch.from_numpy(model.scores(queries.history)).double() / model.scale.item()

    def negative_log_likelihood(log_scale: float) -> float:
        return -(math.exp(log_scale) * scores).log_softmax(1)[rows, items].mean().item()

    if len(items):
        optimum: Any = minimize_scalar(negative_log_likelihood, bounds=(-5, 5), method="bounded")
        model.scale.fill_(math.exp(optimum.x))


def windows(sequences: Ragged, length: int, rng: np.random.Generator) -> Ragged:
    """Return the sequences cut into pieces of at most `length` items.

    Each item is in exactly one piece. The first cut of a long sequence is random and the others
    follow every `length` items, so the pieces differ from epoch to epoch.
    """
    sizes = sequences.lengths
    # [U]: the length of each sequence's first piece.
    first = np.where(sizes > length, rng.integers(1, length + 1, len(sizes)), length)
    # [N]: the position of each item in its own sequence. A piece starts at each `cut`.
    within = np.arange(len(sequences.values)) - np.repeat(sequences.offsets[:-1], sizes)
    cut = (within == 0) | ((within - np.repeat(first, sizes)) % length == 0)
    return Ragged(
        sequences.values, np.append(np.flatnonzero(cut), len(sequences.values)).astype(np.int64)
    )


def ndcg(scores: Scores, targets: Ragged, k: int = 10) -> NDArray[np.float64]:
    """Return the NDCG@k of each row of `scores` [q, I]; an item tied with a target ranks above it.

    A query may have several targets. Shape: [q].
    """
    rows = targets.rows
    items = targets.values
    # [targets]: each target's score, then its rank from 1.
    own = scores[rows, items]
    ranks = np.array(
        [np.count_nonzero(scores[r] >= s) for r, s in zip(rows, own, strict=True)], dtype=np.int64
    )
    gains = np.where(np.isfinite(own) & (ranks <= k), 1 / np.log2(ranks + 1), 0.0)
    # The ideal gain of n targets is that of ranks 1 … n, at most k.
    ideal = np.append(0.0, np.cumsum(1 / np.log2(np.arange(k) + 2)))[np.minimum(targets.lengths, k)]
    return np.bincount(rows, gains, len(targets)) / np.maximum(ideal, 1e-12)


def mean_ndcg(model: NextItem, queries: Queries, batch_size: int = 256) -> float:
    """Return the mean NDCG@10 over `queries`, leaving out the items of each history."""
    values = []
    for start in range(0, len(queries), batch_size):
        batch = queries.take(np.arange(start, min(start + batch_size, len(queries))))
        scores = model.scores(batch.history)
        scores[batch.history.rows, batch.history.values] = -np.inf
        values.append(ndcg(scores, batch.targets))
    return float(np.concatenate(values).mean())


def validator(queries: Queries, seed: int, size: int = 1000) -> Callable[[NextItem], float] | None:
    """Return a function that measures mean NDCG@10 on a sample; None without queries."""
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
    """Train for one epoch and return the mean loss of its steps."""
    model.train()
    total = torch.zeros((), device=model.bias.device)
    for step, batch in enumerate(batches):
        _set_rate(optimizer, section, epoch - 1 + step / len(batches))
        items = torch.from_numpy(batch).to(model.bias.device)
        # Both [b, L]: column j of the states, after the start symbol and j items, predicts item j.
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
    """Return the sequences with the items of each moment in random order."""
    if moments is None:
        return sequences
    rows = sequences.rows
    # [N]: whether an item starts a new moment; a random second key shuffles within moments only.
    starts = np.append(True, (moments[1:] != moments[:-1]) | (rows[1:] != rows[:-1]))
    order = np.lexsort((rng.random(len(rows)), np.cumsum(starts)))
    return Ragged(sequences.values[order], sequences.offsets)


def _batches(
    sequences: Ragged, section: config_signals.Sequential, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Yield batches [b, L] of padded windows, L ≤ `max_length` + 1, in random order."""
    pieces = windows(sequences, section.max_length + 1, rng)
    # Pieces of similar length share a batch, which saves padding; then the batches are shuffled.
    order = np.lexsort((rng.random(len(pieces)), pieces.lengths))
    groups = np.split(order, np.arange(section.batch_size, len(order), section.batch_size))
    for g in rng.permutation(len(groups)):
        rows = pieces.take(groups[g])
        yield pad(rows, int(rows.lengths.max()))


def _set_rate(
    optimizer: torch.optim.Optimizer, section: config_signals.Sequential, epochs: float
) -> None:
    """Set the learning rate: linear warm-up over the first epoch, cosine decay to 0 after."""
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
    """Seed torch for one epoch and restore its generators afterwards."""
    devices = [device] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))
        yield


def _out_of_patience(state: _TrainingState, patience: int) -> bool:
    return bool(patience) and state.epoch - state.best_epoch >= patience


def _check_finite(loss: float, epoch: int, learning_rate: float) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            "the sequential model's loss is not finite",
            value=f"{loss} in epoch {epoch}",
            accepted="a smaller learning rate",
            next_step=f"--set sequential.learning_rate={learning_rate / 3:.1g}",
        )


def _weights(folder: Path, epoch: int) -> Path:
    return folder / f"epoch-{epoch:04d}.safetensors"


def _checkpoint(
    folder: Path, model: NextItem, optimizer: torch.optim.Optimizer, state: _TrainingState
) -> None:
    """Write the weights, then the state that refers to them, then delete outdated weights."""
    with atomic_write(_weights(folder, state.epoch)) as part:
        save_file(model.state_dict(), part)
    with atomic_write(folder / "state.pt") as part:
        torch.save({**asdict(state), "optimizer": optimizer.state_dict()}, part)
    kept = {_weights(folder, state.epoch), _weights(folder, state.best_epoch)}
    for file in set(folder.glob("epoch-*.safetensors")) - kept:
        file.unlink()


def _resume(folder: Path, model: NextItem, optimizer: torch.optim.Optimizer) -> _TrainingState:
    if not (folder / "state.pt").exists():
        return _TrainingState()
    saved = torch.load(folder / "state.pt", map_location=model.bias.device, weights_only=True)
    optimizer.load_state_dict(saved.pop("optimizer"))
    state = _TrainingState(**saved)
    model.load_state_dict(load_file(_weights(folder, state.epoch)))
    return state


def _log_epoch(
    name: str, metrics: Metrics | None, epoch: int, loss: float, score: float | None
) -> None:
    values = {"epoch": epoch, "loss": loss} | ({} if score is None else {"ndcg@10": score})
    log.info(f"  {name}: " + ", ".join(f"{key} {value:.4g}" for key, value in values.items()))
    if metrics:
        metrics.write(**values)
