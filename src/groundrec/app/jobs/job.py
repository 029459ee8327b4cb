"""What was asked of a run, kept in its directory so that it can be resumed.

Knows nothing about processes.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from groundrec.core.errors import ArtifactError
from groundrec.core.files import read_json, write_json
from groundrec.core.language import language

if TYPE_CHECKING:
    from groundrec.app.jobs.records import JobRecord

__all__ = ["FILE", "LAST", "Job"]

LAST = "evaluate"
"""The stage that ends a run."""
FILE = "job.json"


@dataclass(frozen=True)
class Job:
    """What was asked of one run; its recipe is the `recipe.toml` in the same directory."""

    settings: tuple[str, ...]
    """`section.setting=value`, as given with `--set` and by the grid of a sweep."""
    until: str | None
    place: str
    """The working directory, to which relative paths of the recipe refer."""
    after: tuple[str, ...] = ()
    """Run directories that have to finish first."""
    max_parallel: int | None = None
    sweep: str = ""
    """The name of its sweep."""
    grid: dict[str, str] = field(default_factory=dict)
    """The settings of this cell of the sweep."""
    submitted: float = 0.0
    lang: str = field(default_factory=language)
    """The language of what it prints and of its report."""

    @property
    def is_whole(self) -> bool:
        """Whether it runs to the last stage."""
        return self.until in (None, LAST)

    def save(self, run: Path) -> None:
        """Write the job into a run directory."""
        write_json(run / FILE, asdict(self))

    def keep(self, run: Path) -> None:
        """Write the job into a run directory, unless an equal one is there."""
        before: JobRecord = read_json(run / FILE) or {}
        is_equal = (
            before.get("until") == self.until
            and before.get("place") == self.place
            and tuple(before.get("settings", ())) == self.settings
        )
        if not is_equal:
            write_json(run / FILE, asdict(replace(self, submitted=time.time())))

    @classmethod
    def of(cls, run: Path) -> Job:
        """Return the job of a run directory, or raise `ArtifactError`."""
        record = read_json(run / FILE)
        if not record:
            raise ArtifactError(
                "this run was started by an earlier version, which did not record its options",
                value=run,
                accepted=f"a run directory with {FILE}",
                next_step=(
                    f"groundrec run {run / 'recipe.toml'} --run-dir {run} --if-exists resume"
                    " --detach"
                ),
            )
        # JSON has no tuples.
        lists = {name: tuple(record[name]) for name in ("settings", "after")}
        return cls(**{**record, **lists})

    def command(self, run: Path) -> list[str]:
        """Return the command that runs the job in `run`, resuming what is there."""
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
        return [*start, "--if-exists", "resume", "--quiet", "--lang", self.lang, *given, *until]
