"""The errors a user can meet: each says what failed, the value, what is accepted and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ArtifactError",
    "ConfigError",
    "DataError",
    "GroundrecError",
    "MissingDependency",
    "ProcessError",
    "SearchError",
    "TrainingError",
    "did_you_mean",
]


class GroundrecError(Exception):
    """Base of all errors that the user can fix; the command line prints them and exits with 2.

    Holds `what` failed, the `value` it failed on, what is `accepted`, and the `next_step` to take.
    """

    def __init__(
        self, what: str, *, value: object = None, accepted: str = "", next_step: str = ""
    ) -> None:
        self.what = what
        self.value = value
        self.accepted = accepted
        self.next_step = next_step
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.what if self.value is None else f"{self.what}: {self.value}"]
        if self.accepted:
            lines.append(f"  accepted: {self.accepted}")
        if self.next_step:
            lines.append(f"  next: {self.next_step}")
        return "\n".join(lines)


class ConfigError(GroundrecError):
    """A recipe or a setting is invalid."""


class DataError(GroundrecError):
    """Raw data or a prepared data set is invalid."""


class ArtifactError(GroundrecError):
    """An artefact is missing, incomplete, or was made from something else."""


class TrainingError(GroundrecError):
    """Training cannot start or continue."""


class ProcessError(GroundrecError):
    """One of several processes was lost, and the others cannot continue without it."""


class SearchError(GroundrecError):
    """A search was given a request that it cannot answer."""


class MissingDependency(GroundrecError):
    """An optional package is missing; the message names the command that installs it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed", next_step=f"pip install 'groundrec[{extra}]'"
        )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` with the known word closest to `word`, or an empty string."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{match[0]}'?)" if match else ""
