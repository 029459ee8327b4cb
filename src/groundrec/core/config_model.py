"""Recipe sections for the language model before its training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from groundrec.core.config import Section, setting

__all__ = ["Model", "Scratch"]


class Scratch(Section):
    """The small decoder that is trained from random weights if `model.base_model = "scratch"`."""

    vocabulary: int = setting(
        ("train",),
        default=4096,
        ge=300,
        description="Size of the byte-level BPE vocabulary learned from the titles.",
    )
    hidden: int = setting(("train",), default=128, ge=8, description="Width of the network.")
    layers: int = setting(("train",), default=2, ge=1, description="Number of transformer layers.")
    heads: int = setting(
        ("train",), default=4, ge=1, description="Number of attention heads per layer."
    )
    feed_forward: int = setting(
        ("train",),
        default=2,
        ge=1,
        description="Width of the feed-forward layers, as a multiple of `hidden`.",
    )
    dropout: float = setting(
        ("train",), default=0.1, ge=0, lt=1, description="Dropout in attention during training."
    )


class Model(Section):
    """The language model and its prompts."""

    base_model: str = setting(
        ("train",),
        default="scratch",
        description=(
            "`scratch`, `smollm2-135m`, the folder of any transformers causal language model, or"
            " its name on a hub, `hf:ORG/NAME` or `modelscope:ORG/NAME`, with `@REVISION` unless"
            " you want the newest; or a model stored in wandb, `wandb:ENTITY/PROJECT/NAME:v3`."
        ),
    )
    weights: Literal["safetensors", "any"] = setting(
        ("train",),
        default="safetensors",
        description=(
            "Which weight files of a base model may be loaded: `safetensors`, which hold only"
            " numbers; or `any`, also pickled files, of which only the numbers are read."
        ),
    )
    template: str = setting(
        ("train",),
        default="auto",
        description=(
            "Prompt template: `list`, `bigrec`, `d3`, or the path of your own TOML file. `auto` is"
            " the words that the data set was imported with, or else `list`."
        ),
    )
    domain: str | None = setting(
        ("train",),
        default=None,
        description=(
            "Domain whose entries in the template's [words] the prompts use, e.g. `movie`; when"
            " unset, those of `data.category` if there are any, and the default ones otherwise."
        ),
    )
    instruction: Annotated[int, Field(ge=0)] | Literal["random"] = setting(
        ("train",),
        default=0,
        description=(
            "Index of the template's instruction that the prompts use, starting at 0; or `random`:"
            " training draws one for each example, the same in every epoch, and everything else"
            " uses the first."
        ),
    )
    scratch: Scratch = Scratch()
