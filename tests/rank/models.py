"""Tiny random language models of several architectures, far from uniform, so that rankings are
decided.
"""

from __future__ import annotations

import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

__all__ = ["END", "MODELS", "VOCABULARY", "WIDE"]

VOCABULARY, END = 12, 1
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
WIDE = {**SHAPE, "intermediate_size": 32}


def _build(name: str) -> PreTrainedModel:
    match name:
        case "llama":
            return LlamaForCausalLM(LlamaConfig(**WIDE, num_key_value_heads=2))
        case "gpt2":
            return GPT2LMHeadModel(
                GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=64)
            )
        case "qwen2":
            return Qwen2ForCausalLM(Qwen2Config(**WIDE, num_key_value_heads=1))
        case "qwen3":
            return Qwen3ForCausalLM(Qwen3Config(**WIDE, num_key_value_heads=1, head_dim=8))
        case "gemma3":  # a layer that sees five tokens, then one that sees all
            kinds = ["sliding_attention", "full_attention"]
            shape = Gemma3TextConfig(
                **WIDE, num_key_value_heads=1, head_dim=8, sliding_window=5, layer_types=kinds
            )
            return Gemma3ForCausalLM(shape)
        case "mistral":  # every layer sees four tokens
            return MistralForCausalLM(
                MistralConfig(**WIDE, num_key_value_heads=1, sliding_window=4)
            )
        case "phi":  # an output layer with a bias
            return PhiForCausalLM(PhiConfig(**WIDE))
    raise ValueError(name)


def _far_from_uniform(name: str) -> PreTrainedModel:
    torch.manual_seed(7)
    model = _build(name)
    for parameter in model.parameters():
        parameter.data.mul_(4.0)
    return model.eval()


MODELS = {
    n: _far_from_uniform(n) for n in ("llama", "gpt2", "qwen2", "qwen3", "gemma3", "mistral", "phi")
}
