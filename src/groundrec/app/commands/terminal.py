"""Tables on the terminal, never cut, and the line that names the next command.

Knows nothing about what is in them.
"""

from __future__ import annotations

import shlex
import sys

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from groundrec.core.language import say

__all__ = ["print_next", "print_table"]

WIDEST = 10_000


def print_next(*words: object) -> None:
    """Print the next useful command, `groundrec WORDS`, on stderr: programs read only stdout."""
    print(say("next: {0}", shlex.join(["groundrec", *map(str, words)])), file=sys.stderr)


def print_table(table: Table, *, whole: bool = False) -> None:
    """Print a table; a `whole` one keeps one line per row, which a narrow terminal wraps itself."""
    console = Console(highlight=False)
    if whole:
        # Given too little width, rich would cut figures and intervals.
        room = console.options.update(max_width=WIDEST)
        needed = Measurement.get(console, room, table).maximum
        console = Console(highlight=False, width=max(console.width, needed))
    console.print(table)
