"""How a batch is made of micro batches and processes, in words. Knows nothing about models; loads
nothing heavy.
"""

from __future__ import annotations

from groundrec.core import config_learn
from groundrec.core.errors import ConfigError

__all__ = ["explain_batch"]


def explain_batch(section: config_learn.Train, world_size: int = 1) -> str:
    """Return how `batch_size` comes about; raise `ConfigError` where it cannot."""
    per_step = section.micro_batch_size * world_size
    if section.batch_size % per_step:
        raise ConfigError(
            "train.batch_size does not divide into micro batches",
            value=section.batch_size,
            accepted=(
                f"a multiple of micro_batch_size × processes = {section.micro_batch_size} ×"
                f" {world_size}"
            ),
            next_step=_mended(section, world_size),
        )
    steps = section.batch_size // per_step
    processes = f"{world_size} process{'es' * (world_size > 1)}"
    return (
        f"batch {section.batch_size} = {section.micro_batch_size} per step × {steps} accumulation ×"
        f" {processes}"
    )


def _mended(section: config_learn.Train, world_size: int) -> str:
    """Return the settings that keep `batch_size` where processes divide it, else the nearest lower
    batch.
    """
    share, rest = divmod(section.batch_size, world_size)
    if rest == 0:
        fits = max(n for n in range(1, min(section.micro_batch_size, share) + 1) if share % n == 0)
        return f"--set train.micro_batch_size={fits}, which changes no result"
    per_step = section.micro_batch_size * world_size
    return f"--set train.batch_size={max(per_step, section.batch_size // per_step * per_step)}"
