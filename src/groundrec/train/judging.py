"""Which epoch is the best so far, and when training has gone on without a better one for long
enough.

All of it is read from the history that checkpoints hold, so an interruption changes nothing. Knows
nothing about how a model is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

from groundrec.core import config_learn
from groundrec.core.runs import read_json

__all__ = ["MEASURES", "Measure", "Patience"]


@dataclass(frozen=True)
class Measure:
    """What an epoch is judged by: its key in the Trainer's history, its name in `metrics.jsonl`,
    which is better.
    """

    key: str
    name: str
    greater_is_better: bool


MEASURES = {
    "loss": Measure("eval_loss", "eval_loss", False),
    "ndcg": Measure("eval_ndcg", "ndcg@10", True),
}


class Patience(TrainerCallback):
    """Stops training behind `patience` epochs without a better one; never where it is 0."""

    def __init__(self, section: config_learn.Train) -> None:
        self._patience = section.patience
        self._measure = MEASURES[section.select]

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._is_over(state.log_history):
            control.should_training_stop = True

    def was_over_at(self, checkpoint: Path) -> bool:
        """Return whether training had ended at a checkpoint."""
        return self._is_over(read_json(checkpoint / "trainer_state.json")["log_history"])

    def _is_over(self, history: list[dict[str, Any]]) -> bool:
        values = [row[self._measure.key] for row in history if self._measure.key in row]
        if not values or not self._patience:
            return False
        best = np.argmax(values) if self._measure.greater_is_better else np.argmin(values)
        return len(values) - 1 - int(best) >= self._patience
