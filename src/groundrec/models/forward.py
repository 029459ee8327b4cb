"""A forward pass that computes only the logits that are read, and leaves the model as it is.

No hook is registered and no layer of the model is replaced, so several threads may ask one model at
once. Knows nothing about what the logits are for.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from inspect import signature
from types import MethodType
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel

__all__ = ["logits_at", "narrowed"]

M = TypeVar("M", bound=torch.nn.Module)


def logits_at(model: torch.nn.Module, positions: torch.Tensor, **inputs: Any) -> Any:
    """Return the outputs of a forward pass, with the logits of some `positions` only.

    The output layer is most of the work of a small model.

    Args:
        model: A transformers causal language model, bare or wrapped by PEFT or an engine.
        positions: Indices, int64 [Q, R], for logits [Q, R, V].
        inputs: What the model's `forward` takes.
    """
    own = next(m for m in model.modules() if isinstance(m, PreTrainedModel))
    if _takes_positions(type(own)):
        return model(**inputs, logits_to_keep=positions)
    outputs = model(**inputs)
    outputs.logits = torch.take_along_dim(outputs.logits, positions[:, :, None], dim=1)
    return outputs


@lru_cache
def _takes_positions(kind: type[PreTrainedModel]) -> bool:
    """Return whether the architecture picks positions before its output layer; nearly all do."""
    return "logits_to_keep" in signature(kind.forward).parameters


def narrowed(model: M, tokens: torch.Tensor) -> M | None:
    """Return a model whose logits are those of `tokens` [v] alone, sharing all else with `model`.

    None where the output layer is not a plain linear one, or another object runs the forward pass.
    """
    own = model.get_output_embeddings()  # type: ignore[operator]
    if type(own) is not torch.nn.Linear:
        return None
    layer = torch.nn.Linear(own.in_features, len(tokens), bias=own.bias is not None, device="meta")
    layer.weight = torch.nn.Parameter(own.weight.detach()[tokens], requires_grad=False)
    if own.bias is not None:
        layer.bias = torch.nn.Parameter(own.bias.detach()[tokens], requires_grad=False)
    path = next(name for name, module in model.named_modules() if module is own).split(".")
    return _with_layer(model, path, layer)


def _with_layer(module: M, path: list[str], layer: torch.nn.Module) -> M | None:
    """Return a copy of `module` that has `layer` at `path`.

    Only the modules along the path are copied; `module` itself is not changed.
    """
    name, *rest = path
    inner = module._modules[name]
    child = _with_layer(inner, rest, layer) if rest else layer  # type: ignore[type-var]
    twin = copy.copy(module)
    twin._modules = {**module._modules, name: child}
    forward = vars(module).get("forward")
    if isinstance(forward, MethodType) and forward.__self__ is module:
        # Mixed precision wraps `forward` as an attribute of the object, bound to the original.
        twin.forward = MethodType(forward.__func__, twin)
        forward = None
    return None if child is None or forward is not None else twin
