"""Recipe sections that rank and evaluate: search, grounding, fusion and metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from groundrec.core.config import WHEN_NDCG_SELECTS, Section, setting

__all__ = ["Evaluate", "Fuse", "Ground", "Recommend"]


class Recommend(Section):
    """How the language model ranks the items of the catalogue."""

    methods: list[str] = setting(
        ("fuse", "evaluate"),
        default=["search"],
        min_length=1,
        description=(
            "How the language model ranks items: `search` decodes only titles of the catalogue;"
            " `ground` generates text freely and takes the nearest items (BIGRec). The report lists"
            " each as a method."
        ),
    )

    mode: Literal["exact", "beam", "exhaustive"] = setting(
        ("recommend", WHEN_NDCG_SELECTS),
        default="exact",
        description=(
            "`exact` finds the best items and proves that they are the best; `beam` keeps the"
            " best `beams` hypotheses at each token and can miss some items; `exhaustive` scores"
            " every item of the catalogue."
        ),
    )
    score: Literal["full", "renormalised"] = setting(
        ("recommend", WHEN_NDCG_SELECTS),
        default="full",
        description=(
            "Normalise the log-probabilities over the whole vocabulary (`full`), or only over the"
            " tokens that continue a catalogue title (`renormalised`)."
        ),
    )
    k: int = setting(
        ("recommend", "fuse", "evaluate"), default=50, ge=1, description="Items per slate."
    )
    beams: int = setting(
        ("recommend", WHEN_NDCG_SELECTS),
        default=50,
        ge=1,
        description="Number of hypotheses kept in `beam` mode; at least `k`.",
    )
    tokens_per_pass: int = setting(
        (),
        default=24,
        ge=1,
        description=(
            "Tokens read per query and forward pass in `exact` mode. More tokens mean fewer"
            " passes, but some are read unnecessarily. Affects speed, never the ranking."
        ),
    )
    budget: int = setting(
        ("recommend", WHEN_NDCG_SELECTS),
        default=4096,
        ge=1,
        description=(
            "Maximum number of tokens read per query in `exact` mode. If a query exhausts it, a"
            " beam search with `k` beams completes the slate, and the query counts as unproved."
        ),
    )
    temperature: float = setting(
        ("recommend", WHEN_NDCG_SELECTS),
        default=1.0,
        gt=0,
        description="Divides the model's logits before normalisation.",
    )
    length_penalty: float = setting(
        ("recommend", WHEN_NDCG_SELECTS),
        default=0.0,
        description=(
            "In `beam` mode, a title's log-probability is divided by its number of tokens raised"
            " to this power. 0 disables length normalisation; any other value favours long"
            " titles, as BIGRec's decoding does."
        ),
    )
    batch_size: int = setting(
        (),
        default=8,
        ge=1,
        description=(
            "Maximum number of queries per forward pass. Affects speed and memory, never the"
            " ranking."
        ),
    )
    memory_limit: str | None = setting(
        (),
        default=None,
        pattern=r"^\d+(\.\d+)?[KMGT]i?B$",
        description=(
            "Maximum memory for the key-value cache in one process, e.g. `4GB`; when unset, half"
            " of the free memory."
        ),
    )
    shard_size: int = setting(
        (),
        default=256,
        ge=1,
        description=(
            "Queries per slate file: the most that is lost if a run is killed, and the unit in"
            " which several processes divide the work."
        ),
    )
    engine: Literal["local", "ray"] = setting(
        (),
        default="local",
        description=(
            "`local` searches in the processes that were started; `ray` searches in Ray Data"
            " actors, on the cluster given by `RAY_ADDRESS` or, without it, on this machine."
        ),
    )
    workers: int | None = setting(
        (),
        default=None,
        ge=1,
        description=(
            "Number of actors of the `ray` engine, each with its own copy of the model; when"
            " unset, one per GPU, or 2 without a GPU."
        ),
    )
    assistant: str | None = setting(
        ("recommend",),
        default=None,
        description=(
            "Signal that takes part in the search (D3's text-free assistant): each branch is"
            " scored with alpha · log p_LM + (1 - alpha) · log p_signal."
        ),
    )
    alpha: float | None = setting(
        ("recommend",),
        default=None,
        ge=0,
        le=1,
        description=(
            "Weight of the language model relative to the assistant; when unset, chosen on"
            " validation."
        ),
    )
    assistant_mass: Literal["sum", "max"] = setting(
        ("recommend",),
        default="sum",
        description=(
            "How the assistant weighs a branch: by the sum of its items' probabilities, or by the"
            " largest of them."
        ),
    )
    allow: Path | None = setting(
        ("recommend", "fuse", "evaluate", WHEN_NDCG_SELECTS),
        default=None,
        description=(
            "Text file of the only items that may be recommended, with one item id or title per"
            " line, e.g. those of one category. Applies to every method; nothing is retrained."
        ),
    )
    deny: Path | None = setting(
        ("recommend", "fuse", "evaluate", WHEN_NDCG_SELECTS),
        default=None,
        description=(
            "Text file of items that are never recommended, with one item id or title per line,"
            " e.g. those out of stock."
        ),
    )
    exclude_seen: bool = setting(
        ("recommend", "fuse", "evaluate", WHEN_NDCG_SELECTS),
        default=True,
        description="Never recommend an item from the query's history.",
    )
    valid_queries: int | None = setting(
        ("recommend/valid", "recommend/alpha", "fuse"),
        default=1000,
        ge=1,
        description="Number of validation queries (the same sample for every seed); all if unset.",
    )
    test_queries: int | None = setting(
        ("recommend/test", "fuse", "evaluate"),
        default=None,
        ge=1,
        description="Number of test queries (the same sample for every seed); all if unset.",
    )


class Ground(Section):
    """BIGRec's grounding: the model generates text freely, and the nearest titles are matched."""

    num_texts: int = setting(
        ("recommend",),
        default=4,
        ge=1,
        description="Number of texts generated for each query: beams, or samples.",
    )
    decoding: Literal["beam", "sample"] = setting(
        ("recommend",),
        default="beam",
        description=(
            "`beam` generates the most likely texts that a beam search with `num_texts` beams"
            " finds, as in the papers; `sample` draws texts at random, seeded by the recipe's"
            " seed and the query."
        ),
    )
    temperature: float = setting(
        ("recommend",),
        default=1.0,
        gt=0,
        description="Divides the logits before `sample` draws from them.",
    )
    top_p: float = setting(
        ("recommend",),
        default=1.0,
        gt=0,
        le=1,
        description=(
            "`sample` draws only from the most likely tokens that together hold this probability."
        ),
    )
    max_new_tokens: int = setting(
        ("recommend",),
        default=128,
        ge=1,
        description=(
            "Maximum length of a generated text in tokens; an unfinished text is grounded as it is."
        ),
    )
    vote: Literal["best", "nearest", "mean"] = setting(
        ("recommend",),
        default="best",
        description=(
            "An item's distance: to the most likely text (as in the paper), to the nearest of all"
            " texts, or the mean over all texts. Empty texts do not count."
        ),
    )
    pooling: Literal["last", "mean"] = setting(
        ("recommend",),
        default="last",
        description=(
            "A text's embedding: the last layer's state at its last token (as in the paper), or"
            " the mean over its tokens."
        ),
    )
    weights: Literal["tuned", "base"] = setting(
        ("recommend",),
        default="tuned",
        description=(
            "Model that computes the embeddings: the fine-tuned model, or its base model, as in"
            " BIGRec's code."
        ),
    )
    max_embed_tokens: int = setting(
        ("recommend",),
        default=512,
        ge=2,
        description=(
            "Maximum number of tokens of a text or title that are embedded; the rest is cut off"
            " at the end."
        ),
    )
    index: Literal["exact", "faiss"] = setting(
        ("recommend",),
        default="exact",
        description=(
            "`exact` compares a text with every title; `faiss` only with those in the nearest"
            " parts of the catalogue, which can miss some. Use `faiss` for more than a million"
            " titles."
        ),
    )
    duplicates: Literal["all", "first"] = setting(
        ("recommend",),
        default="all",
        description=(
            "Items with the same title are equally near: the slate includes `all` of them, most"
            " popular first, or only the `first` that may be recommended."
        ),
    )


class Fuse(Section):
    """Fusion of the language model with collaborative signals."""

    signals: list[str] = setting(
        ("fuse",),
        default=["sasrec", "co-occurrence"],
        description="Signals to fuse with the language model, each in turn.",
    )
    kinds: list[Literal["probability", "reweight", "reciprocal-rank", "z-score", "learned"]] = (
        setting(
            ("fuse",),
            default=["probability"],
            min_length=1,
            description=(
                "Fusion methods, each in turn. `probability`: alpha · log p_LM + (1 - alpha) ·"
                " log p_signal. `reweight`: BIGRec's (1 + w)^(-gamma) · d. `reciprocal-rank` and"
                " `z-score`: alpha mixes 1 / (60 + rank), or scores in standard deviations."
                " `learned`: one weight for the model and one for each signal, fitted together."
            ),
        )
    )
    metric: str = setting(
        ("recommend/alpha", "fuse"),
        default="ndcg@10",
        description="Validation metric by which the weight is chosen.",
    )
    grid: int = setting(
        ("recommend/alpha", "fuse"),
        default=21,
        ge=2,
        description="Number of alpha values tried between 0 and 1; the gamma values are BIGRec's.",
    )
    per_metric: bool = setting(
        ("fuse",),
        default=False,
        description=(
            "Choose a separate weight for each metric and cut-off, as BIGRec's code does; the"
            " report says so."
        ),
    )


class Evaluate(Section):
    """Metrics and the report."""

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
        description="Number of bootstrap samples for each 95% interval; 0 computes no intervals.",
    )
    example_users: int = setting(
        ("evaluate",), default=10, ge=0, description="Number of example users shown in the report."
    )
