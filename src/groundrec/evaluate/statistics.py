"""Values per query to means with intervals, and to what can be said of their differences.

Queries of one user are correlated, so users, never single queries, are what is resampled and what
is flipped: every random draw here is over users, and every mean is over queries. Knows nothing
about metrics or methods but their names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

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

Values = NDArray[np.float64]
Users = NDArray[Any]

_CELLS = 4_000_000
"""Most numbers drawn at once, to bound memory."""


@dataclass(frozen=True)
class Interval:
    """A mean over queries and the ends of its 95% interval; the ends are NaN where none was asked
    for.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """One method against another: the difference of their means, its p-value, and that value after
    Holm.
    """

    difference: float
    p: float
    adjusted: float


def intervals(
    values: Mapping[str, Values], users: Users, *, samples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Return the mean of each column and its 95% percentile interval from a cluster bootstrap over
    users.

    Each of `samples` draws takes as many users as there are, with replacement and with all their
    queries (Field and Welsh 2007); all columns share the draws. NaN marks a query that does not
    count in a column. `values` and `users` are [Q].
    """
    totals, counts = _per_user(values, users)
    means = _divide(totals.sum(axis=0), counts.sum(axis=0))
    drawn = [_divide(w @ totals, w @ counts) for w in _resamples(len(totals), samples, seed)]
    ends = _quantiles(np.concatenate(drawn)) if drawn else np.full((2, len(means)), np.nan)
    return {
        name: Interval(float(mean), float(low), float(high))
        for name, mean, low, high in zip(values, means, *ends, strict=True)
    }


def standard_error(values: Values, users: Users) -> float:
    """Return the standard error of the mean of `values` [Q], queries of one user being correlated.

    sqrt(U / (U - 1) · Σ_u (Σ_{q of u} (x_q - mean))²) / Q, the cluster-robust variance of a mean
    (Liang and Zeger 1986). NaN for fewer than two users.
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
    against: str,
    users: Users,
    *,
    permutations: int = 10_000,
    seed: int = 0,
) -> dict[str, float]:
    """Return the two-sided p-value of every other column's difference in mean from column
    `against`.

    Under the null hypothesis a user's difference, summed over the user's queries, is as likely to
    have either sign: the signs of whole users are flipped at random, p = (1 + #{|S'| ≥ |S|}) / (1 +
    permutations). Equal columns give 1.
    """
    if against not in values:
        raise ConfigError(
            "no such method to compare with", value=against, accepted=", ".join(values)
        )
    others = [name for name in values if name != against]
    if not others:
        return {}
    sums, _ = _per_user({name: values[name] - values[against] for name in others}, users)
    observed = np.abs(sums.sum(axis=0)) - 1e-9 * np.abs(sums).sum(axis=0)
    extreme = np.zeros(len(others), np.int64)
    for signs in _signs(len(sums), permutations, seed):
        extreme += (np.abs(signs @ sums) >= observed).sum(axis=0)
    return {
        name: float(p) for name, p in zip(others, (1 + extreme) / (1 + permutations), strict=True)
    }


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Return p-values that hold for all comparisons together (Holm 1979), never below the ones
    given.

    The i-th smallest of m is multiplied by m - i + 1, never falls below the one before it, and
    never exceeds 1.
    """
    adjusted = {}
    floor = 0.0
    for place, name in enumerate(sorted(p, key=lambda n: p[n])):
        floor = min(1.0, max(floor, (len(p) - place) * p[name]))
        adjusted[name] = floor
    return {name: adjusted[name] for name in p}


def compare_to_reference(
    values: Mapping[str, Values],
    against: str,
    users: Users,
    *,
    permutations: int = 10_000,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Return every other column compared with column `against`, Holm-corrected over all of them."""
    p = paired_p(values, against, users, permutations=permutations, seed=seed)
    adjusted = holm(p)
    return {
        name: Comparison(float(np.mean(values[name] - values[against])), p[name], adjusted[name])
        for name in adjusted
    }


def _per_user(values: Mapping[str, Values], users: Users) -> tuple[Values, Values]:
    """Return sums and numbers of the values that count, per user and column. Shapes: [U, M], [U,
    M].
    """
    if wrong := [name for name, column in values.items() if len(column) != len(users)]:
        raise ArtifactError(
            "not one value per query", value=", ".join(wrong), accepted=f"{len(users)} values"
        )
    known, user = np.unique(users, return_inverse=True)
    table = np.stack([np.asarray(column, np.float64) for column in values.values()], axis=1)
    counted = ~np.isnan(table)
    totals = np.zeros((len(known), table.shape[1]))
    counts = np.zeros_like(totals)
    np.add.at(totals, user, np.where(counted, table, 0))
    np.add.at(counts, user, counted)
    return totals, counts


def _batches(rows: int, columns: int) -> Iterator[int]:
    size = max(1, _CELLS // max(columns, 1))
    yield from (min(size, rows - start) for start in range(0, rows, size))


def _resamples(users: int, samples: int, seed: int) -> Iterator[Values]:
    """Yield how often each user is drawn. Shape of each: [batch, U]."""
    rng = np.random.default_rng(seed)
    for size in _batches(samples, users):
        drawn = rng.integers(users, size=(size, users)) + np.arange(size)[:, None] * users
        yield (
            np.bincount(drawn.ravel(), minlength=size * users)
            .reshape(size, users)
            .astype(np.float64)
        )


def _signs(users: int, permutations: int, seed: int) -> Iterator[Values]:
    """Yield a random sign per user. Shape of each: [batch, U]."""
    rng = np.random.default_rng(seed)
    for size in _batches(permutations, users):
        yield np.where(rng.random((size, users), np.float32) < 0.5, 1.0, -1.0)


def _divide(totals: Values, counts: Values) -> Values:
    return np.divide(totals, counts, out=np.full_like(totals, np.nan), where=counts > 0)


def _quantiles(drawn: Values) -> Values:
    """Return the 2.5% and 97.5% points of each column, draws without a value left out. Shape: [2,
    M].
    """
    columns = (column[~np.isnan(column)] for column in drawn.T)
    return np.stack(
        [np.quantile(c, [0.025, 0.975]) if len(c) else np.full(2, np.nan) for c in columns], axis=1
    )
