"""Prompts of the papers' structure, to the letter and to the token, beside functions that build
them by hand.

The words are made up; the blocks, quotes, blanks and line breaks are where both public codes have
them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from groundrec.text.prompts import load_template
from groundrec.text.tokens import IGNORED, Encoder
from tests.text.tokenizers import KINDS

BIGREC = r'''
head = """
Above all a preamble, with a blank at its end. 

### Instruction:
Say one of the {things} that comes next.

### Input:
These {things} came before:"""
item = "\"{title}\""
separator = ", "
tail = "\n \n\n### Response:\n"
answer = "\"{title}\""
end = true

[words]
default = { things = "things" }
movie = { things = "moving pictures" }
game = { things = "games of video" }
'''
D3 = r'''
instructions = [
    "First of all, name a {thing} after these {thing}s",
    "Or else, for a lover of {thing}s, one {thing} more.",
]
head = """
Above all a preamble, with a blank at its end. 

### Instruction:
{instruction}
### User Input: 
Before came the {thing}s: """
item = "\"{title}\""
separator = ", "
tail = "\n\n### Response: \n"
answer = "\"{title}\"\n"
end = true

[words]
default = { thing = "thing" }
Books = { thing = "book" }
'''
TITLES = (
    "Alien",
    "Heat (1995)",
    "Ends with !",
    "東京物語",
    'The "Best" Film',
    "a",
    "3, or 4",
    "{thing}",
    "{instruction}",
)
histories = st.lists(st.integers(0, len(TITLES) - 1), max_size=8)
KIND = [kind for kind in KINDS if kind not in ("ours", "unigram")]
"""Tokenizers that, like those of language models, have no token that begins before a line break and
ends behind it.
"""

tokenizer_of = cache(lambda kind: KINDS[kind]())


def ids_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])  # type: ignore[call-overload]


def bigrec_row(
    tokenizer: PreTrainedTokenizerBase, things: str, titles: list[str], answer: str, inputs: bool
):
    """Build a row as a script would: prompt and answer tokenised as one text, what is not learned
    counted off.
    """
    liked = ", ".join(f'"{title}"' for title in titles)
    task, told = (
        f"Say one of the {things} that comes next.",
        f"These {things} came before:{liked}\n ",
    )
    prompt = (
        "Above all a preamble, with a blank at its end. \n\n"
        f"### Instruction:\n{task}\n\n### Input:\n{told}\n\n### Response:\n"
    )
    ids = [
        tokenizer.bos_token_id,
        *ids_of(tokenizer, f'{prompt}"{answer}"'),
        tokenizer.eos_token_id,
    ]
    unlearned = 1 + len(ids_of(tokenizer, prompt))
    return prompt, ids, ids if inputs else [IGNORED] * unlearned + ids[unlearned:]


def d3_row(
    tokenizer: PreTrainedTokenizerBase, thing: str, number: int, titles: list[str], answer: str
):
    """Build a row as a script would: three parts tokenised one by one and joined."""
    instruction = [
        f"First of all, name a {thing} after these {thing}s",
        f"Or else, for a lover of {thing}s, one {thing} more.",
    ]
    first = (
        "Above all a preamble, with a blank at its end. \n\n###"
        f" Instruction:\n{instruction[number]}\n"
    )
    used = ", ".join('"' + title + '"' for title in titles)
    second = f"### User Input: \nBefore came the {thing}s: {used}\n\n### Response: \n"
    prompt = [tokenizer.bos_token_id, *ids_of(tokenizer, first), *ids_of(tokenizer, second)]
    golden = [*ids_of(tokenizer, f'"{answer}"\n'), tokenizer.eos_token_id]
    return first + second, [*prompt, *golden], [IGNORED] * len(prompt) + golden


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("templates")
    for name, text in (("bigrec", BIGREC), ("d3", D3)):
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("inputs", [False, True])
@pytest.mark.parametrize(
    ("domain", "things"), [("movie", "moving pictures"), ("game", "games of video")]
)
@pytest.mark.parametrize("kind", KIND)
@given(history=histories, target=st.integers(0, len(TITLES) - 1))
@settings(max_examples=25, deadline=None)
def test_the_structure_of_bigrec(
    folder: Path, kind: str, domain: str, things: str, inputs: bool, history: list[int], target: int
) -> None:
    template = load_template(str(folder / "bigrec.toml"), domain)
    encoder = Encoder(template, tokenizer_of(kind), TITLES, 1024)
    titles = [TITLES[item] for item in history]
    text, ids, labels = bigrec_row(encoder.tokenizer, things, titles, TITLES[target], inputs)
    row = encoder.example(np.array(history, int), target, train_on_inputs=inputs, varied=True)
    assert template.text(titles) == text
    assert (row.input_ids.tolist(), row.labels.tolist()) == (ids, labels)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("kind", ["GPT-2"])
@given(history=histories, target=st.integers(0, len(TITLES) - 1))
@settings(max_examples=25, deadline=None)
def test_the_structure_of_d3(
    folder: Path, kind: str, number: int, history: list[int], target: int
) -> None:
    template = load_template(str(folder / "d3.toml"), "Books", number)
    encoder = Encoder(template, tokenizer_of(kind), TITLES, 1024)
    titles = [TITLES[item] for item in history]
    text, ids, labels = d3_row(encoder.tokenizer, "book", number, titles, TITLES[target])
    row = encoder.example(np.array(history, int), target, varied=True)
    assert template.text(titles) == text
    assert (row.input_ids.tolist(), row.labels.tolist()) == (ids, labels)


def test_an_instruction_at_random_is_drawn_for_each_example_and_stays(folder: Path) -> None:
    template = load_template(str(folder / "d3.toml"), "Books", "random")
    each = [
        Encoder(
            load_template(str(folder / "d3.toml"), "Books", n), tokenizer_of("GPT-2"), TITLES, 256
        )
        for n in (0, 1)
    ]
    drawn = {}
    for seed in (0, 0, 1):
        encoder = Encoder(template, tokenizer_of("GPT-2"), TITLES, 256, seed)
        rows = [
            encoder.example(np.array([a, b]), c, varied=True)
            for a in range(9)
            for b in range(9)
            for c in (1, 2)
        ]
        heads = [
            [e.example(np.array([a, b]), c) for e in each]
            for a in range(9)
            for b in range(9)
            for c in (1, 2)
        ]
        numbers = [
            [alone.input_ids.tolist() for alone in two].index(row.input_ids.tolist())
            for row, two in zip(rows, heads, strict=True)
        ]
        assert 0.35 < np.mean(numbers) < 0.65
        assert drawn.setdefault(seed, numbers) == numbers
        asked = encoder.example(np.array([3, 4]), 5)
        assert asked.input_ids.tolist() == each[0].example(np.array([3, 4]), 5).input_ids.tolist()
        assert encoder.prompt([3, 4])[: len(encoder.shared_prefix)] == encoder.shared_prefix
        assert encoder.shared_prefix == each[0].shared_prefix
    assert drawn[0] != drawn[1]


def test_the_longest_of_the_instructions_must_fit_and_each_prompt_has_its_own_room(
    folder: Path,
) -> None:
    template = load_template(str(folder / "d3.toml"), "Books", "random")
    wide = Encoder(template, tokenizer_of("GPT-2"), TITLES, 1024)
    history = [3] * 30
    for head in (0, 1):
        limit = len(wide.prompt(history[:7], head))
        encoder = Encoder(template, wide.tokenizer, TITLES, limit)
        assert encoder.prompt(history, head) == wide.prompt(history[:7], head)
    assert wide.prompt([], 0) != wide.prompt([], 1)
