"""Histories and titles as tokens: exact words, whole instructions, honest labels, for every kind of
tokenizer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from groundrec.core.errors import ConfigError, DataError
from groundrec.core.types import Ragged
from groundrec.text.prompts import load_template, template_names
from groundrec.text.tokens import END, IGNORED, PAD, START, Encoder, train_tokenizer
from groundrec.text.trie import Trie
from tests.text.tokenizers import KINDS, TITLES

Make = Callable[[str], Encoder]
BYTE_LEVEL = ("ours", "GPT-2")
"""Kinds that put no blank before a text and spell every character."""

tokenizer_of = cache(lambda kind: KINDS[kind]())
histories = st.lists(st.integers(0, len(TITLES) - 1), max_size=40)
words = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp", "Zs")), min_size=1, max_size=8
)
catalogues = st.lists(
    st.lists(words, min_size=1, max_size=3).map(" ".join), min_size=1, max_size=12
)


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return tokenizer_of(request.param)


@pytest.fixture(params=template_names())
def encoder(request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerBase) -> Encoder:
    return Encoder(load_template(request.param), tokenizer, TITLES, 1024)


def encoder_of(
    kind: str, template: str, titles: tuple[str, ...] = TITLES, cutoff_len: int = 1024
) -> Encoder:
    return Encoder(load_template(template), tokenizer_of(kind), titles, cutoff_len)


def spelled(encoder: Encoder, ids: object) -> str:
    return str(encoder.tokenizer.decode(ids, skip_special_tokens=False))  # type: ignore[arg-type]


def end_of(encoder: Encoder) -> str:
    return str(encoder.tokenizer.eos_token) if encoder.template.end else ""


# -- answers ---------------------------------------------------------------------------------------


def test_an_answer_decodes_to_its_very_text(encoder: Encoder) -> None:
    for title, ids in zip(TITLES, encoder.answers, strict=True):
        assert spelled(encoder, ids) == encoder.template.answer_text(title) + end_of(encoder)


def test_answers_are_prefix_free_even_where_titles_are_not(encoder: Encoder) -> None:
    trie = Trie.compile(encoder.answers)
    leaves = np.flatnonzero(trie.child_counts == 0)
    assert len(leaves) == len(TITLES)
    assert sorted(trie.item_order.tolist()) == list(range(len(TITLES)))


@pytest.mark.parametrize("template", template_names())
@pytest.mark.parametrize("kind", BYTE_LEVEL)
@given(catalogue=catalogues)
@settings(max_examples=60, deadline=None)
def test_any_words_come_back_and_compile(kind: str, template: str, catalogue: list[str]) -> None:
    encoder = encoder_of(kind, template, tuple(catalogue))
    texts = [spelled(encoder, ids) for ids in encoder.answers]
    assert texts == [encoder.template.answer_text(title) + end_of(encoder) for title in catalogue]
    trie = Trie.compile(encoder.answers)
    assert (trie.child_counts == 0).sum() == len(set(catalogue))


@pytest.mark.parametrize("template", template_names())
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "unigram"])
def test_a_title_never_smuggles_in_a_special_token(kind: str, template: str) -> None:
    """A unigram model has its special tokens among its pieces: there the trie refuses what is not
    prefix-free.
    """
    encoder = encoder_of(kind, template)
    special = set(encoder.tokenizer.all_special_ids)
    inner = [ids[:-1] if encoder.template.end else ids for ids in encoder.answers]
    assert not special & {int(t) for ids in inner for t in ids}
    assert not special & set(encoder.prompt(range(len(TITLES)))[1:])


# -- prompts ---------------------------------------------------------------------------------------


def test_a_prompt_decodes_to_the_words_of_the_template(encoder: Encoder) -> None:
    history = [0, 5, 9, 16, 14, 20]
    start, *rest = encoder.prompt(history)
    assert start == encoder.tokenizer.bos_token_id
    text = spelled(encoder, rest)
    assert text.lstrip() == encoder.template.text([TITLES[i] for i in history]).lstrip()


@pytest.mark.parametrize("template", template_names())
@pytest.mark.parametrize("kind", KINDS)
@given(history=histories, spare=st.integers(0, 120))
@settings(max_examples=40, deadline=None)
def test_a_prompt_keeps_the_instruction_and_the_newest_items(
    kind: str, template: str, history: list[int], spare: int
) -> None:
    wide = encoder_of(kind, template)
    longest = int(wide.answers.lengths.max())
    encoder = encoder_of(kind, template, cutoff_len=len(wide.prompt([])) + longest + spare)
    prompt = encoder.prompt(history)
    reserved = longest if template == "list" else 0
    assert len(prompt) + reserved <= encoder.cutoff_len
    kept = [
        m for m in range(len(history) + 1) if wide.prompt(history[len(history) - m :]) == prompt
    ]
    assert kept, "neither head, tail nor the newest items may be cut"
    assert encoder.trimmed == (kept[-1] < len(history))


@pytest.mark.parametrize("template", template_names())
def test_what_is_kept_is_as_much_as_fits(template: str) -> None:
    """A prompt of its own fills `cutoff_len`; a running list leaves room for the longest answer."""
    wide = encoder_of("GPT-2", template)
    longest = int(wide.answers.lengths.max())
    history = [i % len(TITLES) for i in range(40)]
    for m in range(len(history)):
        fits = len(wide.prompt(history[-m - 1 :])) + (longest if template == "list" else 0)
        if fits >= len(wide.prompt([])) + longest:
            encoder = encoder_of("GPT-2", template, cutoff_len=fits)
            assert encoder.prompt(history) == wide.prompt(history[-m - 1 :])


@pytest.mark.parametrize("template", ["bigrec", "d3"])
@given(history=histories, target=st.integers(0, len(TITLES) - 1), spare=st.integers(0, 120))
@settings(max_examples=40, deadline=None)
def test_a_training_row_reserves_its_own_answer(
    template: str, history: list[int], target: int, spare: int
) -> None:
    """However long the longest title is, a row keeps as many items as fit with its own answer."""
    wide = encoder_of("GPT-2", template)
    longest = int(wide.answers.lengths.max())
    encoder = encoder_of("GPT-2", template, cutoff_len=len(wide.prompt([])) + longest + spare)
    row = encoder.example(np.array(history, np.int64), target).input_ids
    whole = [
        [*wide.prompt(history[len(history) - m :]), *wide.answers[target].tolist()]
        for m in range(len(history) + 1)
    ]
    fitting = [ids for ids in whole if len(ids) <= encoder.cutoff_len]
    assert row.tolist() == fitting[-1]
    assert encoder.n_items_that_fit(history, target) == whole.index(fitting[-1])


def test_a_prompt_leaves_room_where_the_model_has_no_further_positions() -> None:
    tokenizer = copy.copy(tokenizer_of("GPT-2"))
    tokenizer.model_max_length = 150
    encoder = Encoder(load_template("bigrec"), tokenizer, TITLES, cutoff_len=150)
    longest = int(encoder.answers.lengths.max())
    assert len(encoder.prompt([i % len(TITLES) for i in range(60)])) + longest <= 150


def test_prompts_that_lose_history_are_counted() -> None:
    wide = encoder_of("GPT-2", "bigrec")
    encoder = encoder_of(
        "GPT-2", "bigrec", cutoff_len=len(wide.prompt([])) + int(wide.answers.lengths.max()) + 2
    )
    many = [i % len(TITLES) for i in range(80)]
    for history in ([], [0], many, many[::-1]):
        encoder.prompt(history)
    assert encoder.trimmed == 2


def test_a_cutoff_that_holds_no_answer_is_refused_and_the_named_one_is_not() -> None:
    with pytest.raises(ConfigError, match="does not fit") as caught:
        encoder_of("GPT-2", "bigrec", cutoff_len=20)
    least = int(caught.value.next_step.rpartition("=")[2])
    encoder = encoder_of("GPT-2", "bigrec", cutoff_len=least)
    longest = int(encoder.answers.lengths.argmax())
    assert encoder.n_items_that_fit([0], longest) == 0
    with pytest.raises(ConfigError):
        encoder_of("GPT-2", "bigrec", cutoff_len=least - 1)


def test_batches_and_singles_are_tokenised_alike(tokenizer: PreTrainedTokenizerBase) -> None:
    template = load_template("d3")
    together = Encoder(template, tokenizer, TITLES, 1024)
    for item, title in enumerate(TITLES):
        alone = Encoder(template, tokenizer, [title], 1024)
        assert alone.answers[0].tolist() == together.answers[item].tolist()
        assert alone.prompt([0]) == together.prompt([item])


# -- labels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("train_on_inputs", [False, True])
def test_labels_change_at_the_seam(encoder: Encoder, train_on_inputs: bool) -> None:
    prompt, target = encoder.prompt([3, 4, 5]), 6
    row = encoder.example(np.array([3, 4, 5]), target, train_on_inputs=train_on_inputs)
    answer = encoder.answers[target].tolist()
    assert row.input_ids.tolist() == [*prompt, *answer]
    assert row.labels.tolist() == [
        *(prompt if train_on_inputs else [IGNORED] * len(prompt)),
        *answer,
    ]


def test_a_row_asks_what_the_search_will_ask(encoder: Encoder) -> None:
    history = np.array([8, 2, 12])
    row = encoder.example(history, 4)
    asked = row.input_ids[: int((row.labels == IGNORED).sum())]
    assert asked.tolist() == encoder.prompt(history)


def test_a_running_list_learns_every_item_after_those_before() -> None:
    encoder = encoder_of("ours", "list")
    items = np.array([5, 5, 17, 2])
    row = encoder.running(items)
    answers = [t for i in items for t in encoder.answers[i].tolist()]
    assert row.input_ids.tolist() == [START, *answers]
    assert row.labels.tolist() == [IGNORED, *answers]
    assert row.input_ids[: -len(encoder.answers[2])].tolist() == encoder.prompt(items[:-1])


def test_only_choices_are_learned_where_asked(encoder: Encoder) -> None:
    choices = Trie.compile(encoder.answers).choices(encoder.answers)
    masked = replace(encoder, learned=choices)
    for target in range(len(TITLES)):
        row = masked.example(np.array([1]), target)
        labels, answer = row.labels[-len(masked.answers[target]) :], masked.answers[target]
        assert labels.tolist() == [
            t if c else IGNORED for t, c in zip(answer, choices[target], strict=True)
        ]
    assert masked.answers.values.tolist() == encoder.answers.values.tolist()
    assert 0 < choices.values.sum() < len(choices.values)


def test_only_choices_are_learned_in_a_running_list() -> None:
    encoder = encoder_of("ours", "list")
    learned = Ragged(
        np.arange(len(encoder.answers.values), dtype=np.int32) % 2, encoder.answers.offsets
    )
    row = replace(encoder, learned=learned).running(np.array([4, 0, 9]))
    expected = [
        t if c else IGNORED
        for i in (4, 0, 9)
        for t, c in zip(encoder.answers[i], learned[i], strict=True)
    ]
    assert row.labels.tolist() == [IGNORED, *expected]
    assert row.input_ids.tolist() == encoder.running(np.array([4, 0, 9])).input_ids.tolist()


# -- cuts ------------------------------------------------------------------------------------------


@given(histories.filter(len), st.integers(0, 60))
@settings(max_examples=200, deadline=None)
def test_cuts_part_a_sequence_into_the_longest_pieces_that_fit(
    items: list[int], spare: int
) -> None:
    wide = encoder_of("ours", "list")
    encoder = encoder_of("ours", "list", cutoff_len=1 + int(wide.answers.lengths.max()) + spare)
    cuts = encoder.cuts(np.array(items))
    assert cuts[0] == 0
    assert cuts[-1] == len(items)
    for a, b in pairwise(cuts.tolist()):
        assert a < b
        assert len(encoder.running(np.array(items[a:b])).input_ids) <= encoder.cutoff_len
        if b < len(items):
            assert len(encoder.running(np.array(items[a : b + 1])).input_ids) > encoder.cutoff_len


# -- tokenizers ------------------------------------------------------------------------------------


def test_our_tokenizer_has_the_special_tokens_it_says() -> None:
    tokenizer = tokenizer_of("ours")
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (
        PAD,
        START,
        END,
    )
    assert len(tokenizer) == 600


@given(st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_our_tokenizer_spells_any_text(text: str) -> None:
    tokenizer = tokenizer_of("ours")
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_frequent_titles_become_few_tokens_whatever_order_they_come_in() -> None:
    titles = ["The Shawshank Redemption"] * 50 + [f"Film {i}" for i in range(50)]
    tokenizer, turned = train_tokenizer(titles, 400), train_tokenizer(reversed(titles), 400)
    assert len(tokenizer("The Shawshank Redemption")["input_ids"]) <= 2  # type: ignore[arg-type]
    assert tokenizer.get_vocab() == turned.get_vocab()


def test_a_tokenizer_without_the_tokens_a_template_needs_is_refused() -> None:
    bare = KINDS["GPT-2"]()
    bare.bos_token = None
    assert Encoder(load_template("list"), bare, TITLES, 512).prompt([])[0] == bare.eos_token_id
    bare.eos_token = None
    with pytest.raises(DataError, match="neither a start nor an end token"):
        Encoder(load_template("list"), bare, TITLES, 512)
    bare.bos_token = "<s>"
    with pytest.raises(DataError, match="the tokenizer has none"):
        Encoder(load_template("bigrec"), bare, TITLES, 512)
