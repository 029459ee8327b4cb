"""`groundrec recommend`: a trained run asked from the terminal.

Knows nothing about how items are ranked.
"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from groundrec.app.commands.options import History, Json, TrainedRun, check_choice
from groundrec.app.commands.terminal import print_next
from groundrec.core.registry import names
from groundrec.core.track import log, log_to

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
    method: Annotated[
        str | None,
        typer.Option(
            help=(
                "What answers: a grounding, as `groundrec list groundings` names them. Default: the"
                " first of the run's recommend.methods."
            )
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Recommend items after HISTORY with the trained model of RUN."""
    if method is not None:
        check_choice("--method", method, names("groundings"))
    log_to(None, quiet=as_json)
    from groundrec.app.recommender import Recommender

    recommender = Recommender.load(run, method)
    log.info(f"answered by: {recommender.method}")
    items = recommender.recommend(history, k, allow=allow or None, deny=deny or None)
    if as_json:
        print(json.dumps([vars(item) for item in items], ensure_ascii=False))
        return
    for rank, item in enumerate(items, 1):
        print(f"{rank:>3}  {item.score:8.3f}  {item.title}  [{item.item_id}]")
    if items and recommender.explains:
        print_next("explain-item", run, items[0].item_id, *history)
