"""Means with intervals from values per query, and tests of the differences between methods.

The queries of one user are correlated. Therefore users, never single queries, are resampled and
have their signs flipped: every random draw is over users, every mean over queries. Of metrics and
methods this module knows only the names.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from groundrec.core.errors import ArtifactError, ConfigError

__all__ = [
    "Comparison",
    "Interval",
    "compare_to_reference",
    "holm",
    "intervals",
    "paired_p",
    "standard_error",
]

K = TypeVar("K", bound=Hashable)
"""Names a column."""
Values = NDArray[np.float64]
Users = NDArray[Any]

_CELLS = 4_000_000
"""Maximum number of random values drawn at once, to bound memory."""


@dataclass(frozen=True)
class Interval:
    """A mean over queries and its 95% interval; both ends are NaN if none was computed."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """The difference of a method's mean from the reference's, its p-value, and that after Holm."""

    difference: float
    p: float
    adjusted: float


def intervals(
    values: Mapping[K, Values], users: Users, *, samples: int = 1000, seed: int = 0
) -> dict[K, Interval]:
    """Return each column's mean and 95% percentile interval, from a cluster bootstrap of users.

    Each of the `samples` draws takes U of the U users with replacement, each with all of their
    queries (Field and Welsh 2007); all columns share the draws. A query whose value is NaN does not
    count in that column. Shapes of `values` and `users`: [Q].
    """
    totals, counts = _per_user(values, users)
    means = _divide(totals.sum(axis=0), counts.sum(axis=0))
    drawn = [_divide(w @ totals, w @ counts) for w in _resamples(len(totals), samples, seed)]
    # drawn: one [batch, M] array of resampled means per batch; ends: [2, M]
    ends = _quantiles(np.concatenate(drawn)) if drawn else np.full((2, len(means)), np.nan)
    return {
        name: Interval(float(mean), float(low), float(high))
        for name, mean, low, high in zip(values, means, *ends, strict=True)
    }


def standard_error(values: Values, users: Users) -> float:
    """Return the cluster-robust standard error of the mean of `values`, clustered by user.

    sqrt(U / (U - 1) · Σ_u (Σ_{q of u} (x_q - mean))²) / Q (Liang and Zeger 1986); NaN for fewer
    than two users. Shapes: [Q].
    """
    totals, counts = _per_user({"": values}, users)
    if len(totals) < 2:
        return float("nan")
    residuals = totals - counts * totals.sum() / counts.sum()
    return float(
        np.sqrt(len(totals) / (len(totals) - 1) * np.square(residuals).sum()) / counts.sum()
    )


def paired_p(
    values: Mapping[str, Values],
    reference: str,
    users: Users,
    *,
    permutations: int = 10_000,
    seed: int = 0,
) -> dict[str, float]:
    """Return the two-sided p-value of each other column's difference in mean from `reference`.

    Under the null hypothesis, a user's difference, summed over the user's queries, is equally
    likely to have either sign. So the signs of whole users are flipped at random, and
    p = (1 + #{|S'| ≥ |S|}) / (1 + permutations). Equal columns give 1.
    """
    if reference not in values:
        raise ConfigError(
            "unknown method to compare with", value=reference, accepted=", ".join(values)
        )
    others = [name for name in values if name != reference]
    if not others:
        return {}
    sums, _ = _per_user({name: values[name] - values[reference] for name in others}, users)
    # sums: [U, M]. The tolerance keeps rounding from deciding between equal sums.
    observed = np.abs(sums.sum(axis=0)) - 1e-9 * np.abs(sums).sum(axis=0)
    extreme = np.zeros(len(others), np.int64)
    for signs in _signs(len(sums), permutations, seed):  # [batch, U] @ [U, M] → [batch, M]
        extreme += (np.abs(signs @ sums) >= observed).sum(axis=0)
    return {
        name: float(p) for name, p in zip(others, (1 + extreme) / (1 + permutations), strict=True)
    }


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Return the p-values adjusted for multiple comparisons (Holm 1979).

    The i-th smallest of m is multiplied by m - i + 1, is at least the one before it, and at most 1.
    """
    adjusted = {}
    floor = 0.0
    for rank, name in enumerate(sorted(p, key=lambda n: p[n])):
        floor = min(1.0, max(floor, (len(p) - rank) * p[name]))
        adjusted[name] = floor
    return {name: adjusted[name] for name in p}


def compare_to_reference(
    values: Mapping[str, Values],
    reference: str,
    users: Users,
    *,
    permutations: int = 10_000,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Return the comparison of each other column with `reference`, Holm-corrected over all."""
    p = paired_p(values, reference, users, permutations=permutations, seed=seed)
    adjusted = holm(p)
    return {
        name: Comparison(float(np.mean(values[name] - values[reference])), p[name], adjusted[name])
        for name in adjusted
    }


def _per_user(values: Mapping[K, Values], users: Users) -> tuple[Values, Values]:
    """Return the sums and the counts of non-NaN values per user and column. Shapes: [U, M]."""
    if wrong := [name for name, column in values.items() if len(column) != len(users)]:
        raise ArtifactError(
            "a column needs one value per query",
            value=", ".join(map(str, wrong)),
            accepted=f"{len(users)} values",
        )
    known, user = np.unique(users, return_inverse=True)
    table = np.stack([np.asarray(column, np.float64) for column in values.values()], axis=1)
    counted = ~np.isnan(table)
    totals = np.zeros((len(known), table.shape[1]))  # table and counted: [Q, M]
    counts = np.zeros_like(totals)
    np.add.at(totals, user, np.where(counted, table, 0))
    np.add.at(counts, user, counted)
    return totals, counts


def _batches(rows: int, columns: int) -> Iterator[int]:
    """Yield the sizes of batches of rows that hold at most `_CELLS` values each."""
    size = max(1, _CELLS // max(columns, 1))
    yield from (min(size, rows - start) for start in range(0, rows, size))


def _resamples(users: int, samples: int, seed: int) -> Iterator[Values]:
    """Yield how often each bootstrap sample draws each user. Shape: [batch, U]."""
    rng = np.random.default_rng(seed)
    for size in _batches(samples, users):
        # each sample counts into its own block of `users` bins, so one bincount serves the batch
        drawn = rng.integers(users, size=(size, users)) + np.arange(size)[:, None] * users
        counts = np.bincount(drawn.ravel(), minlength=size * users).reshape(size, users)
        yield counts.astype(np.float64)


def _signs(users: int, permutations: int, seed: int) -> Iterator[Values]:
    """Yield a random sign per permutation and user. Shape: [batch, U]."""
    rng = np.random.default_rng(seed)
    for size in _batches(permutations, users):
        yield np.where(rng.random((size, users), np.float32) < 0.5, 1.0, -1.0)


def _divide(totals: Values, counts: Values) -> Values:
    return np.divide(totals, counts, out=np.full_like(totals, np.nan), where=counts > 0)


def _quantiles(drawn: Values) -> Values:
    """Return each column's 2.5% and 97.5% quantiles, NaN left out. Shape: [2, M]."""
    ends = np.full((2, drawn.shape[1]), np.nan)
    for column, values in enumerate(drawn.T):
        defined = values[~np.isnan(values)]
        if len(defined):
            ends[:, column] = np.quantile(defined, [0.025, 0.975])
    return ends
