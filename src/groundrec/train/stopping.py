"""A training that is asked to stop saves a checkpoint, at the next step, from which it goes on as
if nothing had been.

The order of an epoch's batches is drawn from the random state at its beginning, which transformers'
checkpoints do not hold: it is kept beside them. Knows nothing about what is trained.
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
    """Saves a checkpoint when `asked`, and raises `Stopped` when it is whole. Goes before what
    marks it as whole.
    """

    FILE = "epoch_begin.safetensors"

    def __init__(self, asked: Callable[[], bool], checkpoint: Path | None) -> None:
        file = checkpoint / self.FILE if checkpoint else None
        self._begin: torch.Tensor | None = (
            load_file(file)["state"] if file and file.is_file() else None
        )
        self._resumed = self._begin is not None
        self._asked = asked
        self._saved = False

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._end()
        if self._resumed and self._begin is not None:
            torch.set_rng_state(self._begin)
        self._begin = torch.get_rng_state()
        self._resumed = False

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._end()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._asked() and not _is_whole(
            state.epoch
        ):  # the end of an epoch saves by itself, with its validation
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        begin = torch.get_rng_state() if _is_whole(state.epoch) else self._begin
        if begin is not None and state.is_world_process_zero:
            save_file(
                {"state": begin},
                Path(args.output_dir) / f"checkpoint-{state.global_step}" / self.FILE,
            )
        self._saved = True

    def _end(self) -> None:
        if self._saved and self._asked():
            log.info("  stopped behind a checkpoint")
            raise Stopped
        self._saved = False


def _is_whole(epoch: float | None) -> bool:
    return float(epoch or 0).is_integer()
