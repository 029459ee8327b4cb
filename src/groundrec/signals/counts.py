"""Collaborative signals from counts: score every item by interactions alone, without titles.

Scores are unnormalised log-probabilities: the softmax of a row is the signal's distribution over
the catalogue. All are fitted on the training split. Knows nothing about language models, slates or
reported metrics.
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
    """The interface of a collaborative signal; constructed as `cls(recipe)`.

    A class may have two more attributes. `settings` names the sections and `section.field`s of the
    recipe that it reads besides the seed: only a change in these refits it; without it, a change in
    any signal's section does. `files(recipe)` returns the paths of files that its scores depend on.
    """

    def __init__(self, recipe: Recipe) -> None: ...

    def fit(self, dataset: PreparedDataset, folder: Path) -> None:
        """Learn from the training split; `folder` is for checkpoints, to resume from."""
        ...

    def scores(self, queries: Queries) -> Scores:
        """Return unnormalised log-probabilities of every item for each query. Shape: [q, I]."""
        ...

    def save(self, folder: Path) -> None:
        """Write the fitted signal into `folder`."""
        ...

    @classmethod
    def load(cls: type[S], folder: Path, recipe: Recipe) -> S:
        """Return the signal that `save` wrote; raise `ArtifactError` if there is none."""
        ...


class _Table(ABC):
    """A signal in which the last items of a history vote for the next, by a sparse table [I, I].

    p(j) = (1 - smoothing) * votes(j) / all votes + smoothing * popularity(j), or popularity alone
    if no item has a vote. `weights` holds the weight of the newest item of a history, of the one
    before it, and so on.
    """

    settings: ClassVar[tuple[str, ...]]
    weights: NDArray[np.float32]
    smoothing: float

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.counts: NDArray[np.int64] = np.empty(0, np.int64)
        self.table = sparse.csr_array((0, 0), dtype=np.float32)

    def fit(self, dataset: PreparedDataset, folder: Path) -> None:
        """Count the training sequences; this takes seconds, so there are no checkpoints."""
        self.counts = dataset.popularity()
        self.table = self._votes(dataset.train.sequences()).astype(np.float32)

    def scores(self, queries: Queries) -> Scores:
        """Return log p of every item for each query. Shape: [q, I]."""
        # [I], one added to each count so that no item has probability 0.
        popularity = (self.counts + 1) / (self.counts + 1).sum()
        # The weight of each item in each history [q, I], times the table [I, I].
        voters = _recent(queries.history, self.weights, len(self.counts))
        votes = sparse.csr_array(voters @ self.table).toarray().astype(np.float64)
        total = votes.sum(1, keepdims=True)
        # [q, 1]: how much of each distribution comes from the votes.
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
        """Return the votes of each item (row) for each next item (column). Shape: [I, I]."""


class Popularity(_Table):
    """Number of training interactions of each item, plus one; the same for every user."""

    settings = ()
    weights = np.empty(0, np.float32)
    smoothing = 1.0

    def _votes(self, sequences: Ragged) -> sparse.csr_array:
        return sparse.csr_array((len(self.counts), len(self.counts)), dtype=np.float32)


class RecentPopularity(Popularity):
    """Number of interactions of each item in the last days of training, plus one."""

    settings = ("recent_popularity",)

    def fit(self, dataset: PreparedDataset, folder: Path) -> None:
        """Count the training targets of `recent_popularity.days`."""
        train = dataset.train
        since = train.times.max(initial=0) - self.recipe.recent_popularity.days * 86_400
        recent = train.targets.values[(train.times > since)[train.targets.rows]]
        self.counts = np.bincount(recent, minlength=len(dataset.catalogue))
        self.table = self._votes(train.targets)


class ItemKNN(_Table):
    """Items with the same users: cosine similarity to the last items, with decaying weights."""

    settings = ("item_knn",)

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        section = recipe.item_knn
        self.weights = np.power(section.decay, np.arange(section.last_n), dtype=np.float32)
        self.smoothing = section.smoothing

    def _votes(self, sequences: Ragged) -> sparse.csr_array:
        # [U, I]: 1 for each item of a user, however often. Columns of unit length give cosines.
        taken = _sparse(sequences.rows, sequences.values, (len(sequences), len(self.counts)))
        taken.data[:] = 1
        unit = taken @ _diagonal(np.maximum(taken.sum(0), 1) ** -0.5)
        similar: Any = sparse.coo_array(unit.T @ unit)
        # An item does not vote for itself.
        rows, columns = similar.coords
        other = rows != columns
        return _sparse(rows[other], columns[other], similar.shape, similar.data[other])


class CoOccurrence(_Table):
    """Items that follow one another: directed counts of pairs within `window`, as 1 / distance.

    votes(i → j) = count(i → j) / (n_i + damping) ** source_power / (n_j + damping) ** target_power
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
            # Pairs of items `distance` apart in the flat array, without those that span two users.
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
    """Return the weights of each history's newest items; `weights[0]` is the newest's. [q, I]."""
    # [values]: how many items follow each in its history, 0 for the newest.
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
    """Return a sparse matrix of `values`, by default ones; values of equal cells are added."""
    data = np.ones(len(rows), np.float32) if values is None else values
    return sparse.csr_array(sparse.coo_array((data, (rows, columns)), shape=shape))


def _diagonal(values: NDArray[np.floating]) -> sparse.dia_array:
    return sparse.dia_array((values[None], [0]), shape=(len(values), len(values)))


def existing(file: Path) -> Path:
    """Return `file` of a saved signal; raise `ArtifactError` if it does not exist."""
    if not file.exists():
        raise ArtifactError(
            "this signal was not saved",
            value=file,
            accepted="a folder that a fitted signal was saved into",
            next_step="groundrec run RECIPE.toml --if-exists resume",
        )
    return file
