"""The search against brute force: every item's tokens appended to the prompt and scored one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from groundrec.core.errors import SearchError
from groundrec.core.types import NO_ITEM, Ragged
from groundrec.rank.search import Search
from groundrec.text.trie import Trie

VOCABULARY, END = 12, 1
SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def tiny(architecture: str) -> torch.nn.Module:
    torch.manual_seed(7)
    if architecture == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=64))
    elif architecture == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**SHAPE, intermediate_size=32, num_key_value_heads=1))
    elif architecture == "phi":
        model = PhiForCausalLM(PhiConfig(**SHAPE, intermediate_size=32))
    else:
        model = LlamaForCausalLM(LlamaConfig(**SHAPE, intermediate_size=32, num_key_value_heads=2))
    for parameter in model.parameters():  # far from uniform, so that rankings are decided
        parameter.data.mul_(4.0)
    return model.eval()


MODELS = {name: tiny(name) for name in ("llama", "gpt2", "qwen2", "phi")}
tokens = st.integers(2, VOCABULARY - 1)
catalogues = st.lists(st.lists(tokens, max_size=5), min_size=1, max_size=14).map(
    lambda rows: [(*row, END) for row in rows]
)
prompts = st.lists(st.lists(tokens, min_size=1, max_size=20), min_size=1, max_size=8)


@torch.no_grad()
def oracle(model, prompt: list[int], catalogue: list[tuple[int, ...]], allowed: np.ndarray, kind: str) -> np.ndarray:
    """Score every item by plain forward passes over prompt + title, one by one."""
    scores = np.full(len(catalogue), -np.inf)
    living = [c for c, ok in zip(catalogue, allowed, strict=True) if ok]
    for item in np.flatnonzero(allowed):
        title = catalogue[item]
        logits = model(input_ids=torch.tensor([[*prompt, *title]])).logits[0].double()
        scores[item] = 0
        for j, token in enumerate(title):
            row = logits[len(prompt) + j - 1]
            if kind == "renormalised":
                row = row[sorted({c[j] for c in living if c[:j] == title[:j]})]
            scores[item] += logits[len(prompt) + j - 1, token] - row.logsumexp(0)
    return scores


@given(catalogues, prompts, st.sampled_from(["full", "renormalised"]), st.sampled_from(sorted(MODELS)), st.data())
@settings(max_examples=120, deadline=None)
def test_all_and_a_full_beam_equal_brute_force(catalogue, prompt_rows, kind, architecture, data) -> None:
    model, q, i = MODELS[architecture], len(prompt_rows), len(catalogue)
    allowed = np.array(data.draw(st.lists(st.lists(st.booleans(), min_size=i, max_size=i), min_size=q, max_size=q)))
    allowed[~allowed.any(axis=1), 0] = True
    expected = np.stack([oracle(model, p, catalogue, a, kind) for p, a in zip(prompt_rows, allowed, strict=True)])

    search = Search(model, Trie.compile(Ragged.of(catalogue)), kind)
    np.testing.assert_allclose(search.all(prompt_rows, allowed), expected, atol=1e-4)

    items, scores = search.beam(prompt_rows, k=i, beams=i, allowed=allowed)
    for row in range(q):
        best = np.sort(expected[row])[::-1]
        found = scores[row] > -np.inf
        assert found.sum() == allowed[row].sum()
        np.testing.assert_allclose(scores[row][found], best[: found.sum()], atol=1e-4)
        np.testing.assert_allclose(expected[row][items[row][found]], scores[row][found], atol=1e-4)
        assert len(set(items[row][found])) == found.sum()
        assert (items[row][~found] == NO_ITEM).all()


@given(catalogues, prompts, st.sampled_from(["full", "renormalised"]), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_batching_never_changes_a_slate(catalogue, prompt_rows, kind, beams) -> None:
    search = Search(MODELS["llama"], Trie.compile(Ragged.of(catalogue)), kind)
    items, scores = search.beam(prompt_rows, k=beams, beams=beams)
    for row, prompt in enumerate(prompt_rows):
        alone, alone_scores = search.beam([prompt], k=beams, beams=beams)
        np.testing.assert_allclose(alone_scores[0], scores[row], atol=1e-4)
        if len(np.unique(scores[row].round(3))) == beams:
            assert items[row].tolist() == alone[0].tolist()


def plain_beam(model, prompt, catalogue, beams: int) -> dict[tuple[int, ...], float]:
    """Token-by-token beam search as transformers defines it (no length penalty, never stopping early)."""
    running, finished = {(): 0.0}, {}
    while running:
        grown = {}
        for prefix, score in running.items():
            logits = model(input_ids=torch.tensor([[*prompt, *prefix]])).logits[0, -1].double().log_softmax(0)
            for token in {c[len(prefix)] for c in catalogue if c[: len(prefix)] == prefix}:
                grown[(*prefix, token)] = score + float(logits[token])
        ranked = sorted(grown.items(), key=lambda pair: -pair[1])[: 2 * beams]
        finished |= {p: s for p, s in ranked[:beams] if p[-1] == END}
        finished = dict(sorted(finished.items(), key=lambda pair: -pair[1])[:beams])
        running = dict([(p, s) for p, s in ranked if p[-1] != END][:beams])
    return finished


@given(catalogues, st.lists(tokens, min_size=1, max_size=10), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
@torch.no_grad()
def test_a_narrow_beam_keeps_and_loses_what_a_plain_one_does(catalogue, prompt, beams) -> None:
    model = MODELS["llama"]
    expected = plain_beam(model, prompt, catalogue, beams)
    distinct = list(dict.fromkeys(catalogue))
    items, scores = Search(model, Trie.compile(Ragged.of(distinct)), "full").beam([prompt], k=beams, beams=beams)
    found = {distinct[i]: s for i, s in zip(items[0], scores[0], strict=True) if i != NO_ITEM}
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[p] for p in expected], list(expected.values()), atol=1e-4)


def test_duplicate_titles_share_a_score_and_come_by_priority() -> None:
    catalogue = Ragged.of([(2, END), (3, END), (2, END)])
    trie = Trie.compile(catalogue, priority=np.array([0, 0, 5]))
    items, scores = Search(MODELS["llama"], trie).beam([[4, 5]], k=3, beams=3)
    row = items[0].tolist()
    assert row.index(2) + 1 == row.index(0)
    assert scores[0][row.index(2)] == scores[0][row.index(0)]


def test_large_catalogues_are_read_in_parts(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    catalogue = [(*rng.integers(2, VOCABULARY, 6), END) for _ in range(200)]
    trie = Trie.compile(Ragged.of(catalogue))
    whole = Search(MODELS["llama"], trie).all([[3, 4], [5]])
    monkeypatch.setattr("groundrec.rank.search.LOGITS_AT_ONCE", 1)
    in_parts = Search(MODELS["llama"], trie)
    np.testing.assert_allclose(in_parts.all([[3, 4], [5]]), whole, atol=1e-4)
    assert in_parts.work.passes > 3


def test_what_cannot_be_answered_is_refused() -> None:
    search = Search(MODELS["llama"], Trie.compile(Ragged.of([(2, END)])))
    with pytest.raises(SearchError, match="fewer beams"):
        search.beam([[2]], k=5, beams=2)
    with pytest.raises(SearchError, match="no item is left"):
        search.all([[2]], np.zeros((1, 1), bool))
