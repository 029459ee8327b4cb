"""Which epoch is kept, and when there is no more waiting for a better one: alone, and after an
interruption.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from groundrec.core.track import Metrics
from groundrec.train import finetune as module
from groundrec.train.start import last_complete_checkpoint
from tests.shops import planted_shop
from tests.train.test_finetune import QUICK, Crash, training, weights
from tests.train.test_stopping import STEPS, same

PATIENT = QUICK.model_copy(update={"epochs": 8, "patience": 3})
LOSSES = [5.0, 3.0, 4.0, 4.5, 6.0, 1.0, 1.0, 1.0]
"""The best of epoch 2 is the best when patience is over, behind epoch 5."""


def planned(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    """Let each epoch's validation have the loss that is planned for it."""
    own = module.ObjectiveTrainer.evaluation_loop

    def evaluation_loop(self: Any, *args: Any, **options: Any) -> Any:
        found = own(self, *args, **options)
        found.metrics["eval_loss"] = losses[round(self.state.epoch) - 1]
        return found

    monkeypatch.setattr(module.ObjectiveTrainer, "evaluation_loop", evaluation_loop)


def crash_at(monkeypatch: pytest.MonkeyPatch, what: str, step: int) -> None:
    """Let the power go off when the Trainer does `what` at a step."""
    own = getattr(module.ObjectiveTrainer, what)

    def crash(self: Any, *args: Any, **options: Any) -> Any:
        if self.state.global_step == step:
            raise Crash
        return own(self, *args, **options)

    monkeypatch.setattr(module.ObjectiveTrainer, what, crash)


def last_step(folder: Path) -> str:
    last = last_complete_checkpoint(folder / "checkpoints")
    assert last
    return last.name


@pytest.mark.parametrize(
    ("what", "step"),
    [
        ("training_step", 4 * STEPS + 3),
        ("training_step", 3 * STEPS),
        ("_load_best_model", 5 * STEPS),
    ],
)
def test_patience_that_was_interrupted_is_over_at_the_same_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, step: int
) -> None:
    shop = planted_shop()
    planned(monkeypatch, LOSSES)
    whole = weights(training(shop, tmp_path / "whole", PATIENT))
    assert last_step(tmp_path / "whole") == f"checkpoint-{5 * STEPS}"
    with monkeypatch.context() as patched:
        crash_at(patched, what, step)
        with pytest.raises(Crash):
            training(shop, tmp_path / "broken", PATIENT)
    resumed = weights(training(shop, tmp_path / "broken", PATIENT))
    assert last_step(tmp_path / "broken") == f"checkpoint-{5 * STEPS}"
    same(whole, resumed)
    best = load_file(
        tmp_path / "whole" / "checkpoints" / f"checkpoint-{2 * STEPS}" / "model.safetensors"
    )
    same({name: whole[name] for name in best}, best)


def measuring(values: list[float]) -> Callable[[Any], float]:
    left = iter(values)

    def measure(model: Any) -> float:
        assert not model.training
        return next(left)

    return measure


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_epoch_that_the_judge_likes_best_is_kept(tmp_path: Path, method: str) -> None:
    section = PATIENT.model_copy(update={"select": "ndcg", "patience": 2, "method": method})
    tuned = training(
        planted_shop(), tmp_path, section, validation_ndcg=measuring([0.1, 0.5, 0.2, 0.3])
    )
    tuned.save(tmp_path / "kept")
    assert last_step(tmp_path) == f"checkpoint-{4 * STEPS}"
    file = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    same(
        load_file(tmp_path / "kept" / file),
        load_file(tmp_path / "checkpoints" / f"checkpoint-{2 * STEPS}" / file),
    )
    told = [row["ndcg@10"] for row in Metrics.read(tmp_path / "m.jsonl") if "ndcg@10" in row]
    assert told == pytest.approx([0.1, 0.5, 0.2, 0.3])
