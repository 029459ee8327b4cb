"""Recipe sections for the collaborative signals."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from groundrec.core.config import Section, setting

__all__ = ["CoOccurrence", "External", "ItemKNN", "RecentPopularity", "Sequential"]


class ItemKNN(Section):
    """The `item-knn` signal: cosine similarity of items by the users who took them."""

    last_n: int = setting(
        ("signals",),
        default=5,
        ge=1,
        description="Number of most recent items of a history whose neighbours count.",
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
        description=(
            "Share of popularity in the distribution, which keeps every item's probability above 0."
        ),
    )


class CoOccurrence(Section):
    """The `co-occurrence` signal: which items follow which; nearer ones count more."""

    window: int = setting(
        ("signals",),
        default=10,
        ge=1,
        description=(
            "Maximum distance at which one item counts as following another, weighted by"
            " 1 / distance."
        ),
    )
    last_n: int = setting(
        ("signals",),
        default=10,
        ge=1,
        description=(
            "Number of most recent items of a history that vote; the n-th most recent counts"
            " 1 / sqrt(n)."
        ),
    )
    source_power: float = setting(
        ("signals",),
        default=0.5,
        ge=0,
        description="The votes of an item are divided by its damped count raised to this power.",
    )
    target_power: float = setting(
        ("signals",),
        default=0.3,
        ge=0,
        description="The votes for an item are divided by its damped count raised to this power.",
    )
    damping: float = setting(
        ("signals",),
        default=20,
        gt=0,
        description="Added to an item's count before votes are divided by it.",
    )
    smoothing: float = setting(
        ("signals",),
        default=0.01,
        gt=0,
        lt=1,
        description=(
            "Share of popularity in the distribution, which keeps every item's probability above 0."
        ),
    )


class RecentPopularity(Section):
    """The `recent-popularity` signal: counts of items in the last days of training."""

    days: float = setting(
        ("signals",),
        default=30,
        gt=0,
        description="Number of days before the end of training whose interactions count.",
    )


class External(Section):
    """The `external` signal: scores computed elsewhere for every validation and test query."""

    path: Path | None = setting(
        ("signals",),
        default=None,
        description=(
            "A `.npz` file with `query_ids` [Q] and `scores` [Q, items] (optionally also"
            " `item_ids`, the order of the columns, and `dataset`, the data set's fingerprint), a"
            " Parquet file with the columns `query_id` and `scores`, or a bare `.npy` array as"
            " written by D3's code, or a tensor saved by torch, such as the `val.pt` that BIGRec's"
            " code reads."
        ),
    )
    rows: list[Literal["train", "valid", "test"]] = setting(
        ("signals",),
        default=[],
        description=(
            "Splits whose queries are the rows of a bare array or tensor, in order. Required for"
            " such a file."
        ),
    )
    temperature: float = setting(
        ("signals",),
        default=1.0,
        gt=0,
        description="Divides the scores, which are treated as unnormalised log-probabilities.",
    )


class Sequential(Section):
    """Sequential models without text: `sasrec`, `gru4rec`, `caser` and their `…-dros` variants."""

    hidden: int = setting(
        ("signals",), default=64, ge=4, description="Width of the item embeddings."
    )
    layers: int = setting(
        ("signals",), default=2, ge=1, description="Number of layers of SASRec and GRU4Rec."
    )
    heads: int = setting(
        ("signals",), default=2, ge=1, description="Number of attention heads per layer of SASRec."
    )
    window: int = setting(
        ("signals",),
        default=5,
        ge=1,
        description="Number of most recent items that Caser's filters see.",
    )
    horizontal: int = setting(
        ("signals",),
        default=16,
        ge=1,
        description="Number of Caser's horizontal filters of each height.",
    )
    vertical: int = setting(
        ("signals",), default=4, ge=1, description="Number of Caser's vertical filters."
    )
    dropout: float = setting(
        ("signals",), default=0.2, ge=0, lt=1, description="Dropout during training."
    )
    loss: Literal["cross-entropy", "binary", "gbce"] = setting(
        ("signals",),
        default="cross-entropy",
        description=(
            "Objective: `cross-entropy` over the whole catalogue; `binary`, which distinguishes"
            " the next item from `negatives` random ones, as in SASRec's paper; `gbce`, which"
            " also corrects the overconfidence that this causes (gSASRec). The `…-dros` signals"
            " have their own."
        ),
    )
    negatives: int = setting(
        ("signals",),
        default=16,
        ge=1,
        description="Number of random items per next item, for `binary` and `gbce`.",
    )
    calibration: float = setting(
        ("signals",),
        default=0.75,
        ge=0,
        le=1,
        description=(
            "Strength of `gbce`'s correction (t in the paper): 0 is the same as `binary`, 1"
            " corrects fully."
        ),
    )
    dros_weight: float = setting(
        ("signals",),
        default=0.1,
        ge=0,
        description=(
            "Weight of the distributionally robust term in the objective of the `…-dros` signals."
        ),
    )
    dros_temperature: float = setting(
        ("signals",),
        default=1.0,
        gt=0,
        description=(
            "Strength of DROS's penalty on item distributions that differ from popularity;"
            " smaller values consider worse cases."
        ),
    )
    max_length: int = setting(
        ("signals",),
        default=20,
        ge=2,
        description="Maximum number of most recent items that the model sees.",
    )
    epochs: int = setting(
        ("signals",),
        default=15,
        ge=1,
        description="Maximum number of passes over the training sequences.",
    )
    batch_size: int = setting(
        ("signals",),
        default=32,
        ge=1,
        description="Pieces of sequences, each of `max_length` + 1 items, per optimiser step.",
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
            "Stop after this many epochs without improvement in validation NDCG@10; 0 disables"
            " early stopping."
        ),
    )
