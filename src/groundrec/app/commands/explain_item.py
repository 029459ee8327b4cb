"""The path of one item on the terminal: what each token cost, and where beam searches lose it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from groundrec.app.recommender import Explained, Recommender

__all__ = ["show"]


def show(
    run: Path, item: str, history: Sequence[str], beams: Sequence[int], *, as_json: bool = False
) -> None:
    """Print why `item` is where it is after `history`, as a table or as JSON."""
    explained = Recommender.load(run).explain(history, item, beams=beams)
    if as_json:
        print(
            json.dumps(
                {"title": explained.title, "pieces": explained.pieces, **asdict(explained.path)}
            )
        )
        return
    console = Console(highlight=False)
    path = explained.path
    place = f"place {path.rank}" if path.rank else "not among the best 50"
    console.print(
        Text(f"{explained.title}: score {path.steps[-1].total:.3f}, {place} of the exact ranking")
    )
    console.print(_table(explained))
    for width, step in path.dropped_at.items():
        where = (
            "finds it"
            if step is None
            else f"loses it at token {step} ({explained.pieces[step - 1]!r})"
        )
        console.print(Text(f"a beam of {width:>2} {where}"))


def _table(explained: Explained) -> Table:
    table = Table("", "token", "choices", "log p", "log p among choices", "signal", "score so far")
    for column in table.columns[2:]:
        column.justify = "right"
    for number, (piece, step) in enumerate(
        zip(explained.pieces, explained.path.steps, strict=True), 1
    ):
        forced = step.choices == 1
        values = [step.log_p, step.log_p_choices, step.log_p_signal, step.total]
        cells = [f"{v:.3f}" if not forced or i in (0, 3) else "" for i, v in enumerate(values)]
        choices = "forced" if forced else str(step.choices)
        table.add_row(
            str(number), Text(repr(piece)), choices, *cells, style="dim" if forced else ""
        )
    return table
