"""Which epoch is the best so far, and when to stop waiting for a better one.

Everything is read from the history that checkpoints contain, so an interruption changes nothing.
Knows nothing about how a model is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

from groundrec.core import config_learn
from groundrec.core.files import read_json

__all__ = ["MEASURES", "Measure", "Patience"]


@dataclass(frozen=True)
class Measure:
    """A validation metric that epochs are compared by."""

    key: str
    """Its name in the Trainer's history."""
    name: str
    """Its name in `metrics.jsonl`."""
    greater_is_better: bool


MEASURES = {
    "loss": Measure("eval_loss", "eval_loss", greater_is_better=False),
    "ndcg": Measure("eval_ndcg", "ndcg@10", greater_is_better=True),
}
"""By the values of `train.select`."""


class Patience(TrainerCallback):
    """Stops training after `patience` epochs without a better one; never where it is 0."""

    def __init__(self, section: config_learn.Train) -> None:
        self._patience = section.patience
        self._measure = MEASURES[section.select]

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._is_over(state.log_history):
            control.should_training_stop = True

    def was_over_at(self, checkpoint: Path) -> bool:
        """Return whether training had already ended at a checkpoint."""
        return self._is_over(read_json(checkpoint / "trainer_state.json")["log_history"])

    def _is_over(self, history: list[dict[str, Any]]) -> bool:
        values = [entry[self._measure.key] for entry in history if self._measure.key in entry]
        if not values or not self._patience:
            return False
        best = np.argmax(values) if self._measure.greater_is_better else np.argmin(values)
        return len(values) - 1 - int(best) >= self._patience
