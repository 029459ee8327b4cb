"""What every base model promises. Knows nothing about which base models there are."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from groundrec.contracts.rules import check_rules
from groundrec.core.config_model import Model
from groundrec.core.recipe import Recipe
from groundrec.core.types import Queries, Ragged, Slates
from groundrec.models.language import LanguageModel, load
from groundrec.rank.groundings import GroundingInputs, LoadedModel
from groundrec.rank.recommend import search_grounding
from groundrec.text.prompts import Template
from groundrec.text.tokens import Encoder
from groundrec.text.trie import Trie

__all__ = ["RULES", "TITLES", "Opened", "check_base_model", "grounding_inputs"]

TITLES = [
    *(f"Title {i}" for i in range(10)),
    "Amélie — “No. 5”",
    "  Title 3, again",
    "Title 3",
    "Title 3",
]
"""Titles with odd letters, and three items of one title."""
TEMPLATE = Template(item="{title}, ", answer="{title}\n")
ROOM = 512


@dataclass(frozen=True)
class Opened:
    """A base model, opened twice with one seed; `folder` is where rules may write."""

    lm: LanguageModel
    again: LanguageModel
    folder: Path

    @classmethod
    def of(
        cls, build: Callable[[Model, Iterable[str]], LanguageModel], section: Model, folder: Path
    ) -> Opened:
        """Return what `build` gives, ready to answer."""
        answers = [TEMPLATE.answer_text(title) for title in TITLES]

        def opened() -> LanguageModel:
            transformers.set_seed(0)
            lm = build(section, answers)
            lm.model.eval()
            return lm

        return cls(opened(), opened(), folder)


def grounding_inputs(
    lm: LanguageModel,
    recipe: Recipe,
    folder: Path,
    allow: NDArray[np.integer] | None = None,
    deny: NDArray[np.integer] | None = None,
) -> GroundingInputs:
    """Return what groundings of the catalogue `TITLES` are built from.

    The later an item, the more popular it is.
    """
    encoder = Encoder(TEMPLATE, lm.tokenizer, TITLES, ROOM)
    popularity = np.arange(len(TITLES))
    loaded = LoadedModel(lm, encoder, Trie.compile(encoder.answers, popularity))
    return GroundingInputs(
        recipe, TITLES, popularity, folder, lambda: loaded, allow=allow, deny=deny
    )


def check_base_model(
    build: Callable[[Model, Iterable[str]], LanguageModel], section: Model | None = None
) -> None:
    """Raise `AssertionError` at the first rule that a base model breaks, built with the recipe's
    section `[model]`.
    """
    with tempfile.TemporaryDirectory() as folder:
        check_rules(Opened.of(build, section or Model(), Path(folder)), RULES)


def round_trips_every_title(case: Opened) -> None:
    """The tokenizer decodes every title unchanged, and has a start or an end token."""
    tokenizer = case.lm.tokenizer
    assert isinstance(tokenizer.bos_token_id, int) or isinstance(tokenizer.eos_token_id, int), (
        "neither token"
    )
    for title in TITLES:
        ids = tokenizer(f"{title}\n", add_special_tokens=False)["input_ids"]
        again = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        assert again == f"{title}\n", f"{title!r} comes back as {again!r}"


def gives_logits_for_every_token(case: Opened) -> None:
    """The model gives finite logits for every token of its tokenizer."""
    logits = _logits(case.lm)
    assert logits.shape[-1] >= len(case.lm.tokenizer), (
        f"{logits.shape[-1]} logits, {len(case.lm.tokenizer)} tokens"
    )
    assert logits.isfinite().all(), "not finite"


def is_the_same_with_the_same_seed(case: Opened) -> None:
    """Opened twice with one seed, it is the same model."""
    torch.testing.assert_close(_logits(case.again), _logits(case.lm))


def is_saved_as_safetensors(case: Opened) -> None:
    """What is saved is safetensors, and loads as the same model."""
    case.lm.save(case.folder)
    kinds = {file.suffix for file in case.folder.iterdir()}
    assert ".safetensors" in kinds, sorted(kinds)
    assert not kinds & {".bin", ".pt", ".pth", ".pkl"}, sorted(kinds)
    again = load(case.folder)
    again.model.eval()
    torch.testing.assert_close(_logits(again), _logits(case.lm))


def can_be_searched(case: Opened) -> None:
    """The exact search finds what scoring every title finds: caches and 4-D masks work."""
    found = {mode: _slates(case, mode) for mode in ("exact", "exhaustive")}
    np.testing.assert_allclose(
        found["exact"].scores, found["exhaustive"].scores, rtol=1e-3, atol=1e-3
    )


def learns(case: Opened) -> None:
    """A loss on its answers has a gradient that is finite and not zero."""
    ids = _ids(case.again)
    case.again.model(input_ids=ids, labels=ids).loss.backward()
    slopes = [p.grad.abs().max() for p in case.again.model.parameters() if p.grad is not None]
    assert slopes, "no parameter has a gradient"
    assert all(slope.isfinite() for slope in slopes), "not finite"
    assert max(slopes) > 0, "all zero"


RULES = (
    round_trips_every_title,
    gives_logits_for_every_token,
    is_the_same_with_the_same_seed,
    is_saved_as_safetensors,
    can_be_searched,
    learns,
)


def _ids(lm: LanguageModel) -> torch.Tensor:
    return torch.tensor(
        [lm.tokenizer(f"{TITLES[0]}\n{TITLES[10]}\n", add_special_tokens=False)["input_ids"]]
    )


def _logits(lm: LanguageModel) -> torch.Tensor:
    with torch.inference_mode():
        return lm.model(input_ids=_ids(lm)).logits.float()


def _slates(case: Opened, mode: str) -> Slates:
    recipe = Recipe.of({"recommend": {"mode": mode, "k": 5}, "evaluate.ks": [5]})
    queries = Queries.of(Ragged.of([[0], [1, 2, 3], [4, 5, 6, 7]]), 0)
    return search_grounding(grounding_inputs(case.lm, recipe, case.folder)).slates(queries, 5)
