"""The search against brute force: each item's tokens after the prompt, scored one by one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from groundrec.core.errors import SearchError
from groundrec.core.types import NO_ITEM, Ragged
from groundrec.rank.search.beam import BeamSearch
from groundrec.rank.search.explain import explain
from groundrec.rank.search.masks import Guide, Mask, guide_totals
from groundrec.rank.search.search import Answer, Search
from groundrec.text.trie import Trie
from tests.rank.models import END, MODELS, VOCABULARY

tokens = st.integers(2, VOCABULARY - 1)
titles = st.lists(tokens, max_size=5).map(lambda row: (*row, END))
catalogues = st.lists(titles, min_size=1, max_size=14)
prompts = st.lists(st.lists(tokens, min_size=1, max_size=20), min_size=1, max_size=8)
kinds = st.sampled_from(["full", "renormalised"])


@dataclass
class Case:
    """One search to be done: a catalogue, prompts, a mask for each, and perhaps a guide."""

    catalogue: list[tuple[int, ...]]
    prompts: list[list[int]]
    allowed: np.ndarray
    kind: Any
    model: Any
    temperature: float
    guide: Guide | None

    @property
    def mask(self) -> Mask:
        allow = [np.flatnonzero(row) for row in self.allowed]
        deny = [np.flatnonzero(~row) for row in self.allowed]
        as_allow_list = self.allowed.sum() % 2  # either way says the same
        return (
            Mask.of(len(allow), allow=Ragged.of(allow))
            if as_allow_list
            else Mask.of(len(allow), deny=Ragged.of(deny))
        )

    def search(self, **how: Any) -> Search:
        trie = Trie.compile(Ragged.of(self.catalogue))
        return Search(self.model, trie, self.kind, temperature=self.temperature, **how)

    @torch.no_grad()
    def expected(self) -> np.ndarray:
        """Score every item by plain forward passes over prompt + title, token by token. Shape: [Q,
        I].
        """
        return np.stack(
            [
                [self._score(q, i) for i in range(len(self.catalogue))]
                for q in range(len(self.prompts))
            ]
        )

    def _score(self, q: int, item: int) -> float:
        if not self.allowed[q, item]:
            return -np.inf
        title, prompt = self.catalogue[item], self.prompts[q]
        logits = (
            self.model(input_ids=torch.tensor([[*prompt, *title]])).logits[0].double()
            / self.temperature
        )
        living = [i for i in range(len(self.catalogue)) if self.allowed[q, i]]
        total = 0.0
        for j, token in enumerate(title):
            row = logits[len(prompt) + j - 1]
            here = [i for i in living if self.catalogue[i][:j] == title[:j]]
            follow = sorted({self.catalogue[i][j] for i in here})
            base = row[follow] if self.kind == "renormalised" else row
            lm = float(row[token] - base.logsumexp(0))
            total += lm if self.guide is None else self._mixed(lm, q, j, token, here)
        return total

    def _mixed(self, lm: float, q: int, j: int, token: int, here: list[int]) -> float:
        assert self.guide is not None
        p = np.exp(self.guide.scores[q].astype(np.float64))
        gather = sum if self.guide.mass == "sum" else max
        mass = {
            t: gather(p[i] for i in here if self.catalogue[i][j] == t)
            for t in {self.catalogue[i][j] for i in here}
        }
        return self.guide.alpha * lm + (1 - self.guide.alpha) * float(
            np.log(mass[token] / sum(mass.values()))
        )


@st.composite
def cases(draw: st.DrawFn, architectures: tuple[str, ...] = tuple(MODELS)) -> Case:
    catalogue, prompt_rows = draw(catalogues), draw(prompts)
    q, i = len(prompt_rows), len(catalogue)
    allowed = np.array(
        draw(st.lists(st.lists(st.booleans(), min_size=i, max_size=i), min_size=q, max_size=q))
    )
    allowed[~allowed.any(axis=1), 0] = True
    guide = None
    if draw(st.booleans()):
        scores = (
            np.random.default_rng(draw(st.integers(0, 99))).normal(0, 2, (q, i)).astype(np.float32)
        )
        guide = Guide(
            scores,
            draw(st.sampled_from([0.0, 0.3, 0.8, 1.0])),
            draw(st.sampled_from(["sum", "max"])),
        )
    model = MODELS[draw(st.sampled_from(architectures))]
    return Case(
        catalogue,
        prompt_rows,
        allowed,
        draw(kinds),
        model,
        draw(st.sampled_from([1.0, 0.7])),
        guide,
    )


def same(answer: Answer, expected: np.ndarray, allowed: np.ndarray) -> None:
    """The answer holds every allowed item, best first, with its score."""
    for row in range(len(expected)):
        found = answer.scores[row] > -np.inf
        best = np.sort(expected[row])[::-1][: len(found)]
        assert found.sum() == min(len(found), allowed[row].sum())
        np.testing.assert_allclose(answer.scores[row][found], best[: found.sum()], atol=1e-4)
        np.testing.assert_allclose(
            expected[row][answer.items[row][found]], answer.scores[row][found], atol=1e-4
        )
        assert len(set(answer.items[row][found])) == found.sum()
        assert (answer.items[row][~found] == NO_ITEM).all()


@given(cases(), st.integers(1, 4), st.integers(1, 14))
@settings(max_examples=120, deadline=None)
def test_all_exact_and_a_full_beam_equal_brute_force(case: Case, width: int, k: int) -> None:
    expected, i = case.expected(), len(case.catalogue)
    search = case.search()
    np.testing.assert_allclose(search.all(case.prompts, case.mask, case.guide), expected, atol=1e-4)
    same(search.beam(case.prompts, i, i, case.mask, case.guide), expected, case.allowed)
    exact = search.exact(case.prompts, min(k, i), case.mask, case.guide, width=width)
    same(exact, expected, case.allowed)
    assert (exact.gap == 0).all()
    assert search.work.unproved == 0


@given(cases(), st.data())
@settings(max_examples=60, deadline=None)
def test_some_items_score_as_all_do_and_a_guide_alone_as_its_path(
    case: Case, data: st.DataObject
) -> None:
    items, q = len(case.catalogue), len(case.prompts)
    some = data.draw(
        st.lists(st.sets(st.integers(0, items - 1), min_size=1), min_size=q, max_size=q)
    )
    plain = replace(case, guide=None)
    scores = plain.search().score(case.prompts, Ragged.of([sorted(row) for row in some]), case.mask)
    expected = np.full((q, items), -np.inf)
    for row, chosen in enumerate(some):
        expected[row, list(chosen)] = plain.expected()[row, list(chosen)]
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    if case.guide:
        alone = replace(case, guide=replace(case.guide, alpha=0.0))
        totals = guide_totals(case.search().trie, case.guide, case.mask)
        np.testing.assert_allclose(totals, alone.expected(), atol=1e-4)


@given(cases(), st.data())
@settings(max_examples=60, deadline=None)
def test_an_explanation_tells_score_place_and_where_beams_lose_it(
    case: Case, data: st.DataObject
) -> None:
    expected = case.expected()[0]
    item = data.draw(st.sampled_from(np.flatnonzero(case.allowed[0]).tolist()))
    search, mask = case.search(), Mask.of(1, allow=Ragged.of([np.flatnonzero(case.allowed[0])]))
    guide = case.guide and replace(case.guide, scores=case.guide.scores[:1])
    told = explain(
        search, case.prompts[0], item, mask, guide, beams=(1, 2, 50), k=len(case.catalogue)
    )
    assert [s.token for s in told.steps] == list(case.catalogue[item])
    assert told.steps[-1].total == pytest.approx(expected[item], abs=1e-4)
    assert told.rank is not None
    assert (
        (expected > expected[item] + 1e-3).sum()
        < told.rank
        <= (expected > expected[item] - 1e-3).sum()
    )
    for beams, lost in told.dropped_at.items():
        found = search.beam(case.prompts[:1], beams, beams, mask, guide).items[0]
        if len(set(case.catalogue)) == len(
            case.catalogue
        ):  # else a leaf's other items may take all places
            assert (lost is None) == (item in found)
    for step in told.steps:
        assert (step.choices > 1) or step.log_p_choices == 0


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "catalogue", [[(2, 1), (4, 1), (2, 2, 1), (1,)], [(1,), (2, 1), (2, 2, 2, 1), (3, 10, 1)]]
)
def test_an_item_that_others_push_out_after_it_was_finished_is_lost(
    name: str, catalogue: list[tuple[int, ...]]
) -> None:
    search, mask = (
        Search(MODELS[name], Trie.compile(Ragged.of(catalogue))),
        Mask.of(1, allow=Ragged.of([[1, 2, 3]])),
    )
    for token in range(2, VOCABULARY):
        found = search.beam([[token]], 2, 2, mask).items[0]
        for item in (1, 2, 3):
            lost = explain(search, [token], item, mask, beams=(2,), k=4).dropped_at[2]
            assert (lost is None) == (item in found)


@given(cases(), st.integers(1, 3), st.integers(1, 8))
@settings(max_examples=100, deadline=None)
def test_a_search_out_of_budget_says_how_much_better_the_truth_may_be(
    case: Case, k: int, budget: int
) -> None:
    expected, k = case.expected(), min(k, len(case.catalogue))
    answer = case.search().exact(case.prompts, k, case.mask, case.guide, width=1, budget=budget)
    beam = case.search().beam(case.prompts, k, k, case.mask, case.guide)
    for row in range(len(expected)):
        found = answer.items[row][answer.items[row] != NO_ITEM]
        np.testing.assert_allclose(
            expected[row][found], answer.scores[row][: len(found)], atol=1e-4
        )
        assert len(set(found)) == len(found)
        outside = np.delete(expected[row], found).max(initial=-np.inf)
        assert (
            np.isinf(answer.gap[row]) or outside <= answer.scores[row, -1] + answer.gap[row] + 1e-4
        )
        assert (answer.scores[row] >= beam.scores[row] - 1e-4).all()


@given(cases(), st.integers(1, 4), st.sampled_from(["beam", "exact", "exhaustive"]))
@settings(max_examples=80, deadline=None)
def test_batching_and_a_shared_instruction_never_change_a_slate(
    case: Case, k: int, mode: str
) -> None:
    k = min(k, len(case.catalogue))
    head = [3, 4, 5]
    case.prompts = [head + prompt for prompt in case.prompts]

    def scores(search: Search, rows: list[int]) -> np.ndarray:
        lists = Ragged.of([np.flatnonzero(case.allowed[r]) for r in rows])
        guide = case.guide and Guide(case.guide.scores[rows], case.guide.alpha, case.guide.mass)
        mask, some = Mask.of(len(rows), allow=lists), [case.prompts[r] for r in rows]
        if mode == "exhaustive":
            return search.all(some, mask, guide)
        answer = (
            search.beam(some, k, k, mask, guide)
            if mode == "beam"
            else search.exact(some, k, mask, guide)
        )
        return answer.scores

    every = list(range(len(case.prompts)))
    alone = case.search()
    expected = np.concatenate([scores(alone, [row]) for row in every])
    np.testing.assert_allclose(scores(case.search(instruction=head), every), expected, atol=1e-4)
    np.testing.assert_allclose(scores(case.search(instruction=[9, 9]), every), expected, atol=1e-4)


@given(cases(), st.integers(1, 4), st.integers(1, 4), st.sampled_from([0.0, 1.0]))
@settings(max_examples=60, deadline=None)
@torch.inference_mode()
def test_how_much_of_an_edge_is_read_at_once_changes_no_beam(
    case: Case, beams: int, stride: int, penalty
) -> None:
    search, keep = case.search(), min(beams, len(case.catalogue))

    def found(**how: Any) -> tuple[torch.Tensor, torch.Tensor, int]:
        branches = search.branches(case.prompts, case.mask, case.guide)
        return *BeamSearch(branches, beams, keep, penalty, **how).run(), int(branches.spent.sum())

    (leaves, scores, whole), (again, in_parts, parts) = found(), found(stride=stride)
    np.testing.assert_allclose(in_parts, scores, atol=1e-4)
    clear = (scores.diff(dim=1).abs() > 1e-3).all(1)
    told = clear[:, None] & scores.isfinite()  # behind the last item that is allowed stands none
    assert (again[told] == leaves[told]).all()
    assert parts <= whole


def plain_beam(model, prompt, catalogue, beams: int) -> dict[tuple[int, ...], float]:
    """Token-by-token beam search as transformers defines it (no length penalty, never stopping
    early).
    """
    running, finished = {(): 0.0}, {}
    while running:
        grown = {}
        for prefix, score in running.items():
            logits = (
                model(input_ids=torch.tensor([[*prompt, *prefix]]))
                .logits[0, -1]
                .double()
                .log_softmax(0)
            )
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
    answer = Search(model, Trie.compile(Ragged.of(distinct)), "full").beam(
        [prompt], k=beams, beams=beams
    )
    found = {
        distinct[i]: s
        for i, s in zip(answer.items[0], answer.scores[0], strict=True)
        if i != NO_ITEM
    }
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[p] for p in expected], list(expected.values()), atol=1e-4)


@given(
    catalogues,
    st.lists(tokens, min_size=1, max_size=10),
    st.integers(2, 5),
    st.sampled_from([-0.5, 0.0, 1.0, 2.0]),
)
@settings(max_examples=40, deadline=None)
@torch.no_grad()
def test_beams_are_those_of_generate(catalogue, prompt, beams, length_penalty) -> None:
    model, distinct = MODELS["llama"], list(dict.fromkeys(catalogue))
    longest = max(map(len, distinct))

    def follow(_: int, ids: torch.Tensor) -> list[int]:
        prefix = tuple(ids[len(prompt) :].tolist())
        return sorted(
            {
                c[len(prefix)]
                for c in distinct
                if c[: len(prefix)] == prefix and len(c) > len(prefix)
            }
        ) or [END]

    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=longest,
        length_penalty=length_penalty,
        early_stopping="never",
        do_sample=False,
        prefix_allowed_tokens_fn=follow,
        eos_token_id=END,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    expected = {}
    for row, score in zip(
        out.sequences[:, len(prompt) :].tolist(), out.sequences_scores.tolist(), strict=True
    ):
        if (
            END in row and tuple(row[: row.index(END) + 1]) in distinct and score > -1e6
        ):  # those never finished are far below
            expected[tuple(row[: row.index(END) + 1])] = score
    search = Search(model, Trie.compile(Ragged.of(distinct)), "full")
    answer = search.beam([prompt], k=beams, beams=beams, length_penalty=length_penalty)
    found = {
        distinct[i]: s
        for i, s in zip(answer.items[0], answer.scores[0], strict=True)
        if i != NO_ITEM
    }
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[p] for p in expected], list(expected.values()), atol=1e-4)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_adapters_that_are_not_merged_take_part() -> None:
    torch.manual_seed(3)
    plain = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
        )
    )
    model = get_peft_model(
        plain, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    ).eval()
    catalogue = [(2, 3, END), (2, 4, END), (5, END)]
    allowed = np.ones((1, 3), bool)
    case = Case(catalogue, [[6, 7]], allowed, "full", model, 1.0, None)
    before = case.expected()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=2.0)
    expected = case.expected()
    assert np.abs(expected - before).max() > 0.1
    for kind in ("full", "renormalised"):
        case = Case(catalogue, [[6, 7]], allowed, kind, model, 1.0, None)
        np.testing.assert_allclose(case.search().all([[6, 7]]), case.expected(), atol=1e-4)
        same(case.search().exact([[6, 7]], 3), case.expected(), allowed)


def test_duplicate_titles_share_a_score_and_come_by_priority() -> None:
    catalogue = Ragged.of([(2, END), (3, END), (2, END)])
    trie = Trie.compile(catalogue, priority=np.array([0, 0, 5]))
    for answer in (
        Search(MODELS["llama"], trie).beam([[4, 5]], 3, 3),
        Search(MODELS["llama"], trie).exact([[4, 5]], 3),
    ):
        row = answer.items[0].tolist()
        assert row.index(2) + 1 == row.index(0)
        assert answer.scores[0][row.index(2)] == answer.scores[0][row.index(0)]


def test_large_catalogues_are_read_in_parts(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    catalogue = [(*rng.integers(2, VOCABULARY, 6), END) for _ in range(200)]
    trie = Trie.compile(Ragged.of(catalogue))
    rows = [[3, 4], [5]]
    whole, beam, exact = (Search(MODELS["llama"], trie) for _ in range(3))
    expected = whole.all(rows), beam.beam(rows, 20, 20), exact.exact(rows, 20)
    monkeypatch.setattr("groundrec.rank.search.branches.LOGITS_AT_ONCE", 1)
    in_parts = Search(MODELS["llama"], trie)
    np.testing.assert_allclose(in_parts.all(rows), expected[0], atol=1e-4)
    assert in_parts.work.passes > whole.work.passes + 3
    for mode, answer, before in (("beam", expected[1], beam), ("exact", expected[2], exact)):
        in_parts = Search(MODELS["llama"], trie)
        again = in_parts.beam(rows, 20, 20) if mode == "beam" else in_parts.exact(rows, 20)
        np.testing.assert_allclose(again.scores, answer.scores, atol=1e-4)
        assert in_parts.work.passes > before.work.passes + 3


def test_exact_reads_less_than_all_on_a_decided_model() -> None:
    rng = np.random.default_rng(1)
    catalogue = [(*rng.integers(2, VOCABULARY, 6), END) for _ in range(400)]
    trie = Trie.compile(Ragged.of(catalogue))
    one, every = (
        Search(MODELS["llama"], trie, "renormalised"),
        Search(MODELS["llama"], trie, "renormalised"),
    )
    answer, scores = one.exact([[3, 4]], 5, width=2), every.all([[3, 4]])
    np.testing.assert_allclose(answer.scores[0], np.sort(scores[0])[::-1][:5], atol=1e-4)
    assert one.work.tokens * 4 < every.work.tokens


def test_a_frontier_that_overflows_is_not_taken_for_a_proof(monkeypatch) -> None:
    monkeypatch.setattr("groundrec.rank.search.exact.FRONTIER", 2)
    rng = np.random.default_rng(2)
    catalogue = [(*rng.integers(2, VOCABULARY, 4), END) for _ in range(100)]
    search = Search(MODELS["phi"], Trie.compile(Ragged.of(catalogue)))
    rows = [[3, 4], [5], [7, 7, 7]]
    answer, truth = search.exact(rows, 10, width=1), search.all(rows)
    assert (answer.gap > 0).any()
    for row in range(3):
        outside = np.delete(truth[row], answer.items[row][answer.items[row] != NO_ITEM]).max()
        assert outside <= answer.scores[row, -1] + answer.gap[row] + 1e-4


def test_a_generation_config_that_samples_changes_nothing() -> None:
    trie = Trie.compile(Ragged.of([(2, 3, END), (2, 4, END), (5, END)]))
    model = MODELS["qwen2"]
    before = Search(model, trie).beam([[4, 5]], 3, 3)
    model.generation_config.update(do_sample=True, top_k=1, temperature=9.0, repetition_penalty=5.0)
    after = Search(model, trie).beam([[4, 5]], 3, 3)
    assert (before.items == after.items).all()
    assert (before.scores == after.scores).all()


def test_a_slate_longer_than_what_is_left_ends_in_no_item() -> None:
    search = Search(MODELS["llama"], Trie.compile(Ragged.of([(2, END), (3, END), (4, END)])))
    mask = Mask.of(1, allow=Ragged.of([[0, 2]]), deny=Ragged.of([[2]]))
    for answer in (search.exact([[4]], 5, mask), search.beam([[4]], 5, 5, mask)):
        assert answer.items[0].tolist() == [0, *[NO_ITEM] * 4]


def test_what_cannot_be_answered_is_refused() -> None:
    search = Search(MODELS["llama"], Trie.compile(Ragged.of([(2, END), (3, END)])))
    with pytest.raises(SearchError, match="fewer beams"):
        search.beam([[2]], k=5, beams=2)
    with pytest.raises(SearchError, match="no item is left"):
        search.all([[2]], Mask.of(1, deny=Ragged.of([[0, 1, 1]])))
    with pytest.raises(SearchError, match="no item is left"):
        search.exact([[2], [2]], 1, Mask.of(2, allow=Ragged.of([[0], []])))
    with pytest.raises(SearchError, match="not in the catalogue"):
        search.exact([[2]], 1, Mask.of(1, deny=Ragged.of([[2]])))
    with pytest.raises(SearchError, match="another catalogue"):
        search.exact([[2]], 1, guide=Guide(np.zeros((1, 3), np.float32), 0.5))
    with pytest.raises(SearchError, match="temperature"):
        Search(MODELS["llama"], Trie.compile(Ragged.of([(2, END)])), temperature=0)
