"""The sections of a recipe for the language model and its training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, StringConstraints

from groundrec.core.config import Section, setting
from groundrec.core.errors import ConfigError

__all__ = [
    "Answers",
    "Model",
    "Objective",
    "Scratch",
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
