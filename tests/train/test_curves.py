"""A batch teaches the same however it is divided: into micro batches, among processes, into rows or trees.

Tolerance: every step's loss within 1e-4 of the curve's, which begins near 6; the same sums in another order.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers.models.phi.modeling_phi import PhiMLP

from tests.app.launched import TORCHRUN, output, started
from tests.train.curves import curve

CLOSE = 1e-4
Curve = list[tuple[str, float]]


def assert_same(one: Curve, other: Curve) -> None:
    assert [key for key, _ in one] == [key for key, _ in other]
    assert [value for _, value in one] == pytest.approx([value for _, value in other], rel=CLOSE, abs=CLOSE)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Curve:
    """Return the curve of batches read at once."""
    found = curve(tmp_path_factory.mktemp("whole"), micro_batch_size=16)
    losses = [value for key, value in found if key == "loss"]
    assert len(losses) == 10
    assert losses[-1] < 0.8 * losses[0]
    return found


@pytest.mark.parametrize("micro", [1, 2, 8])
def test_micro_batches_give_the_same_curve(whole: Curve, tmp_path: Path, micro: int) -> None:
    assert_same(curve(tmp_path, micro_batch_size=micro), whole)


def launched(folder: Path, **settings: object) -> Curve:
    with started([*TORCHRUN, "-m", "tests.train.curves", str(folder), json.dumps(settings)]) as process:
        text = output(process)
    assert process.returncode == 0, text
    main, other = (json.loads((folder / f"curve-{rank}.json").read_text(encoding="utf-8")) for rank in range(2))
    assert other == [], "the main process alone writes metrics"
    return [(key, value) for key, value in main]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{}, {"packing": "tree", "tree_targets": 3, "batch_size": 4}, {"template": "list"}],
    ids=["rows", "trees", "lists"],
)
def test_two_processes_give_the_curve_of_one(tmp_path: Path, settings: dict[str, object]) -> None:
    """Two each, twice: 16 = 2 × 4 × 2; the last batch is not full, and its share of one process may be empty."""
    found = launched(tmp_path / "two", **{**settings, "micro_batch_size": 2})
    assert_same(found, curve(tmp_path / "one", **{**settings, "micro_batch_size": 2}))  # type: ignore[arg-type]


TREES: dict[str, object] = {"packing": "tree", "tree_targets": 3, "batch_size": 4}


@pytest.mark.parametrize("settings", [{}, TREES], ids=["rows", "trees"])
def test_gradient_checkpointing_gives_the_same_curve_and_computes_layers_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object]
) -> None:
    passes, forward = [], PhiMLP.forward
    monkeypatch.setattr(PhiMLP, "forward", lambda *a, **b: passes.append(torch.is_grad_enabled()) or forward(*a, **b))
    found = curve(tmp_path / "kept", dropout=0.1, **settings)  # type: ignore[arg-type]
    once = sum(passes)
    passes.clear()
    assert curve(tmp_path / "again", dropout=0.1, gradient_checkpointing=True, **settings) == found  # type: ignore[arg-type]
    assert sum(passes) == 2 * once > 0
