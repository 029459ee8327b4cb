"""What every registered base model must obey, a stranger's too: found through the registry, never
listed here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from groundrec.contracts.base_models import RULES, TITLES, Opened, check_base_model
from groundrec.core.config_model import Model
from groundrec.core.registry import names, resolve
from groundrec.models.hubs import HUBS
from groundrec.models.language import LanguageModel, scratch

SMALL = {"hidden": 32, "layers": 2, "heads": 2, "vocabulary": 300, "dropout": 0.0}
FETCHED = {"smollm2-135m"}
"""Those that need a connection. A name on a hub means a folder in the end, and tests of the hubs
have their own.
"""


def slow_if_fetched(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow) if name in FETCHED else name


@pytest.fixture(
    scope="module", params=map(slow_if_fetched, sorted(set(names("base_models")) - set(HUBS)))
)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    folder = tmp_path_factory.mktemp("models")
    section = Model.model_validate({"base_model": request.param, "scratch": SMALL})
    if request.param == "folder":
        scratch(section, TITLES).save(folder / "there")
        section = section.model_copy(update={"base_model": str(folder / "there")})
    return Opened.of(resolve("base_models", request.param), section, folder)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_registered_base_model_keeps_the_rule(case: Opened, rule: Any) -> None:
    rule(case)


def test_a_base_model_that_breaks_a_rule_is_told_which() -> None:
    section = Model.model_validate({"scratch": SMALL})

    def in_small_letters(section: Model, texts: Iterable[str]) -> LanguageModel:
        from tokenizers.normalizers import Lowercase

        lm = scratch(section, texts)
        lm.tokenizer.backend_tokenizer.normalizer = Lowercase()  # type: ignore[attr-defined]
        return lm

    def with_few_logits(section: Model, texts: Iterable[str]) -> LanguageModel:
        lm = scratch(section, texts)
        lm.model.resize_token_embeddings(280)
        return lm

    def ever_another(section: Model, texts: Iterable[str]) -> LanguageModel:
        import torch

        torch.seed()
        return scratch(section, texts)

    for build, words in (
        (in_small_letters, "decodes every title unchanged"),
        (with_few_logits, "for every token of its tokenizer|index out of range"),
        (ever_another, "with one seed"),
    ):
        with pytest.raises((AssertionError, IndexError), match=words):
            check_base_model(build, section)
