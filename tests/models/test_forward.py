"""Logits of some positions or some tokens: those of a whole forward pass, for any architecture."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from types import MethodType
from typing import Any

import pytest
import torch
from accelerate.utils.operations import convert_outputs_to_fp32
from peft import LoraConfig, get_peft_model
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    ProphetNetConfig,
    ProphetNetForCausalLM,
)

from groundrec.models.forward import logits_at, narrowed
from tests.rank.models import MODELS, VOCABULARY, WIDE


def with_adapters() -> torch.nn.Module:
    config = LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
    return get_peft_model(deepcopy(MODELS["llama"]), config)


def reads_all_positions() -> torch.nn.Module:
    """Return a model whose `forward` knows no `logits_to_keep`."""
    layers = {"num_decoder_layers": 1, "num_decoder_attention_heads": 2, "num_encoder_layers": 1}
    ngrams = {"ngram": 1, "decoder_ffn_dim": 16, "encoder_ffn_dim": 16, "is_decoder": True}
    shape: Any = {**layers, **ngrams, "vocab_size": VOCABULARY, "hidden_size": 16}
    return ProphetNetForCausalLM(ProphetNetConfig(**shape, is_encoder_decoder=False))


SCALED: dict[str, Callable[[], torch.nn.Module]] = {
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(**WIDE, num_key_value_heads=1, head_dim=8, final_logit_softcapping=2.0)
    ),
    "granite": lambda: GraniteForCausalLM(GraniteConfig(**WIDE, logits_scaling=3.0)),
    "cohere": lambda: CohereForCausalLM(CohereConfig(**WIDE, logit_scale=0.3)),
}
"""Models that change the logits after their output layer."""
OTHERS: dict[str, Callable[[], torch.nn.Module]] = {
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**WIDE)),  # its layer has another name
    "peft": with_adapters,
}
KINDS = {**{name: lambda name=name: MODELS[name] for name in MODELS}, **SCALED, **OTHERS}
pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)
IDS = torch.randint(VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(1))
POSITIONS = torch.tensor([[0, 8, 3], [5, 5, 1], [8, 7, 6]])
TOKENS = torch.tensor([2, 5, 7, 11])


def built(kind: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    torch.manual_seed(7)
    return kind().eval()


def at(logits: torch.Tensor) -> torch.Tensor:
    return logits.gather(1, POSITIONS[:, :, None].expand(-1, -1, logits.shape[2]))


@torch.no_grad()
@pytest.mark.parametrize("name", [*KINDS, "reads all"])
def test_logits_are_those_of_the_positions(name: str) -> None:
    model = built({**KINDS, "reads all": reads_all_positions}[name])
    found = logits_at(model, POSITIONS, input_ids=IDS).logits
    torch.testing.assert_close(found, at(model(input_ids=IDS).logits), rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
def test_logits_are_those_of_the_tokens_and_the_model_stays_as_it_is(name: str) -> None:
    model = built(KINDS[name])
    whole = model(input_ids=IDS).logits
    modules = dict(model.named_modules())
    narrow = narrowed(model, TOKENS)
    assert narrow is not None
    found = logits_at(narrow, POSITIONS, input_ids=IDS).logits
    torch.testing.assert_close(found, at(whole)[:, :, TOKENS], rtol=1e-5, atol=1e-6)
    assert dict(model.named_modules()) == modules
    assert torch.equal(model(input_ids=IDS).logits, whole)


@torch.no_grad()
def test_weights_trained_further_are_those_of_the_narrow_model() -> None:
    model = deepcopy(MODELS["llama"])
    narrow = narrowed(model, TOKENS)
    assert narrow is not None
    for parameter in model.model.parameters():
        parameter.mul_(0.5)
    found = logits_at(narrow, POSITIONS, input_ids=IDS).logits
    torch.testing.assert_close(found, at(model(input_ids=IDS).logits)[:, :, TOKENS])


@torch.no_grad()
def test_a_forward_that_mixed_precision_wraps_is_wrapped_in_the_narrow_model() -> None:
    model = deepcopy(MODELS["llama"]).to(torch.bfloat16)
    wrapped = convert_outputs_to_fp32(model.forward.__func__)  # as Accelerate prepares a model
    model.forward = MethodType(wrapped, model)
    narrow = narrowed(model, TOKENS)
    assert narrow is not None
    found = logits_at(narrow, POSITIONS, input_ids=IDS).logits
    assert found.dtype == torch.float32
    assert found.shape == (3, 3, 4)


def test_a_model_that_cannot_be_narrowed_is_used_whole() -> None:
    model = deepcopy(MODELS["llama"])
    own = model.forward
    model.forward = lambda **inputs: own(**inputs)  # not bound to the model: cannot be moved
    assert narrowed(model, TOKENS) is None
    other = deepcopy(MODELS["llama"])
    other.lm_head = torch.nn.Sequential(other.lm_head)
    assert narrowed(other, TOKENS) is None
