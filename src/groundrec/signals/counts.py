"""Collaborative signals: what people took, and nothing about titles, turned into scores of every
item.

Scores are unnormalised log-probabilities: the softmax of a row is the signal's distribution over
the catalogue. All are fitted on the training split. Knows nothing about language models, slates or
metrics of a report.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from groundrec.core.errors import ArtifactError
from groundrec.core.files import atomic_write
from groundrec.core.recipe import Recipe
from groundrec.core.types import PreparedDataset, Queries, Ragged, Scores

__all__ = ["CoOccurrence", "ItemKNN", "Popularity", "RecentPopularity", "Signal", "existing"]

S = TypeVar("S", bound="Signal")
T = TypeVar("T", bound="_Table")


class Signal(Protocol):
    """What a collaborative signal must be able to do; built with `cls(recipe)`.

    A class may also have two more attributes. `settings` names the sections and `section.field`s
    of the recipe that it reads, besides the seed: it is fitted again only when one of them changes.
    Without it, all sections of signals count. `files(recipe)` returns the paths whose content
    decides its scores too.
    """

    def __init__(self, recipe: Recipe) -> None: ...

    def fit(self, dataset: PreparedDataset, folder: Path) -> None:
        """Learn from the training split; `folder` may hold, and keeps, work that can be resumed."""
        ...

    def scores(self, queries: Queries) -> Scores:
        """Return unnormalised log-probabilities of every item for each query. Shape: [q, I]."""
        ...

    def save(self, folder: Path) -> None:
        """Write the fitted signal into `folder`."""
        ...

    @classmethod
    def load(cls: type[S], folder: Path, recipe: Recipe) -> S:
        """Return the signal that `save` wrote; raise `ArtifactError` where there is none."""
        ...


class _Table(ABC):
    """A signal made of item counts and a sparse table of votes [I, I]: the last items of a history
    vote for the next.

    p(j) = (1 - smoothing) * votes(j) / all votes + smoothing * popularity(j); popularity alone
    where nobody votes. `weights` is the say of the newest item of a history, of the one before it,
    and so on.
    """

    settings: ClassVar[tuple[str, ...]]
    weights: NDArray[np.float32]
    smoothing: float

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.counts: NDArray[np.int64] = np.empty(0, np.int64)
        self.table = sparse.csr_array((0, 0), dtype=np.float32)

    def fit(self, dataset: PreparedDataset, folder: Path) -> None:
        """Count the training sequences; seconds of work, so nothing is left in `folder`."""
        self.counts = dataset.popularity()
        self.table = self._votes(dataset.train.sequences()).astype(np.float32)

    def scores(self, queries: Queries) -> Scores:
        """Return log p of every item for each query. Shape: [q, I]."""
        popularity = (self.counts + 1) / (self.counts + 1).sum()
        voters = _recent(queries.history, self.weights, len(self.counts))
        votes = sparse.csr_array(voters @ self.table).toarray().astype(np.float64)
        total = votes.sum(1, keepdims=True)
        share = np.where(total > 0, 1 - self.smoothing, 0.0)
        votes *= share / np.where(total > 0, total, 1)
        return np.log(votes + (1 - share) * popularity).astype(np.float32)

    def save(self, folder: Path) -> None:
        """Write `table.npz`."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {name: getattr(self.table, name) for name in ("data", "indices", "indptr")}
        with atomic_write(folder / "table.npz") as part, part.open("wb") as file:
            np.savez_compressed(file, counts=self.counts, **arrays)

    @classmethod
    def load(cls: type[T], folder: Path, recipe: Recipe) -> T:
        """Return the signal that `save` wrote into `folder`."""
        signal = cls(recipe)
        with np.load(existing(folder / "table.npz"), allow_pickle=False) as file:
            signal.counts = file["counts"]
            shape = (len(signal.counts), len(signal.counts))
            signal.table = sparse.csr_array(
                (file["data"], file["indices"], file["indptr"]), shape=shape
            )
        return signal

    @abstractmethod
    def _votes(self, sequences: Ragged) -> sparse.csr_array:
        """Return what each item (row) says about each item (column) as the next one. Shape: [I, I]."""


class Popularity(_Table):
    """How often each item occurs in the training sequences, plus one; the same for everyone."""

    settings = ()
    weights = np.empty(0, np.float32)
    smoothing = 1.0

    def _votes(self, sequences: Ragged) -> sparse.csr_array:
        return sparse.csr_array((len(self.counts), len(self.counts)), dtype=np.float32)


class RecentPopularity(Popularity):
    """How often each item was taken in the last days of training, plus one; the same for everyone."""

    settings = ("recent_popularity",)

    def fit(self, dataset: PreparedDataset, folder: Path) -> None:
        """Count the training targets of `recent_popularity.days`."""
        train = dataset.train
        since = train.times.max(initial=0) - self.recipe.recent_popularity.days * 86_400
        taken = train.targets.values[(train.times > since)[train.targets.rows]]
        self.counts = np.bincount(taken, minlength=len(dataset.catalogue))
        self.table = self._votes(train.targets)


class ItemKNN(_Table):
    """Items that the same people took: cosine similarity, summed over the last items, older ones
    counting less.
    """

    settings = ("item_knn",)

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        section = recipe.item_knn
        self.weights = np.power(section.decay, np.arange(section.last_n), dtype=np.float32)
        self.smoothing = section.smoothing

    def _votes(self, sequences: Ragged) -> sparse.csr_array:
        took = _sparse(sequences.rows, sequences.values, (len(sequences), len(self.counts)))
        took.data[:] = 1
        unit = took @ _diagonal(np.maximum(took.sum(0), 1) ** -0.5)
        similar: Any = sparse.coo_array(unit.T @ unit)
        other = similar.coords[0] != similar.coords[1]
        return _sparse(
            similar.coords[0][other], similar.coords[1][other], similar.shape, similar.data[other]
        )


class CoOccurrence(_Table):
    """Items that followed: directed counts of pairs at most `window` places apart, each 1 /
    distance.

    votes(i → j) = count(i → j) / ((n_i + damping) ** source_power * (n_j + damping) **
    target_power)
    """

    settings = ("co_occurrence",)

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        section = recipe.co_occurrence
        self.weights = ((np.arange(section.last_n) + 1.0) ** -0.5).astype(np.float32)
        self.smoothing = section.smoothing

    def _votes(self, sequences: Ragged) -> sparse.csr_array:
        section = self.recipe.co_occurrence
        items = len(self.counts)
        table = sparse.csr_array((items, items))
        for distance in range(1, section.window + 1):
            same = sequences.rows[:-distance] == sequences.rows[distance:]
            before = sequences.values[:-distance][same]
            after = sequences.values[distance:][same]
            table = table + _sparse(
                before, after, (items, items), np.full(len(before), 1 / distance)
            )
        damped = self.counts + section.damping
        return (
            _diagonal(damped**-section.source_power)
            @ table
            @ _diagonal(damped**-section.target_power)
        )


def _recent(histories: Ragged, weights: NDArray[np.float32], item_count: int) -> sparse.csr_array:
    """Return each history's newest items with their weights, the newest first in `weights`. Shape:
    [q, I].
    """
    age = histories.offsets[1:][histories.rows] - 1 - np.arange(len(histories.values))
    kept = age < len(weights)
    shape = (len(histories), item_count)
    return _sparse(histories.rows[kept], histories.values[kept], shape, weights[age[kept]])


def _sparse(
    rows: NDArray[np.integer],
    columns: NDArray[np.integer],
    shape: tuple[int, ...],
    values: NDArray[np.floating] | None = None,
) -> sparse.csr_array:
    data = np.ones(len(rows), np.float32) if values is None else values
    return sparse.csr_array(sparse.coo_array((data, (rows, columns)), shape=shape))


def _diagonal(values: NDArray[np.floating]) -> sparse.dia_array:
    return sparse.dia_array((values[None], [0]), shape=(len(values), len(values)))


def existing(file: Path) -> Path:
    if not file.exists():
        raise ArtifactError(
            "this signal was not saved",
            value=file,
            accepted="a folder that a fitted signal was saved into",
            next_step="groundrec run RECIPE.toml --if-exists resume",
        )
    return file
