"""The precision a model computes in while it is trained, and the one its weights are kept in.

Trained weights are always kept and saved in float32: bfloat16 would round small steps away. Frozen
weights are kept in the precision of the computation. Knows nothing about optimisers.
"""

from __future__ import annotations

import torch

from groundrec.core import config_learn
from groundrec.core.errors import ConfigError

__all__ = ["DTYPES", "resolve_precision", "set_precision"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(section: config_learn.Train) -> str:
    """Return `fp32`, `bf16` or `fp16`; raise `ConfigError` where this machine lacks it."""
    asked = section.precision
    on_cuda = torch.cuda.is_available()
    bf16 = on_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    if asked == "auto":
        return "bf16" if bf16 else "fp32"
    if (asked == "fp16" and not on_cuda) or (asked == "bf16" and on_cuda and not bf16):
        other = "fp16" if on_cuda else "bf16, which is slow on most CPUs"
        raise ConfigError(
            f"train.precision = {asked} is not possible on this machine",
            value=torch.cuda.get_device_name() if on_cuda else "no CUDA device",
            accepted=f"auto, fp32, {other}",
            next_step="--set train.precision=auto",
        )
    return asked


def set_precision(model: torch.nn.Module, precision: str) -> None:
    """Keep trained weights in float32 and frozen ones in `precision`; integers stay as they are."""
    for weight in model.parameters():
        wanted = torch.float32 if weight.requires_grad else DTYPES[precision]
        if weight.is_floating_point() and weight.dtype != wanted:
            weight.data = weight.data.to(wanted)
