"""The sections of a recipe that fit models: the language model, its training, and the collaborative
signals.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, StringConstraints

from groundrec.core.config import Section, setting
from groundrec.core.errors import ConfigError

__all__ = [
    "Answers",
    "CoOccurrence",
    "External",
    "ItemKNN",
    "Model",
    "Objective",
    "RecentPopularity",
    "Scratch",
    "Sequential",
    "Train",
]


class Scratch(Section):
    """The small decoder trained from random weights when `model.base_model = \"scratch\"`."""

    vocabulary: int = setting(
        ("train",),
        default=4096,
        ge=300,
        description="Size of the byte-level BPE vocabulary learned from the titles.",
    )
    hidden: int = setting(("train",), default=128, ge=8, description="Width of the network.")
    layers: int = setting(("train",), default=2, ge=1, description="Number of transformer layers.")
    heads: int = setting(("train",), default=4, ge=1, description="Attention heads per layer.")
    feed_forward: int = setting(
        ("train",),
        default=2,
        ge=1,
        description="Width of the feed-forward layers, as a multiple of `hidden`.",
    )
    dropout: float = setting(
        ("train",), default=0.1, ge=0, lt=1, description="Dropout inside attention while training."
    )


class Model(Section):
    """The language model and the words it is shown."""

    base_model: str = setting(
        ("train",),
        default="scratch",
        description=(
            "`scratch`, `smollm2-135m`, the folder of any transformers causal language model, or"
            " its name on a hub: `hf:ORG/NAME` or `modelscope:ORG/NAME`, with `@REVISION` where not"
            " the newest is meant; or a model kept by wandb, `wandb:ENTITY/PROJECT/NAME:v3`."
        ),
    )
    weights: Literal["safetensors", "any"] = setting(
        ("train",),
        default="safetensors",
        description=(
            "Which weights of a base model are loaded: safetensors, which hold only numbers; or"
            " `any`, also pickled ones, of which only the numbers are read."
        ),
    )
    template: str = setting(
        ("train",),
        default="list",
        description="Prompt template: `list`, `bigrec`, `d3`, or the path of your own TOML file.",
    )
    domain: str | None = setting(
        ("train",),
        default=None,
        description=(
            "Whose words of the template's [words] the prompts use, e.g. `movie`; when unset those"
            " of `data.category`, or else the default ones."
        ),
    )
    instruction: Annotated[int, Field(ge=0)] | Literal["random"] = setting(
        ("train",),
        default=0,
        description=(
            "Which of the template's instructions the prompts have, counted from 0; or `random`:"
            " training draws one for each example, the same in every epoch, and everything else"
            " takes the first."
        ),
    )
    scratch: Scratch = Scratch()


class Answers(Section):
    """How an item is written by the language model."""

    kind: str = setting(
        ("train",),
        default="title",
        description="Name of a way to write items: `groundrec list answers` shows them.",
    )


class Objective(Section):
    """What the language model is trained for."""

    kind: str = setting(
        ("train",),
        default="cross-entropy",
        description="Name of an objective: `groundrec list objectives` shows them.",
    )


DomainName: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[\w-]+$")]


class Train(Section):
    """Fine-tuning of the language model."""

    extra_datasets: dict[DomainName, Path] = setting(
        ("train",),
        default={},
        description=(
            "Other finished data sets to train on at once, by their domains, whose words of the"
            ' template\'s [words] their prompts use: {game = "datasets/game"}. Only the main one is'
            " ranked and measured."
        ),
    )
    method: Literal["full", "lora", "qlora", "none"] = setting(
        ("train",),
        default="full",
        description=(
            "Train every weight, or low-rank adapters (LoRA), or adapters beside weights held in"
            " few `bits` (QLoRA), or nothing: the base model as it is, to compare with, or the"
            " weights that `resume_from` names."
        ),
    )
    bits: Literal[4, 8] = setting(
        ("train",),
        default=4,
        description=(
            "Bits of a frozen weight under `qlora`: 4 (nf4, twice quantised), or 8, as BIGRec loads"
            " its model. Ranking reads the base model as it is kept."
        ),
    )
    resume_from: Path | None = setting(
        ("train",),
        default=None,
        description=(
            "Start from here instead of the base model. A run directory or its checkpoint: all goes"
            " on behind the checkpoint's step, with the rates set now, and `epochs` counts those"
            " before it too. A folder with adapters or a model, such as a run's `model`, or wandb's"
            ' `wandb:ENTITY/PROJECT/NAME:v3`: its weights alone. Under `method = "none"` weights'
            " alone in any case: those of a run's trained model."
        ),
    )
    epochs: float = setting(
        ("train",), default=3, gt=0, description="Passes over the training examples."
    )
    learning_rate: float = setting(
        ("train",), default=1e-4, gt=0, description="Peak learning rate."
    )
    schedule: Literal["cosine", "linear", "constant"] = setting(
        ("train",), default="cosine", description="How the learning rate falls after the warm-up."
    )
    warmup_steps: int = setting(
        ("train",), default=20, ge=0, description="Steps over which the learning rate rises from 0."
    )
    weight_decay: float = setting(
        ("train",), default=0.0, ge=0, description="AdamW's weight decay."
    )
    batch_size: int = setting(
        ("train",),
        default=128,
        ge=1,
        description="Sequences per optimiser step, over all processes.",
    )
    micro_batch_size: int = setting(
        ("train",),
        default=4,
        ge=1,
        description=(
            "Sequences per forward pass on one device; the rest of the batch is accumulated. Lower"
            " it when memory runs out: results stay the same."
        ),
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        ("train",),
        default="auto",
        description=(
            "Numbers that training computes in: `bf16` and `fp16` with weights kept in float32"
            " where they are trained, and saved so. `auto`: `bf16` on CUDA devices that have it,"
            " else `fp32`. `fp16` needs CUDA."
        ),
    )
    gradient_checkpointing: bool = setting(
        (),
        default=False,
        description=(
            "Keep the activations between layers only, and compute those inside once more for the"
            " gradients, which stay the same."
        ),
    )
    cutoff_len: int = setting(
        ("train",),
        default=512,
        ge=16,
        description=(
            "Longest sequence in tokens. The oldest history is dropped first; never the answer or"
            " the instruction."
        ),
    )
    loss_on: Literal["answer", "branching"] = setting(
        ("train",),
        default="answer",
        description=(
            "Learn every token of an answer, or only those where the catalogue leaves a choice:"
            " enough for `renormalised` scores, where a forced token costs nothing, and several"
            " times faster for small models."
        ),
    )
    packing: Literal["rows", "tree"] = setting(
        ("train",),
        default="rows",
        description=(
            "`rows`: a row for each example; for a running list, for each piece of a user's list."
            " `tree`: one tree for up to `tree_targets` successive targets of a user, in which the"
            " history they share is read once: the loss and gradients of a row for each, from a"
            " fraction of the tokens. The histories of a tree begin at the same item. A tree counts"
            " as one sequence of a batch."
        ),
    )
    tree_targets: int = setting(
        ("train",),
        default=20,
        ge=1,
        description="Most targets of a tree; the one in the middle has the data set's own history.",
    )
    tree_attention: Literal["sdpa", "flex_attention"] = setting(
        (),
        default="sdpa",
        description=(
            "How a tree's tokens attend. `sdpa`: PyTorch's attention under a mask; on a processor,"
            " what no token of a run sees is left out. `flex_attention`: a kernel compiled for the"
            " tree, which leaves that out on a CUDA device."
        ),
    )
    drop_items: float = setting(
        ("train",),
        default=0.0,
        ge=0,
        lt=1,
        description=(
            "Share of the items of a running list left out at random, anew in each epoch: keeps a"
            " small model from learning histories by heart."
        ),
    )
    train_on_inputs: bool = setting(
        ("train",),
        default=False,
        description=(
            "Also learn to predict the prompt, not only the answer (templates with an instruction)."
        ),
    )
    max_examples: int | None = setting(
        ("train",),
        default=None,
        ge=1,
        description=(
            "Train on a random sample of this many examples of each data set; all when unset."
        ),
    )
    patience: int = setting(
        ("train",),
        default=3,
        ge=0,
        description=(
            "Stop after this many epochs without a better one, by `select`; 0 never stops early."
        ),
    )
    select: Literal["loss", "ndcg"] = setting(
        ("train",),
        default="loss",
        description=(
            "Which epoch is kept and what `patience` waits for: the best validation loss, or the"
            " best NDCG@10 of the recipe's search."
        ),
    )
    validation_queries: int = setting(
        ("train",),
        default=500,
        ge=1,
        description=(
            "Validation queries of each data set, a random sample, behind each epoch's validation"
            " loss; the main one's behind NDCG@10."
        ),
    )
    average: float = setting(
        ("train",),
        default=0.0,
        ge=0,
        le=1,
        description=(
            "Share of the epochs, the last ones, whose weights are averaged into the model, best"
            " with a constant schedule; 0 keeps the best epoch, by `select`."
        ),
    )
    lora_r: int = setting(("train",), default=8, ge=1, description="Rank of the LoRA matrices.")
    lora_alpha: int = setting(
        ("train",),
        default=16,
        ge=1,
        description="LoRA scale: updates are multiplied by lora_alpha / lora_r.",
    )
    lora_dropout: float = setting(
        ("train",), default=0.05, ge=0, lt=1, description="Dropout before the LoRA matrices."
    )
    lora_target_modules: list[str] | Literal["all-linear"] = setting(
        ("train",),
        default=["q_proj", "v_proj"],
        description="Names of the layers that get LoRA matrices, or `all-linear`.",
    )

    def model_post_init(self, _: Any) -> None:
        """Check that nothing is asked of trees that only rows can do, and of rows that only trees
        can do.
        """
        if self.packing == "rows" and self.tree_attention != "sdpa":
            raise ConfigError(
                "train.tree_attention is how trees attend, and train.packing is `rows`",
                value=self.tree_attention,
                accepted="sdpa, or train.packing = tree",
                next_step="--set train.packing=tree",
            )
        if self.packing == "tree" and self.drop_items:
            raise ConfigError(
                "train.drop_items leaves items out of the rows of running lists, and train.packing"
                " is `tree`",
                value=self.drop_items,
                accepted="0, or train.packing = rows",
                next_step="--set train.drop_items=0",
            )


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
    """The `recent-popularity` signal: how often each item was taken in the last days of training."""

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
    """The text-free sequential models: `sasrec`, `gru4rec`, `caser`, and each of them as `…-dros`."""

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
