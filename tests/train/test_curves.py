"""A batch teaches the same however it is divided: into micro batches, among processes, into rows or
trees.

Tolerance: every step's loss within 1e-4 of the curve's, which begins near 6; the same sums in
another order.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import cross_entropy, pad, scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.models.phi.modeling_phi import PhiMLP

from groundrec.core import config_model
from groundrec.core.errors import ConfigError
from groundrec.models import attention
from groundrec.models.language import open_base
from groundrec.text.tokens import IGNORED, Example
from groundrec.train import trainer
from groundrec.train.objectives import CrossEntropy, collate
from tests.app.launched import TORCHRUN, output, started
from tests.train.curves import STILL, curve

CLOSE = 1e-4
Curve = list[tuple[str, float]]
TREES: dict[str, object] = {"packing": "tree", "tree_targets": 3, "batch_size": 4}
TITLES = [f"Title {i}" for i in range(12)]
DRAWN = [torch.from_numpy(np.random.default_rng(n).integers(3, 250, n)) for n in (11, 4, 7, 19)]


def assert_same(one: Curve, other: Curve) -> None:
    assert [key for key, _ in one] == [key for key, _ in other]
    assert [value for _, value in one] == pytest.approx(
        [value for _, value in other], rel=CLOSE, abs=CLOSE
    )


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
    with started(
        [*TORCHRUN, "-m", "tests.train.curves", str(folder), json.dumps(settings)]
    ) as process:
        text = output(process)
    assert process.returncode == 0, text
    main, other = (
        json.loads((folder / f"curve-{rank}.json").read_text(encoding="utf-8")) for rank in range(2)
    )
    assert other == [], "the main process alone writes metrics"
    return [(key, value) for key, value in main]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{}, TREES, {"template": "list"}, {"also": 6}, {**TREES, "also": 6}],
    ids=["rows", "trees", "lists", "two domains", "two domains' trees"],
)
def test_two_processes_give_the_curve_of_one(tmp_path: Path, settings: dict[str, object]) -> None:
    """Two each, twice: 16 = 2 × 4 × 2; the last batch is not full, and its share of one process may
    be empty.
    """
    found = launched(tmp_path / "two", **{**settings, "micro_batch_size": 2})
    assert_same(found, curve(tmp_path / "one", **{**settings, "micro_batch_size": 2}))  # type: ignore[arg-type]


def test_trees_give_the_curve_of_rows_where_a_batch_holds_the_same_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tree counts as one sequence of a batch, so only whole epochs hold the same: 65 rows, or 13
    people's trees.
    """
    epochs = {"epochs": 8, "warmup_steps": 0}
    skipping = Mock(wraps=attention._attention)
    monkeypatch.setattr(attention, "_attention", skipping)
    rows = curve(tmp_path / "rows", batch_size=65, micro_batch_size=65, **epochs)
    assert not skipping.called
    trees = curve(tmp_path / "trees", packing="tree", batch_size=13, micro_batch_size=13, **epochs)
    assert len([key for key, _ in rows if key == "loss"]) == 8
    assert skipping.call_count >= 8
    assert_same(trees, rows)


def test_trees_under_flex_attention_give_the_curve_of_those_under_sdpa(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its kernel has no gradients on a processor: here a block mask becomes SDPA's."""
    seen: list[BlockMask] = []

    def dense(
        _: object,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        mask: BlockMask,
        **options: Any,
    ) -> Any:
        seen.append(mask)
        one, i = torch.arange(len(q))[:, None, None, None], torch.arange(q.shape[2])
        visible = mask.mask_mod(one, torch.zeros_like(one), i[:, None], i)
        found = scaled_dot_product_attention(q, k, v, visible, scale=options["scaling"])
        return found.transpose(1, 2).contiguous(), None

    expected = curve(tmp_path / "sdpa", **TREES)
    with pytest.raises(ConfigError, match="gradients on CUDA devices only"):
        curve(tmp_path / "refused", tree_attention="flex_attention", **TREES)
    monkeypatch.setattr(trainer, "check_attention", lambda _: None)
    monkeypatch.setitem(AttentionInterface._global_mapping, "flex_attention", dense)
    assert_same(curve(tmp_path / "flex", tree_attention="flex_attention", **TREES), expected)
    assert seen


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_padded_on_either_side_has_the_loss_and_gradients_of_its_rows(side: str) -> None:
    """Rows here are padded on the right and need no mask; with a mask and their places they may
    stand on either.
    """
    lm = open_base(config_model.Model(scratch=STILL), TITLES, seed=3)
    lm.model.double()
    learned = [row.where((row > 90) & (torch.arange(len(row)) > 0), IGNORED) for row in DRAWN]
    rows = [
        Example(row.int().numpy(), labels.int().numpy())
        for row, labels in zip(DRAWN, learned, strict=True)
    ]
    longest = max(map(len, DRAWN))
    loss_of = CrossEntropy().summed_loss

    def filled(row: torch.Tensor, value: int) -> torch.Tensor:
        some = (longest - len(row), 0) if side == "left" else (0, longest - len(row))
        return pad(row, some, value=value)

    ids, labels = (
        torch.stack([filled(r, 5) for r in DRAWN]),
        torch.stack([filled(r, IGNORED) for r in learned]),
    )
    mask = torch.stack([filled(torch.ones_like(row), 0) for row in DRAWN])
    places = (mask.cumsum(1) - 1).clamp(min=0)
    logits = lm.model(ids, attention_mask=mask, position_ids=places).logits
    theirs = cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
    )
    together = collate(rows)
    ours = loss_of(lm.model, together) / together.learned_tokens()
    alone = sum(loss_of(lm.model, collate([row])) for row in rows) / together.learned_tokens()
    weights = list(lm.model.parameters())
    for loss in (theirs, alone):
        assert float(loss.detach()) == pytest.approx(float(ours.detach()), abs=1e-9)
        for one, other in zip(
            *(torch.autograd.grad(x, weights, retain_graph=True) for x in (loss, ours)), strict=True
        ):
            torch.testing.assert_close(one, other, atol=1e-9, rtol=0)


@pytest.mark.parametrize("settings", [{}, TREES], ids=["rows", "trees"])
def test_gradient_checkpointing_gives_the_same_curve_and_computes_layers_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object]
) -> None:
    passes, forward = [], PhiMLP.forward
    monkeypatch.setattr(
        PhiMLP,
        "forward",
        lambda *a, **b: passes.append(torch.is_grad_enabled()) or forward(*a, **b),
    )
    found = curve(tmp_path / "kept", dropout=0.1, **settings)  # type: ignore[arg-type]
    once = sum(passes)
    passes.clear()
    assert curve(tmp_path / "again", dropout=0.1, gradient_checkpointing=True, **settings) == found  # type: ignore[arg-type]
    assert sum(passes) == 2 * once > 0
