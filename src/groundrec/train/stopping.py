"""A training that is asked to stop saves a checkpoint at the next step, and later resumes exactly.

The order of an epoch's batches is drawn from the random state at the start of the epoch, which
transformers' checkpoints do not contain: it is kept beside them. Knows nothing about what is
trained.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from groundrec.core.stop import Stopped
from groundrec.core.track import log

__all__ = ["SaveOnStop"]


class SaveOnStop(TrainerCallback):
    """Saves a checkpoint once `stop_requested`, and raises `Stopped` when it is complete.

    Has to come before the callback that marks checkpoints as complete.
    """

    FILE = "epoch_begin.safetensors"

    def __init__(self, stop_requested: Callable[[], bool], checkpoint: Path | None) -> None:
        file = checkpoint / self.FILE if checkpoint else None
        self._epoch_start: torch.Tensor | None = (
            load_file(file)["state"] if file and file.is_file() else None
        )
        self._resumed = self._epoch_start is not None
        self._stop_requested = stop_requested
        self._saved = False

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._stop_after_saving()
        if self._resumed and self._epoch_start is not None:
            torch.set_rng_state(self._epoch_start)
        self._epoch_start = torch.get_rng_state()
        self._resumed = False

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._stop_after_saving()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # The end of an epoch saves anyway, after its validation.
        if self._stop_requested() and not _is_epoch_end(state.epoch):
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # At the end of an epoch, the next one starts from the present state.
        start = torch.get_rng_state() if _is_epoch_end(state.epoch) else self._epoch_start
        if start is not None and state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            save_file({"state": start}, folder / self.FILE)
        self._saved = True

    def _stop_after_saving(self) -> None:
        if self._saved and self._stop_requested():
            log.info("  stopped after saving a checkpoint")
            raise Stopped
        self._saved = False


def _is_epoch_end(epoch: float | None) -> bool:
    return float(epoch or 0).is_integer()
