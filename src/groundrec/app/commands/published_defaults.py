"""The words of the published training scripts, their defaults, and what else those scripts fix.

Facts of BIGRec's `train.py` and D3's `code/train.py`, with the defaults of transformers' Trainer
where a script leaves them. Knows nothing about the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["SCRIPTS", "SETTINGS", "Script", "ScriptName"]

ScriptName = Literal["bigrec", "d3"]


@dataclass(frozen=True)
class Script:
    """A published training script."""

    name: ScriptName
    title: str
    words: Mapping[str, object]
    """Its parameters and their defaults."""
    files: tuple[str, str]
    """The words that name the training and the validation files."""
    fixed: Mapping[str, object]
    """Settings that none of its words decides, and the values that it trains with."""
    unused: Mapping[str, str]
    """Words that it accepts and does not use, and what to use here."""
    differences: tuple[str, ...]
    """What is done differently here."""


SETTINGS: Mapping[str, str] = {
    "base_model": "model.base_model",
    "sample": "train.max_examples",
    "seed": "seed",
    "batch_size": "train.batch_size",
    "micro_batch_size": "train.micro_batch_size",
    "num_epochs": "train.epochs",
    "learning_rate": "train.learning_rate",
    "cutoff_len": "train.cutoff_len",
    "lora_r": "train.lora_r",
    "lora_alpha": "train.lora_alpha",
    "lora_dropout": "train.lora_dropout",
    "lora_target_modules": "train.lora_target_modules",
    "train_on_inputs": "train.train_on_inputs",
    "group_by_length": "train.group_by_length",
    "wandb_project": "track.project",
    "wandb_run_name": "name",
    "wandb_watch": "track.watch",
    "wandb_log_model": "track.model",
    "resume_from_checkpoint": "train.resume_from",
    "category": "model.domain",
}
"""The settings that words decide; what is not among them names files, or is not used."""

HYPERPARAMETERS: Mapping[str, object] = {
    "output_dir": "./lora-alpaca",
    "sample": -1,
    "seed": 0,
    "batch_size": 128,
    "micro_batch_size": 4,
    "num_epochs": 3.0,
    "learning_rate": 3e-4,
    "cutoff_len": 512,
}
SWITCHES: Mapping[str, object] = {
    "train_on_inputs": True,
    "group_by_length": False,
    "wandb_project": "",
    "wandb_run_name": "",
    "wandb_watch": "",
    "wandb_log_model": "",
    "resume_from_checkpoint": "",
}
TRAINER: Mapping[str, object] = {
    "train.schedule": "linear",
    "train.warmup_steps": 20,
    "train.weight_decay": 0.0,
    "train.select": "loss",
    "train.average": 0.0,
    "train.validation_queries": "all",
}
"""What both scripts, or transformers' Trainer for them, always do."""
SEED = "the order of rows and dropout follow --seed; the script always draws them from 42"
LOSS = "the loss is the mean over all tokens of a batch, not the mean of its micro batches' means"

BIGREC = Script(
    "bigrec",
    "BIGRec's train.py",
    words={
        "base_model": "",
        "train_data_path": [""],
        "val_data_path": [""],
        **HYPERPARAMETERS,
        "lora_r": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "lora_target_modules": ["q_proj", "v_proj"],
        **SWITCHES,
    },
    files=("train_data_path", "val_data_path"),
    fixed={"train.method": "lora", "train.patience": 5, **TRAINER},
    unused={},
    differences=(
        "weights are not loaded in 8 bits; --set train.method=qlora --set train.bits=8 does so",
        "a prompt longer than --cutoff_len loses its oldest titles; the script cuts off its end",
        SEED,
        LOSS,
    ),
)
D3 = Script(
    "d3",
    "D3's train.py",
    words={
        "base_model": "",
        "train_file": "",
        "eval_file": "",
        **HYPERPARAMETERS,
        **SWITCHES,
        "local_rank": 0,
        "deepspeed": "./deepspeed.json",
        "category": "",
        "K": 0,
        "version": "base",
    },
    files=("train_file", "eval_file"),
    fixed={
        "train.method": "full",
        "train.patience": 1,
        "train.train_on_inputs": False,
        **TRAINER,
    },
    unused={
        "train_on_inputs": "--set train.train_on_inputs=true",
        "local_rank": "torchrun, which says by itself which process this is",
        "deepspeed": "accelerate launch with a file of groundrec recipes copy accelerate/deepspeed",
        "version": "--base_model",
    },
    differences=(
        "weights are kept in float32, also where bfloat16 computes; the script keeps bfloat16",
        "a prompt longer than --cutoff_len loses its oldest titles; the script cuts off its start",
        SEED,
        LOSS,
    ),
)
SCRIPTS: Mapping[ScriptName, Script] = {"bigrec": BIGREC, "d3": D3}
