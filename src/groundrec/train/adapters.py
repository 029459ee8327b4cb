"""A language model with low-rank adapters, new ones or trained before.

Knows nothing about training.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from groundrec.core import config_learn
from groundrec.core.errors import ConfigError, MissingDependency
from groundrec.core.files import read_json
from groundrec.models.adapters import differing, read_adapters

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["load_adapters", "with_lora"]

ALL = "all-linear"
NUMBERS = {"r": "lora_r", "lora_alpha": "lora_alpha"}
"""PEFT's names, and ours, of what adapters and the recipe must agree on."""


def with_lora(model: PreTrainedModel, section: config_learn.Train) -> Any:
    """Return the model with LoRA matrices, training nothing else.

    Raises `ConfigError` where the model lacks a layer that the section names.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise MissingDependency("peft", "lora") from None
    _require_layers(model, section.lora_target_modules)
    lora = LoraConfig(
        r=section.lora_r,
        lora_alpha=section.lora_alpha,
        lora_dropout=section.lora_dropout,
        target_modules=section.lora_target_modules,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5.24 for an attribute by its old name.
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(model, lora)


def _require_layers(model: PreTrainedModel, wanted: list[str] | str) -> None:
    """Raise `ConfigError` unless each wanted name ends that of a linear layer of the model."""
    layers = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    if wanted == ALL:
        return
    lacking = [w for w in wanted if not any(f".{name}".endswith(f".{w}") for name in layers)]
    if lacking:
        there = ", ".join(sorted({name.split(".")[-1] for name in layers}))
        raise ConfigError(
            "this model has none of the layers named by train.lora_target_modules",
            value=", ".join(lacking),
            accepted=f"{ALL}, or some of: {there}",
            next_step=f"--set train.lora_target_modules={ALL}",
        )


def load_adapters(model: Any, folder: Path, section: config_learn.Train, weights: str) -> None:
    """Load the adapters in a folder into a model of `with_lora`.

    Reads `adapter_model.safetensors`; where `weights` is `any` also the older `adapter_model.bin`,
    as tensors only. Raises `ConfigError` where their shapes are not those of the model.
    """
    from peft import set_peft_model_state_dict

    saved = read_json(folder / "adapter_config.json") or {}
    for name, setting in NUMBERS.items():
        value = saved.get(name)
        now = getattr(section, setting)
        if value not in (None, now):
            raise _mismatch(
                folder, f"{name} = {value}, the recipe's is {now}", f"--set train.{setting}={value}"
            )
    state = read_adapters(folder, weights)
    differ = differing(model, state)
    if differ:
        adapted = [name.split(".lora_")[0] for name in state if ".lora_" in name]
        modules = sorted({name.split(".")[-1] for name in adapted})
        listed = "[" + ", ".join(f'"{module}"' for module in modules) + "]"
        raise _mismatch(
            folder,
            f"{len(differ)} matrices differ, one is {min(differ)}",
            f"--set train.lora_target_modules='{listed}'",
        )
    set_peft_model_state_dict(model, state)


def _mismatch(folder: Path, difference: str, next_step: str) -> ConfigError:
    return ConfigError(
        f"these adapters do not fit the recipe: {difference}",
        value=folder,
        accepted="adapters of the same base model, rank, scale and layers",
        next_step=next_step,
    )
