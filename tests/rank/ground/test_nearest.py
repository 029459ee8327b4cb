"""Texts to items beside the obvious way: every distance in float64, one at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from groundrec.core.errors import SearchError
from groundrec.rank.ground import nearest as ground
from groundrec.rank.ground.nearest import Vote, distances, embed, nearest
from tests.rank.models import MODELS, VOCABULARY

VOTES: tuple[Vote, ...] = ("best", "nearest", "mean")


def brute_force(texts: Tensor, items: Tensor, vote: Vote, allowed: Tensor | None) -> Tensor:
    """Return every distance in float64, infinite where not allowed. Shape: [Q, I]."""
    t, x = texts.double().numpy(), items.double().numpy()
    apart = np.sqrt(((t[:, :, None] - x[None, None]) ** 2).sum(-1))
    voted = {"best": apart[:, 0], "nearest": apart.min(1), "mean": apart.mean(1)}[vote]
    return torch.from_numpy(voted if allowed is None else np.where(allowed.numpy(), voted, np.inf))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return texts, items and what is allowed: whole numbers, so that ties are ties, or far from
    the origin.
    """
    q, v, i, d = (draw(st.integers(1, most)) for most in (4, 3, 60, 5))
    random = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    scale, far = draw(st.sampled_from([(None, 0.0), (1.0, 0.0), (1e-3, 100.0), (1e3, 0.0)]))

    def some(*shape: int) -> Tensor:
        if scale is None:
            return torch.randint(-2, 3, shape, generator=random).float()
        return torch.randn(*shape, generator=random) * scale + far

    allowed = torch.rand(q, i, generator=random) < 0.6 if draw(st.booleans()) else None
    return some(q, v, d), some(i, d), allowed


@given(cases(), st.sampled_from(VOTES), st.integers(1, 70), st.integers(1, 64), st.integers(0, 4))
@settings(max_examples=400, deadline=None)
def test_the_nearest_are_those_of_float64_whatever_the_chunks(
    case: tuple[Tensor, Tensor, Tensor | None], vote: Vote, k: int, chunk: int, spare: int
) -> None:
    texts, items, allowed = case
    whole = brute_force(texts, items, vote, allowed)
    before, ground.SPARE = ground.SPARE, spare
    try:
        numbers, apart = nearest(texts, items, k, vote, allowed, chunk=chunk)
    finally:
        ground.SPARE = before
    expected, order = whole.sort(dim=1, stable=True)
    few = min(k, len(items))
    np.testing.assert_allclose(apart[:, :few].double(), expected[:, :few], rtol=1e-6)
    assert apart[:, few:].isinf().all()
    assert torch.equal(numbers[:, :few], order[:, :few].masked_fill(expected[:, :few].isinf(), -1))
    assert (numbers[:, few:] == -1).all()


@given(cases(), st.sampled_from(VOTES), st.integers(1, 64))
@settings(max_examples=100, deadline=None)
def test_all_distances_are_those_of_float64(
    case: tuple[Tensor, Tensor, Tensor | None], vote: Vote, chunk: int
) -> None:
    texts, items, _ = case
    scale = float(max(texts.abs().max(), items.abs().max()))
    np.testing.assert_allclose(
        distances(texts, items, vote, chunk=chunk),
        brute_force(texts, items, vote, None),
        rtol=1e-3,
        atol=2e-3 * scale,
    )


def test_a_query_alone_finds_what_it_finds_among_others() -> None:
    random = torch.Generator().manual_seed(0)
    texts, items = torch.randn(9, 2, 32, generator=random), torch.randn(500, 32, generator=random)
    together = nearest(texts, items, 20, "mean")[0]
    alone = torch.cat([nearest(texts[i : i + 1], items, 20, "mean")[0] for i in range(9)])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("coming", [True, False])
def test_items_that_come_nearer_or_go_away_are_all_seen(coming: bool) -> None:
    """In chunks of 32: all of the next one are candidates, or none; a third kind has few among
    many.
    """
    random = torch.Generator().manual_seed(3)
    items = (
        torch.randn(700, 1, generator=random)
        .expand(-1, 4)
        .sort(dim=0, descending=coming)[0]
        .contiguous()
        + 5
    )
    texts = torch.zeros(3, 1, 4)
    assert torch.equal(
        nearest(texts, items, 9, chunk=32)[0][0],
        brute_force(texts, items, "best", None)[0].argsort()[:9],
    )
    mixed = items[torch.randperm(700, generator=random)]
    assert torch.equal(
        nearest(texts, mixed, 9, chunk=32)[0][0],
        brute_force(texts, mixed, "best", None)[0].argsort()[:9],
    )


def test_a_large_common_part_loses_no_item() -> None:
    random = torch.Generator().manual_seed(1)
    items = torch.randn(300, 64, generator=random) * 1e-2 + 50
    texts = items[:40, None] + 1e-4
    assert torch.equal(nearest(texts, items, 1)[0].flatten(), torch.arange(40))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3", "mistral", "phi"])
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_an_embedding_is_the_models_own_whatever_it_is_padded_with(
    name: str, pooling: str, monkeypatch
) -> None:
    model, random = MODELS[name], np.random.default_rng(2)
    rows = [random.integers(2, VOCABULARY, size).tolist() for size in (1, 7, 3, 12, 7, 2)]
    alone = (
        torch.stack([hidden(model, row) for row in rows], 0)
        if pooling == "last"
        else mean_hidden(model, rows)
    )
    np.testing.assert_allclose(embed(model, rows, pooling), alone, rtol=1e-4, atol=1e-4)  # type: ignore[arg-type]
    monkeypatch.setattr(ground, "TOKENS", 15)
    np.testing.assert_allclose(embed(model, rows, pooling), alone, rtol=1e-4, atol=1e-4)  # type: ignore[arg-type]


def hidden(model, row: list[int]) -> Tensor:
    """Return the last layer's state of the last token, the row padded on the left, as BIGRec's code
    reads it.
    """
    pad = 3
    ids, mask = torch.tensor([[0] * pad + row]), torch.tensor([[0] * pad + [1] * len(row)])
    places = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode():
        out = model(
            input_ids=ids, attention_mask=mask, position_ids=places, output_hidden_states=True
        )
    return out.hidden_states[-1][0, -1].float()


def mean_hidden(model, rows: list[list[int]]) -> Tensor:
    with torch.inference_mode():
        states = [
            model(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states[-1]
            for row in rows
        ]
    return torch.stack([state[0].float().mean(0) for state in states])


def test_what_has_no_number_is_refused() -> None:
    good, bad = torch.zeros(2, 1, 3), torch.tensor([[1.0, torch.nan, 0], [1, 2, 3]])
    with pytest.raises(
        SearchError, match="items' embeddings hold numbers that are not finite: 1 of 2"
    ):
        nearest(good, bad, 1)
    with pytest.raises(SearchError, match="texts' embeddings"):
        nearest(bad[:, None], good[:, 0], 1)
    with pytest.raises(SearchError, match="a text without tokens"):
        embed(MODELS["llama"], [[3], []])


def test_no_queries_find_nothing() -> None:
    for chunk in (1, 4):
        numbers, apart = nearest(torch.zeros(0, 1, 3), torch.zeros(40, 3), 2, chunk=chunk)
        assert numbers.shape == apart.shape == (0, 2)
