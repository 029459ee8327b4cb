"""transformers' Trainer with the loss of an optimiser step, and its arguments from a recipe.

Knows nothing about checkpoints' contents or what is done between epochs.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch.utils.data import Sampler
from transformers import Trainer, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from groundrec.core import config_learn
from groundrec.core.errors import ProcessError, TrainingError
from groundrec.core.processes import Processes
from groundrec.models.attention import FLEX, attending, skipping
from groundrec.train.batch import explain_batch
from groundrec.train.finite import FiniteLoss, require_finite
from groundrec.train.judging import MEASURES
from groundrec.train.packing import check_attention
from groundrec.train.precision import resolve_precision
from groundrec.train.rows import PaddedRows, Row, Rows, collate, learned_tokens, summed_loss

__all__ = ["ObjectiveTrainer", "arguments"]


class ObjectiveTrainer(Trainer):
    """Means over the learned tokens of an optimiser step, however it is divided into micro batches
    and processes.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        train_dataset: Rows,
        eval_dataset: Rows | None = None,
        validation_ndcg: Callable[[Any], float] | None = None,
        tree_attention: str = "sdpa",
        **options: Any,
    ) -> None:
        self._rows = train_dataset
        self._validation_ndcg = validation_ndcg
        args = options["args"]
        self._tree_attention = tree_attention
        self._finite = FiniteLoss()
        at_once = args.per_device_train_batch_size * args.world_size if args.world_size > 1 else 1
        valid = PaddedRows(eval_dataset, at_once) if eval_dataset is not None else None
        super().__init__(
            train_dataset=PaddedRows(train_dataset, at_once),  # type: ignore[arg-type]
            eval_dataset=valid,  # type: ignore[arg-type]
            data_collator=collate,
            **options,
        )
        self.add_callback(self._finite)  # behind those that ask for a log or a checkpoint

    def any_rank(self, asked: Callable[[], bool]) -> bool:
        """Return whether any process is asked; all have to call this."""
        if self.args.world_size == 1:
            return asked()
        here = torch.tensor(float(asked()), device=self.args.device)
        return bool(cast("torch.Tensor", self.accelerator.gather(here[None])).any())

    @property
    def shards(self) -> bool:
        """Whether an engine holds the model in pieces."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def shutdown(self) -> None:
        """End what joins the processes; a process that ends without this waits for the others, or
        is aborted.

        The wrapped model goes first: the group's last holder waits for gloo's threads, and it would
        wait with Python's lock, which they need to let go of a tensor.
        """
        if self.args.world_size > 1:
            self.model_wrapped = self.model
            self.accelerator.free_memory()
            torch.distributed.destroy_process_group()

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        a = self.args
        batch = a.per_device_train_batch_size * a.gradient_accumulation_steps * a.world_size
        order = LengthGroupedSampler(batch, dataset=self._rows)  # type: ignore[arg-type]
        return _Order(order, len(cast("PaddedRows", self.train_dataset)), a.device, a.world_size)

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler[int] | None:
        own = super()._get_eval_sampler(eval_dataset)
        return own and _Order(own, len(eval_dataset), self.args.device, self.args.world_size)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Row], num_batches: int, device: torch.device
    ) -> tuple[list[Row], torch.Tensor | int | None]:
        """Return the micro batches of an optimiser step, and how many tokens it learns on all
        processes.
        """
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        learned = (
            torch.stack([learned_tokens(batch) for batch in batches]).sum()
            if batches
            else torch.tensor(0)
        )
        return batches, cast("torch.Tensor", self.accelerator.gather(learned.to(device))).sum()

    def training_step(
        self, model: torch.nn.Module, inputs: Row, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Return the loss of a micro batch, whose gradients are added to those there are.

        Of a step that teaches nothing, whose loss is 0 / 0, it is the mean of the steps since the
        last log.
        """
        with self._attending(model) if "ends" in inputs else nullcontext():
            loss = super().training_step(cast("Any", model), inputs, num_items_in_batch)
        mean = self._tr_loss / (1 + self.state.global_step - self._globalstep_last_logged)
        return torch.where(num_items_in_batch > 0, loss, mean)

    def _attending(self, model: torch.nn.Module) -> AbstractContextManager[None]:
        own = self.accelerator.unwrap_model(model)
        return attending(own, FLEX) if self._tree_attention == FLEX else skipping(own)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Row,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the loss of a micro batch as its part of the mean over the learned tokens of the
        optimiser step.

        Distributed engines average the gradients of processes, so each counts as often as there are
        processes.
        """
        loss, outputs = summed_loss(model, inputs, self.accelerator.unwrap_model(model))
        if model.training:
            self._finite.record(loss, self.state)
            loss = loss * self.accelerator.num_processes / num_items_in_batch
        else:
            loss = loss / len(inputs["input_ids"]) * self._rows_per_token
        return (loss, outputs) if return_outputs else loss

    def evaluation_loop(self, *args: Any, **options: Any) -> Any:
        """Return the validation loss, and what the judge says of the model; the main process asks
        it, for all.
        """
        output = super().evaluation_loop(*args, **options)
        where = f"a validation batch behind step {self.state.global_step}"
        metrics = cast("Any", output.metrics)
        require_finite(metrics["eval_loss"], where, self.state.epoch or 0, self.args)
        if self._validation_ndcg:
            model: Any = self.accelerator.unwrap_model(cast("torch.nn.Module", self.model))
            model = model.get_base_model() if hasattr(model, "get_base_model") else model
            found = torch.tensor(
                [self._validation_ndcg(model) if self.is_world_process_zero() else 0.0],
                device=self.args.device,
            )
            if self.args.world_size > 1:
                torch.distributed.broadcast(found, 0)
            metrics[MEASURES["ndcg"].key] = float(found)
        return output

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load moments and steps; rates and decay are those of the recipe, which may have changed
        since.
        """
        if self.is_deepspeed_enabled or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        optimizer = cast("Any", self.optimizer)
        schedule = cast("Any", self.lr_scheduler)
        own = [
            {key: value for key, value in group.items() if key != "params"}
            for group in optimizer.param_groups
        ]
        super()._load_optimizer_and_scheduler(checkpoint)
        schedule.base_lrs = [group["initial_lr"] for group in own]
        rates = [
            rate * part(schedule.last_epoch)
            for rate, part in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
        ]
        for group, mine, rate in zip(optimizer.param_groups, own, rates, strict=True):
            group.update(mine, lr=rate)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Save one; where the disk is full, remove what was begun and raise `TrainingError`. Older
        ones are kept.
        """
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
        except (
            OSError,
            RuntimeError,
            SafetensorError,
        ) as error:  # torch and safetensors hide the OSError of a full disk
            shutil.rmtree(folder, ignore_errors=True)
            raise TrainingError(
                f"{folder.name} could not be written: {error}",
                value=(
                    f"{shutil.disk_usage(folder.parent).free / 1e9:.2f} GB free in {folder.parent}"
                ),
                accepted="room for two checkpoints; the one before is kept",
                next_step="make room, then the same command with --if-exists resume",
            ) from error

    @cached_property
    def _rows_per_token(self) -> float:
        """What makes a mean over validation rows the mean over their learned tokens, however they
        are batched.
        """
        rows = cast("PaddedRows", self.eval_dataset)
        return len(rows) / max(
            1, sum(int(learned_tokens(collate([rows[i]]))) for i in range(len(rows)))
        )


class _Order(Sampler[int]):
    """An epoch's order, drawn by the main process for all, as one process would; what teaches
    nothing comes last.
    """

    def __init__(
        self, rows: Sampler[int], length: int, device: torch.device, world_size: int
    ) -> None:
        self._rows = rows
        self._length = length
        self._device = device
        self._world_size = world_size

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        order = list(self._rows)
        order += range(len(order), self._length)
        if self._world_size > 1:
            shared = torch.tensor(order, device=self._device)
            torch.distributed.broadcast(shared, 0)
            order = shared.tolist()
        return iter(order)


class _Arguments(TrainingArguments):
    """One device for each process: torch's DataParallel would divide a batch, and not what is
    learned of it.
    """

    @property
    def n_gpu(self) -> int:
        """The devices of this process, at most one."""
        return min(1, super().n_gpu)


def arguments(section: config_learn.Train, seed: int, folder: Path) -> TrainingArguments:
    """Return the Trainer's arguments; raise `ConfigError` where the batch does not divide."""
    precision = resolve_precision(section)
    check_attention(section)
    if "ACCELERATE_MIXED_PRECISION" in os.environ:  # the recipe decides, not the launcher's file
        os.environ["ACCELERATE_MIXED_PRECISION"] = "no" if precision == "fp32" else precision
    found = _Arguments(
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
        logging_nan_inf_filter=False,  # would wait for each loss; `FiniteLoss` looks at them before a log
        save_total_limit=2,
        load_best_model_at_end=not section.average,
        metric_for_best_model=MEASURES[section.select].key,
        greater_is_better=MEASURES[section.select].greater_is_better,
        prediction_loss_only=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
        disable_tqdm=True,
        report_to=[],
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        activation_checkpointing=section.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        use_cpu=torch.accelerator.current_accelerator()
        is None,  # unsaid, processes on CPUs would not join
        seed=seed,
        data_seed=seed,
    )
    if found.world_size != (started := Processes.of().world_size):
        raise ProcessError(
            "training would run in other processes than were started: each would train a model of"
            " its own",
            value=f"{started} started, {found.world_size} would train together",
            accepted="processes that torch.distributed can join",
            next_step="torchrun --standalone --nproc_per_node 2 -m groundrec run RECIPE",
        )
    explain_batch(section, found.world_size)
    found.gradient_accumulation_steps = section.batch_size // (
        section.micro_batch_size * found.world_size
    )
    return found
