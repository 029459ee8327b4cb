"""`groundrec recommend`: a trained run asked from the terminal.

Knows nothing about how items are ranked.
"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from groundrec.app.commands.options import History, Json, TrainedRun
from groundrec.core.track import log_to

__all__ = ["recommend"]


def recommend(
    run: TrainedRun,
    history: History,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of items to recommend.")] = 10,
    allow: Annotated[
        list[str] | None, typer.Option(help="Recommend only this item; repeatable.")
    ] = None,
    deny: Annotated[
        list[str] | None, typer.Option(help="Never recommend this item; repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Recommend items after HISTORY with the trained model of RUN."""
    log_to(None, quiet=as_json)
    from groundrec.app.recommender import Recommender

    items = Recommender.load(run).recommend(history, k, allow=allow or None, deny=deny or None)
    if as_json:
        print(json.dumps([vars(item) for item in items], ensure_ascii=False))
        return
    for rank, item in enumerate(items, 1):
        print(f"{rank:>3}  {item.score:8.3f}  {item.title}  [{item.item_id}]")
