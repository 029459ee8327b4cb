"""Processes told apart for good, and directories in which one is at work alone.

A process is its pid, its start and the boot it lives in: a pid alone is given again, after a reboot
at the latest. The lock of a directory is the kernel's, which takes it from whoever dies. Knows
nothing about runs.
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

__all__ = ["LOCK", "Identity", "alone_in", "peak_bytes"]

LOCK = "run.lock"
_GONE = (psutil.ZombieProcess, psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError)


@dataclass(frozen=True)
class Identity:
    """One process of one boot of one machine, as no other ever was or will be."""

    pid: int
    started: float
    """When it began: clock ticks since the boot on Linux, which setting the clock does not change;
    else seconds.
    """
    boot: str
    host: str

    @classmethod
    def of(cls, pid: int | None = None) -> Identity:
        """Return the identity of a living process; this one when left out."""
        pid = pid or os.getpid()
        return cls(pid, _started(pid) or 0.0, _boot(), platform.node())

    @classmethod
    def read(cls, value: Any) -> Identity | None:
        """Return the identity that `to_json` wrote; None where there is none."""
        names = cls.__dataclass_fields__
        if not isinstance(value, dict) or not names.keys() <= value.keys():
            return None
        return cls(**{name: value[name] for name in names})

    def to_json(self) -> dict[str, Any]:
        """Return the values that `read` reads."""
        return asdict(self)

    @property
    def is_foreign(self) -> bool:
        """Whether this is a process of another machine or container, which cannot be looked for
        from here.
        """
        return self.host != platform.node()

    def is_alive(self) -> bool:
        """Return whether the process can be seen at work; one that has ended but was not yet buried
        is not.
        """
        return self.boot == _boot() and _started(self.pid) == self.started

    def send(self, number: int) -> bool:
        """Send a signal to the process, and to no other that has its pid by now; return whether it
        was alive.
        """
        try:
            process = psutil.Process(self.pid)  # remembers who this is, before it is compared
            if not self.is_alive():
                return False
            process.send_signal(number)
        except _GONE:
            return False
        return True


def _started(pid: int) -> float | None:
    """Return when a process began; None where it has ended."""
    try:
        if sys.platform != "linux":
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
        fields = (
            Path(f"/proc/{pid}/stat")
            .read_text(encoding="utf-8", errors="replace")
            .rpartition(")")[2]
            .split()
        )
        return None if fields[0] in "ZX" else float(fields[19])
    except _GONE:
        return None


@cache
def _boot() -> str:
    """Return what names this boot of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"


@contextlib.contextmanager
def alone_in(folder: Path, name: str = LOCK) -> Iterator[None]:
    """Hold the lock `name` of a run directory within the block; raise `ArtifactError` where another
    process does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / name)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ArtifactError(
            "another process is at work in this run directory",
            value=folder,
            accepted="one process at a time",
            next_step=f"groundrec runs show {folder}, or another --run-dir",
        ) from None
    try:
        yield
    finally:
        lock.release()


def peak_bytes(*, children: bool = False) -> int:
    """Return the most memory that this process, or one of its ended `children`, ever held; 0 where
    none can tell.
    """
    try:
        import resource
    except ImportError:
        return 0
    used = resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF)
    return used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
