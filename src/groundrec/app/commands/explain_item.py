"""`groundrec explain-item`: what each token of one title cost, and where beam searches drop it.

Knows nothing about how that is found out.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from groundrec.app.commands.options import History, Json, TrainedRun
from groundrec.app.commands.terminal import print_table
from groundrec.core.track import log_to

if TYPE_CHECKING:
    from groundrec.app.recommender import Explained

__all__ = ["explain_item"]

BEAMS = (5, 10, 20, 50)


def explain_item(
    run: TrainedRun,
    item: Annotated[str, typer.Argument(help="A title or item id of the catalogue.")],
    history: History,
    beams: Annotated[
        list[int] | None, typer.Option(help="A beam width to try; repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Explain the score of ITEM after HISTORY in RUN, token by token, and where a beam drops it."""
    log_to(None, quiet=as_json)
    from groundrec.app.recommender import Recommender
    from groundrec.app.stages.made_from import SEARCH

    recommender = Recommender.load(run, SEARCH)
    explained = recommender.explain(history, item, beams=beams or BEAMS)
    path = explained.path
    if as_json:
        found = {"title": explained.title, "pieces": explained.pieces, **asdict(path)}
        print(json.dumps(found))
        return
    console = Console(highlight=False)
    rank = f"rank {path.rank}" if path.rank else "not among the best 50"
    score = path.steps[-1].total
    ranking = f"the exact ranking by {recommender.method}"
    console.print(Text(f"{explained.title}: score {score:.3f}, {rank} of {ranking}"))
    print_table(_steps_table(explained))
    for width, step in path.dropped_at.items():
        fate = (
            "finds it"
            if step is None
            else f"drops it at token {step} ({explained.pieces[step - 1]!r})"
        )
        console.print(Text(f"a beam of {width:>2} {fate}"))


def _steps_table(explained: Explained) -> Table:
    names = ("choices", "log p", "log p among choices", "signal", "score so far")
    table = Table("", "token", *(Column(name, justify="right") for name in names))
    steps = zip(explained.pieces, explained.path.steps, strict=True)
    for number, (piece, step) in enumerate(steps, 1):
        total = f"{step.total:.3f}"
        if step.choices == 1:
            # A forced token is no choice: only what the model thought of it is worth showing.
            cells = ["forced", f"{step.log_p:.3f}", "", "", total]
        else:
            values = (step.log_p, step.log_p_choices, step.log_p_signal)
            cells = [str(step.choices), *(f"{value:.3f}" for value in values), total]
        style = "dim" if step.choices == 1 else ""
        table.add_row(str(number), Text(repr(piece)), *cells, style=style)
    return table
