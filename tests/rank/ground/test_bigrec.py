"""What is written, and what becomes of it: `generate`'s own beams, empty and endless texts, votes,
what is kept.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import GenerationConfig

from groundrec.core.config_model import Model
from groundrec.core.errors import ConfigError, SearchError
from groundrec.core.recipe import Recipe
from groundrec.core.types import NO_ITEM, Queries, Ragged
from groundrec.models.language import scratch
from groundrec.rank.ground import bigrec as module
from groundrec.rank.ground.bigrec import BIGRecRanker, TitleIndex, item_scores
from groundrec.rank.ground.generate import GenerationSettings, generate
from groundrec.rank.groundings import GroundingInputs, LoadedModel
from groundrec.rank.recommend import recommend
from groundrec.rank.slates import SavedSlates, work_of
from groundrec.text.prompts import Template, load_template
from groundrec.text.tokens import Encoder
from groundrec.text.trie import Trie
from tests.rank.models import END, MODELS, VOCABULARY

TITLES = [f"Title {i}" for i in range(9)]
ENDS = torch.arange(VOCABULARY) == END
PROMPTS = [[3, 4, 5], [6], [2, 9, 8, 7, 6, 5], [4, 4]]


@pytest.fixture
def parts(tmp_path: Path) -> GroundingInputs:
    torch.manual_seed(3)
    lm = scratch(
        Model.model_validate(
            {"scratch": {"hidden": 16, "layers": 1, "heads": 1, "vocabulary": 300}}
        ),
        TITLES,
    )
    lm.model.eval()
    encoder = Encoder(load_template("list"), lm.tokenizer, TITLES, 256)
    popularity = np.zeros(len(TITLES), np.int64)
    recipe = Recipe.model_validate(
        {"recommend": {"k": 4}, "evaluate": {"ks": [1]}, "ground": {"max_new_tokens": 4}}
    )
    loaded = LoadedModel(lm, encoder, Trie.compile(encoder.answers, popularity))
    return GroundingInputs(recipe, TITLES, popularity, tmp_path, lambda: loaded)


def queries(count: int = 3) -> Queries:
    return Queries.of(Ragged.of([i, i + 1] for i in range(count)), 0)


def writing(
    monkeypatch: pytest.MonkeyPatch, parts: GroundingInputs, texts: list[list[str]]
) -> None:
    """From now on the model writes `texts`, a row per query."""
    ids = [
        [parts.encoder.tokenizer(text, add_special_tokens=False)["input_ids"] for text in row]
        for row in texts
    ]
    monkeypatch.setattr(module, "generate", lambda *_: ids)


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi"])
def test_beams_are_those_of_generate_with_one_end_token(name: str) -> None:
    written = generate(
        MODELS[name], PROMPTS, ENDS, GenerationSettings(texts=3, longest=6), range(4)
    )
    settings = {
        "num_beams": 3,
        "num_return_sequences": 3,
        "max_new_tokens": 6,
        "do_sample": False,
        "pad_token_id": 0,
    }
    for prompt, texts in zip(PROMPTS, written, strict=True):
        config = GenerationConfig(**settings, eos_token_id=END)
        out = (
            MODELS[name]
            .generate(torch.tensor([prompt]), generation_config=config)[:, len(prompt) :]
            .tolist()
        )
        assert texts == [row[: [*row, END].index(END) + 1] for row in out]


def test_a_checkpoints_own_settings_do_not_matter() -> None:
    model, plain = (
        MODELS["llama"],
        generate(MODELS["llama"], PROMPTS, ENDS, GenerationSettings(longest=6), range(4)),
    )
    own, model.generation_config = (
        model.generation_config,
        GenerationConfig(repetition_penalty=9.0, min_new_tokens=5),
    )
    try:
        assert generate(model, PROMPTS, ENDS, GenerationSettings(longest=6), range(4)) == plain
        assert model.generation_config.repetition_penalty == 9.0
    finally:
        model.generation_config = own


def test_samples_follow_the_models_distribution_and_come_from_seed_and_query() -> None:
    settings = GenerationSettings(texts=1, longest=1, decoding="sample", temperature=2.0)
    drawn = generate(MODELS["llama"], [[3, 4]] * 3000, ~ENDS & ENDS, settings, range(3000))
    counts = np.bincount([row[0][0] for row in drawn], minlength=VOCABULARY) / 3000
    with torch.inference_mode():
        expected = (MODELS["llama"](torch.tensor([[3, 4]])).logits[0, -1] / 2).softmax(0).numpy()
    np.testing.assert_allclose(counts, expected, atol=0.04)
    some = GenerationSettings(texts=3, longest=6, decoding="sample", top_p=0.9, seed=1)
    first = generate(MODELS["llama"], PROMPTS, ENDS, some, [7, 8, 9, 10])
    assert generate(MODELS["llama"], PROMPTS[2:], ENDS, some, [9, 10]) == first[2:]
    assert generate(MODELS["llama"], PROMPTS, ENDS, some, [17, 18, 19, 20]) != first


@pytest.mark.parametrize(
    ("name", "written", "title"),
    [
        ("list", "A film (1999)\nAnother", "A film (1999)"),
        ("list", "  A film", "A film"),
        ("d3", '"Say "when""\nmore', 'Say "when"'),
        ("bigrec", '"A film"', "A film"),
        ("bigrec", '"A film\nwith', "A film\nwith"),
        ("bigrec", '""', ""),
        ("list", "\nA film", ""),
    ],
)
def test_a_title_is_taken_out_of_what_was_written(name: str, written: str, title: str) -> None:
    assert load_template(name).text_of(written) == title


def test_a_title_written_to_the_letter_is_the_nearest_one(
    parts: GroundingInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing(
        monkeypatch, parts, [["Title 7\n", "Title 5\n"], ["Title 6", "x"], ["Title 8\n", "Title 8"]]
    )
    found = BIGRecRanker(parts).slates(queries(), 4)
    assert found.items[:, 0].tolist() == [7, 6, 8]
    np.testing.assert_allclose(found.scores[:, 0], 0, atol=1e-6)


def test_empty_texts_do_not_vote_and_nothing_written_is_an_empty_slate(
    parts: GroundingInputs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    writing(monkeypatch, parts, [["", "Title 5"], ["\n", " "], ["Title 6", ""]])
    (tmp_path / "slates").mkdir()
    found = recommend(BIGRecRanker(parts), queries(), tmp_path / "slates")
    assert found.items[:, 0].tolist() == [5, NO_ITEM, 6]
    assert np.isneginf(found.scores[1]).all()
    assert work_of(tmp_path / "slates").silent == 1


def test_what_is_longer_than_longest_loses_its_end(
    parts: GroundingInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    beginning = " ".join(f"word{i}" for i in range(40))
    longest = len(parts.encoder.tokenize(beginning, 10_000))
    short = parts.recipe.model_copy(
        update={"ground": parts.recipe.ground.model_copy(update={"max_embed_tokens": longest})}
    )
    ranker = BIGRecRanker(replace(parts, recipe=short))
    rows = []
    for text in (beginning, beginning + " and on" * 10_000):
        writing(monkeypatch, parts, [[text]])
        rows.append(ranker.slates(queries(1), 4))
    assert len(parts.encoder.tokenize(beginning + " and on" * 10_000, 10**9)) > 10_000
    np.testing.assert_array_equal(rows[0].items, rows[1].items)
    np.testing.assert_array_equal(rows[0].scores, rows[1].scores)


@pytest.mark.parametrize("vote", ["best", "nearest", "mean"])
def test_how_texts_vote(parts: GroundingInputs, monkeypatch: pytest.MonkeyPatch, vote: str) -> None:
    ground = parts.recipe.ground.model_copy(update={"vote": vote})
    ranker = BIGRecRanker(replace(parts, recipe=parts.recipe.model_copy(update={"ground": ground})))
    writing(monkeypatch, parts, [["Title 7", "Title 5"]])
    found = ranker.slates(queries(1), 4)
    if vote == "best":
        assert found.items[0, 0] == 7
    if vote == "nearest":
        assert set(found.items[0, :2].tolist()) == {5, 7}
    table = ranker.table.double()
    apart = torch.stack(
        [(table - table[i]).norm(dim=1) for i in (7, 5)][: 1 if vote == "best" else 2]
    )
    expected = {"best": apart[0], "nearest": apart.amin(0), "mean": apart.mean(0)}[vote]
    expected[[0, 1]] = torch.inf
    np.testing.assert_allclose(-found.scores[0], expected.sort().values[:4], rtol=1e-5, atol=1e-6)


def test_scores_of_all_items_continue_the_slates(parts: GroundingInputs, tmp_path: Path) -> None:
    ranker = BIGRecRanker(parts)
    folder = tmp_path / "slates"
    folder.mkdir()
    found = recommend(ranker, queries(), folder)
    whole = ranker.scores(queries(), SavedSlates(folder))
    assert whole.shape == (3, len(TITLES))
    np.testing.assert_allclose(
        np.take_along_axis(whole, found.items, 1), found.scores, rtol=1e-3, atol=1e-3
    )
    (kept,) = tmp_path.glob("*.npy")
    table = torch.from_numpy(np.load(kept))
    (shard,) = folder.glob("*.parquet")
    vectors = [
        np.array(row, np.float32).reshape(-1, table.shape[1])
        for row in pq.read_table(shard)["embeddings"].to_pylist()
    ]
    assert item_scores(vectors, ranker.titles, table, "best").tobytes() == whole.tobytes()
    silent = [np.empty((0, table.shape[1]), np.float32)]
    assert (item_scores(silent, ranker.titles, table, "best") == 0).all()


def test_embeddings_are_made_once_for_the_same_model_and_catalogue(
    parts: GroundingInputs, monkeypatch: Any
) -> None:
    first = BIGRecRanker(parts).table.clone()
    monkeypatch.setattr(module, "embed", lambda *_: pytest.fail("embedded again"))
    assert torch.equal(BIGRecRanker(parts).table, first)
    with pytest.raises(pytest.fail.Exception):
        _ = BIGRecRanker(replace(parts, identity="other weights")).table


def test_only_the_first_of_one_title(parts: GroundingInputs) -> None:
    titles = TitleIndex.of(["A", "B", "A", "B", "C"], np.array([1, 5, 2, 5, 0]))
    assert [row.tolist() for row in titles.items] == [[2, 0], [1, 3], [4]]
    allowed = np.array([True, True, False, True, True])
    ranked = np.array([1, 0, 2, -1])
    assert titles.ranked(ranked, allowed, None).values.tolist() == [1, 3, 0, 4]
    assert titles.ranked(ranked, allowed, 1).values.tolist() == [1, 0, 4]


def test_a_model_that_gives_no_numbers_is_refused(parts: GroundingInputs) -> None:
    next(parts.lm.model.parameters()).data.fill_(torch.nan)
    with pytest.raises(
        SearchError, match="language model's embeddings hold numbers that are not finite"
    ):
        _ = BIGRecRanker(parts).table


def test_random_weights_are_no_base_to_embed_with() -> None:
    with pytest.raises(ConfigError, match="random weights"):
        Recipe.model_validate({"recommend": {"methods": ["ground"]}, "ground": {"weights": "base"}})


def test_tokens_that_end_an_answer(parts: GroundingInputs) -> None:
    tokenizer = parts.encoder.tokenizer
    ends = parts.encoder.end_token_mask(len(tokenizer) + 3)
    assert [bool(end) for end in ends[: len(tokenizer)]] == [
        i == tokenizer.eos_token_id or "\n" in tokenizer.decode([i]) for i in range(len(tokenizer))
    ]
    closed = Encoder(Template(item="{title} ", answer="{title}", end=True), tokenizer, TITLES, 256)
    assert np.flatnonzero(closed.end_token_mask(len(tokenizer))).tolist() == [
        tokenizer.eos_token_id
    ]


def test_a_model_that_learns_choices_only_cannot_write() -> None:
    with pytest.raises(ConfigError, match="cannot write a title"):
        Recipe.model_validate(
            {"recommend": {"methods": ["ground"]}, "train": {"loss_on": "branching"}}
        )


@pytest.mark.skipif(find_spec("faiss") is None, reason="needs the extra faiss")
def test_an_index_finds_the_title_too(
    parts: GroundingInputs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ground = parts.recipe.ground.model_copy(update={"index": "faiss"})
    ranker = BIGRecRanker(replace(parts, recipe=parts.recipe.model_copy(update={"ground": ground})))
    writing(monkeypatch, parts, [["Title 7"], [""], ["Title 6"]])
    assert ranker.slates(queries(), 4).items[:, 0].tolist() == [7, NO_ITEM, 6]
    assert len(list(tmp_path.glob("*.faiss"))) == 1
