"""A language model with low-rank adapters. Knows nothing about training."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch

from groundrec.core import config_learn
from groundrec.core.errors import ConfigError, MissingDependency

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["with_lora"]


def with_lora(model: PreTrainedModel, section: config_learn.Train) -> Any:
    """Return the model with LoRA matrices to train, and nothing else to train; raise where no layer fits."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise MissingDependency("peft", "lora") from None
    wanted = section.lora_target_modules
    names = {name.split(".")[-1] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    if isinstance(wanted, list) and not set(wanted) & names:
        raise ConfigError(
            "this model has none of the layers named by train.lora_target_modules",
            value=", ".join(wanted),
            accepted=f"all-linear, or some of: {', '.join(sorted(names))}",
        )
    lora = LoraConfig(
        r=section.lora_r,
        lora_alpha=section.lora_alpha,
        lora_dropout=section.lora_dropout,
        target_modules=wanted,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():  # peft 0.21 asks transformers 5.24 for an attribute by its old name
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(model, lora)
