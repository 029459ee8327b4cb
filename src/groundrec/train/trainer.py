"""transformers' Trainer with the loss of an optimiser step, and its arguments from a recipe.

Knows nothing about checkpoints' contents or what is done between epochs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from transformers import Trainer, TrainingArguments

from groundrec.core import config_learn
from groundrec.train.batch import explain_batch
from groundrec.train.rows import Row, Rows, collate, learned_tokens, summed_loss

__all__ = ["GroundedTrainer", "arguments"]


class GroundedTrainer(Trainer):
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


def arguments(section: config_learn.Train, seed: int, folder: Path) -> TrainingArguments:
    """Return the Trainer's arguments; raise `ConfigError` where the batch does not divide."""
    found = TrainingArguments(
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
    explain_batch(section, found.world_size)
    found.gradient_accumulation_steps = section.batch_size // (section.micro_batch_size * found.world_size)
    return found
