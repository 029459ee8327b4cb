"""A trained model as published inference scripts name it: a base model and adapters.

Knows nothing about prompts.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from groundrec.core.errors import ConfigError
from groundrec.models import hubs, language
from groundrec.models.adapters import CONFIG, with_adapters
from groundrec.models.language import LanguageModel

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

__all__ = ["model_files", "model_folder", "open_checkpoint", "open_tokenizer"]

OWN = re.compile(
    r".+\.(safetensors|bin|model|jinja|index\.json)|merges\.txt"
    r"|(adapter_|generation_)?config\.json|(tokenizer|vocab|added_tokens|special_tokens)\w*\.json"
)
"""Names of weights, of their configuration and of a tokenizer's files."""
ANY = "any"
"""Weights are read in either form, pickled ones as tensors only."""


def model_folder(name: str) -> Path:
    """Return the folder of a model, downloaded where `name` is of a hub; raise `ConfigError`."""
    if hubs.is_of_hub(name):
        return Path(hubs.fetch(name, ANY).path)
    path = Path(name)
    if any((path / file).is_file() for file in ("config.json", CONFIG)):
        return path
    raise ConfigError(
        "no such model",
        value=name,
        accepted="a folder with config.json, tokenizer and weights, or hf:ORG/NAME",
        next_step="--base_model FOLDER",
    )


def model_files(folder: Path) -> list[Path]:
    """Return the files of a folder that decide what its model answers, and no others.

    Published loops write their results into the folder of the model.
    """
    return sorted(file for file in folder.iterdir() if OWN.fullmatch(file.name))


def open_tokenizer(base: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model's folder."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(language.tokenizer_folder(base), local_files_only=True)


def open_checkpoint(
    base: Path, adapters: Path | None, dtype: torch.dtype, *, in_8bit: bool = False
) -> LanguageModel:
    """Return a base model with its adapters merged, on this process's device, for inference.

    With `in_8bit` the base model's layers are quantised and the adapters stay beside them.
    """
    import torch

    lm = language.load(base, ANY)
    if in_8bit:
        lm = language.in_bits(lm, 8, dtype)
        if adapters:
            lm = LanguageModel(with_adapters(lm.model, adapters, ANY, merge=False), lm.tokenizer)
        lm.model.eval()
        return lm
    if adapters:
        # Merged in full precision: half of it would round the sum, not only its parts.
        model = lm.model.to(torch.float32)  # type: ignore[arg-type]
        lm = LanguageModel(with_adapters(model, adapters, ANY), lm.tokenizer)
    device = language.default_device()
    lm.model.to(device=device, dtype=dtype).eval()  # type: ignore[arg-type]
    return lm
