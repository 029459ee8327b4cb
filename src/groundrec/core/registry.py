"""Names to implementations: `name → "module:attribute"`, imported on first use.

Built-ins are literal dicts; another package adds its own through the entry-point group `groundrec.<seam>`, a script or
a notebook through `register`, for itself alone.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Any

from groundrec.core.errors import ConfigError, closest

__all__ = ["BUILT_IN", "names", "register", "resolve"]

BUILT_IN: dict[str, dict[str, str]] = {
    "sources": {
        "amazon": "groundrec.data.reviews:Amazon",
        "movielens": "groundrec.data.movielens:MovieLens",
        "movielens-100k": "groundrec.data.movielens:MovieLens100K",
        "recbole": "groundrec.data.recbole:RecBole",
        "steam": "groundrec.data.reviews:Steam",
        "table": "groundrec.data.sources:Table",
    },
    "protocols": {
        "bigrec-game": "groundrec.data.bigrec:game",
        "bigrec-movie": "groundrec.data.bigrec:movie",
        "d3": "groundrec.data.d3:d3",
        "global-time": "groundrec.data.moments:global_time",
        "leave-one-out": "groundrec.data.moments:leave_one_out",
    },
    "engines": {
        "duckdb": "groundrec.data.engines:duckdb",
        "spark": "groundrec.data.engines:spark",
    },
    "imports": {
        "bigrec": "groundrec.data.instructions:bigrec",
        "d3": "groundrec.data.imports:d3",
        "minionerec": "groundrec.data.imports:minionerec",
    },
    "formats": {
        "bigrec": "groundrec.data.exports:bigrec",
        "d3": "groundrec.data.formats:d3",
        "minionerec": "groundrec.data.exports:minionerec",
        "recbole": "groundrec.data.exports:recbole",
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
        "popularity": "groundrec.rank.signals:Popularity",
        "recent-popularity": "groundrec.rank.signals:RecentPopularity",
        "external": "groundrec.rank.external:External",
        "item-knn": "groundrec.rank.signals:ItemKNN",
        "co-occurrence": "groundrec.rank.signals:CoOccurrence",
        "sasrec": "groundrec.rank.networks:SASRec",
        "gru4rec": "groundrec.rank.networks:GRU4Rec",
        "caser": "groundrec.rank.networks:Caser",
        "sasrec-dros": "groundrec.rank.networks:SASRecDROS",
        "gru4rec-dros": "groundrec.rank.networks:GRU4RecDROS",
        "caser-dros": "groundrec.rank.networks:CaserDROS",
    },
    "groundings": {
        "search": "groundrec.rank.recommend:constrained",
        "ground": "groundrec.rank.grounded:grounded",
    },
    "metrics": {
        "hr": "groundrec.evaluate.metrics:hit_rate",
        "ndcg": "groundrec.evaluate.metrics:ndcg",
        "mrr": "groundrec.evaluate.metrics:mrr",
    },
}


_registered: dict[str, dict[str, Any]] = {seam: {} for seam in BUILT_IN}


def register(seam: str, name: str, implementation: Any) -> None:
    """Let `name` stand for `implementation`, an object or "module:attribute", at `seam` in this process.

    A second call with the same name replaces the first, so that a cell may be run again. Other processes do not see it:
    a detached run, what a launcher starts and Ray's actors need an entry point. Raises `ConfigError` for an unknown
    seam and for the name of a built-in.
    """
    if seam not in BUILT_IN:
        raise ConfigError(f"unknown seam{closest(seam, BUILT_IN)}", value=seam, accepted=", ".join(BUILT_IN))
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
    """Return the object registered as `name` at `seam`, or raise `ConfigError` with the names there are."""
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
