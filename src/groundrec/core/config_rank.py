"""The sections of a recipe that rank and measure: search, fusion and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from groundrec.core.config import WHEN_NDCG_SELECTS, Section, setting

__all__ = ["Evaluate", "Fuse", "Ground", "Recommend"]


class Recommend(Section):
    """How the language model's ranking is found among the items of the catalogue."""

    methods: list[str] = setting(
        ("fuse", "evaluate"),
        default=["search"],
        min_length=1,
        description=(
            "How the language model's ranking is found: `search` decodes titles within the"
            " catalogue, `ground` lets the model write freely and takes the nearest items (BIGRec)."
            " Each is a method of the report."
        ),
    )

    mode: Literal["exact", "beam", "exhaustive"] = setting(
        ("recommend", WHEN_NDCG_SELECTS),
        default="exact",
        description=(
            "`exact` finds the best items and proves it; `beam` keeps the best `beams` hypotheses"
            " at each token and can lose some; `exhaustive` scores every item of the catalogue."
        ),
    )
    score: Literal["full", "renormalised"] = setting(
        ("recommend", WHEN_NDCG_SELECTS),
        default="full",
        description=(
            "Log-probability over the whole vocabulary, or over the tokens that continue a"
            " catalogue title."
        ),
    )
    k: int = setting(
        ("recommend", "fuse", "evaluate"), default=50, ge=1, description="Places in a slate."
    )
    beams: int = setting(
        ("recommend", WHEN_NDCG_SELECTS),
        default=50,
        ge=1,
        description="Hypotheses kept in `beam` mode; at least `k`.",
    )
    tokens_per_pass: int = setting(
        (),
        default=24,
        ge=1,
        description=(
            "Tokens read per query and forward pass in `exact` mode: more take fewer passes and"
            " read some in vain. Changes speed, never a ranking."
        ),
    )
    budget: int = setting(
        ("recommend", WHEN_NDCG_SELECTS),
        default=4096,
        ge=1,
        description=(
            "Most tokens read per query in `exact` mode; where they do not suffice, a beam search"
            " of `k` completes the slate and the query counts as unproved."
        ),
    )
    temperature: float = setting(
        ("recommend", WHEN_NDCG_SELECTS),
        default=1.0,
        gt=0,
        description="Divides the model's logits before they are normalised.",
    )
    length_penalty: float = setting(
        ("recommend", WHEN_NDCG_SELECTS),
        default=0.0,
        description=(
            "In `beam` mode, a title's log-probability is divided by its number of tokens to this"
            " power. 0 leaves it as it is; anything else favours long titles, as BIGRec's decoding"
            " does."
        ),
    )
    batch_size: int = setting(
        (),
        default=8,
        ge=1,
        description=(
            "Most queries per forward pass; fewer where memory does not suffice. Changes speed and"
            " memory, never a ranking."
        ),
    )
    memory_limit: str | None = setting(
        (),
        default=None,
        pattern=r"^\d+(\.\d+)?[KMGT]i?B$",
        description=(
            "Most memory that keys and values take in one process, e.g. `4GB`; half of what is free"
            " when unset."
        ),
    )
    shard_size: int = setting(
        (),
        default=256,
        ge=1,
        description=(
            "Queries per file of slates: what a kill can lose at most, and what several processes"
            " divide among themselves."
        ),
    )
    engine: Literal["local", "ray"] = setting(
        (),
        default="local",
        description=(
            "`local` searches in the processes that were started; `ray` in actors of Ray Data, on"
            " the cluster that `RAY_ADDRESS` names or on this machine."
        ),
    )
    workers: int | None = setting(
        (),
        default=None,
        ge=1,
        description=(
            "Actors of the engine `ray`, each with its own copy of the model; one for each GPU, or"
            " 2 where there is none, when unset."
        ),
    )
    assistant: str | None = setting(
        ("recommend",),
        default=None,
        description=(
            "Signal that takes part in the search (D3's text-free assistant): at each branching,"
            " alpha · log p_LM + (1 - alpha) · log p_signal."
        ),
    )
    alpha: float | None = setting(
        ("recommend",),
        default=None,
        ge=0,
        le=1,
        description=(
            "How much the language model counts beside the assistant; chosen on validation when"
            " unset."
        ),
    )
    assistant_mass: Literal["sum", "max"] = setting(
        ("recommend",),
        default="sum",
        description=(
            "A branch's share of the assistant: the sum of its items' probabilities, or the largest"
            " of them."
        ),
    )
    allow: Path | None = setting(
        ("recommend", "fuse", "evaluate", WHEN_NDCG_SELECTS),
        default=None,
        description=(
            "Text file of the only items that may be recommended, an item id or a title per line,"
            " e.g. one category. No method may recommend another, and none is trained anew."
        ),
    )
    deny: Path | None = setting(
        ("recommend", "fuse", "evaluate", WHEN_NDCG_SELECTS),
        default=None,
        description=(
            "Text file of items that are never recommended, an item id or a title per line, e.g."
            " what is out of stock."
        ),
    )
    exclude_seen: bool = setting(
        ("recommend", "fuse", "evaluate", WHEN_NDCG_SELECTS),
        default=True,
        description="Never recommend an item of the query's history.",
    )
    valid_queries: int | None = setting(
        ("recommend/valid", "recommend/alpha", "fuse"),
        default=1000,
        ge=1,
        description="Validation queries, sampled, the same for every seed; all when unset.",
    )
    test_queries: int | None = setting(
        ("recommend/test", "fuse", "evaluate"),
        default=None,
        ge=1,
        description="Test queries, sampled, the same for every seed; all when unset.",
    )


class Ground(Section):
    """BIGRec's grounding: the model writes freely, and what it wrote is matched with the nearest
    titles.
    """

    num_texts: int = setting(
        ("recommend",),
        default=4,
        ge=1,
        description="Texts written for each query: beams, or samples.",
    )
    decoding: Literal["beam", "sample"] = setting(
        ("recommend",),
        default="beam",
        description=(
            "`beam` writes the likeliest texts that a beam search of `num_texts` finds, the papers'"
            " way; `sample` draws them, from the recipe's seed and the query."
        ),
    )
    temperature: float = setting(
        ("recommend",),
        default=1.0,
        gt=0,
        description="Divides the logits that `sample` draws from.",
    )
    top_p: float = setting(
        ("recommend",),
        default=1.0,
        gt=0,
        le=1,
        description="`sample` draws from the likeliest tokens that hold this share.",
    )
    max_new_tokens: int = setting(
        ("recommend",),
        default=128,
        ge=1,
        description="Longest text; what has not ended by then is grounded as it is.",
    )
    vote: Literal["best", "nearest", "mean"] = setting(
        ("recommend",),
        default="best",
        description=(
            "An item's distance: to the likeliest text (the paper), to the nearest of all texts, or"
            " the mean over all. Empty texts do not vote."
        ),
    )
    pooling: Literal["last", "mean"] = setting(
        ("recommend",),
        default="last",
        description=(
            "A text's embedding: the last layer's state of its last token (the paper), or the mean"
            " over its tokens."
        ),
    )
    weights: Literal["tuned", "base"] = setting(
        ("recommend",),
        default="tuned",
        description=(
            "What embeds: the fine-tuned model, or the one it was made from, as BIGRec's code does."
        ),
    )
    max_embed_tokens: int = setting(
        ("recommend",),
        default=512,
        ge=2,
        description="Tokens of a text, or a title, that are embedded; the rest is cut off its end.",
    )
    index: Literal["exact", "faiss"] = setting(
        ("recommend",),
        default="exact",
        description=(
            "`exact` compares a text with every title; `faiss` with those of the parts of the"
            " catalogue nearest to it, which can lose some: for more than a million titles."
        ),
    )
    duplicates: Literal["all", "first"] = setting(
        ("recommend",),
        default="all",
        description=(
            "Items of one title are equally near: `all` of them stand in the slate, the most"
            " popular first, or only the `first` that may be recommended."
        ),
    )


class Fuse(Section):
    """Mixing the language model with collaborative signals."""

    signals: list[str] = setting(
        ("fuse",),
        default=["sasrec", "co-occurrence"],
        description="Signals to fuse with, each in turn.",
    )
    kinds: list[Literal["probability", "reweight", "reciprocal-rank", "z-score", "learned"]] = (
        setting(
            ("fuse",),
            default=["probability"],
            min_length=1,
            description=(
                "Ways of mixing, each in turn. `probability`: alpha · log p_LM + (1 - alpha) · log"
                " p_signal. `reweight`: BIGRec's (1 + w)^(-gamma) · d. `reciprocal-rank` and"
                " `z-score`: alpha between 1 / (60 + rank), or scores in standard deviations."
                " `learned`: a weight for the model and for every signal, all at once."
            ),
        )
    )
    metric: str = setting(
        ("recommend/alpha", "fuse"),
        default="ndcg@10",
        description="Metric that chooses the weight, on validation.",
    )
    grid: int = setting(
        ("recommend/alpha", "fuse"),
        default=21,
        ge=2,
        description="Number of values of alpha tried between 0 and 1; those of gamma are BIGRec's.",
    )
    per_metric: bool = setting(
        ("fuse",),
        default=False,
        description=(
            "Choose a weight for each metric and cut-off by itself, as BIGRec's code does; the"
            " report says so."
        ),
    )


class Evaluate(Section):
    """What is measured."""

    ks: list[PositiveInt] = setting(
        ("evaluate", "fuse if fuse.per_metric=true"),
        default=[1, 3, 5, 10, 20, 50],
        min_length=1,
        description="Cut-offs of the metrics; none may exceed `recommend.k`.",
    )
    bootstrap: int = setting(
        ("evaluate",),
        default=1000,
        ge=0,
        description="Bootstrap samples behind each 95% interval; 0 gives none.",
    )
    example_users: int = setting(
        ("evaluate",), default=10, ge=0, description="Example people shown in the report."
    )
