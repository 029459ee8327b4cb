"""A language model with low-rank adapters, new ones or some trained before. Knows nothing about
training.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from groundrec.core import config_learn
from groundrec.core.errors import ConfigError, MissingDependency
from groundrec.core.runs import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["load_adapters", "with_lora"]

ALL = "all-linear"
NUMBERS = {"r": "lora_r", "lora_alpha": "lora_alpha"}
"""What adapters must agree in with the recipe, by PEFT's names."""


def with_lora(model: PreTrainedModel, section: config_learn.Train) -> Any:
    """Return the model with LoRA matrices to train, and nothing else to train; raise where it lacks
    a layer.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise MissingDependency("peft", "lora") from None
    wanted = section.lora_target_modules
    layers = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    lacking = (
        [w for w in wanted if not any(f".{name}".endswith(f".{w}") for name in layers)]
        if wanted != ALL
        else []
    )
    if lacking:
        raise ConfigError(
            "this model has none of the layers named by train.lora_target_modules",
            value=", ".join(lacking),
            accepted=(
                f"{ALL}, or some of: {', '.join(sorted({name.split('.')[-1] for name in layers}))}"
            ),
            next_step=f"--set train.lora_target_modules={ALL}",
        )
    lora = LoraConfig(
        r=section.lora_r,
        lora_alpha=section.lora_alpha,
        lora_dropout=section.lora_dropout,
        target_modules=wanted,
        task_type="CAUSAL_LM",
    )
    with (
        warnings.catch_warnings()
    ):  # peft 0.21 asks transformers 5.24 for an attribute by its old name
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(model, lora)


def load_adapters(model: Any, folder: Path, section: config_learn.Train, weights: str) -> None:
    """Give a model of `with_lora` the adapters in `folder`; raise `ConfigError` where they are not
    of its shape.

    Reads `adapter_model.safetensors`, and where `weights` is `any` the older `adapter_model.bin`,
    its numbers alone.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    made_with = read_json(folder / "adapter_config.json") or {}
    for name, setting in NUMBERS.items():
        if (found := made_with.get(name)) not in (None, now := getattr(section, setting)):
            raise _other(
                folder, f"{name} = {found}, the recipe's is {now}", f"--set train.{setting}={found}"
            )
    state = _read(folder, weights)
    own = get_peft_model_state_dict(model)
    differ = {
        name for name in state.keys() | own.keys() if _shape(state, name) != _shape(own, name)
    }
    if differ:
        modules = sorted(
            {name.split(".lora_")[0].split(".")[-1] for name in state if ".lora_" in name}
        )
        listed = "[" + ", ".join(f'"{module}"' for module in modules) + "]"
        raise _other(
            folder,
            f"{len(differ)} matrices differ, one is {min(differ)}",
            f"--set train.lora_target_modules='{listed}'",
        )
    set_peft_model_state_dict(model, state)


def _read(folder: Path, weights: str) -> dict[str, torch.Tensor]:
    if (file := folder / "adapter_model.safetensors").is_file():
        return load_file(file)
    if weights != "any":
        raise ConfigError(
            "these adapters are pickled",
            value=folder / "adapter_model.bin",
            accepted="adapter_model.safetensors, which holds nothing but numbers",
            next_step=(
                "--set model.weights=any reads the numbers of pickled weights, and runs nothing"
            ),
        )
    try:
        return torch.load(folder / "adapter_model.bin", map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError) as error:
        raise ConfigError(
            "these pickled adapters are damaged, or hold more than numbers",
            value=folder / "adapter_model.bin",
            accepted="tensors by name",
            next_step="convert them with the code that wrote them, where you trust it",
        ) from error


def _shape(state: dict[str, torch.Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(state[name].shape) if name in state else None


def _other(folder: Path, difference: str, next_step: str) -> ConfigError:
    return ConfigError(
        f"these adapters are not of the recipe's shape: {difference}",
        value=folder,
        accepted="adapters of the same base model, rank, scale and layers",
        next_step=next_step,
    )
