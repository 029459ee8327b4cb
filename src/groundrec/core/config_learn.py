"""Recipe sections for the training of the language model: answers, objective, optimisation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, StringConstraints

from groundrec.core.config import Section, setting
from groundrec.core.errors import ConfigError

__all__ = [
    "Answers",
    "Objective",
    "Train",
]


class Answers(Section):
    """How the language model writes an item."""

    kind: str = setting(
        ("train",),
        default="title",
        description="How items are written; `groundrec list answers` lists the choices.",
    )


class Objective(Section):
    """The training objective of the language model."""

    kind: str = setting(
        ("train",),
        default="cross-entropy",
        description="Training objective; `groundrec list objectives` lists the choices.",
    )


DomainName: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[\w-]+$")]


class Train(Section):
    """Fine-tuning of the language model."""

    extra_datasets: dict[DomainName, Path] = setting(
        ("train",),
        default={},
        description=(
            "Other prepared data sets to train on at the same time, by domain:"
            ' {game = "datasets/game"}. Their prompts use the entries of that domain in the'
            " template's [words]. Only the main data set is ranked and evaluated."
        ),
    )
    method: Literal["full", "lora", "qlora", "none"] = setting(
        ("train",),
        default="full",
        description=(
            "What to train: all weights (`full`), low-rank adapters (`lora`), adapters on weights"
            " quantised to `bits` (`qlora`), or nothing (`none`), which uses the base model as it"
            " is, for comparison, or the weights given by `resume_from`."
        ),
    )
    bits: Literal[4, 8] = setting(
        ("train",),
        default=4,
        description=(
            "Bits per frozen weight with `qlora`: 4 (nf4 with double quantisation), or 8, as"
            " BIGRec loads its model. Ranking uses the base model in its original precision."
        ),
    )
    resume_from: Path | None = setting(
        ("train",),
        default=None,
        description=(
            "Start from here instead of the base model. Given a run directory or its checkpoint,"
            " training resumes after the checkpoint's step with the current learning-rate"
            " settings, and `epochs` includes the epochs before it. Given a folder with adapters"
            " or a model, such as a run's `model`, or a model in wandb"
            " (`wandb:ENTITY/PROJECT/NAME:v3`), only its weights are loaded. With"
            ' `method = "none"`, only weights are loaded in any case: for a run directory, those of'
            " its trained model."
        ),
    )
    epochs: float = setting(
        ("train",), default=3, gt=0, description="Number of passes over the training examples."
    )
    learning_rate: float = setting(
        ("train",), default=1e-4, gt=0, description="Peak learning rate."
    )
    schedule: Literal["cosine", "linear", "constant"] = setting(
        ("train",), default="cosine", description="How the learning rate changes after the warm-up."
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
        description="Global batch size: sequences per optimiser step, over all processes.",
    )
    micro_batch_size: int = setting(
        ("train",),
        default=4,
        ge=1,
        description=(
            "Sequences per forward pass on one device; gradients are accumulated over the rest of"
            " the batch. Lower it if memory runs out: results stay the same."
        ),
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        ("train",),
        default="auto",
        description=(
            "Precision of training. With `bf16` and `fp16`, trained weights are still kept and"
            " saved in float32. `auto` is `bf16` on CUDA devices that support it and `fp32`"
            " otherwise. `fp16` requires CUDA."
        ),
    )
    gradient_checkpointing: bool = setting(
        (),
        default=False,
        description=(
            "Keep only the activations between layers and recompute those inside a layer for the"
            " backward pass. Gradients stay the same."
        ),
    )
    cutoff_len: int = setting(
        ("train",),
        default=512,
        ge=16,
        description=(
            "Maximum sequence length in tokens. The oldest items of the history are dropped"
            " first; the answer and the instruction are always kept."
        ),
    )
    loss_on: Literal["answer", "branching"] = setting(
        ("train",),
        default="answer",
        description=(
            "Train on every token of an answer (`answer`), or only where catalogue titles branch"
            " (`branching`). The latter is enough for `renormalised` scores, in which forced"
            " tokens cost nothing, and several times faster for small models."
        ),
    )
    packing: Literal["rows", "tree"] = setting(
        ("train",),
        default="rows",
        description=(
            "`rows`: one row for each example or, with a running list, for each piece of a user's"
            " list. `tree`: one tree for up to `tree_targets` successive targets of a user, whose"
            " shared history is read once. Loss and gradients equal those of one row per target,"
            " but far fewer tokens are processed. All histories in a tree start at the same item."
            " A tree counts as one sequence of a batch."
        ),
    )
    tree_targets: int = setting(
        ("train",),
        default=20,
        ge=1,
        description=(
            "Maximum number of targets in a tree; the middle one has exactly the history that the"
            " data set gives it."
        ),
    )
    tree_attention: Literal["sdpa", "flex_attention"] = setting(
        (),
        default="sdpa",
        description=(
            "How attention is computed within a tree. `sdpa`: PyTorch's attention with a mask; on"
            " a CPU, fully masked blocks are skipped. `flex_attention`: a kernel compiled for the"
            " tree, which skips them on a CUDA device."
        ),
    )
    drop_items: float = setting(
        ("train",),
        default=0.0,
        ge=0,
        lt=1,
        description=(
            "Share of a running list's items that is dropped at random, differently in each epoch;"
            " keeps a small model from memorising histories."
        ),
    )
    train_on_inputs: bool = setting(
        ("train",),
        default=False,
        description=(
            "Also train on the tokens of the prompt, not only on those of the answer (templates"
            " with an instruction)."
        ),
    )
    group_by_length: bool = setting(
        ("train",),
        default=True,
        description=(
            "Whether rows of similar length share a batch; otherwise batches are drawn at random."
        ),
    )
    max_examples: int | None = setting(
        ("train",),
        default=None,
        ge=1,
        description=(
            "Train on a random sample of this many examples from each data set; when unset, on"
            " all of them."
        ),
    )
    patience: int = setting(
        ("train",),
        default=3,
        ge=0,
        description=(
            "Stop after this many epochs without improvement, as measured by `select`; 0 disables"
            " early stopping."
        ),
    )
    select: Literal["loss", "ndcg"] = setting(
        ("train",),
        default="loss",
        description=(
            "How to compare epochs, both to keep the best one and for `patience`: by validation"
            " loss, or by the NDCG@10 of the recipe's search."
        ),
    )
    validation_queries: Annotated[int, Field(ge=1)] | Literal["all"] = setting(
        ("train",),
        default=500,
        description=(
            "Number of validation queries, sampled at random from each data set, for the validation"
            " loss after each epoch, or `all`. NDCG@10 uses only those of the main data set."
        ),
    )
    average: float = setting(
        ("train",),
        default=0.0,
        ge=0,
        le=1,
        description=(
            "Share of the epochs, counted from the last, whose weights are averaged into the"
            " model; works best with a constant schedule. 0 keeps the best epoch, as measured by"
            " `select`."
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
        """Check that no setting is given that the chosen packing does not support."""
        if self.packing == "rows" and self.tree_attention != "sdpa":
            raise ConfigError(
                "train.tree_attention applies only to train.packing = tree",
                value=self.tree_attention,
                accepted="sdpa, or train.packing = tree",
                next_step="--set train.packing=tree",
            )
        if self.packing == "tree" and self.drop_items:
            raise ConfigError(
                "train.drop_items is not supported with train.packing = tree",
                value=self.drop_items,
                accepted="0, or train.packing = rows",
                next_step="--set train.drop_items=0",
            )
