"""The loop of the sequential model: resume, early stopping, windows, and a rule it must learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from groundrec.core import config_signals
from groundrec.core.errors import TrainingError
from groundrec.core.track import Metrics
from groundrec.core.types import Ragged
from groundrec.signals import fit as fit_sequential
from groundrec.signals.fit import fit, mean_ndcg, ndcg, validator, windows
from groundrec.signals.sequential import NETWORKS, NextItem
from tests.shops import planted_shop, queries_of

SECTION = config_signals.Sequential.model_validate(
    {
        "hidden": 16,
        "layers": 1,
        "max_length": 6,
        "epochs": 4,
        "batch_size": 8,
        "learning_rate": 0.001,
        "patience": 0,
    }
)
SEQUENCES = Ragged.of([[0, 1, 2, 3, 4, 5, 0, 1], [3, 4, 5], [2, 3, 4, 5, 0], [5, 0], [1]])
MOMENTS = np.array([0, 0, 1, 2, 2, 2, 3, 4, 0, 0, 1, 0, 1, 1, 2, 3, 0, 1, 0])


class Stopped(Exception):
    """Stands for a power cut."""


def _scripted(values: list[float]) -> Callable[[NextItem], float]:
    remaining = iter(values)
    return lambda model: next(remaining)


def _states(model: NextItem) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("where", ["while validating", "before the state is written"])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    scores = [0.1, 0.4, 0.3, 0.2]
    whole = fit(SEQUENCES, 6, SECTION, 7, tmp_path / "whole", _scripted(scores), moments=MOMENTS)

    def stop(*_: object) -> None:
        raise Stopped

    def validate(model: NextItem, seen: list[float] = []) -> float:  # noqa: B006
        seen.append(scores[len(seen)])
        if where == "while validating" and len(seen) == 3:
            raise Stopped
        if len(seen) == 3:
            monkeypatch.setattr(fit_sequential.torch, "save", stop)
        return seen[-1]

    with pytest.raises(Stopped):
        fit(SEQUENCES, 6, SECTION, 7, tmp_path / "cut", validate, moments=MOMENTS)
    monkeypatch.undo()
    torch.rand(3)
    resumed = fit(
        SEQUENCES, 6, SECTION, 7, tmp_path / "cut", _scripted(scores[2:]), moments=MOMENTS
    )
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "cut").iterdir())
    for file in files:
        if file.endswith(".safetensors"):
            one, other = load_file(tmp_path / "whole" / file), load_file(tmp_path / "cut" / file)
            assert all(torch.equal(one[name], other[name]) for name in one)
    one, other = (
        torch.load(tmp_path / n / "state.pt", weights_only=True) for n in ("whole", "cut")
    )
    assert (one["best"], one["best_epoch"], one["epoch"]) == (0.4, 2, 4)
    assert {k: v for k, v in one.items() if k != "optimizer"} == {
        k: v for k, v in other.items() if k != "optimizer"
    }
    for parameter, moments in one["optimizer"]["state"].items():
        assert all(
            torch.equal(moments[k], other["optimizer"]["state"][parameter][k]) for k in moments
        )


def test_a_finished_run_trains_no_more(tmp_path: Path) -> None:
    first = _states(fit(SEQUENCES, 6, SECTION, 0, tmp_path, None))
    again = fit(SEQUENCES, 6, SECTION, 0, tmp_path, _scripted([]))
    assert all(torch.equal(first[name], value) for name, value in again.state_dict().items())


def test_the_best_epoch_is_kept_and_patience_ends_the_run(tmp_path: Path) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    scores = _scripted([0.2, 0.5, 0.4, 0.5, 0.9])

    def validate(model: NextItem) -> float:
        seen.append(_states(model))
        return scores(model)

    section = SECTION.model_copy(update={"epochs": 5, "patience": 2})
    model = fit(SEQUENCES, 6, section, 0, tmp_path, validate)
    assert len(seen) == 4, "an equal score is no better one"
    assert all(torch.equal(seen[1][name], value) for name, value in model.state_dict().items())
    assert not model.training


def test_the_seed_decides_everything_and_the_global_generator_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    runs = [
        _states(fit(SEQUENCES, 6, SECTION, seed, tmp_path / str(i), None))
        for i, seed in enumerate([1, 1, 2])
    ]
    assert torch.equal(torch.rand(4), expected)
    assert torch.equal(runs[0]["items.weight"], runs[1]["items.weight"])
    assert not torch.equal(runs[0]["items.weight"], runs[2]["items.weight"])


def test_it_learns_a_planted_rule_and_writes_each_epoch(tmp_path: Path) -> None:
    shop = planted_shop()
    section = SECTION.model_copy(update={"epochs": 40, "dropout": 0.0, "learning_rate": 0.01})
    model = fit(
        shop.train.sequences(),
        12,
        section,
        0,
        tmp_path,
        validator(shop.valid, 0),
        metrics=Metrics(tmp_path / "m", "s"),
    )
    assert mean_ndcg(model, shop.test) == pytest.approx(1.0)
    lines = Metrics.read(tmp_path / "m")
    assert [line["epoch"] for line in lines] == list(range(1, 41))
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_items_of_one_moment_are_learned_in_both_orders(tmp_path: Path) -> None:
    sequences, moments = Ragged.of([[0, 1, 2]] * 32), np.tile([0, 1, 1], 32)
    section = SECTION.model_copy(update={"epochs": 30, "dropout": 0.0, "learning_rate": 0.01})
    ordered = fit(sequences, 3, section, 0, tmp_path / "ordered", None).scores(Ragged.of([[0]]))[0]
    tied = fit(sequences, 3, section, 0, tmp_path / "tied", None, moments=moments).scores(
        Ragged.of([[0]])
    )[0]
    assert ordered[1] - ordered[2] > 2
    assert abs(tied[1] - tied[2]) < 1
    assert min(tied[1], tied[2]) > tied[0]


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=13), min_size=1, max_size=6),
    st.integers(1, 5),
    st.integers(0, 9),
)
@settings(max_examples=200, deadline=None)
def test_windows_hold_every_item_once_and_never_two_people(
    rows: list[list[int]], length: int, seed: int
) -> None:
    cut = windows(Ragged.of(rows), length, np.random.default_rng(seed))
    assert cut.values.tolist() == [item for row in rows for item in row]
    assert all(1 <= size <= length for size in cut.lengths)
    ends = {int(end) for end in Ragged.of(rows).offsets}
    assert ends <= set(cut.offsets.tolist())
    inner = [
        (a, b)
        for a, b in zip(cut.offsets[:-1], cut.offsets[1:], strict=True)
        if not {int(a), int(b)} & ends
    ]
    assert all(b - a == length for a, b in inner)


def test_ndcg_by_hand() -> None:
    scores = np.array([[4, 3, 2, 1], [1, 1, 1, 1], [-np.inf, 2, 1, 0]], np.float32)
    values = ndcg(scores, Ragged.of([[0, 2], [1], [0]]), k=3)
    ideal = 1 + 1 / np.log2(3)
    assert values == pytest.approx([(1 + 1 / np.log2(4)) / ideal, 0.0, 0.0])


def test_ndcg_of_a_constant_score_is_nothing_to_be_proud_of() -> None:
    assert ndcg(np.zeros((1, 50), np.float32), Ragged.of([[3, 4]])).tolist() == [0.0]


def test_validation_without_queries_is_none_and_seen_items_are_not_ranked() -> None:
    assert validator(queries_of([]), 0) is None
    model = NETWORKS["sasrec"](
        3, config_signals.Sequential(hidden=4, layers=1, heads=1, dropout=0.0, max_length=3)
    )
    with torch.no_grad():
        model.bias.copy_(torch.tensor([50.0, 20.0, 0.0]))
    assert mean_ndcg(model, queries_of([("a", 1, [0], [1])])) == pytest.approx(1.0)


def test_a_run_that_diverges_stops_with_advice(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"not finite(.|\n)*sequential\.learning_rate"):
        fit(SEQUENCES, 6, SECTION.model_copy(update={"learning_rate": 1e30}), 0, tmp_path, None)


def test_nothing_to_train_on_and_an_impossible_width_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no training sequences"):
        fit(Ragged.of([]), 6, SECTION, 0, tmp_path, None)
    with pytest.raises(TrainingError, match="not divisible by the number of heads"):
        fit(SEQUENCES, 6, SECTION.model_copy(update={"hidden": 15}), 0, tmp_path, None)
