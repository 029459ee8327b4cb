"""Objectives of the sequential networks against their formulas, written out number by number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from groundrec.core.config_signals import Sequential
from groundrec.core.types import Ragged
from groundrec.signals.fit import calibrate
from groundrec.signals.objectives import nominal, objective
from groundrec.signals.sequential import NETWORKS, NextItem
from tests.shops import queries_of

ITEMS = 5
SHAPE = {"hidden": 4, "layers": 1, "heads": 1}


def network(items: int = ITEMS) -> NextItem:
    torch.manual_seed(3)
    model = NETWORKS["gru4rec"](items, Sequential.model_validate(SHAPE))
    torch.nn.init.normal_(model.bias)
    return model


def loss(
    given: dict[str, object], model: NextItem, popularity: np.ndarray | None = None
) -> tuple[float, torch.Tensor]:
    """Return the loss of two states that were followed by items 1 and 4, and the scores of all
    items.
    """
    torch.manual_seed(4)
    states, following = torch.randn(2, 4), torch.tensor([1, 4])
    section = Sequential.model_validate({**SHAPE, **given})
    return objective(section, popularity)(model, states, following).item(), model.logits(states)


def log_sigmoid(x: torch.Tensor) -> float:
    return -math.log1p(math.exp(-x.item()))


def test_cross_entropy_is_that_of_the_whole_catalogue() -> None:
    found, scores = loss({"loss": "cross-entropy"}, network())
    assert found == pytest.approx(F.cross_entropy(scores, torch.tensor([1, 4])).item())


@pytest.mark.parametrize(
    ("kind", "calibration"), [("binary", 0.75), ("gbce", 0.0), ("gbce", 0.75), ("gbce", 1.0)]
)
def test_sampled_objectives_are_the_papers_formula(kind: str, calibration: float) -> None:
    """With two items, the only negative there is is the other one."""
    model = network(2)
    torch.manual_seed(4)
    states, following = torch.randn(2, 4), torch.tensor([1, 0])
    section = Sequential.model_validate(
        {**SHAPE, "loss": kind, "negatives": 3, "calibration": calibration}
    )
    found = objective(section)(model, states, following).item()
    scores, alpha = model.logits(states), 1.0  # three negatives of one: all of them
    t = 0.0 if kind == "binary" else calibration
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    rows = [
        -(beta * log_sigmoid(s[y]) + 3 * log_sigmoid(-s[1 - y])) / 4
        for s, y in zip(scores, (1, 0), strict=True)
    ]
    assert found == pytest.approx(np.mean(rows), rel=1e-5)


@given(t=st.floats(0, 1), negatives=st.integers(1, 60))
def test_gbce_weighs_the_item_that_came_by_beta(t: float, negatives: int) -> None:
    """Two objectives that draw the same negatives differ by the positive's part alone."""
    model = network(50)
    given = {"negatives": negatives, "calibration": t}
    plain, scores = loss({**given, "loss": "binary"}, model)
    corrected, _ = loss({**given, "loss": "gbce"}, model)
    alpha = min(1.0, negatives / 49)
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    positive = np.mean([log_sigmoid(scores[0, 1]), log_sigmoid(scores[1, 4])])
    assert corrected - plain == pytest.approx((1 - beta) * positive / (negatives + 1), abs=1e-5)


def test_negatives_are_every_item_but_the_one_that_came() -> None:
    model = network()
    with torch.no_grad():
        model.bias[:] = torch.tensor([0.0, 1e3, 0.0, 0.0, 1e3])
    found, _ = loss({"loss": "binary", "negatives": 200}, model)
    assert found > 100  # items 1 and 4 are each other's negatives
    with torch.no_grad():
        model.bias[:] = torch.tensor([-1e3, 1e3, -1e3, -1e3, -1e3])
    states, following = torch.zeros(1, 4), torch.tensor([1])
    section = Sequential.model_validate({**SHAPE, "loss": "binary", "negatives": 200})
    assert objective(section)(model, states, following).item() == pytest.approx(0)


def test_dros_adds_what_the_worst_distribution_of_items_costs() -> None:
    """The logarithm of the objective is the largest of E_q[l] - temperature KL(q | p), found here
    by many tries.
    """
    popularity, temperature, weight = np.array([7, 0, 2, 1, 30]), 0.7, 0.3
    model = network()
    given: dict[str, object] = {"dros_weight": weight, "dros_temperature": temperature}
    found, scores = loss(given, model, popularity)
    torch.manual_seed(4)
    torch.randn(2, 4)
    plain = loss({"dros_weight": 0.0}, model, popularity)[0]
    losses = ((scores - F.one_hot(torch.tensor([1, 4]), ITEMS)) ** 2).detach().double().numpy()
    p, rng = nominal(popularity), np.random.default_rng(0)

    def value(q: np.ndarray, row: np.ndarray) -> np.ndarray:
        return (q * row).sum(-1) - temperature * (q * np.log(q / p)).sum(-1)

    best = []
    for row in losses:
        q = p * np.exp(row / temperature)
        best.append(value(q / q.sum(), row))
        assert value(rng.dirichlet(np.ones(ITEMS), 2000).clip(1e-12), row).max() <= best[-1] + 1e-9
    assert found - plain == pytest.approx(weight * np.mean(best), rel=1e-4)


def test_the_nominal_distribution_is_popularity_nearly_flat() -> None:
    p = nominal(np.array([0, 9, 99]))
    assert p.sum() == pytest.approx(1)
    np.testing.assert_allclose(p / p[0], [1, 10**0.05, 100**0.05])


def test_calibration_finds_the_scale_that_targets_were_drawn_with() -> None:
    rng, model = np.random.default_rng(1), network().eval()
    histories = [rng.integers(0, ITEMS, 3).tolist() for _ in range(4000)]
    scores = model.scores(Ragged.of(histories)).astype(np.float64)
    p = np.exp(2.5 * scores)
    p /= p.sum(1, keepdims=True)
    targets = [[int(rng.choice(ITEMS, p=row))] for row in p]
    calibrate(model, queries_of([("u", 1, h, t) for h, t in zip(histories, targets, strict=True)]))
    assert model.scale.item() == pytest.approx(2.5, rel=0.1)
    np.testing.assert_allclose(
        model.scores(Ragged.of(histories)), model.scale.item() * scores, rtol=1e-4
    )
    calibrate(model, queries_of([("u", 1, [], [])]))
    assert model.scale.item() == pytest.approx(2.5, rel=0.1)
