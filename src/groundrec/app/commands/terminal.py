"""Tables on the terminal, never cut.

Knows nothing about what is in them.
"""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

__all__ = ["print_table"]

WIDEST = 10_000


def print_table(table: Table, *, whole: bool = False) -> None:
    """Print a table; a `whole` one keeps one line per row, which a narrow terminal wraps itself."""
    console = Console(highlight=False)
    if whole:
        # Given too little width, rich would cut figures and intervals.
        room = console.options.update(max_width=WIDEST)
        needed = Measurement.get(console, room, table).maximum
        console = Console(highlight=False, width=max(console.width, needed))
    console.print(table)
