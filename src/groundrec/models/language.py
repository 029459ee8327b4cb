"""Language models: from random weights or from a folder, and back to disk as safetensors.

Knows nothing about catalogues or prompts. Never runs code that came with a checkpoint.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

from groundrec.core import config_learn
from groundrec.core.errors import ConfigError, MissingDependency
from groundrec.core.processes import Processes
from groundrec.core.registry import names, resolve
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

ADAPTERS = "adapter_config.json"
"""Tells a folder of adapters from one of a model."""


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
    """Return the accelerator where there is one, this process's own where there are several, else
    the CPU.
    """
    import torch

    found = torch.accelerator.current_accelerator()
    if found is None:
        return torch.device("cpu")
    return torch.device(found.type, Processes.of().local_rank % torch.accelerator.device_count())


def open_base(section: config_learn.Model, texts: Iterable[str], seed: int) -> LanguageModel:
    """Return the model a recipe starts from. `texts` are what a new tokenizer learns its words
    from.
    """
    import transformers

    _hush()
    transformers.set_seed(seed)
    name = section.base_model.partition(":")[0]
    name = name if name in names("base_models") else "folder"
    return resolve("base_models", name)(section, texts)


def scratch(section: config_learn.Model, texts: Iterable[str]) -> LanguageModel:
    """Return a small Phi with random weights and a byte-level BPE tokenizer learned from `texts`."""
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
        initializer_range=s.hidden**-0.5
        / 3,  # the usual 0.02 suits wide models; narrow ones start too flat with it
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=START,
        eos_token_id=END,
    )
    return LanguageModel(PhiForCausalLM(shape), tokenizer)


def folder(section: config_learn.Model, _: Iterable[str] = ()) -> LanguageModel:
    """Return the model in the folder `section.base_model`."""
    return load(Path(section.base_model), section.weights)


def load(path: Path, weights: str = "safetensors") -> LanguageModel:
    """Return the model and tokenizer of a folder in transformers' layout, or of LoRA adapters with
    their base.

    `weights` may be `any`: then also pickled ones, read as numbers alone. Raises `ConfigError`
    where the folder is missing, or has no model, no tokenizer or no such weights.
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


def keep_merged(lm: LanguageModel, place: Path, *, write: bool = True) -> None:
    """Let adapters on top of a model that was merged from others name `place` as their base, and
    write it there.

    A model of a folder of its own is left where it is. Of several processes one should `write`.
    """
    if (Path(lm.model.name_or_path or "scratch") / ADAPTERS).is_file():
        if write:
            lm.save(place)
        lm.model.name_or_path = str(place)


def in_bits(lm: LanguageModel, bits: int, compute: torch.dtype) -> LanguageModel:
    """Return the model read anew from its folder, its layers' weights frozen in 4 or 8 bits; the
    others in float32.

    Raises `ConfigError` for a model that came from no folder, `MissingDependency` without
    bitsandbytes.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    require_bits()
    from peft import prepare_model_for_kbit_training

    place = lm.model.name_or_path or "scratch"
    if (Path(place) / ADAPTERS).is_file():
        raise ConfigError(
            "weights in few bits are read from a model's folder, and these are a model with"
            " adapters",
            value=place,
            accepted="the folder of a whole model; train.resume_from goes on with adapters",
            next_step=(
                f"--set train.resume_from={place}, and the adapters' own model in model.base_model"
            ),
        )
    _require(Path(place), ["config.json"], "base model")
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
        place,
        local_files_only=True,
        dtype=torch.float32,
        quantization_config=quantised,
        device_map={"": default_device()},
    )
    with (
        warnings.catch_warnings()
    ):  # peft 0.21 asks transformers 5.24 for an attribute by its old name
        warnings.simplefilter("ignore", FutureWarning)
        return LanguageModel(
            prepare_model_for_kbit_training(model, use_gradient_checkpointing=False), lm.tokenizer
        )


def require_bits() -> None:
    """Raise `MissingDependency` without what holds weights in few bits, `ConfigError` where the
    device cannot.
    """
    if find_spec("bitsandbytes") is None:
        raise MissingDependency("bitsandbytes", "qlora")
    if (device := default_device().type) not in ("cuda", "cpu"):
        raise ConfigError(
            "weights in few bits need CUDA, or the CPU, which is slow",
            value=device,
            accepted="train.method = lora",
            next_step="--set train.method=lora",
        )


def tokenizer_folder(path: Path) -> Path:
    """Return a folder that holds a tokenizer; raise `ConfigError` for another."""
    _require(path, ["tokenizer.json", "tokenizer.model", "vocab.json"], "tokenizer")
    return path


def _with_adapters(path: Path) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    try:
        from peft import PeftConfig, PeftModel
    except ImportError:
        raise MissingDependency("peft", "lora") from None
    base = Path(PeftConfig.from_pretrained(str(path)).base_model_name_or_path or "")
    _require(base, ["config.json"], "base model")
    model = AutoModelForCausalLM.from_pretrained(base, local_files_only=True, dtype="auto")
    with (
        warnings.catch_warnings()
    ):  # peft 0.21 asks transformers 5.24 for an attribute by its old name
        warnings.simplefilter("ignore", FutureWarning)
        merged: PreTrainedModel = PeftModel.from_pretrained(model, str(path)).merge_and_unload()
    merged.name_or_path = str(path)
    return merged


def _hush() -> None:
    """Leave progress bars and notices to groundrec; transformers' errors still come through."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _require_safetensors(path: Path) -> None:
    if not any(path.glob("*.safetensors")):
        raise ConfigError(
            "the folder holds no safetensors",
            value=path,
            accepted="*.safetensors, which hold nothing but numbers",
            next_step=(
                "--set model.weights=any reads the numbers of pickled weights, and runs nothing"
            ),
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
