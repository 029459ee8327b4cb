"""The errors a user can meet. Each says what failed, the value, what would be accepted, the next
command.
"""

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
    "closest",
]


class GroundrecError(Exception):
    """Base of every error that is the user's to mend; the command line prints it and exits 2.

    `what` failed, the `value` it failed on, what would have been `accepted`, and the `next_step` to
    take.
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
    """A recipe or a setting is wrong."""


class DataError(GroundrecError):
    """Raw data or a prepared data set is wrong."""


class ArtifactError(GroundrecError):
    """An artefact is missing, half-written, or belongs to something else."""


class TrainingError(GroundrecError):
    """Training cannot start or cannot go on."""


class ProcessError(GroundrecError):
    """One of several processes is gone, and the others cannot go on without it."""


class SearchError(GroundrecError):
    """A search was asked for what cannot be answered."""


class MissingDependency(GroundrecError):
    """An optional package is needed; the message names the command that installs it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed", next_step=f"pip install 'groundrec[{extra}]'"
        )


def closest(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for the known word nearest to `word`, or an empty string."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{match[0]}'?)" if match else ""
