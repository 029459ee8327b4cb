"""A training that gets SIGTERM saves where it is and, resumed, ends with the weights of one that
was left alone.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from groundrec.core.stop import Stopped, stop_on_sigterm
from groundrec.train import finetune as module
from groundrec.train.start import last_complete_checkpoint
from tests.shops import planted_shop
from tests.train.test_finetune import QUICK, training, weights

STEPS = 12
"""Steps of an epoch."""


def stop_behind(monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    """Send SIGTERM to this process while it reads a batch, the so-manieth of those trained on."""
    original, trained = module.ObjectiveTrainer.compute_loss, iter(range(1, 10_000))

    def compute_loss(self, model, *args, **kwargs):
        if model.training and next(trained) == batches:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, model, *args, **kwargs)

    monkeypatch.setattr(module.ObjectiveTrainer, "compute_loss", compute_loss)


def last_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of the last step, which need not be those of the best validation loss."""
    last = last_complete_checkpoint(folder / "checkpoints")
    assert last
    assert last.name == f"checkpoint-{4 * STEPS}"
    return load_file(last / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.mark.parametrize(
    ("stops", "saved", "settings"),
    [
        ([STEPS], [STEPS], {}),
        ([STEPS + 1, 1, 3], [13, 14, 17], {}),
        ([9, STEPS], [9, 21], {"average": 0.6}),
        ([STEPS + 2, 5], [14, 19], {"average": 0.8}),
        ([31, 13], [16, 23], {"micro_batch_size": 2}),
        ([3, STEPS], [3, 15], {"schedule": "cosine"}),
    ],
    ids=str,
)
def test_a_stopped_training_ends_with_the_same_weights(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stops: list[int],
    saved: list[int],
    settings: dict[str, object],
) -> None:
    """`stops` count batches of each start, `saved` are the steps of the checkpoints that they
    leave.
    """
    shop, section = planted_shop(), QUICK.model_copy(update=settings)
    whole = weights(training(shop, tmp_path / "whole", section))
    for batches, step in zip(stops, saved, strict=True):
        with monkeypatch.context() as patched, pytest.raises(Stopped), stop_on_sigterm():  # noqa: PT012
            stop_behind(patched, batches)
            training(shop, tmp_path / "stopped", section)
        last = last_complete_checkpoint(tmp_path / "stopped" / "checkpoints")
        assert last
        assert last.name == f"checkpoint-{step}"
    resumed = weights(training(shop, tmp_path / "stopped", section))
    same(whole, resumed)
    same(last_weights(tmp_path / "whole"), last_weights(tmp_path / "stopped"))


def test_a_wish_to_stop_that_comes_with_the_last_step_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = planted_shop()
    with monkeypatch.context() as patched, pytest.raises(Stopped), stop_on_sigterm():  # noqa: PT012
        stop_behind(patched, 4 * STEPS)
        training(shop, tmp_path, QUICK)
    whole = weights(training(shop, tmp_path / "whole", QUICK))
    resumed = weights(training(shop, tmp_path, QUICK))
    same(whole, resumed)
    same(last_weights(tmp_path / "whole"), last_weights(tmp_path))
