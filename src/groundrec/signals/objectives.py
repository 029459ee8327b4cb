"""Training objectives of the sequential networks: losses of states and the items that came next.

Knows nothing about epochs, optimisers or how states are computed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from groundrec.core.config_signals import Sequential
from groundrec.signals.sequential import NextItem

__all__ = ["Objective", "nominal", "objective"]

Objective: TypeAlias = Callable[[NextItem, Tensor, Tensor], Tensor]
"""A function of a network, its states [n, hidden] and the next items [n]; returns the mean loss."""

FLATNESS = 0.05
"""Exponent of popularity in DROS's nominal distribution, from the authors' code."""


def objective(section: Sequential, popularity: NDArray[np.integer] | None = None) -> Objective:
    """Return the objective that `section` names, or DROS's if `popularity` [I] is given."""
    if popularity is not None:
        p = torch.from_numpy(nominal(popularity).astype(np.float32))
        return partial(
            _robust, nominal=p, weight=section.dros_weight, temperature=section.dros_temperature
        )
    if section.loss == "cross-entropy":
        return _cross_entropy
    t = section.calibration if section.loss == "gbce" else 0.0
    return partial(_sampled, negatives=section.negatives, t=t)


def nominal(popularity: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return DROS's nominal distribution of items: popularity, flattened. Shape: [I]."""
    p = (popularity + 1.0) / (popularity + 1.0).sum()
    return p**FLATNESS / (p**FLATNESS).sum()


def _cross_entropy(model: NextItem, states: Tensor, following: Tensor) -> Tensor:
    return F.cross_entropy(model.logits(states), following)


def _sampled(
    model: NextItem, states: Tensor, following: Tensor, *, negatives: int, t: float
) -> Tensor:
    """Return the mean of -[beta log s(+) + sum log(1 - s(-))] / (k + 1).

    This is the generalised binary cross-entropy of Petrov & Macdonald ("gSASRec", 2023), equation
    10, with k `negatives` drawn uniformly; `t` = 0 gives beta = 1, plain binary cross-entropy.
    """
    share = min(1.0, negatives / max(model.item_count - 1, 1))
    beta = share * (t * (1 - 1 / share) + 1 / share)
    others = torch.randint(
        max(model.item_count - 1, 1), (len(following), negatives), device=states.device
    )
    # Drawn from I - 1 items: skipping over the positive one leaves the others equally likely.
    others = (others + (others >= following[:, None])) % model.item_count
    # [n, 1 + k]: the positive item first.
    items = torch.cat([following[:, None], others], 1)
    scores = (model.items.weight[items] * states[:, None]).sum(2) + model.bias[items]
    positive = F.logsigmoid(scores[:, 0])
    negative = F.logsigmoid(-scores[:, 1:]).sum(1)
    return -((beta * positive + negative) / (negatives + 1)).mean()


def _robust(
    model: NextItem,
    states: Tensor,
    following: Tensor,
    *,
    nominal: Tensor,
    weight: float,
    temperature: float,
) -> Tensor:
    """Return binary cross-entropy with one negative, plus `weight` times the worst-case loss.

    The worst case is that of DROS (Yang et al., "A Generic Learning Framework for Sequential
    Recommendation with Distribution Shifts", 2023): the maximum of E_q[l] - temperature KL(q | p)
    over all distributions q of items. p is the nominal distribution, and l the squared distance of
    an item's score from 1 if it came next and from 0 if not.
    """
    plain = 2 * _sampled(model, states, following, negatives=1, t=0.0)
    scores = model.logits(states)
    # The maximum over q has a closed form, temperature * logsumexp(l / temperature + log p).
    came = F.one_hot(following, model.item_count)
    losses = (scores - came) ** 2 / temperature + nominal.to(scores.device).log()
    return plain + weight * temperature * losses.logsumexp(1).mean()
