"""How items are written: unknown kinds are refused, and kinds other than titles are learned."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from groundrec.app.stages.checks import check_names
from groundrec.core.config_model import Model
from groundrec.core.errors import ConfigError
from groundrec.core.recipe import Recipe
from groundrec.models.language import scratch, with_tokens
from groundrec.text.prompts import Template, load_template
from groundrec.text.tokens import Encoder
from groundrec.text.trie import Trie

TITLES = ["Alien", "Heat", "Alien"]
CODES = ["<a><x>", "<a><y>", "<b><x>"]
TOKENS = ["<a>", "<b>", "<x>", "<y>"]
SMALL = {"hidden": 16, "layers": 1, "heads": 2, "vocabulary": 300}


def test_an_unknown_way_is_refused_with_the_names_there_are() -> None:
    check_names(Recipe())
    with pytest.raises(ConfigError, match=r"answers\.kind.*titel") as error:
        check_names(Recipe.of({"answers.kind": "titel"}))
    assert "accepted: title" in str(error.value)


def test_histories_show_titles_and_answers_are_written_as_asked() -> None:
    lm = with_tokens(scratch(Model.model_validate({"scratch": SMALL}), TITLES), TOKENS)
    template = Template(item="{title}, ", tail="next: ", answer="{title}", end=True)
    encoder = Encoder(template, lm.tokenizer, TITLES, 256, texts=CODES)
    assert lm.tokenizer.decode(encoder.prompt([0, 1])).endswith("Alien, Heat, next: ")
    assert [len(ids) for ids in encoder.answers] == [3, 3, 3]  # two tokens and the end
    assert lm.tokenizer.decode(encoder.answers[2][:-1]) == "<b><x>"
    tree = Trie.compile(encoder.answers)
    assert sorted(tree.items(int(tree.children[0])).tolist()) == [0, 1]


def test_a_running_list_is_made_of_answers() -> None:
    lm = with_tokens(scratch(Model.model_validate({"scratch": SMALL}), TITLES), TOKENS)
    encoder = Encoder(load_template("list"), lm.tokenizer, TITLES, 256, texts=CODES)
    assert lm.tokenizer.decode(encoder.prompt(np.array([1, 2]))[1:]) == "<a><y>\n<b><x>\n"


def test_a_model_gets_an_embedding_for_each_new_token() -> None:
    lm = scratch(Model.model_validate({"scratch": SMALL}), TITLES)
    before = lm.model.get_input_embeddings().weight.detach().clone()
    assert with_tokens(lm, []) is lm
    assert len(lm.model.get_input_embeddings().weight) == len(before)
    with_tokens(with_tokens(lm, TOKENS), TOKENS[:2])
    after = lm.model.get_input_embeddings().weight
    assert len(after) == len(before) + 4
    assert torch.equal(after[: len(before)], before)
    assert [len(lm.tokenizer(t, add_special_tokens=False)["input_ids"]) for t in TOKENS] == [1] * 4
