"""What was asked of a run, kept in its directory so that it can be asked again.

Knows nothing about processes.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from groundrec.core.errors import ArtifactError
from groundrec.core.runs import read_json, write_json

__all__ = ["LAST", "Job"]

LAST = "evaluate"
"""The stage that ends a run."""
FILE = "job.json"


@dataclass(frozen=True)
class Job:
    """One run as it was asked for; its recipe is the `recipe.toml` beside it."""

    settings: tuple[str, ...]
    """`section.setting=value`, as given with `--set` and by the grid of a sweep."""
    until: str | None
    place: str
    """The working directory, which relative paths of the recipe are seen from."""
    after: tuple[str, ...] = ()
    """Run directories that have to finish first."""
    max_parallel: int | None = None
    sweep: str = ""
    """Name of the sweep it belongs to."""
    grid: dict[str, str] = field(default_factory=dict)
    """What the sweep has set here."""
    submitted: float = 0.0

    @property
    def is_whole(self) -> bool:
        """Whether it was asked for to the end."""
        return self.until in (None, LAST)

    def save(self, run: Path) -> None:
        """Write the job into a run directory."""
        write_json(run / FILE, asdict(self))

    def keep(self, run: Path) -> None:
        """Write the job into a run directory, unless the same is asked for there already."""
        there = read_json(run / FILE) or {}
        mine = asdict(replace(self, submitted=time.time()))
        if any(there.get(name) != mine[name] for name in ("until", "place")) or mine[
            "settings"
        ] != tuple(there.get("settings", ())):
            write_json(run / FILE, mine)

    @classmethod
    def of(cls, run: Path) -> Job:
        """Return the job of a run directory, or raise `ArtifactError`."""
        found: dict[str, Any] | None = read_json(run / FILE)
        if not found:
            raise ArtifactError(
                "this run was begun by an earlier version, which did not note what was asked for",
                value=run,
                accepted=f"a run directory with {FILE}",
                next_step=(
                    f"groundrec run {run / 'recipe.toml'} --run-dir {run} --if-exists resume"
                    " --detach"
                ),
            )
        lists = {name: tuple(found[name]) for name in ("settings", "after")}
        return cls(**{**found, **lists})

    def command(self, run: Path) -> list[str]:
        """Return the command that does the job in `run`, going on where it stopped."""
        given = [word for setting in self.settings for word in ("--set", setting)]
        until = ["--until", self.until] if self.until else []
        start = [
            sys.executable,
            "-P",
            "-m",
            "groundrec",
            "run",
            str(run / "recipe.toml"),
            "--run-dir",
            str(run),
        ]
        return [*start, "--if-exists", "resume", "--quiet", *given, *until]
