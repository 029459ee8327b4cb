"""What a network over item numbers is trained for: objectives of its states and the items that came
next.

Knows nothing about epochs, optimisers or how states are made.
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
"""Of a network, its states [n, hidden] and the next items [n]: the mean loss."""

FLATNESS = 0.05
"""Power of popularity in DROS's nominal distribution, that of the authors' code."""


def objective(section: Sequential, popularity: NDArray[np.integer] | None = None) -> Objective:
    """Return the objective that `section` asks for; DROS's where `popularity` [I] is given."""
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
    """Return the distribution of items around which DROS looks for the worst one: popularity,
    nearly flat. [I].
    """
    p = (popularity + 1.0) / (popularity + 1.0).sum()
    return p**FLATNESS / (p**FLATNESS).sum()


def _cross_entropy(model: NextItem, states: Tensor, following: Tensor) -> Tensor:
    return F.cross_entropy(model.logits(states), following)


def _sampled(
    model: NextItem, states: Tensor, following: Tensor, *, negatives: int, t: float
) -> Tensor:
    """Return the mean of -[beta log s(+) + sum log(1 - s(-))] / (k + 1).

    The generalised binary cross-entropy of Petrov & Macdonald ("gSASRec", 2023), equation 10 with k
    `negatives` drawn uniformly; `t` = 0 gives beta = 1, the plain one.
    """
    share = min(1.0, negatives / max(model.item_count - 1, 1))
    beta = share * (t * (1 - 1 / share) + 1 / share)
    others = torch.randint(
        max(model.item_count - 1, 1), (len(following), negatives), device=states.device
    )
    others = (others + (others >= following[:, None])) % model.item_count
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
    """Return binary cross-entropy with one negative, and `weight` times the loss under the worst
    distribution of items.

    DROS (Yang et al., "A Generic Learning Framework for Sequential Recommendation with Distribution
    Shifts", 2023): over all distributions q of items, the most that E_q[l] - temperature KL(q | p)
    can be, p the nominal one, where l is the squared distance of an item's score from 1 if it came
    next, and from 0 if not.
    """
    plain = 2 * _sampled(model, states, following, negatives=1, t=0.0)
    scores = model.logits(states)
    came = F.one_hot(following, model.item_count)
    losses = (scores - came) ** 2 / temperature + nominal.to(scores.device).log()
    return plain + weight * temperature * losses.logsumexp(1).mean()
