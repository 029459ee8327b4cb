"""Prefix trees: the same loss and gradients as one row per example, from fewer tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from shutil import which

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
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from groundrec.core import config_learn
from groundrec.core.errors import ConfigError
from groundrec.core.types import Catalogue, PreparedDataset
from groundrec.models.attention import FLEX, attending, skipping
from groundrec.text.prompts import load_template
from groundrec.text.tokens import IGNORED, Encoder, Example
from groundrec.text.trie import Trie
from groundrec.train.objectives import Batch, CrossEntropy, TreeBatch, collate
from groundrec.train.packing import Block, Tree, anchored_blocks, tree_masks
from groundrec.train.rows import Domain, training_rows
from tests.rank.models import MODELS
from tests.shops import planted_shop, queries_of
from tests.text.tokenizers import KINDS, TITLES

TEMPLATES = ("list", "bigrec", "d3")
LOSS = CrossEntropy().summed_loss
TOKENIZER = KINDS["ours"]()
WIDE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def shop(users: int = 5, length: int = 9) -> PreparedDataset:
    """Return walks over titles of every kind, some moments with several items, at most six items of
    history.
    """
    rng = np.random.default_rng(1)
    rows = []
    for user in range(users):
        items, place = rng.integers(len(TITLES), size=length + 3 * user).tolist(), 0
        while place < len(items):
            n = int(rng.integers(1, 4))
            history = items[max(0, place - 6) : place]
            rows.append((f"user {user}", 100 * place + user, history, items[place : place + n]))
            place += n
    catalogue = Catalogue(tuple(map(str, range(len(TITLES)))), TITLES)
    return replace(planted_shop(), catalogue=catalogue, train=queries_of(rows))


def encoder_of(template: str, cutoff_len: int = 400) -> Encoder:
    return Encoder(load_template(template), TOKENIZER, TITLES, cutoff_len)


def model_of(name: str) -> PreTrainedModel:
    """Return a small random model in double precision throughout."""
    torch.manual_seed(5)
    size = {"vocab_size": len(TOKENIZER), "eos_token_id": 2, "bos_token_id": 1}
    match name:
        case "llama":
            model: PreTrainedModel = LlamaForCausalLM(
                LlamaConfig(**WIDE, **size, num_key_value_heads=2)
            )
        case "qwen2":
            model = Qwen2ForCausalLM(
                Qwen2Config(**WIDE, **size, num_key_value_heads=1, tie_word_embeddings=True)
            )
        case "mistral":  # every layer sees nine tokens
            shape = MistralConfig(**WIDE, **size, num_key_value_heads=2, sliding_window=9)
            model = MistralForCausalLM(shape)
        case _:
            shape = GPT2Config(
                n_embd=16, n_layer=2, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, **size
            )
            model = GPT2LMHeadModel(shape)
    for path, module in list(model.named_modules()):
        if type(module).__name__.endswith("RMSNorm"):  # transformers' own rounds to float32 inside
            norm = torch.nn.RMSNorm(16, eps=module.variance_epsilon)  # type: ignore[arg-type]
            model.set_submodule(path, norm)
    return model.double()


def trees_of(blocks: list[list[Example]]) -> TreeBatch:
    return TreeBatch.of_trees([Tree.of(examples) for examples in blocks])


def mean_and_gradients(
    model: PreTrainedModel, batches: Sequence[Batch]
) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = sum(LOSS(model, b) for b in batches) / sum(b.learned_tokens() for b in batches)  # type: ignore[operator]
    loss.backward()  # type: ignore[union-attr]
    return float(loss.detach()), {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }


def assert_same(
    one: tuple[float, dict[str, torch.Tensor]], other: tuple[float, dict[str, torch.Tensor]]
) -> None:
    assert one[0] == pytest.approx(other[0], abs=1e-9)
    assert one[1].keys() == other[1].keys()
    assert one[1]
    for name, gradient in one[1].items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradient, other[1][name], atol=1e-9, rtol=0)


@pytest.mark.parametrize("train_on_inputs", [False, True], ids=["answers", "inputs too"])
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "mistral"])
def test_a_tree_has_the_loss_and_gradients_of_its_rows(
    name: str, template: str, train_on_inputs: bool
) -> None:
    encoder, model = encoder_of(template), model_of(name)
    blocks = [
        b.examples(encoder, train_on_inputs=train_on_inputs)
        for b in anchored_blocks(shop().train, encoder, 6)
    ]
    trees = trees_of(blocks)
    rows = [collate(examples) for examples in blocks]
    assert trees.learned_tokens() == sum(r.learned_tokens() for r in rows)
    assert 2 * trees.input_ids.count_nonzero() < sum(r.input_ids.numel() for r in rows)
    assert_same(mean_and_gradients(model, [trees]), separate := mean_and_gradients(model, rows))
    with skipping(model):
        assert_same(mean_and_gradients(model, [trees]), separate)


@pytest.mark.parametrize("template", TEMPLATES)
def test_choices_alone_are_learned_in_a_tree_too(template: str) -> None:
    encoder, model = encoder_of(template), model_of("llama")
    encoder = replace(encoder, learned=Trie.compile(encoder.answers).choices(encoder.answers))
    blocks = [b.examples(encoder) for b in anchored_blocks(shop().train, encoder, 6)]
    trees = trees_of(blocks)
    assert_same(
        mean_and_gradients(model, [trees]), mean_and_gradients(model, [collate(e) for e in blocks])
    )


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_lora_and_eager_attention_give_the_gradients_of_the_rows() -> None:
    from peft import LoraConfig, get_peft_model

    encoder, model = encoder_of("d3"), model_of("llama")
    lora = get_peft_model(
        model, LoraConfig(target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    ).double()
    for parameter in lora.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    blocks = [b.examples(encoder) for b in anchored_blocks(shop().train, encoder, 6)]
    trees = trees_of(blocks)
    rows = mean_and_gradients(lora, [collate(e) for e in blocks])
    assert all("lora" in name for name in rows[1])
    for attention in ("sdpa", "eager"):
        model.set_attn_implementation(attention)
        assert_same(mean_and_gradients(lora, [trees]), rows)


@pytest.mark.parametrize("autocast", [False, True], ids=["weights in bf16", "autocast"])
def test_half_precision_stays_as_near_to_full_as_rows_do(autocast: bool) -> None:
    encoder, exact = encoder_of("d3"), model_of("llama")
    examples = next(anchored_blocks(shop().train, encoder, 6)).examples(encoder)
    tree, rows = trees_of([examples]), collate(examples)
    true = mean_and_gradients(exact, [rows])[0]
    model = exact.to(torch.float32 if autocast else torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert mean_and_gradients(model, [tree])[0] == pytest.approx(true, rel=5e-3)
        assert mean_and_gradients(model, [rows])[0] == pytest.approx(true, rel=5e-3)


def test_padding_on_either_side_gives_the_same_loss() -> None:
    encoder, model = encoder_of("d3"), model_of("llama")
    examples = next(anchored_blocks(shop().train, encoder, 6)).examples(encoder)
    one_by_one = mean_and_gradients(model, [collate([e]) for e in examples])
    assert_same(mean_and_gradients(model, [collate(examples)]), one_by_one)
    width = max(len(e.input_ids) for e in examples)
    total = torch.tensor(0.0, dtype=torch.double)
    for e in examples:
        filled = width - len(e.input_ids)
        ids, labels = (
            torch.from_numpy(np.pad(x, (filled, 0))).long() for x in (e.input_ids, e.labels)
        )
        seen = (torch.arange(width) >= filled).long()[None]
        logits = model(
            ids[None], attention_mask=seen, position_ids=(seen.cumsum(1) - 1).clamp(min=0)
        ).logits[0]
        learned = (labels[1:] != IGNORED) & (torch.arange(1, width) > filled)
        total = total + torch.nn.functional.cross_entropy(
            logits[:-1][learned], labels[1:][learned], reduction="sum"
        )
    assert float(total.detach()) / int(collate(examples).learned_tokens()) == pytest.approx(
        one_by_one[0], abs=1e-9
    )


EXAMPLES = st.lists(
    st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=7),
    min_size=1,
    max_size=8,
)


@settings(max_examples=200, deadline=None)
@given(EXAMPLES)
def test_a_tree_holds_each_prefix_once_and_every_example_as_a_path(
    rows: list[list[tuple[int, bool]]],
) -> None:
    examples = [
        Example(
            np.array([t for t, _ in r], np.int32),
            np.array([t if learn else IGNORED for t, learn in r], np.int32),
        )
        for r in rows
    ]
    tree = Tree.of(examples)
    paths = []
    for i, token in enumerate(tree.input_ids.tolist()):
        paths.append([*(paths[tree.parents[i]] if tree.parents[i] >= 0 else []), token])
        sees = [j for j in range(i + 1) if i < tree.subtree_ends[j]]
        assert [int(tree.input_ids[j]) for j in sees] == paths[i]
        assert len(paths[i]) == tree.depth[i] + 1
    prefixes = {
        tuple(e.input_ids[: n + 1].tolist()) for e in examples for n in range(len(e.input_ids))
    }
    assert sorted(map(tuple, paths)) == sorted(prefixes)
    learned = Counter(
        tuple(e.input_ids[: n + 1].tolist())
        for e in examples
        for n in range(1, len(e.labels))
        if e.labels[n] >= 0
    )
    assert {tuple(p): int(w) for p, w in zip(paths, tree.weights, strict=True) if w} == learned


def test_a_running_list_becomes_one_chain() -> None:
    encoder = encoder_of("list")
    block = Block(
        np.array([3, 1, 4, 1], np.int32), np.array([1, 2, 3]), np.array([1, 4, 1], np.int32)
    )
    tree = Tree.of(block.examples(encoder))
    assert tree.input_ids.tolist() == encoder.running(block.items).input_ids.tolist()
    assert tree.parents.tolist() == list(range(-1, len(tree.input_ids) - 1))


@pytest.mark.parametrize("cutoff_len", [110, 150, 400])
@pytest.mark.parametrize("most", [1, 4, 20])
def test_blocks_hold_every_target_once_behind_its_own_latest_items(
    most: int, cutoff_len: int
) -> None:
    queries, encoder = shop().train, encoder_of("d3", cutoff_len)
    blocks = list(anchored_blocks(queries, encoder, most))
    found = [
        (b.items[:n].tolist(), int(t))
        for b in blocks
        for n, t in zip(b.lengths, b.targets, strict=True)
    ]
    order = sorted(range(len(queries)), key=lambda i: (queries.users[i], queries.times[i]))
    wanted = [(i, int(t)) for i in order if len(queries.history[i]) for t in queries.targets[i]]
    assert [t for _, t in found] == [t for _, t in wanted]
    sequences = {u: [] for u in queries.users.tolist()}
    for i in order:
        user = str(queries.users[i])
        for history, target in [found[k] for k, (j, _) in enumerate(wanted) if j == i]:
            assert sequences[user][len(sequences[user]) - len(history) :] == history
            assert len(encoder.prompt(history) + encoder.answers[target].tolist()) <= cutoff_len
        sequences[user] += queries.targets[i].tolist()
    assert all(history for history, _ in found)
    assert all(len(b.targets) <= max(most, 3) for b in blocks)
    assert encoder.trimmed == 0 or cutoff_len < 400


def test_the_middle_of_a_block_has_the_data_sets_own_history() -> None:
    rows = [("a", t, [*range(max(0, t - 10), t)], [t]) for t in range(1, 28)]
    encoder = encoder_of("d3", 2000)
    lengths = [b.lengths.tolist() for b in anchored_blocks(queries_of(rows), encoder, 4)]
    assert lengths[:3] == [[1, 2, 3, 4], [3, 4, 5, 6], [7, 8, 9, 10]]
    assert lengths[3:6] == [[8, 9, 10, 11]] * 3


def test_a_history_that_does_not_go_on_begins_a_block() -> None:
    rows = [
        ("a", 1, [0, 1], [2]),
        ("a", 2, [1, 2], [3]),
        ("a", 3, [7, 8], [4]),
        ("b", 4, [8, 4], [5]),
    ]
    blocks = list(anchored_blocks(queries_of(rows), encoder_of("d3"), 20))
    assert [b.targets.tolist() for b in blocks] == [[2, 3], [4], [5]]
    assert [b.items[: b.lengths[-1]].tolist() for b in blocks] == [[1, 2], [8], [4]]


@pytest.mark.parametrize("limit", [1, 7, 16])
def test_a_limit_takes_whole_blocks_and_cuts_the_last(limit: int) -> None:
    dataset, encoder = shop(), encoder_of("d3")
    section = config_learn.Train(
        packing="tree", tree_targets=6, max_examples=limit, loss_on="answer"
    )
    rows = training_rows([Domain(dataset, encoder)], section, seed=2)
    answers = sum(
        int(tree.weights[tree.input_ids == TOKENIZER.eos_token_id].sum())
        for tree in (rows[i] for i in range(len(rows)))
        if isinstance(tree, Tree)
    )
    assert answers == limit
    assert len(rows) <= -(-limit // 4) + 1


def test_a_block_mask_sees_what_the_additive_mask_does(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = encoder_of("d3")
    blocks = [b.examples(encoder) for b in anchored_blocks(shop().train, encoder, 6)]
    trees = trees_of(blocks[:3])
    for name in ("llama", "gemma3"):
        model = MODELS[name]
        sums = tree_masks(model, trees.subtree_ends, trees.position_ids)
        monkeypatch.setattr(model.config, "_attn_implementation", "flex_attention")
        found = tree_masks(model, trees.subtree_ends, trees.position_ids)
        monkeypatch.undo()
        for kind in sums if isinstance(sums, dict) else [None]:
            mask, additive = (found[kind], sums[kind]) if kind else (found, sums)
            q, _, t, _ = additive.shape
            places = torch.arange(t)
            sees = mask.mask_mod(torch.arange(q)[:, None, None], 0, places[:, None], places)
            assert torch.equal(sees, additive[:, 0] == 0)
            blocks_seen = mask.to_dense()[:, 0].bool()
            for a, b in (
                (a, b) for a in range(blocks_seen.shape[1]) for b in range(blocks_seen.shape[2])
            ):
                part = sees[:, 128 * a : 128 * (a + 1), 128 * b : 128 * (b + 1)]
                assert torch.equal(part.flatten(1).any(1), blocks_seen[:, a, b])


@pytest.mark.slow
@pytest.mark.skipif(not which("g++"), reason="FlexAttention is compiled, here by g++")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_compiled_flex_attention_gives_a_tree_the_loss_of_its_rows(name: str) -> None:
    """The forward pass; on a processor FlexAttention has no other."""
    encoder, model = encoder_of("d3"), model_of(name).float()
    blocks = [b.examples(encoder) for b in anchored_blocks(shop().train, encoder, 6)][:4]
    trees, rows = trees_of(blocks), map(collate, blocks)
    with torch.no_grad(), attending(model, FLEX):
        found = float(LOSS(model, trees))
    with torch.no_grad():
        assert found == pytest.approx(sum(float(LOSS(model, row)) for row in rows), rel=1e-5)


def test_what_trees_cannot_do_is_refused() -> None:
    with pytest.raises(ConfigError, match="tree_attention applies only"):
        config_learn.Train(tree_attention="flex_attention")
    with pytest.raises(ConfigError, match="drop_items"):
        config_learn.Train(packing="tree", drop_items=0.2)
