"""The identity of a process, and locks that keep a directory to one process.

A process is identified by its pid, its start time and the boot of its machine, because pids are
reused. A lock is held by the kernel, which releases it when the process dies. Knows nothing about
runs.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from groundrec.core.errors import ArtifactError

__all__ = ["LOCK", "Identity", "lock_folder", "peak_bytes"]

LOCK = "run.lock"
_GONE = (psutil.ZombieProcess, psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError)


@dataclass(frozen=True)
class Identity:
    """One process of one boot of one machine; no two processes ever share an identity."""

    pid: int
    started: float
    """Start time: on Linux clock ticks since boot, which setting the clock does not change, and
    seconds since the epoch elsewhere.
    """
    boot: str
    host: str

    @classmethod
    def of(cls, pid: int | None = None) -> Identity:
        """Return the identity of a running process; by default of this one."""
        pid = pid or os.getpid()
        return cls(pid, _started(pid) or 0.0, _boot(), platform.node())

    @classmethod
    def from_json(cls, value: Any) -> Identity | None:
        """Return the identity that `to_json` wrote; None for any other value."""
        names = cls.__dataclass_fields__
        if not isinstance(value, dict) or not names.keys() <= value.keys():
            return None
        return cls(**{name: value[name] for name in names})

    def to_json(self) -> dict[str, Any]:
        """Return the values that `from_json` reads."""
        return asdict(self)

    @property
    def is_remote(self) -> bool:
        """Whether the process is on another machine or in another container."""
        return self.host != platform.node()

    def is_alive(self) -> bool:
        """Return whether the process is running; a zombie is not."""
        return self.boot == _boot() and _started(self.pid) == self.started

    def send_signal(self, number: int) -> bool:
        """Send a signal to this process, never to another that reuses its pid.

        Returns whether it was alive.
        """
        try:
            # Created before the comparison: psutil refuses to signal a pid that was reused later.
            process = psutil.Process(self.pid)
            if not self.is_alive():
                return False
            process.send_signal(number)
        except _GONE:
            return False
        return True


def _started(pid: int) -> float | None:
    """Return when a process started; None if it has ended."""
    try:
        if sys.platform != "linux":
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        # The second field, the command's name in parentheses, may itself hold spaces and ")".
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else float(fields[19])
    except _GONE:
        return None


@cache
def _boot() -> str:
    """Return an id of the machine's current boot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"


@contextlib.contextmanager
def lock_folder(folder: Path, name: str = LOCK) -> Iterator[None]:
    """Hold the lock `name` of a directory within the block.

    Raises `ArtifactError` if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / name)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ArtifactError(
            "another process is using this run directory",
            value=folder,
            accepted="one process at a time",
            next_step=f"groundrec runs show {folder}, or another --run-dir",
        ) from None
    try:
        yield
    finally:
        lock.release()


def peak_bytes(*, children: bool = False) -> int:
    """Return the peak memory of this process, or of its finished `children`, in bytes; 0 if the
    platform does not report it.
    """
    try:
        import resource
    except ImportError:
        return 0
    used = resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF)
    return used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
