"""Names to implementations: `name → "module:attribute"`, imported on first use.

Built-ins are literal dicts. Another package adds implementations through the entry-point group
`groundrec.<seam>`; a script or a notebook through `register`, for its own process.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Any

from groundrec.core.errors import ConfigError, did_you_mean

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
    "answers": {
        "title": "groundrec.text.answers:Titles",
    },
    "objectives": {
        "cross-entropy": "groundrec.train.objectives:CrossEntropy",
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
    """Register `implementation`, an object or "module:attribute", as `name` at `seam`.

    A second call with the same name replaces the first, so that a notebook cell can be run again.
    Only this process sees it: detached runs, launched processes and Ray actors need an entry point.
    Raises `ConfigError` for an unknown seam and for the name of a built-in.
    """
    if seam not in BUILT_IN:
        raise ConfigError(
            f"unknown seam{did_you_mean(seam, BUILT_IN)}",
            value=seam,
            accepted=", ".join(BUILT_IN),
            next_step="groundrec list",
        )
    if name in BUILT_IN[seam]:
        raise ConfigError(
            f"{seam} has a built-in of this name",
            value=name,
            accepted="any other name",
            next_step=f"groundrec list {seam}",
        )
    _registered[seam][name] = implementation


def _table(seam: str) -> dict[str, Any]:
    third_party = {e.name: e.value for e in entry_points(group=f"groundrec.{seam}")}
    return {**third_party, **_registered[seam], **BUILT_IN[seam]}


def names(seam: str) -> list[str]:
    """Return all names known at `seam`, sorted."""
    return sorted(_table(seam))


def resolve(seam: str, name: str) -> Any:
    """Return the implementation `name` at `seam`; raise `ConfigError` for an unknown name."""
    table = BUILT_IN[seam] if name in BUILT_IN[seam] else _table(seam)
    if name not in table:
        raise ConfigError(
            f"unknown {seam.rstrip('s').replace('_', ' ')}{did_you_mean(name, table)}",
            value=name,
            accepted=", ".join(sorted(table)),
            next_step=f"groundrec list {seam}",
        )
    entry = table[name]
    if not isinstance(entry, str):
        return entry
    module, _, attribute = entry.partition(":")
    return getattr(importlib.import_module(module), attribute)
