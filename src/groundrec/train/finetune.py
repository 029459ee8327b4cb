"""Fine-tuning a language model to write the next title, full or with LoRA, by transformers' Trainer.

Resume, schedules and devices are the Trainer's work; here are how a loss is normalised, and checkpoints that are used
only when whole. Knows nothing about searching or ranking.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from rich.progress import Progress
from safetensors.torch import load_file, save_file
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from groundrec.core import config_learn
from groundrec.core.errors import ConfigError, MissingDependency
from groundrec.core.stop import saving
from groundrec.core.track import Metrics, log, progress_bar
from groundrec.core.types import PreparedDataset
from groundrec.models.language import LanguageModel
from groundrec.text.tokens import Encoder
from groundrec.text.trie import Trie
from groundrec.train.batch import explain_batch
from groundrec.train.rows import Row, Rows, collate, learned_tokens, summed_loss, training_rows, validation_rows
from groundrec.train.stopping import SavesWhenAsked

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["finetune", "last_whole_checkpoint"]

VALIDATION_ROWS = 500
"""Validation queries behind the validation loss of each epoch."""


def finetune(
    language_model: LanguageModel,
    dataset: PreparedDataset,
    encoder: Encoder,
    trie: Trie,
    section: config_learn.Train,
    seed: int,
    folder: Path,
    metrics: Metrics,
) -> LanguageModel:
    """Train, and return the model of the best validation loss. Goes on from the last whole checkpoint in `folder`.

    Given the same inputs, an interrupted and resumed training ends with the same weights on one CPU process.
    """
    if section.learn == "choices":
        encoder = replace(encoder, learned=trie.choices(encoder.answers))
    model = _with_lora(language_model.model, section) if section.method == "lora" else language_model.model
    checkpoint = last_whole_checkpoint(folder)
    mean = _Mean(model, section, checkpoint)
    stopping = [EarlyStoppingCallback(section.patience)] if section.patience else []
    trainer = _GroundedTrainer(
        model=model,
        args=_arguments(section, seed, folder),
        train_dataset=training_rows(dataset, encoder, section, seed),
        eval_dataset=validation_rows(dataset, encoder, VALIDATION_ROWS, seed),
        data_collator=collate,
        callbacks=[mean, _Reporter(metrics), *stopping],
    )
    trainer.remove_callback(_printer())
    log.info(f"  {explain_batch(section, trainer.args.world_size)}")
    if checkpoint:
        log.info(f"  going on from {checkpoint.name}")
    with saving() as asked:
        trainer.callback_handler.callbacks.insert(0, SavesWhenAsked(asked, checkpoint))
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if section.average:
        mean.put()
        log.info(f"  the mean of {mean.epochs} epochs' weights: validation loss {trainer.evaluate()['eval_loss']:.4f}")
    if encoder.trimmed:
        log.info(f"  {encoder.trimmed} prompts lost their oldest history to cutoff_len = {encoder.cutoff_len}")
    model.eval()
    return LanguageModel(model, language_model.tokenizer)


def last_whole_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that was written to its end; half-written ones are removed, and said so."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]), reverse=True)
    for path in found:
        if (path / _WHOLE).is_file():
            return path
        log.warning(f"  {path.name} is half-written: removed, the one before it is used")
        shutil.rmtree(path)
    return None


_WHOLE = "whole.json"


class _GroundedTrainer(Trainer):
    """Means over the learned tokens of an optimiser step, however it is divided into micro batches and processes."""

    loss_is_scaled_for_ga = True

    def get_batch_samples(
        self, epoch_iterator: Iterator[Row], num_batches: int, device: torch.device
    ) -> tuple[list[Row], torch.Tensor | int | None]:
        """Return the micro batches of an optimiser step, and how many tokens it learns on all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        learned = torch.stack([learned_tokens(batch) for batch in batches]).sum() if batches else torch.tensor(0)
        return batches, cast("torch.Tensor", self.accelerator.gather(learned.to(device))).sum()

    def compute_loss(
        self, model: torch.nn.Module, inputs: Row, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of a micro batch as its part of the mean over the learned tokens of the optimiser step.

        Distributed engines average the gradients of processes, so each counts as often as there are processes.
        """
        loss, outputs = summed_loss(model, inputs, self.accelerator.unwrap_model(model))
        if model.training:
            loss = loss * self.accelerator.num_processes / num_items_in_batch
        else:
            loss = loss / len(inputs["input_ids"]) * self._rows_per_token
        return (loss, outputs) if return_outputs else loss

    @cached_property
    def _rows_per_token(self) -> float:
        """What makes a mean over validation rows the mean over their learned tokens, however they are batched."""
        rows = cast("Rows", self.eval_dataset)
        return len(rows) / max(1, sum(int(learned_tokens(collate([rows[i]]))) for i in range(len(rows))))


class _Mean(TrainerCallback):
    """The running mean of the trained weights at the end of each epoch in the last part of the training."""

    FILE = "mean.safetensors"

    def __init__(self, model: torch.nn.Module, section: config_learn.Train, checkpoint: Path | None) -> None:
        self._weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._first = section.epochs * (1 - section.average)
        self._sum: dict[str, torch.Tensor] = {}
        self.epochs = 0
        if checkpoint and (checkpoint / self.FILE).is_file():
            self._sum = load_file(checkpoint / self.FILE)
            self.epochs = int(self._sum.pop("epochs"))

    @torch.no_grad()
    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if (state.epoch or 0) <= self._first + 1e-6:
            return
        self.epochs += 1
        for name, weight in self._weights.items():
            self._sum[name] = self._sum.get(name, 0) + weight.detach().float()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.epochs and state.is_world_process_zero:
            path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / self.FILE
            save_file({**self._sum, "epochs": torch.tensor(self.epochs)}, path)

    @torch.no_grad()
    def put(self) -> None:
        """Give the model the mean weights."""
        for name, total in self._sum.items():
            self._weights[name].copy_(total.to(self._weights[name].device) / self.epochs)


class _Reporter(TrainerCallback):
    """Progress bar, `metrics.jsonl`, and the mark of a whole checkpoint."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._bar: Progress | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar = progress_bar()
        self._bar.start()
        self._task = self._bar.add_task("fine-tuning", total=state.max_steps, completed=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._bar:
            self._bar.update(self._task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        values = {k: v for k, v in (logs or {}).items() if k in ("loss", "eval_loss", "learning_rate", "grad_norm")}
        if not values:
            return
        self._metrics.write(step=state.global_step, epoch=round(state.epoch or 0, 3), **values)
        if "eval_loss" in values:
            log.info(f"  epoch {state.epoch or 0:.0f}: validation loss {values['eval_loss']:.4f}")

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            (folder / _WHOLE).write_text(json.dumps({"step": state.global_step}), encoding="utf-8")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._bar:
            self._bar.stop()


def _arguments(section: config_learn.Train, seed: int, folder: Path) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=section.micro_batch_size,
        per_device_eval_batch_size=section.micro_batch_size,
        num_train_epochs=section.epochs,
        learning_rate=section.learning_rate,
        lr_scheduler_type=section.schedule,
        warmup_steps=section.warmup_steps,
        weight_decay=section.weight_decay,
        train_sampling_strategy="group_by_length",
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_steps=10,
        save_total_limit=2,
        load_best_model_at_end=not section.average,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        prediction_loss_only=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to=[],
        seed=seed,
        data_seed=seed,
    )
    explain_batch(section, arguments.world_size)
    arguments.gradient_accumulation_steps = section.batch_size // (section.micro_batch_size * arguments.world_size)
    return arguments


def _with_lora(model: PreTrainedModel, section: config_learn.Train) -> Any:
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


def _printer() -> type[TrainerCallback]:
    from transformers import PrinterCallback

    return PrinterCallback
