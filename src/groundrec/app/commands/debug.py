"""A run that waits for a debugger: one port for each process, reachable from this machine only.

Knows nothing about what is debugged, nor about editors but for the words of one message.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Annotated, Any

import typer

from groundrec.core.errors import ConfigError, MissingDependency
from groundrec.core.processes import Processes
from groundrec.core.track import console

__all__ = ["HERE", "PORT", "DebugAttach", "DebugRank", "awaited"]

HERE = "127.0.0.1"
PORT = 5678
DebugAttach = Annotated[
    int | None,
    typer.Option(
        min=1024,
        max=65535,
        help=(
            f"Wait for a debugger at this port, e.g. {PORT}; each further process of the machine at"
            " the next one."
        ),
    ),
]
DebugRank = Annotated[
    int | None,
    typer.Option(min=0, help="Of several processes, let this one alone wait, at the port itself."),
]


def awaited(processes: Processes, port: int | None, rank: int | None) -> Processes:
    """Return the processes when a debugger is attached to this one, where it is asked to wait at
    all.

    They no longer give each other up: a process at a breakpoint shows no signs of life.
    """
    if port is None and rank is not None:
        raise ConfigError(
            "--debug-rank without a port",
            value=rank,
            accepted="--debug-attach",
            next_step=f"--debug-attach {PORT}",
        )
    if port is None:
        return processes
    if rank is not None and rank >= processes.world_size:
        raise ConfigError(
            "no process has this rank",
            value=f"--debug-rank {rank}",
            accepted=f"0 to {processes.world_size - 1}",
        )
    if rank in (None, processes.rank):
        _wait(processes, port + (processes.local_rank if rank is None else 0))
    return replace(processes, times_out=False)


def _wait(processes: Processes, port: int) -> None:
    debugpy = _debugpy()
    try:
        debugpy.listen((HERE, port))
    except (RuntimeError, OSError, OverflowError) as error:
        raise ConfigError(
            "cannot wait for a debugger here",
            value=f"{HERE}:{port}: {error}",
            accepted="a port that is free",
            next_step="--debug-attach with another port",
        ) from None
    who = (
        f"process {processes.rank} of {processes.world_size} waits"
        if processes.world_size > 1
        else "waiting"
    )
    console.print(
        f"{who} for a debugger at {HERE}:{port}\n  in VS Code: Run and Debug, groundrec: rank"
        f" {processes.rank} (`groundrec doctor --vscode` puts it there)",
        markup=False,
        soft_wrap=True,
    )
    debugpy.wait_for_client()


def _debugpy() -> Any:
    # It warns that it cannot step into the interpreter's own frozen modules, which nobody wants to.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    try:
        import debugpy
    except ImportError:
        raise MissingDependency("debugpy", "debug") from None
    # A process has one port; what it starts (git, pip, workers that load data) is left alone.
    debugpy.configure(subProcess=False)
    return debugpy
