"""Tables on the terminal, never cut.

Knows nothing about what is in them.
"""

from __future__ import annotations

import shlex
import sys

from rich.console import Console
from rich.table import Table

from groundrec.core.language import say
from groundrec.core.tables import fit

__all__ = ["print_next", "print_table"]


def print_next(*words: object) -> None:
    """Print the next useful command, `groundrec WORDS`, on stderr: programs read only stdout."""
    print(say("next: {0}", shlex.join(["groundrec", *map(str, words)])), file=sys.stderr)


def print_table(table: Table) -> None:
    """Print a table; columns with `overflow="fold"` wrap on a narrow terminal, no figure is cut."""
    console = Console(highlight=False)
    fit(table, console)
    console.print(table)
