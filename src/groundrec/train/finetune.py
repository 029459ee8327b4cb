"""Fine-tuning a language model to write the next title, full or with LoRA, by transformers' Trainer.

Resume, schedules and devices are the Trainer's work; here are the rows it sees, a loss that computes logits only
where something is learned, and checkpoints that are used only when whole. Knows nothing about searching or ranking.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from rich.progress import Progress
from safetensors.torch import load_file, save_file
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from groundrec.core import config_learn
from groundrec.core.errors import ConfigError, MissingDependency, TrainingError
from groundrec.core.stop import saving
from groundrec.core.track import Metrics, log, progress_bar
from groundrec.core.types import PreparedDataset, Queries
from groundrec.models.language import LanguageModel, logits_only
from groundrec.text.tokens import IGNORED, Encoder, Example
from groundrec.text.trie import Trie
from groundrec.train.stopping import SavesWhenAsked

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Rows", "explain_batch", "finetune", "last_whole_checkpoint", "training_rows"]

T = TypeVar("T")
VALIDATION_ROWS = 500
"""Validation queries behind the validation loss of each epoch."""


Row = dict[str, torch.Tensor]


class Rows(Dataset[Row]):
    """Training rows as the Trainer reads them. Row `i` of epoch `e` is always the same."""

    def __init__(self, length: int, example: Callable[[int, int], Example]) -> None:
        self._length, self._example, self._epoch = length, example, 0

    def set_epoch(self, epoch: int) -> None:
        """Move on to an epoch; called by the data loader, on resume too."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> Row:
        row = self._example(i, self._epoch)
        return {"input_ids": torch.from_numpy(row.input_ids).long(), "labels": torch.from_numpy(row.labels).long()}


def training_rows(dataset: PreparedDataset, encoder: Encoder, section: config_learn.Train, seed: int) -> Rows:
    """Return the rows of the training split: whole sequences for a running template, else one row per target."""
    if encoder.template.running:
        rows: Rows = _RunningRows(dataset.train, encoder, section, seed)
    else:
        examples = _examples(dataset.train, encoder, section.max_examples, seed, section.train_on_inputs)
        rows = Rows(len(examples), lambda i, _: examples[i])
    if not len(rows):
        raise TrainingError("no training examples", accepted="a data set with training queries that have a history")
    return rows


class _RunningRows(Rows):
    """Rows that hold each user's items once, cut at `cutoff_len`.

    Each epoch draws anew where the cuts fall, how the items of one moment, which have no order, follow each other,
    and which items are left out. A user has as many rows in every epoch; the last may be empty.
    """

    def __init__(self, queries: Queries, encoder: Encoder, section: config_learn.Train, seed: int) -> None:
        self._sequences, self._encoder, self._section, self._seed = queries.sequences(), encoder, section, seed
        self._moments = np.append(0, np.cumsum(np.diff(queries.moments()) != 0))
        rows = [(u, j) for u, items in enumerate(self._sequences) for j in range(len(encoder.cuts(items)))]
        self._rows = _sample(rows, section.max_examples, seed)
        super().__init__(len(self._rows), self._row)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the cuts of an epoch."""
        super().set_epoch(epoch)
        shares = np.random.default_rng([self._seed, epoch]).random(len(self._sequences))
        self._cuts = [self._encoder.cuts(items, s) for items, s in zip(self._sequences, shares, strict=True)]

    def _row(self, i: int, epoch: int) -> Example:
        user, piece = self._rows[i]
        cuts = self._sequences.offsets[user] + self._cuts[user]
        a, b = cuts[piece : piece + 2] if piece + 1 < len(cuts) else (cuts[-1], cuts[-1])
        draw = np.random.default_rng([self._seed, epoch, i]).random((2, b - a))
        order = np.lexsort([draw[0], self._moments[a:b]])
        kept = order[draw[1] >= self._section.drop_items]
        return self._encoder.running(self._sequences.values[a:b][kept])


def _examples(
    queries: Queries, encoder: Encoder, limit: int | None, seed: int, train_on_inputs: bool = False
) -> list[Example]:
    """Return one row per target of the queries that have a history; a random `limit` of rows where given."""
    some = queries.take(np.flatnonzero(queries.history.lengths > 0))
    pairs = [(query.history, int(target)) for query in some for target in query.targets]
    chosen = _sample(pairs, limit, seed)
    return [encoder.example(history, target, train_on_inputs=train_on_inputs) for history, target in chosen]


def _sample(rows: list[T], limit: int | None, seed: int) -> list[T]:
    if limit is None or limit >= len(rows):
        return rows
    chosen = np.random.default_rng(seed).choice(len(rows), limit, replace=False)
    return [rows[i] for i in np.sort(chosen)]


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
    validation = _examples(dataset.valid, encoder, VALIDATION_ROWS, seed)
    checkpoint = last_whole_checkpoint(folder)
    mean = _Mean(model, section, checkpoint)
    stopping = [EarlyStoppingCallback(section.patience)] if section.patience else []
    trainer = _GroundedTrainer(
        model=model,
        args=_arguments(section, seed, folder),
        train_dataset=training_rows(dataset, encoder, section, seed),
        eval_dataset=Rows(len(validation), lambda i, _: validation[i]),
        data_collator=_collate,
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


def explain_batch(section: config_learn.Train, world_size: int = 1) -> str:
    """Return how `batch_size` comes about; raise `ConfigError` where it cannot."""
    per_step = section.micro_batch_size * world_size
    if section.batch_size % per_step:
        raise ConfigError(
            "train.batch_size does not divide into micro batches",
            value=section.batch_size,
            accepted=f"a multiple of micro_batch_size × processes = {section.micro_batch_size} × {world_size}",
            next_step=f"--set train.batch_size={max(per_step, section.batch_size // per_step * per_step)}",
        )
    steps = section.batch_size // per_step
    processes = f"{world_size} process{'es' * (world_size > 1)}"
    return f"batch {section.batch_size} = {section.micro_batch_size} per step × {steps} accumulation × {processes}"


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
    """Computes logits only for the positions whose next token is learned."""

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        labels = torch.nn.functional.pad(inputs["labels"][:, 1:], (0, 1), value=IGNORED)
        learned = labels != IGNORED
        with logits_only(self.accelerator.unwrap_model(model), learned):
            outputs = model(input_ids=inputs["input_ids"], use_cache=False)
        loss = torch.nn.functional.cross_entropy(outputs.logits.float(), labels[learned], reduction="sum")
        loss = loss / (num_items_in_batch if num_items_in_batch is not None else learned.sum())
        return (loss, outputs) if return_outputs else loss


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


def _collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Pad on the right. A causal model never looks there, so no attention mask is needed."""
    return {
        "input_ids": pad_sequence([r["input_ids"] for r in rows], batch_first=True, padding_value=0),
        "labels": pad_sequence([r["labels"] for r in rows], batch_first=True, padding_value=IGNORED),
    }


def _printer() -> type[TrainerCallback]:
    from transformers import PrinterCallback

    return PrinterCallback
