"""The sequential networks against what a causal model of sets of histories must obey."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from groundrec.core.config_signals import Sequential
from groundrec.core.errors import TrainingError
from groundrec.core.types import NO_ITEM, Ragged
from groundrec.signals.sequential import NETWORKS, NextItem, pad

ITEMS = 9
HISTORIES = [[3, 1, 4, 1, 5], [2], [], [8, 7, 6]]


SECTION = Sequential(
    hidden=8, layers=2, heads=2, dropout=0.5, max_length=6, window=3, horizontal=4, vertical=2
)


@pytest.fixture(params=NETWORKS)
def model(request: pytest.FixtureRequest) -> NextItem:
    torch.manual_seed(1)
    return NETWORKS[request.param](ITEMS, SECTION).eval()


def test_pad_keeps_the_newest_items_in_order_and_fills_behind_them() -> None:
    rows = pad(Ragged.of([[1, 2, 3], [], [4]]), 2)
    assert rows.tolist() == [[2, 3], [NO_ITEM, NO_ITEM], [4, NO_ITEM]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_no_score(model: NextItem, side: str) -> None:
    for history in HISTORIES:
        padding = [NO_ITEM] * (6 - len(history))
        padded = padding + history if side == "left" else history + padding
        bare = model(torch.tensor([[*history, NO_ITEM]]))
        torch.testing.assert_close(model(torch.tensor([padded])), bare, rtol=1e-5, atol=1e-6)


def test_a_history_of_no_width_is_an_empty_one(model: NextItem) -> None:
    nothing, padding = (
        model(torch.empty(1, 0, dtype=torch.long)),
        model(torch.full((1, 3), NO_ITEM)),
    )
    torch.testing.assert_close(nothing, padding)


def test_a_batch_scores_like_its_rows(model: NextItem) -> None:
    batch = model.scores(Ragged.of(HISTORIES))
    singles = np.concatenate([model.scores(Ragged.of([history])) for history in HISTORIES])
    np.testing.assert_allclose(batch, singles, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        model.scores(Ragged.of(HISTORIES), batch_size=3), batch, rtol=1e-5, atol=1e-6
    )


def test_states_never_see_later_items(model: NextItem) -> None:
    one, other = (
        model.encode(torch.tensor([[3, 1, 4, 1]])),
        model.encode(torch.tensor([[3, 1, 8, 8]])),
    )
    torch.testing.assert_close(one[:, :3], other[:, :3])
    assert not torch.allclose(one[:, 3:], other[:, 3:])


def test_order_matters_and_items_beyond_the_length_do_not(model: NextItem) -> None:
    forward, backward = model.scores(Ragged.of([[1, 2, 3], [3, 2, 1]]))
    assert not np.allclose(forward, backward)
    long, short = model.scores(Ragged.of([[8, 1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]]))
    np.testing.assert_allclose(long, short, rtol=1e-5, atol=1e-6)


def test_input_and_output_share_the_item_embeddings(model: NextItem) -> None:
    before = model.scores(Ragged.of([[]]))[0]
    with torch.no_grad():
        model.items.weight[4] += torch.arange(8.0)
    changed = np.flatnonzero(~np.isclose(model.scores(Ragged.of([[]]))[0], before))
    assert changed.tolist() == [4]
    before = model.scores(Ragged.of([[4]]))[0]
    with torch.no_grad():
        model.items.weight[4] -= torch.arange(8.0)
    assert not np.isclose(model.scores(Ragged.of([[4]]))[0], before).any()


def test_scoring_leaves_the_training_mode_as_it_was(model: NextItem) -> None:
    model.train()
    first, second = model.scores(Ragged.of([[1, 2]])), model.scores(Ragged.of([[1, 2]]))
    assert model.training
    np.testing.assert_array_equal(first, second)


def test_caser_sees_its_window_and_no_more() -> None:
    torch.manual_seed(1)
    caser = NETWORKS["caser"](ITEMS, SECTION).eval()
    scores = caser.scores(Ragged.of([[5, 1, 2, 3], [8, 7, 1, 2, 3], [5, 8, 2, 3]]))
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5)
    assert not np.allclose(scores[0], scores[2])


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(TrainingError, match="not divisible by the number of heads"):
        NETWORKS["sasrec"](ITEMS, Sequential(hidden=10, heads=4))
