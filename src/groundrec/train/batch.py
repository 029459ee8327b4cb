"""How a batch is made up of micro batches and processes, in words.

Knows nothing about models, and loads nothing heavy.
"""

from __future__ import annotations

from groundrec.core import config_learn
from groundrec.core.errors import ConfigError

__all__ = ["explain_batch"]


def explain_batch(section: config_learn.Train, world_size: int = 1) -> str:
    """Return what makes up `batch_size`; raise `ConfigError` where it does not divide."""
    per_step = section.micro_batch_size * world_size
    if section.batch_size % per_step:
        raise ConfigError(
            "train.batch_size does not divide into micro batches",
            value=section.batch_size,
            accepted=(
                f"a multiple of micro_batch_size × processes = {section.micro_batch_size} ×"
                f" {world_size}"
            ),
            next_step=_suggestion(section, world_size),
        )
    steps = section.batch_size // per_step
    processes = f"{world_size} process{'es' * (world_size > 1)}"
    return (
        f"batch {section.batch_size} = {section.micro_batch_size} per step × {steps} accumulation ×"
        f" {processes}"
    )


def _suggestion(section: config_learn.Train, world_size: int) -> str:
    """Return a micro batch that keeps `batch_size`, or else the next lower batch that divides."""
    share, rest = divmod(section.batch_size, world_size)
    if rest == 0:
        largest = min(section.micro_batch_size, share)
        fits = max(n for n in range(1, largest + 1) if share % n == 0)
        return f"--set train.micro_batch_size={fits}, which changes no result"
    per_step = section.micro_batch_size * world_size
    return f"--set train.batch_size={max(per_step, section.batch_size // per_step * per_step)}"
