"""Low-rank adapters in a folder: their tensors, and a model with them.

`adapter_model.bin`, the older form, is read as tensors only. Knows nothing about training.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from groundrec.core.errors import ConfigError, MissingDependency

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["CONFIG", "FILES", "PICKLED", "differing", "read_adapters", "with_adapters"]

CONFIG = "adapter_config.json"
"""The file that distinguishes a folder of adapters from that of a model."""
SAFE = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"
FILES = (SAFE, PICKLED)


def read_adapters(folder: Path, weights: str = "safetensors") -> dict[str, torch.Tensor]:
    """Return the tensors of the adapters in a folder, by name.

    Pickled ones are read where `weights` is `any`. Raises `ConfigError` where there are none, or
    where the file holds something else.
    """
    if (file := folder / SAFE).is_file():
        try:
            return load_file(file)
        except SafetensorError as error:
            raise _damaged(file) from error
    file = folder / PICKLED
    if not file.is_file():
        raise ConfigError(
            "no adapters in this folder",
            value=folder,
            accepted=f"{CONFIG} and {' or '.join(FILES)}",
        )
    if weights != "any":
        raise ConfigError(
            "these adapters are pickled",
            value=file,
            accepted=f"{SAFE}, which contains tensors only",
            next_step=(
                "--set model.weights=any reads the tensors of pickled weights, and runs nothing"
            ),
        )
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        raise _damaged(file) from error


def with_adapters(
    model: PreTrainedModel, folder: Path, weights: str = "safetensors", *, merge: bool = True
) -> PreTrainedModel:
    """Return the model with the adapters in a folder: merged into its weights, or beside them.

    The model is changed in place. Raises `ConfigError` where they do not fit it.
    """
    try:
        from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
    except ImportError:
        raise MissingDependency("peft", "lora") from None
    state = read_adapters(folder, weights)
    with warnings.catch_warnings():
        # Fields that PEFT has dropped since, and an attribute of transformers by its old name.
        warnings.simplefilter("ignore")
        try:
            config = PeftConfig.from_pretrained(str(folder))
            adapted: Any = get_peft_model(model, config)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise _misfit(folder, error) from None
        if names := differing(adapted, state):
            raise _misfit(folder, f"{len(names)} matrices differ, one is {min(names)}")
        set_peft_model_state_dict(adapted, state)
        found = adapted.merge_and_unload() if merge else adapted.get_base_model()
    return cast("PreTrainedModel", found)


def differing(model: Any, state: dict[str, torch.Tensor]) -> set[str]:
    """Return the names of matrices that a model's adapters lack, have in excess, or in other
    shapes.
    """
    from peft import get_peft_model_state_dict

    own = get_peft_model_state_dict(model)
    return {name for name in state.keys() | own.keys() if _shape(state, name) != _shape(own, name)}


def _shape(state: dict[str, torch.Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(state[name].shape) if name in state else None


def _damaged(file: Path) -> ConfigError:
    return ConfigError(
        "these adapters are damaged, or contain more than tensors"
        if file.name == SAFE
        else "these pickled adapters are damaged, or contain more than tensors",
        value=file,
        accepted="a dictionary of tensors",
        next_step="if you trust the code that wrote them, convert them with it to safetensors",
    )


def _misfit(folder: Path, difference: object) -> ConfigError:
    return ConfigError(
        "these adapters do not fit the base model",
        value=f"{folder}: {difference}",
        accepted="the base model that they were trained on",
        next_step="--base_model with the folder of that model",
    )
