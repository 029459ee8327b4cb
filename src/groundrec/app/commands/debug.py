"""A run that waits for a debugger, on one port per process, reachable from this machine only.

Knows nothing about what is debugged, nor about editors except in one message.
"""

from __future__ import annotations

import os
from dataclasses import replace
from types import ModuleType
from typing import Annotated

import typer

from groundrec.core.errors import ConfigError, MissingDependency
from groundrec.core.processes import Processes
from groundrec.core.track import console

__all__ = ["HERE", "PORT", "DebugAttach", "DebugRank", "wait_for_debugger"]

HERE = "127.0.0.1"
PORT = 5678
DebugAttach = Annotated[
    int | None,
    typer.Option(
        min=1024,
        max=65535,
        help=(
            f"Wait for a debugger on this port, e.g. {PORT}; further processes of this machine wait"
            " on the ports after it."
        ),
    ),
]
DebugRank = Annotated[
    int | None,
    typer.Option(min=0, help="With --debug-attach: only this rank waits, on exactly that port."),
]


def wait_for_debugger(processes: Processes, port: int | None, rank: int | None) -> Processes:
    """Return the processes once a debugger is attached to this one, if it is asked to wait at all.

    The processes then wait for each other without a timeout, since one may be at a breakpoint.
    """
    if port is None and rank is not None:
        raise ConfigError(
            "--debug-rank needs a port",
            value=f"--debug-rank {rank}",
            accepted="--debug-attach with it",
            next_step=f"--debug-attach {PORT}",
        )
    if port is None:
        return processes
    if rank is not None and rank >= processes.world_size:
        raise ConfigError(
            "no process has this rank",
            value=f"--debug-rank {rank}",
            accepted=f"0 to {processes.world_size - 1}",
            next_step="--debug-rank 0, or start more processes",
        )
    if rank in (None, processes.rank):
        _wait(processes, port + (processes.local_rank if rank is None else 0))
    return replace(processes, times_out=False)


def _wait(processes: Processes, port: int) -> None:
    debugpy = _import_debugpy()
    try:
        debugpy.listen((HERE, port))
    except (RuntimeError, OSError, OverflowError) as error:
        raise ConfigError(
            "cannot wait for a debugger here",
            value=f"{HERE}:{port}: {error}",
            accepted="a free port",
            next_step="--debug-attach with another port",
        ) from None
    rank = processes.rank
    who = (
        f"process {rank} of {processes.world_size} waits" if processes.world_size > 1 else "waiting"
    )
    console.print(
        f"{who} for a debugger at {HERE}:{port}\n"
        f"  in VS Code: Run and Debug, groundrec: rank {rank}"
        " (`groundrec doctor --vscode` adds this entry)",
        markup=False,
        soft_wrap=True,
    )
    debugpy.wait_for_client()


def _import_debugpy() -> ModuleType:
    # It warns that it cannot step into the interpreter's own frozen modules, which nobody wants to.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    try:
        import debugpy
    except ImportError:
        raise MissingDependency("debugpy", "debug") from None
    # One port serves one process; those it starts (git, pip, data loaders) are not debugged.
    debugpy.configure(subProcess=False)
    return debugpy
