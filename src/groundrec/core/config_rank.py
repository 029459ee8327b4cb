"""The sections of a recipe that rank and measure: search, fusion and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from groundrec.core.config import Section

__all__ = ["Evaluate", "Fuse", "Recommend"]


class Recommend(Section):
    """How the language model's ranking is found among the items of the catalogue."""

    MEANS: ClassVar[set[str]] = {"memory_limit", "engine", "workers"}
    """Settings by which slates are computed and that change none: what is finished stays finished."""

    mode: Literal["exact", "beam", "all"] = Field(
        default="exact",
        description="`exact` finds the best items and proves it; `beam` keeps the best `beams` hypotheses at each token and can lose some; `all` scores every item of the catalogue.",
    )
    score: Literal["full", "renormalised"] = Field(
        default="full",
        description="Log-probability over the whole vocabulary, or over the tokens that continue a catalogue title.",
    )
    k: int = Field(default=50, ge=1, description="Places in a slate.")
    beams: int = Field(default=50, ge=1, description="Hypotheses kept in `beam` mode; at least `k`.")
    width: int = Field(
        default=24,
        ge=1,
        description="Tokens read per query and forward pass in `exact` mode: more take fewer passes and read some in vain. Changes speed, never a ranking.",
    )
    budget: int = Field(
        default=4096,
        ge=1,
        description="Most tokens read per query in `exact` mode; where they do not suffice, a beam search of `k` completes the slate and the query counts as unproved.",
    )
    temperature: float = Field(default=1.0, gt=0, description="Divides the model's logits before they are normalised.")
    length_penalty: float = Field(
        default=0.0,
        description="In `beam` mode, a title's log-probability is divided by its number of tokens to this power. 0 leaves it as it is; anything else favours long titles, as BIGRec's decoding does.",
    )
    batch_size: int = Field(
        default=8,
        ge=1,
        description="Most queries per forward pass; fewer where memory does not suffice. Changes speed and memory, never a ranking.",
    )
    memory_limit: str | None = Field(
        default=None,
        pattern=r"^\d+(\.\d+)?[KMGT]i?B$",
        description="Most memory that keys and values take in one process, e.g. `4GB`; half of what is free when unset.",
    )
    shard_size: int = Field(
        default=256,
        ge=1,
        description="Queries per file of slates: what a kill can lose at most, and what several processes divide among themselves.",
    )
    engine: Literal["local", "ray"] = Field(
        default="local",
        description="`local` searches in the processes that were started; `ray` in actors of Ray Data, on the cluster that `RAY_ADDRESS` names or on this machine.",
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        description="Actors of the engine `ray`, each with its own copy of the model; one for each GPU, or 2 where there is none, when unset.",
    )
    assistant: str | None = Field(
        default=None,
        description="Signal that takes part in the search (D3's text-free assistant): at each branching, alpha · log p_LM + (1 - alpha) · log p_signal.",
    )
    alpha: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="How much the language model counts beside the assistant; chosen on validation when unset.",
    )
    assistant_mass: Literal["sum", "max"] = Field(
        default="sum",
        description="A branch's share of the assistant: the sum of its items' probabilities, or the largest of them.",
    )
    allow: Path | None = Field(
        default=None,
        description="Text file of the only items that may be recommended, an item id or a title per line, e.g. one category. No method may recommend another, and none is trained anew.",
    )
    deny: Path | None = Field(
        default=None,
        description="Text file of items that are never recommended, an item id or a title per line, e.g. what is out of stock.",
    )
    exclude_seen: bool = Field(default=True, description="Never recommend an item of the query's history.")
    valid_queries: int | None = Field(
        default=1000, ge=1, description="Validation queries, sampled with the recipe's seed; all when unset."
    )
    test_queries: int | None = Field(
        default=None, ge=1, description="Test queries, sampled with the recipe's seed; all when unset."
    )


class Fuse(Section):
    """Mixing the language model with collaborative signals: alpha · log p_LM + (1 - alpha) · log p_signal."""

    signals: list[str] = Field(default=["sasrec", "co-occurrence"], description="Signals to fuse with, each in turn.")
    metric: str = Field(default="ndcg@10", description="Metric that chooses alpha, on validation.")
    grid: int = Field(default=21, ge=2, description="Number of values of alpha tried between 0 and 1.")


class Evaluate(Section):
    """What is measured."""

    ks: list[PositiveInt] = Field(
        default=[1, 3, 5, 10, 20, 50],
        min_length=1,
        description="Cut-offs of the metrics; none may exceed `recommend.k`.",
    )
    bootstrap: int = Field(default=1000, ge=0, description="Bootstrap samples behind each 95% interval; 0 gives none.")
    people: int = Field(default=10, ge=0, description="Example people shown in the report.")
