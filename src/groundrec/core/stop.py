"""Stopping on SIGTERM: at once, or, where the work asks for it, after it has saved its state.

Knows nothing about what is saved.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType, SimpleNamespace

__all__ = ["EXIT_CODE", "Stopped", "defer_stop", "stop_on_sigterm"]

EXIT_CODE = 128 + signal.SIGTERM
"""Exit status of a stopped process: 128 plus the signal's number, by the shells' convention."""


class Stopped(BaseException):
    """The run was asked to stop. Not an `Exception`, like `KeyboardInterrupt`: handlers of errors
    must not catch it.
    """


_state = SimpleNamespace(requested=False, deferred=False)


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Raise `Stopped` on SIGTERM within the block; to be called in the main thread."""
    before = signal.signal(signal.SIGTERM, _on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _state.requested = False


@contextlib.contextmanager
def defer_stop() -> Iterator[Callable[[], bool]]:
    """Defer SIGTERM within the block; yield a function that returns whether it has arrived.

    The caller should then save and leave the block, which raises `Stopped` at its end.
    """
    _state.deferred = True
    try:
        yield lambda: _state.requested
    finally:
        _state.deferred = False
    if _state.requested:
        raise Stopped


def _on_signal(_: int, frame: FrameType | None) -> None:
    """Record the request; raise on the first only, as a machine that shuts down sends several."""
    first = not _state.requested
    _state.requested = True
    if first and not _state.deferred:
        raise Stopped
