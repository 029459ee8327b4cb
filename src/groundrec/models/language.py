"""Open language models from random weights or a folder, and save them as safetensors.

Knows nothing about catalogues or prompts. Never runs code that came with a checkpoint.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

from groundrec.core import config_model
from groundrec.core.errors import ConfigError, MissingDependency
from groundrec.core.files import read_json
from groundrec.core.processes import Processes
from groundrec.core.registry import names, resolve
from groundrec.models.adapters import CONFIG as ADAPTERS
from groundrec.models.adapters import with_adapters
from groundrec.text.tokens import END, PAD, START, train_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "LanguageModel",
    "default_device",
    "folder",
    "in_bits",
    "keep_merged",
    "load",
    "open_base",
    "require_bits",
    "scratch",
    "tokenizer_folder",
    "with_tokens",
]


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model and the tokenizer it was trained with."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def save(self, path: Path) -> None:
        """Write weights (safetensors), configuration and tokenizer into the folder `path`."""
        self.model.save_pretrained(path)
        self.tokenizer.save_pretrained(path)


def default_device() -> torch.device:
    """Return this process's accelerator if there is one, else the CPU."""
    import torch

    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None:
        return torch.device("cpu")
    return torch.device(
        accelerator.type, Processes.of().local_rank % torch.accelerator.device_count()
    )


def open_base(section: config_model.Model, texts: Iterable[str], seed: int) -> LanguageModel:
    """Return the base model of a recipe; a new tokenizer is trained on `texts`."""
    import transformers

    _hush()
    transformers.set_seed(seed)
    name = section.base_model.partition(":")[0]
    name = name if name in names("base_models") else "folder"
    return resolve("base_models", name)(section, texts)


def scratch(section: config_model.Model, texts: Iterable[str]) -> LanguageModel:
    """Return a small Phi with random weights and a BPE tokenizer trained on `texts`."""
    from transformers import PhiConfig, PhiForCausalLM

    s = section.scratch
    if s.hidden % (2 * s.heads):
        raise ConfigError(
            "model.scratch.hidden does not divide into heads",
            value=s.hidden,
            accepted=f"a multiple of {2 * s.heads}",
        )
    tokenizer = train_tokenizer(texts, s.vocabulary)
    shape = PhiConfig(
        vocab_size=len(tokenizer),
        hidden_size=s.hidden,
        intermediate_size=s.feed_forward * s.hidden,
        num_hidden_layers=s.layers,
        num_attention_heads=s.heads,
        max_position_embeddings=4096,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": 1.0,
        },
        attention_dropout=s.dropout,
        resid_pdrop=s.dropout,
        embd_pdrop=s.dropout,
        # The usual 0.02 suits wide models and is too small for narrow ones.
        initializer_range=s.hidden**-0.5 / 3,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=START,
        eos_token_id=END,
    )
    return LanguageModel(PhiForCausalLM(shape), tokenizer)


def folder(section: config_model.Model, _: Iterable[str] = ()) -> LanguageModel:
    """Return the model in the folder `section.base_model`."""
    return load(Path(section.base_model), section.weights)


def load(path: Path, weights: str = "safetensors") -> LanguageModel:
    """Return the model and tokenizer in a folder of transformers' layout or of LoRA adapters.

    Adapters are merged into their base model. With `weights` = `any`, pickled weights are accepted
    too, without running code from them. Raises `ConfigError` if the folder, its model, its
    tokenizer or such weights are missing.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _hush()
    adapters = (path / ADAPTERS).is_file()
    _require(path, [ADAPTERS if adapters else "config.json"], "model")
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder(path), local_files_only=True)
    if adapters:
        return LanguageModel(_with_adapters(path), tokenizer)
    if weights == "safetensors":
        _require_safetensors(path)
    # transformers reads pickled weights by torch.load(weights_only=True).
    model = AutoModelForCausalLM.from_pretrained(path, local_files_only=True, dtype="auto")
    return LanguageModel(model, tokenizer)


def with_tokens(lm: LanguageModel, tokens: Sequence[str]) -> LanguageModel:
    """Return the model with a new embedding for each of `tokens` that its tokenizer does not know.

    The model and the tokenizer are changed in place.
    """
    if lm.tokenizer.add_tokens(list(tokens)):
        rows = cast("torch.Tensor", lm.model.get_input_embeddings().weight)
        if len(lm.tokenizer) > len(rows):
            lm.model.resize_token_embeddings(len(lm.tokenizer))
    return lm


def keep_merged(lm: LanguageModel, path: Path, *, write: bool = True) -> None:
    """Save a model that was merged from adapters to `path`, as the base of new adapters.

    Other models stay in their own folders. Only one of several processes should `write`.
    """
    if (Path(lm.model.name_or_path or "scratch") / ADAPTERS).is_file():
        if write:
            lm.save(path)
        lm.model.name_or_path = str(path)


def in_bits(lm: LanguageModel, bits: int, compute: torch.dtype) -> LanguageModel:
    """Return the model reloaded from its folder with its layers quantised to 4 or 8 bits.

    The quantised weights are frozen, the others in float32. Raises `ConfigError` if the model has
    no folder, and `MissingDependency` without bitsandbytes.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    require_bits()
    from peft import prepare_model_for_kbit_training

    path = lm.model.name_or_path or "scratch"
    if (Path(path) / ADAPTERS).is_file():
        raise ConfigError(
            "a folder of adapters cannot be loaded with quantised weights",
            value=path,
            accepted="the folder of a whole model; train.resume_from continues with adapters",
            next_step=(
                f"--set train.resume_from={path}, and the adapters' base model in model.base_model"
            ),
        )
    _require(Path(path), ["config.json"], "base model")
    four = {
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": compute,
    }
    quantised = (
        BitsAndBytesConfig(load_in_4bit=True, **four)
        if bits == 4
        else BitsAndBytesConfig(load_in_8bit=True)
    )
    model = AutoModelForCausalLM.from_pretrained(
        path,
        local_files_only=True,
        dtype=torch.float32,
        quantization_config=quantised,
        device_map={"": default_device()},
    )
    # peft 0.21 asks transformers 5.24 for an attribute by its old name.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return LanguageModel(
            prepare_model_for_kbit_training(model, use_gradient_checkpointing=False), lm.tokenizer
        )


def require_bits() -> None:
    """Raise `MissingDependency` without bitsandbytes, `ConfigError` on an unsupported device."""
    if find_spec("bitsandbytes") is None:
        raise MissingDependency("bitsandbytes", "qlora")
    if (device := default_device().type) not in ("cuda", "cpu"):
        raise ConfigError(
            "quantised weights need CUDA, or the CPU, which is slow",
            value=device,
            accepted="train.method = lora",
            next_step="--set train.method=lora",
        )


def tokenizer_folder(path: Path) -> Path:
    """Return `path` if it holds a tokenizer, else raise `ConfigError`."""
    _require(path, ["tokenizer.json", "tokenizer.model", "vocab.json"], "tokenizer")
    return path


def _with_adapters(path: Path) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    named = (read_json(path / ADAPTERS) or {}).get("base_model_name_or_path")
    if not named:
        raise ConfigError(
            "these adapters do not name their base model",
            value=path,
            accepted="base_model_name_or_path in adapter_config.json, or both folders named",
            next_step="groundrec inference --base_model BASE --lora_weights ADAPTERS",
        )
    base = Path(named)
    _require(base, ["config.json"], "base model")
    model = AutoModelForCausalLM.from_pretrained(base, local_files_only=True, dtype="auto")
    merged = with_adapters(model, path, "any")
    merged.name_or_path = str(path)
    return merged


def _hush() -> None:
    """Turn off transformers' progress bars and notices; its errors are still shown."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _require_safetensors(path: Path) -> None:
    if not any(path.glob("*.safetensors")):
        raise ConfigError(
            "the folder holds no safetensors",
            value=path,
            accepted="*.safetensors, which cannot hold code",
            next_step="--set model.weights=any loads pickled weights without running their code",
        )


def _require(path: Path, any_of: list[str], what: str) -> None:
    if not path.is_dir():
        raise ConfigError(
            f"no such {what} folder",
            value=path,
            accepted="`scratch`, or a folder with config.json, tokenizer.json and *.safetensors",
            next_step="--set model.base_model=scratch",
        )
    if not any((path / name).is_file() for name in any_of):
        there = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"
        raise ConfigError(
            f"the folder holds no {what}",
            value=path,
            accepted=f"{' or '.join(any_of)}; found {there}",
        )
