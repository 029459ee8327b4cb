"""Names to implementations: `name → "module:attribute"`, imported on first use.

Built-ins are literal dicts; another package adds its own through the entry-point group
`groundrec.<seam>`, a script or a notebook through `register`, for itself alone.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Any

from groundrec.core.errors import ConfigError, closest

__all__ = ["BUILT_IN", "names", "register", "resolve"]

BUILT_IN: dict[str, dict[str, str]] = {
    "sources": {
        "amazon": "groundrec.data.sources.reviews:Amazon",
        "movielens": "groundrec.data.sources.movielens:MovieLens",
        "movielens-100k": "groundrec.data.sources.movielens:MovieLens100K",
        "recbole": "groundrec.data.sources.recbole:RecBole",
        "steam": "groundrec.data.sources.reviews:Steam",
        "table": "groundrec.data.sources.table:TableSource",
    },
    "protocols": {
        "bigrec-game": "groundrec.data.protocols.bigrec:game",
        "bigrec-movie": "groundrec.data.protocols.bigrec:movie",
        "d3": "groundrec.data.protocols.d3:d3",
        "global-time": "groundrec.data.protocols.by_time:global_time",
        "leave-one-out": "groundrec.data.protocols.by_time:leave_one_out",
    },
    "engines": {
        "duckdb": "groundrec.data.engines:duckdb",
        "spark": "groundrec.data.engines:spark",
    },
    "imports": {
        "bigrec": "groundrec.data.exchange.read_bigrec:bigrec",
        "d3": "groundrec.data.exchange.read_d3:d3",
        "minionerec": "groundrec.data.exchange.read_d3:minionerec",
    },
    "formats": {
        "bigrec": "groundrec.data.exchange.write_others:bigrec",
        "d3": "groundrec.data.exchange.write_d3:d3",
        "minionerec": "groundrec.data.exchange.write_others:minionerec",
        "recbole": "groundrec.data.exchange.write_others:recbole",
    },
    "base_models": {
        "scratch": "groundrec.models.language:scratch",
        "folder": "groundrec.models.language:folder",
        "hf": "groundrec.models.hubs:base",
        "modelscope": "groundrec.models.hubs:base",
        "wandb": "groundrec.models.hubs:base",
        "smollm2-135m": "groundrec.models.packaged:smollm2",
    },
    "signals": {
        "popularity": "groundrec.signals.counts:Popularity",
        "recent-popularity": "groundrec.signals.counts:RecentPopularity",
        "external": "groundrec.signals.external:External",
        "item-knn": "groundrec.signals.counts:ItemKNN",
        "co-occurrence": "groundrec.signals.counts:CoOccurrence",
        "sasrec": "groundrec.signals.networks:SASRec",
        "gru4rec": "groundrec.signals.networks:GRU4Rec",
        "caser": "groundrec.signals.networks:Caser",
        "sasrec-dros": "groundrec.signals.networks:SASRecDROS",
        "gru4rec-dros": "groundrec.signals.networks:GRU4RecDROS",
        "caser-dros": "groundrec.signals.networks:CaserDROS",
    },
    "groundings": {
        "search": "groundrec.rank.recommend:search_grounding",
        "ground": "groundrec.rank.ground.bigrec:bigrec_grounding",
    },
    "metrics": {
        "hr": "groundrec.evaluate.metrics:hit_rate",
        "ndcg": "groundrec.evaluate.metrics:ndcg",
        "mrr": "groundrec.evaluate.metrics:mrr",
    },
}


_registered: dict[str, dict[str, Any]] = {seam: {} for seam in BUILT_IN}


def register(seam: str, name: str, implementation: Any) -> None:
    """Let `name` stand for `implementation`, an object or "module:attribute", at `seam` in this
    process.

    A second call with the same name replaces the first, so that a cell may be run again. Other
    processes do not see it: a detached run, what a launcher starts and Ray's actors need an entry
    point. Raises `ConfigError` for an unknown seam and for the name of a built-in.
    """
    if seam not in BUILT_IN:
        raise ConfigError(
            f"unknown seam{closest(seam, BUILT_IN)}", value=seam, accepted=", ".join(BUILT_IN)
        )
    if name in BUILT_IN[seam]:
        raise ConfigError(
            f"{seam} has a built-in of that name",
            value=name,
            accepted="a name that is not taken",
            next_step=f"groundrec list {seam}",
        )
    _registered[seam][name] = implementation


def _table(seam: str) -> dict[str, Any]:
    strangers = {e.name: e.value for e in entry_points(group=f"groundrec.{seam}")}
    return {**strangers, **_registered[seam], **BUILT_IN[seam]}


def names(seam: str) -> list[str]:
    """Return every name known at `seam`, sorted."""
    return sorted(_table(seam))


def resolve(seam: str, name: str) -> Any:
    """Return the object registered as `name` at `seam`, or raise `ConfigError` with the names there
    are.
    """
    table = BUILT_IN[seam] if name in BUILT_IN[seam] else _table(seam)
    if name not in table:
        raise ConfigError(
            f"unknown {seam.rstrip('s').replace('_', ' ')}{closest(name, table)}",
            value=name,
            accepted=", ".join(sorted(table)),
        )
    found = table[name]
    if not isinstance(found, str):
        return found
    module, _, attribute = found.partition(":")
    return getattr(importlib.import_module(module), attribute)
