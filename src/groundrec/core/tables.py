"""How wide a table has to be so that no figure is cut: only columns of text give way.

Knows nothing about what is in a table.
"""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

__all__ = ["fit"]

WIDEST = 10_000
TEXT_WIDTH = 16
"""Columns of the terminal that text keeps; no figure or interval is longer."""


def fit(table: Table, console: Console) -> None:
    """Make `console` as wide as `table` needs, where it is narrower.

    Columns with `overflow="fold"` hold text and may wrap; all others stay on one line. On a
    narrower terminal, the lines wrap.
    """
    room = console.options.update(max_width=WIDEST)
    spare = 0
    for column in table.columns:
        if column.overflow != "fold":
            column.no_wrap = True
        elif not column.no_wrap:
            cells = (column.header, *column.cells)
            widest = max(Measurement.get(console, room, cell).maximum for cell in cells)
            spare += max(0, widest - max(TEXT_WIDTH, column.min_width or 0))
    needed = Measurement.get(console, room, table).maximum - spare
    console.width = max(console.width, needed)
