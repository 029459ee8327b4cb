"""The sections of a recipe for the collaborative signals."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from groundrec.core.config import Section, setting

__all__ = ["CoOccurrence", "External", "ItemKNN", "RecentPopularity", "Sequential"]


class ItemKNN(Section):
    """The `item-knn` signal: cosine similarity of items by who took them."""

    last_n: int = setting(
        ("signals",),
        default=5,
        ge=1,
        description="Most recent items of a history whose neighbours count.",
    )
    decay: float = setting(
        ("signals",),
        default=0.8,
        gt=0,
        le=1,
        description="Weight of each of these items, relative to the next more recent one.",
    )
    smoothing: float = setting(
        ("signals",),
        default=0.001,
        gt=0,
        lt=1,
        description="Share of the distribution that is popularity, so that no item is impossible.",
    )


class CoOccurrence(Section):
    """The `co-occurrence` signal: which items follow which, nearer ones counting more."""

    window: int = setting(
        ("signals",),
        default=10,
        ge=1,
        description="Items that follow at most this many places later count, as 1 / distance.",
    )
    last_n: int = setting(
        ("signals",),
        default=10,
        ge=1,
        description="Most recent items of a history that vote, each as 1 / sqrt(its rank).",
    )
    source_power: float = setting(
        ("signals",),
        default=0.5,
        ge=0,
        description="Votes of an item are divided by its damped count to this power.",
    )
    target_power: float = setting(
        ("signals",),
        default=0.3,
        ge=0,
        description="Votes for an item are divided by its damped count to this power.",
    )
    damping: float = setting(
        ("signals",),
        default=20,
        gt=0,
        description="Added to an item's count before it divides votes.",
    )
    smoothing: float = setting(
        ("signals",),
        default=0.01,
        gt=0,
        lt=1,
        description="Share of the distribution that is popularity, so that no item is impossible.",
    )


class RecentPopularity(Section):
    """The `recent-popularity` signal: counts of items in the last days of training."""

    days: float = setting(
        ("signals",), default=30, gt=0, description="Days before the end of training that count."
    )


class External(Section):
    """The `external` signal: scores made elsewhere, for every query of validation and test."""

    path: Path | None = setting(
        ("signals",),
        default=None,
        description=(
            "A `.npz` file with `query_ids` [Q] and `scores` [Q, items] (perhaps also `item_ids`,"
            " the columns' order, and `dataset`, the fingerprint), a Parquet file with the columns"
            " `query_id` and `scores`, or a bare `.npy` array as D3's code writes it."
        ),
    )
    rows: list[Literal["train", "valid", "test"]] = setting(
        ("signals",),
        default=[],
        description=(
            "Which queries the rows of a bare `.npy` are: those of these splits, in their order."
            " Without it such a file is refused."
        ),
    )
    temperature: float = setting(
        ("signals",),
        default=1.0,
        gt=0,
        description="Divides the scores, which are taken for unnormalised log-probabilities.",
    )


class Sequential(Section):
    """The sequential models without text: `sasrec`, `gru4rec`, `caser`, each also as `…-dros`."""

    hidden: int = setting(
        ("signals",), default=64, ge=4, description="Width of the item embeddings."
    )
    layers: int = setting(
        ("signals",), default=2, ge=1, description="Layers of SASRec and GRU4Rec."
    )
    heads: int = setting(
        ("signals",), default=2, ge=1, description="Attention heads per layer of SASRec."
    )
    window: int = setting(
        ("signals",), default=5, ge=1, description="Most recent items that Caser's filters see."
    )
    horizontal: int = setting(
        ("signals",), default=16, ge=1, description="Caser's horizontal filters of each height."
    )
    vertical: int = setting(("signals",), default=4, ge=1, description="Caser's vertical filters.")
    dropout: float = setting(
        ("signals",), default=0.2, ge=0, lt=1, description="Dropout while training."
    )
    loss: Literal["cross-entropy", "binary", "gbce"] = setting(
        ("signals",),
        default="cross-entropy",
        description=(
            "Objective: cross-entropy over the whole catalogue; `binary` tells the next item from"
            " `negatives` random ones, as SASRec's paper does; `gbce` also corrects the"
            " overconfidence that this brings (gSASRec). The `…-dros` signals have their own."
        ),
    )
    negatives: int = setting(
        ("signals",),
        default=16,
        ge=1,
        description="Random items beside each next one, for `binary` and `gbce`.",
    )
    calibration: float = setting(
        ("signals",),
        default=0.75,
        ge=0,
        le=1,
        description=(
            "Strength of `gbce`'s correction (t in the paper): 0 is `binary`, 1 corrects in full."
        ),
    )
    dros_weight: float = setting(
        ("signals",),
        default=0.1,
        ge=0,
        description=(
            "Weight of the distributionally robust part of the `…-dros` signals' objective."
        ),
    )
    dros_temperature: float = setting(
        ("signals",),
        default=1.0,
        gt=0,
        description=(
            "How far DROS lets the distribution of items move from popularity: smaller looks at"
            " worse cases."
        ),
    )
    max_length: int = setting(
        ("signals",), default=20, ge=2, description="Most recent items the model sees."
    )
    epochs: int = setting(
        ("signals",), default=15, ge=1, description="Most passes over the training sequences."
    )
    batch_size: int = setting(
        ("signals",),
        default=32,
        ge=1,
        description="Pieces of sequences, of `max_length` + 1 items, per optimiser step.",
    )
    learning_rate: float = setting(
        ("signals",),
        default=3e-3,
        gt=0,
        description="AdamW's peak learning rate; it falls to 0 over `epochs`.",
    )
    weight_decay: float = setting(
        ("signals",), default=0.01, ge=0, description="AdamW's weight decay."
    )
    patience: int = setting(
        ("signals",),
        default=5,
        ge=0,
        description=(
            "Stop after this many epochs without a better validation NDCG@10; 0 never stops early."
        ),
    )
