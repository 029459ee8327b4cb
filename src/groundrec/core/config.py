"""The sections of a recipe: every setting, typed, with its default and what it means.

A setting is documented here, where it is declared; `--help`, `--dry-run` and the manual print that text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt

from groundrec.core.errors import ConfigError

__all__ = [
    "D3",
    "CoOccurrence",
    "Data",
    "Evaluate",
    "Fuse",
    "Location",
    "Model",
    "Neighbours",
    "Prepare",
    "Recommend",
    "Scratch",
    "Section",
    "Sequential",
    "Train",
]


class Section(BaseModel):
    """A group of settings. Unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _place(value: Any) -> Any:
    return Path(value) if isinstance(value, str) and "://" not in value else value


Location: TypeAlias = Annotated[Path | str, BeforeValidator(_place)]
"""A path, or a URL as text."""


class Data(Section):
    """Where the raw interactions come from."""

    source: str = Field(
        default="movielens-100k", description="Name of a data source: `groundrec list sources` shows them."
    )
    path: Location | None = Field(
        default=None,
        description="File or folder of the raw data, or a URL: `https://…`, `hf://datasets/OWNER/NAME/FILE`. Not needed for a named source that downloads itself.",
    )
    items: Location | None = Field(
        default=None,
        description="File or URL of item titles, where they are not beside the interactions or among them.",
    )
    category: str | None = Field(
        default=None, description="Which files of the folder `data.path` the `amazon` source reads, e.g. `Books`."
    )
    dataset: Path | None = Field(
        default=None,
        description="Folder of a finished data set (`groundrec prepare`, `groundrec import`), used as it is: no other setting of [data] or [prepare] may be given beside it.",
    )
    columns: dict[str, str] = Field(
        default={},
        description='Your column names for the `table` source, e.g. {item = "asin"}; for `recbole` the title\'s, if not found by itself.',
    )
    sha256: str | None = Field(
        default=None, pattern="^[0-9a-f]{64}$", description="Digest that the file at `data.path` must have."
    )
    items_sha256: str | None = Field(
        default=None, pattern="^[0-9a-f]{64}$", description="Digest that the file at `data.items` must have."
    )


class D3(Section):
    """The window of time of the protocol `d3`, under the names of the published script; times are UTC."""

    st_year: int = Field(
        default=2017,
        ge=1996,
        description="First year of the window. It is moved back, year by year down to 1996, while fewer than `least_items` items are left.",
    )
    st_month: int = Field(default=10, ge=1, le=12, description="First month of the window.")
    ed_year: int = Field(default=2018, ge=1996, description="Year in whose month `ed_month` the window ends.")
    ed_month: int = Field(
        default=11,
        ge=1,
        le=12,
        description="The window ends with the first second of this month, that second included.",
    )
    least_items: int = Field(
        default=10_000, ge=1, description="Items that must be left, unless the window begins in 1996."
    )

    def model_post_init(self, _: Any) -> None:
        """Check that the window is not empty."""
        if (self.ed_year, self.ed_month) <= (self.st_year, self.st_month):
            raise ConfigError(
                "the window of time ends before it begins",
                value=f"from {self.st_year}-{self.st_month} to {self.ed_year}-{self.ed_month}",
                accepted="prepare.d3.ed_year and ed_month later than st_year and st_month",
                next_step="--set prepare.d3.ed_year=…",
            )


class Prepare(Section):
    """How raw interactions become train, validation and test queries."""

    protocol: str = Field(
        default="global-time",
        description="`global-time` splits by one point in time for everyone (leaks nothing); `leave-one-out` keeps each user's last two moments and warns what that leaks; `d3` is the published preparation of Amazon reviews.",
    )
    engine: str = Field(default="duckdb", description="What computes: `groundrec list engines` shows them.")
    memory_limit: str | None = Field(
        default=None,
        pattern=r"^\d+(\.\d+)?[KMGT]i?B$",
        description="Most memory the engine takes before it goes on on disk, e.g. `2GB`; most of the machine's when unset.",
    )
    k_core: int = Field(
        default=5,
        ge=0,
        description="Keep only users and items with at least this many interactions, repeated until stable; 0 keeps all.",
    )
    min_rating: float | None = Field(default=None, description="Drop interactions rated lower than this.")
    valid_share: float = Field(
        default=0.1, gt=0, lt=1, description="Share of interactions, by time, used for validation (`global-time`)."
    )
    test_share: float = Field(
        default=0.1, gt=0, lt=1, description="Share of interactions, the latest, used for testing (`global-time`)."
    )
    max_history: int | None = Field(
        default=None,
        ge=1,
        description="Most recent items kept as a query's history; when unset 10 for `d3` and 200 for the others.",
    )
    bad_rows: Literal["fail", "quarantine"] = Field(
        default="fail",
        description="What to do with rows that cannot be used: stop at the first, or set them aside in `quarantine.parquet` and count them.",
    )
    d3: D3 = D3()

    def model_post_init(self, _: Any) -> None:
        """Check that something is left to train on."""
        if self.valid_share + self.test_share >= 1:
            raise ConfigError(
                "prepare.valid_share and prepare.test_share leave nothing to train on",
                value=f"{self.valid_share} + {self.test_share}",
                accepted="a sum below 1",
                next_step="--set prepare.test_share=0.1",
            )


class Scratch(Section):
    """The small decoder trained from random weights when `model.base_model = \"scratch\"`."""

    vocabulary: int = Field(
        default=4096, ge=300, description="Size of the byte-level BPE vocabulary learned from the titles."
    )
    hidden: int = Field(default=128, ge=8, description="Width of the network.")
    layers: int = Field(default=2, ge=1, description="Number of transformer layers.")
    heads: int = Field(default=4, ge=1, description="Attention heads per layer.")
    feed_forward: int = Field(
        default=2, ge=1, description="Width of the feed-forward layers, as a multiple of `hidden`."
    )
    dropout: float = Field(default=0.1, ge=0, lt=1, description="Dropout inside attention while training.")


class Model(Section):
    """The language model and the words it is shown."""

    base_model: str = Field(
        default="scratch", description="`scratch`, or the folder of any transformers causal language model."
    )
    template: str = Field(
        default="list", description="Prompt template: `list`, `bigrec`, `d3`, or the path of your own TOML file."
    )
    scratch: Scratch = Scratch()


class Train(Section):
    """Fine-tuning of the language model."""

    method: Literal["full", "lora"] = Field(
        default="full", description="Train every weight, or low-rank adapters (LoRA)."
    )
    epochs: float = Field(default=3, gt=0, description="Passes over the training examples.")
    learning_rate: float = Field(default=1e-4, gt=0, description="Peak learning rate.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="How the learning rate falls after the warm-up."
    )
    warmup_steps: int = Field(default=20, ge=0, description="Steps over which the learning rate rises from 0.")
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's weight decay.")
    batch_size: int = Field(default=128, ge=1, description="Sequences per optimiser step, over all processes.")
    micro_batch_size: int = Field(
        default=4,
        ge=1,
        description="Sequences per forward pass on one device; the rest of the batch is accumulated. Lower it when memory runs out: results stay the same.",
    )
    cutoff_len: int = Field(
        default=512,
        ge=16,
        description="Longest sequence in tokens. The oldest history is dropped first; never the answer or the instruction.",
    )
    learn: Literal["answer", "choices"] = Field(
        default="answer",
        description="Learn every token of an answer, or only those where the catalogue leaves a choice: enough for `renormalised` scores, where a forced token costs nothing, and several times faster for small models.",
    )
    drop_items: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the items of a running list left out at random, anew in each epoch: keeps a small model from learning histories by heart.",
    )
    train_on_inputs: bool = Field(
        default=False,
        description="Also learn to predict the prompt, not only the answer (templates with an instruction).",
    )
    max_examples: int | None = Field(
        default=None, ge=1, description="Train on a random sample of this many examples; all when unset."
    )
    patience: int = Field(
        default=3,
        ge=0,
        description="Stop after this many epochs without a better validation loss; 0 never stops early.",
    )
    average: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the epochs, the last ones, whose weights are averaged into the model, best with a constant schedule; 0 keeps the epoch of the best validation loss.",
    )
    lora_r: int = Field(default=8, ge=1, description="Rank of the LoRA matrices.")
    lora_alpha: int = Field(default=16, ge=1, description="LoRA scale: updates are multiplied by lora_alpha / lora_r.")
    lora_dropout: float = Field(default=0.05, ge=0, lt=1, description="Dropout before the LoRA matrices.")
    lora_target_modules: list[str] | Literal["all-linear"] = Field(
        default=["q_proj", "v_proj"], description="Names of the layers that get LoRA matrices, or `all-linear`."
    )


class Neighbours(Section):
    """The `item-knn` signal: cosine similarity of items by who took them."""

    last: int = Field(default=5, ge=1, description="Most recent items of a history whose neighbours count.")
    decay: float = Field(
        default=0.8, gt=0, le=1, description="Weight of each of these items, relative to the next more recent one."
    )
    smoothing: float = Field(
        default=0.001,
        gt=0,
        lt=1,
        description="Share of the distribution that is popularity, so that no item is impossible.",
    )


class CoOccurrence(Section):
    """The `co-occurrence` signal: which items follow which, nearer ones counting more."""

    window: int = Field(
        default=10, ge=1, description="Items that follow at most this many places later count, as 1 / distance."
    )
    last: int = Field(
        default=10, ge=1, description="Most recent items of a history that vote, each as 1 / sqrt(its rank)."
    )
    source_power: float = Field(
        default=0.5, ge=0, description="Votes of an item are divided by its damped count to this power."
    )
    target_power: float = Field(
        default=0.3, ge=0, description="Votes for an item are divided by its damped count to this power."
    )
    damping: float = Field(default=20, gt=0, description="Added to an item's count before it divides votes.")
    smoothing: float = Field(
        default=0.01,
        gt=0,
        lt=1,
        description="Share of the distribution that is popularity, so that no item is impossible.",
    )


class Sequential(Section):
    """The text-free sequential model (SASRec)."""

    hidden: int = Field(default=64, ge=4, description="Width of the item embeddings.")
    layers: int = Field(default=2, ge=1, description="Self-attention layers.")
    heads: int = Field(default=2, ge=1, description="Attention heads per layer.")
    dropout: float = Field(default=0.2, ge=0, lt=1, description="Dropout while training.")
    max_length: int = Field(default=20, ge=2, description="Most recent items the model sees.")
    epochs: int = Field(default=15, ge=1, description="Most passes over the training sequences.")
    batch_size: int = Field(
        default=32, ge=1, description="Pieces of sequences, of `max_length` + 1 items, per optimiser step."
    )
    learning_rate: float = Field(
        default=3e-3, gt=0, description="AdamW's peak learning rate; it falls to 0 over `epochs`."
    )
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW's weight decay.")
    patience: int = Field(
        default=5,
        ge=0,
        description="Stop after this many epochs without a better validation NDCG@10; 0 never stops early.",
    )


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
