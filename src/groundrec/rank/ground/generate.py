"""Texts that a language model generates freely after prompts, by beam search or by sampling.

A checkpoint's own generation settings are ignored, and batching changes no text. Knows nothing
about catalogues or what the texts mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["GenerationSettings", "generate"]


@dataclass(frozen=True)
class GenerationSettings:
    """How texts are generated: `texts` per prompt, of at most `longest` tokens each. `temperature`
    and `top_p` are for sampling.
    """

    texts: int = 4
    longest: int = 128
    decoding: Literal["beam", "sample"] = "beam"
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    ends: Tensor,
    settings: GenerationSettings,
    names: Sequence[int],
) -> list[list[list[int]]]:
    """Return the token ids of each prompt's texts up to the ending token.

    Beams come likeliest first, samples in the order in which they were drawn.

    Args:
        model: A transformers causal language model.
        prompts: Token ids.
        ends: Which tokens end a text. Shape: [V], bool.
        settings: How to generate.
        names: A number for each prompt; with the seed, it decides what is sampled for that prompt.
    """
    width = max(map(len, prompts))
    ids = torch.tensor([[*[0] * (width - len(p)), *p] for p in prompts], device=model.device)
    seen = torch.tensor(
        [[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device
    )
    ends = ends.to(model.device)
    copies = settings.texts if settings.decoding == "sample" else 1
    names_drawn = [(name, copy) for name in names for copy in range(copies)]
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        out = model.generate(  # type: ignore[operator]
            ids.repeat_interleave(copies, 0),
            attention_mask=seen.repeat_interleave(copies, 0),
            generation_config=_settings(settings),
            logits_processor=(
                _sampling(settings, names_drawn) if settings.decoding == "sample" else None
            ),
            stopping_criteria=StoppingCriteriaList([_Ended(ends, width)]),
        )
    finally:
        model.generation_config = own
    stops = ends.cpu().numpy()
    texts = [_to_end(row, stops) for row in out[:, width:].cpu().numpy()]
    return [texts[i : i + settings.texts] for i in range(0, len(texts), settings.texts)]


def _settings(settings: GenerationSettings) -> GenerationConfig:
    beams = settings.texts if settings.decoding == "beam" else 1
    return GenerationConfig(
        max_new_tokens=settings.longest,
        num_beams=beams,
        num_return_sequences=beams,
        do_sample=False,
        pad_token_id=0,
    )


def _to_end(row: np.ndarray, stops: np.ndarray) -> list[int]:
    end = np.flatnonzero(stops[row])  # the token that ends a text may begin with its last letters
    return row[: end[0] + 1 if len(end) else len(row)].tolist()


class _Ended(StoppingCriteria):
    """Ends a text when one of its tokens is an end token; only padding follows that."""

    def __init__(self, ends: Tensor, prompt: int) -> None:
        self._ends = ends
        self._prompt = prompt

    def __call__(self, input_ids: Tensor, scores: object, **_: object) -> Any:
        return self._ends[input_ids[:, self._prompt :]].any(1)


def _sampling(settings: GenerationSettings, names: list[tuple[int, int]]) -> LogitsProcessorList:
    chain: list[LogitsProcessor] = (
        [TemperatureLogitsWarper(settings.temperature)] if settings.temperature != 1 else []
    )
    if settings.top_p < 1:
        chain.append(TopPLogitsWarper(settings.top_p))
    return LogitsProcessorList([*chain, _Gumbel(settings.seed, names)])


class _Gumbel(LogitsProcessor):
    """Noise that turns the largest logit into a draw (Gumbel 1954), each text's from a source of
    its own.

    So a text does not depend on the others of its batch, as it would with one source for all.
    """

    def __init__(self, seed: int, names: list[tuple[int, int]]) -> None:
        self._sources = [np.random.default_rng([seed, *name]) for name in names]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        noise = np.stack([source.gumbel(size=scores.shape[1]) for source in self._sources])
        return scores + torch.from_numpy(noise).to(scores.device, torch.float32)
