"""Fine-tuning of a language model to write the next title, full or with LoRA.

Resuming, schedules and devices are the work of transformers' Trainer; this module chooses what is
trained and where from, averages weights and reports. Knows nothing about searching or ranking.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from safetensors.torch import load_file, save_file
from transformers import PrinterCallback, TrainerCallback

from groundrec.core import config_learn
from groundrec.core.errors import ConfigError
from groundrec.core.stop import defer_stop
from groundrec.core.track import Metrics, log, progress_bar
from groundrec.models.language import LanguageModel, load
from groundrec.text.trie import Trie
from groundrec.train.adapters import load_adapters, with_lora
from groundrec.train.batch import explain_batch
from groundrec.train.gradients import GradientHistograms
from groundrec.train.judging import MEASURES, Patience
from groundrec.train.objectives import CrossEntropy, Objective
from groundrec.train.precision import resolve_precision, set_precision
from groundrec.train.rows import Domain
from groundrec.train.start import (
    COMPLETE,
    StartPoint,
    copy_checkpoint,
    last_complete_checkpoint,
    trained_epochs,
)
from groundrec.train.stopping import SaveOnStop
from groundrec.train.trainer import ObjectiveTrainer, arguments

__all__ = ["finetune"]

NAMES = {name: name for name in ("loss", "learning_rate", "grad_norm")} | {
    m.key: m.name for m in MEASURES.values()
}
"""Which of the Trainer's numbers `metrics.jsonl` has, and under which names."""


def finetune(
    language_model: LanguageModel,
    domains: Sequence[Domain],
    section: config_learn.Train,
    seed: int,
    folder: Path,
    metrics: Metrics,
    start: StartPoint | None = None,
    validation_ndcg: Callable[[Any], float] | None = None,
    objective: Objective | None = None,
) -> LanguageModel:
    """Train on all `domains` at once, and return the model of the best epoch.

    Resumes from the last complete checkpoint in `folder`; without one, starts from `start`: another
    run's checkpoint, or adapters. `validation_ndcg` measures a model, higher is better, where
    `section.select` is not the validation loss. The objective is cross-entropy unless given. Given
    the same inputs, an interrupted and resumed training ends with the same weights on one CPU
    process.
    """
    objective = objective or CrossEntropy()
    if section.loss_on == "branching":
        domains = [_learning_choices(domain) for domain in domains]
    model = _with_precision(language_model.model, section)
    args = arguments(section, seed, folder)
    checkpoint = _first_checkpoint(model, section, args, folder, start)
    average = _WeightAverage(model, section, checkpoint)
    patience = Patience(section)
    if checkpoint and patience.was_over_at(checkpoint):
        args.num_train_epochs = trained_epochs(checkpoint)
        log.info(f"  train.patience ran out after epoch {args.num_train_epochs:g}")
    trainer = ObjectiveTrainer(
        objective,
        model=model,
        args=args,
        train_dataset=objective.training_rows(domains, section, seed),
        eval_dataset=objective.validation_rows(domains, _validation_limit(domains, section), seed),
        callbacks=[average, _Reporter(metrics), patience],
        validation_ndcg=validation_ndcg,
        tree_attention=section.tree_attention,
    )
    _run(trainer, section, checkpoint)
    if section.average:
        average.apply()
        loss = trainer.evaluate()["eval_loss"]
        log.info(f"  weights averaged over {average.epochs} epochs: validation loss {loss:.4f}")
    if trimmed := sum(domain.encoder.trimmed for domain in domains):
        log.info(
            f"  {trimmed} prompts lost their oldest history to cutoff_len = {section.cutoff_len}"
        )
    return _whole(trainer, LanguageModel(model, language_model.tokenizer), folder)


def _validation_limit(domains: Sequence[Domain], section: config_learn.Train) -> int:
    """Return how many validation queries of a domain are used at most."""
    if section.validation_queries == "all":
        return max(len(domain.dataset.valid) for domain in domains)
    return section.validation_queries


def _with_precision(model: Any, section: config_learn.Train) -> Any:
    """Return the model, with adapters where the method has some, at the precision to train in."""
    if "lora" in section.method:
        model = with_lora(model, section)
    if section.method != "qlora":  # quantised weights already have theirs
        set_precision(model, resolve_precision(section))
    return model


def _run(trainer: ObjectiveTrainer, section: config_learn.Train, checkpoint: Path | None) -> None:
    """Train to the end; raise `Stopped` after a checkpoint where the process is asked to stop."""
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(GradientHistograms(is_sharded=trainer.is_sharded))
    if trainer.is_sharded:
        _require_unsharded(section)
    _log_batch(section, trainer.args.world_size)
    if checkpoint:
        log.info(f"  resuming from {checkpoint.name}")
    with defer_stop() as asked:
        stop = SaveOnStop(lambda: trainer.any_rank(asked), checkpoint)
        # First, so that a checkpoint has its files before `_Reporter` marks it complete.
        trainer.callback_handler.callbacks.insert(0, stop)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def _whole(trainer: ObjectiveTrainer, lm: LanguageModel, folder: Path) -> LanguageModel:
    """Return the trained model, gathered where it is sharded; shut the process group down."""
    if trainer.is_sharded:
        trainer.save_model(str(folder / "gathered"))  # every process contributes its shard
        lm.tokenizer.save_pretrained(folder / "gathered")
        trainer.shutdown()
        return load(folder / "gathered")
    trainer.shutdown()
    lm.model.eval()
    return lm


def _log_batch(section: config_learn.Train, processes: int) -> None:
    log.info(f"  {explain_batch(section, processes)}")
    if processes == 1 and (devices := torch.accelerator.device_count()) > 1:
        log.info(
            f"  training uses one of {devices} GPUs; for all: torchrun --nproc_per_node {devices}"
            " -m groundrec run …"
        )


def _learning_choices(domain: Domain) -> Domain:
    """Return the domain, learning only tokens at which its own catalogue leaves a choice."""
    answers = domain.encoder.answers
    learned = Trie.compile(answers).choices(answers)
    return replace(domain, encoder=replace(domain.encoder, learned=learned))


def _require_unsharded(section: config_learn.Train) -> None:
    """Raise `ConfigError` where a setting needs the whole model, and FSDP or DeepSpeed shard it."""
    needs_whole = {"average": (section.average, 0), "select": (section.select, "loss")}
    if section.method == "qlora":
        needs_whole["method"] = (section.method, "lora")
    for setting, (value, without) in needs_whole.items():
        if value != without:
            raise ConfigError(
                f"train.{setting} needs the whole model, and FSDP and DeepSpeed shard it",
                value=value,
                accepted=f"{without}, or DDP: groundrec recipes copy accelerate/ddp",
                next_step=f"--set train.{setting}={without}",
            )


def _first_checkpoint(
    model: Any, section: config_learn.Train, args: Any, folder: Path, start: StartPoint | None
) -> Path | None:
    """Return the checkpoint to resume from, if any; load adapters to start from into the model."""
    with args.main_process_first(local=False):  # the main process copies it, the others find it
        checkpoint = last_complete_checkpoint(folder)
        if start is None or checkpoint:
            return checkpoint
        if start.kind == "checkpoint":
            return copy_checkpoint(start.path, folder)
    if start.kind == "adapters":
        load_adapters(model, start.path, section, start.weights)
    return None


class _WeightAverage(TrainerCallback):
    """Sums the trained weights at the end of each of the last epochs."""

    FILE = "mean.safetensors"

    def __init__(
        self, model: torch.nn.Module, section: config_learn.Train, checkpoint: Path | None
    ) -> None:
        self._weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._after = section.epochs * (1 - section.average)
        self._sum: dict[str, torch.Tensor] = {}
        self.epochs = 0
        if checkpoint and (checkpoint / self.FILE).is_file():
            self._sum = load_file(checkpoint / self.FILE)
            self.epochs = int(self._sum.pop("epochs"))

    @torch.no_grad()
    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if (state.epoch or 0) <= self._after + 1e-6:
            return
        self.epochs += 1
        for name, weight in self._weights.items():
            self._sum[name] = self._sum.get(name, 0) + weight.detach().float()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.epochs and state.is_world_process_zero:
            path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / self.FILE
            save_file({**self._sum, "epochs": torch.tensor(self.epochs)}, path)

    @torch.no_grad()
    def apply(self) -> None:
        """Give the model the mean weights."""
        for name, total in self._sum.items():
            self._weights[name].copy_(total.to(self._weights[name].device) / self.epochs)


class _Reporter(TrainerCallback):
    """Progress bar, `metrics.jsonl`, and the mark of a complete checkpoint."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._bar: Progress | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar = progress_bar()
        self._bar.start()
        self._task = self._bar.add_task(
            "fine-tuning", total=state.max_steps, completed=state.global_step
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._bar:
            self._bar.update(self._task, completed=state.global_step)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        values = {NAMES[key]: value for key, value in (logs or {}).items() if key in NAMES}
        if not values:
            return
        self._metrics.write(step=state.global_step, epoch=round(state.epoch or 0, 3), **values)
        if "eval_loss" in values:
            ndcg = f", NDCG@10 {values['ndcg@10']:.4f}" if "ndcg@10" in values else ""
            log.info(
                f"  epoch {state.epoch or 0:.0f}: validation loss {values['eval_loss']:.4f}{ndcg}"
            )

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            (folder / COMPLETE).write_text(
                json.dumps({"step": state.global_step}), encoding="utf-8"
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._bar:
            self._bar.stop()
