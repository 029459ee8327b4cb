"""SIGTERM as a wish: work ends at once, or, where it says so, when it has saved what it has.

Knows nothing about what is saved.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType, SimpleNamespace

__all__ = ["EXIT", "Stopped", "saving", "stoppable"]

EXIT = 128 + signal.SIGTERM
"""The exit status of a process that was asked to stop, as shells count."""


class Stopped(BaseException):
    """The run was asked to stop. Like `KeyboardInterrupt`, no error: nothing that mends errors may
    catch it.
    """


_state = SimpleNamespace(asked=False, saving=False)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM raise `Stopped` within the block; for the main thread."""
    before = signal.signal(signal.SIGTERM, _on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _state.asked = False


@contextlib.contextmanager
def saving() -> Iterator[Callable[[], bool]]:
    """Within the block, let SIGTERM wait; yield a function that tells whether it came.

    Whoever asks should save, and raise `Stopped`; the end of the block does so in any case.
    """
    _state.saving = True
    try:
        yield lambda: _state.asked
    finally:
        _state.saving = False
    if _state.asked:
        raise Stopped


def _on_signal(_: int, frame: FrameType | None) -> None:
    """Note the wish; raise at the first one only: a machine that shuts down sends several."""
    first = not _state.asked
    _state.asked = True
    if first and not _state.saving:
        raise Stopped
