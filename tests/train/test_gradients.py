"""Watched gradients: what is counted, at which steps, and that watching changes no weight."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from groundrec.core.track import Histogram, gradients_to, log, report_gradients
from groundrec.train.gradients import GradientHistograms, histogram
from tests.shops import planted_shop
from tests.train.test_finetune import QUICK, training, weights


@given(st.lists(st.integers(0, 64)))
def test_counts_are_those_of_numpy(values: list[int]) -> None:
    found = [0, 64, *values]
    counts, edges = histogram(torch.tensor([*found, float("nan"), float("-inf")]))
    expected = np.histogram(found, bins=64)
    assert counts == expected[0].tolist()
    assert edges == expected[1].tolist()


def test_equal_values_and_none_are_counted_too() -> None:
    assert sum(histogram(torch.zeros(3, 2))[0]) == 6
    assert histogram(torch.tensor([float("nan")])) == ([0], [0.0, 1.0])


def test_watching_changes_no_weight(tmp_path: Path) -> None:
    steps: dict[int, dict[str, Histogram]] = {}

    def listen(step: int, measure: Callable[[], dict[str, Histogram]]) -> None:
        steps[step] = measure()

    section = QUICK.model_copy(update={"epochs": 1})
    without = weights(training(planted_shop(), tmp_path / "without", section))
    gradients_to(listen, 2)
    try:
        model = training(planted_shop(), tmp_path / "watched", section)
    finally:
        gradients_to(None)
    watched = weights(model)
    assert all(torch.equal(without[name], watched[name]) for name in without)
    assert list(steps)[:2] == [2, 4]
    sizes = {name: p.numel() for name, p in model.model.named_parameters() if p.requires_grad}
    assert {name: sum(counts) for name, (counts, _) in steps[2].items()} == sizes


def test_nothing_is_measured_where_nobody_watches() -> None:
    report_gradients(2, lambda: pytest.fail("measured"))
    gradients_to(lambda *_: pytest.fail("told"), 0)
    report_gradients(2, lambda: pytest.fail("measured"))


def test_gradients_is_sharded_are_left_out_and_it_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "propagate", True)
    model = torch.nn.Linear(2, 1)
    model(torch.ones(2)).sum().backward()
    callback = GradientHistograms(is_sharded=True)
    with caplog.at_level("WARNING", logger="groundrec"):
        assert [callback._measure(model), callback._measure(model)] == [{}, {}]
    assert len(caplog.records) == 1
