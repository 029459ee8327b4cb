"""The contents of a report as plain data, filled in by the caller.

Knows nothing about how a report is rendered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from groundrec.core.errors import ConfigError
from groundrec.evaluate.charts import Curve, FusionCurve, Kind
from groundrec.evaluate.statistics import Comparison, Interval

__all__ = ["Method", "Pick", "Report", "UserExample"]


@dataclass(frozen=True)
class Method:
    """A recommendation method and its results on the test queries."""

    name: str
    kind: Kind
    metrics: Mapping[str, Interval]
    """`{"ndcg@10": …}`; the same names for every method."""
    beyond: Mapping[str, float]
    """`evaluate.metrics.beyond_accuracy`."""
    slices: Mapping[str, Interval]
    """The main metric on head, middle and tail targets alone."""
    exposure: tuple[float, ...]
    """`evaluate.metrics.exposure`."""
    comparison: Comparison | None = None
    """Comparison with `Report.reference` on the main metric; None for the reference itself."""


@dataclass(frozen=True)
class Pick:
    """A recommended title, and whether that item was a target."""

    title: str
    hit: bool = False


@dataclass(frozen=True)
class UserExample:
    """One query shown in full: its history, oldest first, each method's picks and the targets."""

    name: str
    history: tuple[str, ...]
    recommended: Mapping[str, tuple[Pick, ...]]
    next_titles: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """Everything a report shows; `reference` is the best unfused method."""

    title: str
    dataset: str
    data: tuple[tuple[str, object], ...]
    """The data card: label and value."""
    warnings: tuple[str, ...]
    """Caveats shown above the results, for example that the split leaks."""
    methods: tuple[Method, ...]
    reference: str
    queries: int
    users: int
    curves: tuple[Curve, ...] = ()
    fusion: tuple[FusionCurve, ...] = ()
    examples: tuple[UserExample, ...] = ()
    recipe: str = ""
    environment: tuple[tuple[str, object], ...] = ()
    main_metric: str = "ndcg@10"
    bootstrap: int = 1000
    permutations: int = 10_000
    target_exposure: tuple[float, ...] = ()
    """The same shares as `Method.exposure`, of the targets."""

    def __post_init__(self) -> None:
        """Check that the reference exists and that every method has the main metric."""
        known = [method.name for method in self.methods]
        if self.reference not in known:
            raise ConfigError(
                "the reference is not a method", value=self.reference, accepted=", ".join(known)
            )
        if without := [m.name for m in self.methods if self.main_metric not in m.metrics]:
            raise ConfigError(
                f"methods without {self.main_metric}",
                value=", ".join(without),
                accepted="the main metric for every method",
            )

    @property
    def ranked(self) -> list[Method]:
        """Return the methods by descending main metric, ties by name."""
        return sorted(self.methods, key=lambda m: (-m.metrics[self.main_metric].mean, m.name))
