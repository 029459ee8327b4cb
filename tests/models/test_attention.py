"""Attention that leaves out what masks hide: the same numbers and gradients, and the model's own
afterwards.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel

from groundrec.models import attention
from groundrec.models.attention import additive, skipping
from tests.rank.models import MODELS


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    count=st.integers(1, 3),
    length=st.integers(1, 12),
    groups=st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 1)]),
    run=st.integers(1, 13),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_what_is_hidden_changes_nothing(
    seed: int, count: int, length: int, groups: tuple[int, int], run: int, share: float
) -> None:
    draw = torch.Generator().manual_seed(seed)
    heads, shared = groups
    parts = [
        torch.randn(count, n, length, 3, dtype=torch.double, generator=draw, requires_grad=True)
        for n in (heads, shared, shared)
    ]
    sees = torch.rand(count, length, length, generator=draw) < share
    mask = additive(sees | torch.eye(length, dtype=torch.bool), torch.double)
    towards = torch.randn(count, length, heads, 3, dtype=torch.double, generator=draw)

    def gradients(found: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return found, *torch.autograd.grad((found * towards).sum(), parts)

    dense = scaled_dot_product_attention(
        *parts, attn_mask=mask, scale=0.7, enable_gqa=True
    ).transpose(1, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "CHUNK", run)
        found, _ = attention._attention(torch.nn.Module(), *parts, mask, scaling=0.7)
    for mine, other in zip(gradients(found), gradients(dense), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-12, rtol=0)


def test_what_a_layer_asks_for_beyond_a_mask_is_applied_or_refused_as_by_transformers() -> None:
    parts = [torch.randn(1, 2, 5, 3) for _ in range(3)]
    mask, bias = additive(torch.ones(1, 5, 5).tril().bool(), torch.float32), torch.randn(1, 2, 5, 5)
    found, _ = attention._attention(torch.nn.Module(), *parts, mask, position_bias=bias)
    expected = scaled_dot_product_attention(*parts, attn_mask=mask + bias).transpose(1, 2)
    torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="softcap"):
        attention._attention(torch.nn.Module(), *parts, mask, softcap=50.0)


@pytest.mark.parametrize("own", ["sdpa", "eager"])
def test_a_model_attends_as_before_afterwards_and_in_other_threads(
    own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    skips = Mock(wraps=attention._attention)
    monkeypatch.setattr(attention, "_attention", skips)
    model: PreTrainedModel = MODELS["llama"]
    ids, mask = torch.tensor([[3, 4, 5]]), additive(torch.ones(1, 3, 3).tril().bool(), model.dtype)

    def calls() -> int:
        before = skips.call_count
        model(input_ids=ids, attention_mask=mask)
        return skips.call_count - before

    model.set_attn_implementation(own)
    try:
        with skipping(model), ThreadPoolExecutor(1) as other:
            assert calls() == (2 if own == "sdpa" else 0)  # one for each layer
            assert other.submit(calls).result() == 0
            assert model.config._attn_implementation == own
        assert calls() == 0
    finally:
        model.set_attn_implementation("sdpa")
