"""The command line, called in this process and leaving nothing behind in it."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import NamedTuple
from unittest import mock

from groundrec.app.commands.main import main
from groundrec.core.language import use_language
from groundrec.core.track import log

__all__ = ["Result", "command", "keeping_the_log"]


class Result(NamedTuple):
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


def command(*arguments: object, width: int = 120) -> Result:
    """Return the result of `groundrec ARGUMENTS` on a terminal of `width` columns."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    environment = {
        **os.environ,
        "COLUMNS": str(width),
        "NO_COLOR": "1",
        "TERMINAL_WIDTH": str(width),
    }
    with (
        mock.patch.object(sys, "argv", ["groundrec", *map(str, arguments)]),
        mock.patch.dict(os.environ, environment),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        keeping_the_log(),
    ):
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            use_language("en")
    return Result(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def keeping_the_log() -> Iterator[None]:
    """Give the log back its targets after the block."""
    handlers, level, propagate = list(log.handlers), log.level, log.propagate
    log.handlers.clear()
    try:
        yield
    finally:
        for handler in log.handlers:
            handler.close()
        log.handlers[:] = handlers
        log.setLevel(level)
        log.propagate = propagate
