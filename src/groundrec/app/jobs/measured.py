"""Which runs have measured something, and the states of those that have not.

Knows nothing about what was measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from groundrec.app.jobs.state import State, state_of
from groundrec.core.errors import ConfigError
from groundrec.core.inputs import step_folder

__all__ = ["split_measured"]


def split_measured(paths: Iterable[Path], root: Path) -> tuple[list[Path], list[State]]:
    """Return the runs whose stage `evaluate` has finished, and the states of the others.

    Raises `ConfigError` where there is no such run.
    """
    measured = []
    unmeasured = []
    for path in paths:
        if (step_folder(path, "evaluate") / "manifest.json").exists():
            measured.append(path)
        else:
            unmeasured.append(state_of(path, root))
    if not measured:
        raise ConfigError(
            "none of these runs has measured anything yet",
            value=", ".join(f"{s.name} ({s.state})" for s in unmeasured),
            accepted="at least one run whose stage `evaluate` has finished",
            next_step="groundrec runs",
        )
    return measured, unmeasured
