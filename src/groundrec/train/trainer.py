"""transformers' Trainer with the loss of an objective, and its arguments from a recipe.

Knows nothing about what checkpoints contain or what is done between epochs.
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
from torch.utils.data import RandomSampler, Sampler
from transformers import Trainer, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from groundrec.core import config_learn
from groundrec.core.errors import ProcessError, TrainingError
from groundrec.core.files import read_json
from groundrec.core.processes import Processes
from groundrec.core.track import log
from groundrec.models.attention import FLEX, attending, skipping
from groundrec.train.batch import explain_batch
from groundrec.train.finite import FiniteLoss, require_finite
from groundrec.train.judging import MEASURES
from groundrec.train.objectives import Batch, Objective, TreeBatch
from groundrec.train.packing import check_attention
from groundrec.train.precision import resolve_precision
from groundrec.train.rows import PaddedRows, Rows

__all__ = ["ObjectiveTrainer", "arguments"]


class ObjectiveTrainer(Trainer):
    """Trainer with the loss of an objective, averaged over the learned tokens of an optimiser step.

    However the step is divided into micro batches and processes, the mean is the same.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        objective: Objective,
        train_dataset: Rows,
        eval_dataset: Rows | None = None,
        validation_ndcg: Callable[[Any], float] | None = None,
        tree_attention: str = "sdpa",
        **options: Any,
    ) -> None:
        self._objective = objective
        self._rows = train_dataset
        self._validation_ndcg = validation_ndcg
        self._tree_attention = tree_attention
        self._finite = FiniteLoss()
        args = options["args"]
        at_once = args.per_device_train_batch_size * args.world_size if args.world_size > 1 else 1
        train = PaddedRows(train_dataset, at_once, objective.filler)
        valid = None
        if eval_dataset is not None:
            valid = PaddedRows(eval_dataset, at_once, objective.filler)
        super().__init__(
            train_dataset=train,  # type: ignore[arg-type]
            eval_dataset=valid,  # type: ignore[arg-type]
            data_collator=objective.collate,  # type: ignore[arg-type]
            **options,
        )
        self.add_callback(self._finite)  # after the callbacks that ask for a log or a checkpoint

    def any_rank(self, asked: Callable[[], bool]) -> bool:
        """Return whether `asked()` holds on any process; all have to call this."""
        if self.args.world_size == 1:
            return asked()
        here = torch.tensor(float(asked()), device=self.args.device)
        return bool(cast("torch.Tensor", self.accelerator.gather(here[None])).any())

    @property
    def is_sharded(self) -> bool:
        """Whether FSDP or DeepSpeed divides the model among processes."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def shutdown(self) -> None:
        """Leave the process group; a process that ends without this hangs or is aborted.

        The wrapped model goes first: the last holder of the group waits for gloo's threads, and
        would do so with Python's lock, which these threads need in order to free a tensor.
        """
        if self.args.world_size > 1:
            self.model_wrapped = self.model
            self.accelerator.free_memory()
            torch.distributed.destroy_process_group()

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        rows = cast("PaddedRows", self.train_dataset)
        if self.args.train_sampling_strategy != "group_by_length":
            return self._shared_order(RandomSampler(self._rows), rows)
        per_step = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        batch = per_step * self.args.world_size
        order = LengthGroupedSampler(batch, lengths=_lengths(self._rows))
        return self._shared_order(order, rows)

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler[int] | None:
        drawn = torch.Generator().manual_seed(cast("int", self.args.data_seed))
        batch = self.args.eval_batch_size
        order = LengthGroupedSampler(batch, lengths=_lengths(eval_dataset), generator=drawn)
        return self._shared_order(order, eval_dataset)

    def _shared_order(self, order: Sampler[int], rows: PaddedRows) -> Sampler[int]:
        return _SharedOrder(order, len(rows), self.args.device, self.args.world_size)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor | int | None]:
        """Return the micro batches of a step, and how many tokens all processes learn in it."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = [batch.learned_tokens() for batch in batches]
        learned = torch.stack(counts).sum() if counts else torch.tensor(0)
        return batches, cast("torch.Tensor", self.accelerator.gather(learned.to(device))).sum()

    def _prepare_inputs(self, inputs: Batch) -> Batch:  # type: ignore[override]
        return inputs.to(self.args.device)

    def training_step(  # type: ignore[override]
        self, model: torch.nn.Module, inputs: Batch, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Return the loss of a micro batch after adding its gradients.

        A step that teaches nothing has the loss 0 / 0: the mean since the last log stands for it.
        """
        is_tree = isinstance(inputs, TreeBatch)
        # Also around the backward pass, where gradient checkpointing runs the layers again.
        with self._attending(model) if is_tree else nullcontext():
            loss = super().training_step(
                cast("Any", model), cast("Any", inputs), num_items_in_batch
            )
        mean = self._tr_loss / (1 + self.state.global_step - self._globalstep_last_logged)
        return torch.where(num_items_in_batch > 0, loss, mean)

    def _attending(self, model: torch.nn.Module) -> AbstractContextManager[None]:
        own = self.accelerator.unwrap_model(model)
        return attending(own, FLEX) if self._tree_attention == FLEX else skipping(own)

    def compute_loss(  # type: ignore[override]
        self,
        model: torch.nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the share of a micro batch in the mean over the learned tokens of its step.

        Distributed engines average the gradients of processes, so the share is multiplied by their
        number.
        """
        own = self.accelerator.unwrap_model(model)
        loss = self._objective.summed_loss(model, inputs, own)
        if model.training:
            self._finite.record(loss, self.state)
            loss = loss * self.accelerator.num_processes / num_items_in_batch
        else:
            loss = loss / inputs.size * self._rows_per_token
        return (loss, {}) if return_outputs else loss

    def evaluation_loop(self, *args: Any, **options: Any) -> Any:
        """Return the validation loss, and NDCG as the main process measures it, for all."""
        output = super().evaluation_loop(*args, **options)
        metrics = cast("Any", output.metrics)
        batch = f"a validation batch after step {self.state.global_step}"
        require_finite(metrics["eval_loss"], batch, self.state.epoch or 0, self.args)
        if self._validation_ndcg:
            model: Any = self.accelerator.unwrap_model(cast("torch.nn.Module", self.model))
            model = model.get_base_model() if hasattr(model, "get_base_model") else model
            ndcg = self._validation_ndcg(model) if self.is_world_process_zero() else 0.0
            shared = torch.tensor([ndcg], device=self.args.device)
            if self.args.world_size > 1:
                torch.distributed.broadcast(shared, 0)
            metrics[MEASURES["ndcg"].key] = float(shared)
        return output

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load moments and step counts, but keep the rates and the decay of the recipe."""
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
            rate * factor(schedule.last_epoch)
            for rate, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
        ]
        for group, settings, rate in zip(optimizer.param_groups, own, rates, strict=True):
            group.update(settings, lr=rate)
        _log_schedule(Path(checkpoint), self.args, rates[0], schedule.base_lrs[0])

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Save a checkpoint; where that fails, remove its files and raise `TrainingError`."""
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
        # torch and safetensors wrap the OSError of a full disk.
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            free = shutil.disk_usage(folder.parent).free / 1e9
            raise TrainingError(
                f"{folder.name} could not be written: {error}",
                value=f"{free:.2f} GB free in {folder.parent}",
                accepted="room for two checkpoints; the previous one is kept",
                next_step="make room, then run the same command with --if-exists resume",
            ) from error

    @cached_property
    def _rows_per_token(self) -> float:
        """Turns a mean over validation rows into the mean over their learned tokens."""
        rows = cast("PaddedRows", self.eval_dataset)
        batches = (self._objective.collate([rows[i]]) for i in range(len(rows)))
        return len(rows) / max(1, sum(int(batch.learned_tokens()) for batch in batches))


def _log_schedule(checkpoint: Path, args: TrainingArguments, rate: float, peak: float) -> None:
    """Say where the schedule goes on, if the checkpoint's was made for fewer epochs."""
    before = read_json(checkpoint / "trainer_state.json")["num_train_epochs"]
    if before >= args.num_train_epochs:
        return
    log.info(
        f"  the schedule, made for {before:g} epochs, is stretched to {args.num_train_epochs:g}:"
        f" the learning rate goes on at {rate:.2g}, {rate / peak:.0%} of its peak"
    )
    if rate < peak / 2:
        log.info(
            "  for a new schedule, start from the trained weights alone: the folder train of that"
            " run, with epochs that do not count its own"
        )


def _lengths(rows: Rows | PaddedRows) -> list[int]:
    return [len(rows[i].input_ids) for i in range(len(rows))]


class _SharedOrder(Sampler[int]):
    """An epoch's order, drawn by the main process for all; fillers come last."""

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
    """One device per process: DataParallel would divide a batch, but not its learned tokens."""

    @property
    def n_gpu(self) -> int:
        """The number of devices of this process, at most one."""
        return min(1, super().n_gpu)


def arguments(section: config_learn.Train, seed: int, folder: Path) -> TrainingArguments:
    """Return the Trainer's arguments; raise `ConfigError` where the batch does not divide."""
    precision = resolve_precision(section)
    check_attention(section)
    if "ACCELERATE_MIXED_PRECISION" in os.environ:  # the recipe decides, not the launcher's file
        os.environ["ACCELERATE_MIXED_PRECISION"] = "no" if precision == "fp32" else precision
    args = _Arguments(
        output_dir=str(folder),
        per_device_train_batch_size=section.micro_batch_size,
        per_device_eval_batch_size=section.micro_batch_size,
        num_train_epochs=section.epochs,
        learning_rate=section.learning_rate,
        lr_scheduler_type=section.schedule,
        warmup_steps=section.warmup_steps,
        weight_decay=section.weight_decay,
        train_sampling_strategy="group_by_length" if section.group_by_length else "random",
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_steps=10,
        logging_nan_inf_filter=False,  # it waits for each loss; `FiniteLoss` checks before a log
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
        # Without this, processes on CPUs do not form a group.
        use_cpu=torch.accelerator.current_accelerator() is None,
        seed=seed,
        data_seed=seed,
    )
    _require_one_group(args.world_size)
    explain_batch(section, args.world_size)
    per_step = section.micro_batch_size * args.world_size
    args.gradient_accumulation_steps = section.batch_size // per_step
    return args


def _require_one_group(joined: int) -> None:
    """Raise `ProcessError` unless all processes that were started train together."""
    started = Processes.of().world_size
    if joined != started:
        raise ProcessError(
            "not all processes would train together: each group would train its own model",
            value=f"{started} started, {joined} joined",
            accepted="processes that torch.distributed can join",
            next_step="torchrun --standalone --nproc_per_node 2 -m groundrec run RECIPE",
        )
