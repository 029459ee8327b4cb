"""Templates: what they must hold, and the words they make."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from groundrec.core.errors import ConfigError
from groundrec.core.recipe import Recipe
from groundrec.text.prompts import Choice, Template, load_template, template_names, template_of
from tests.data.exchange.test_row_words import GAMES, WORDS

GOOD = 'item = "{title}, "\nanswer = "{title}\\n"\n'


def test_the_templates_of_the_package_are_found_by_name() -> None:
    assert template_names() == ["bigrec", "d3", "list"]
    assert all(load_template(name).description for name in template_names())


def test_the_words_of_each_template() -> None:
    assert load_template("list").text(["Alien", "Heat"]) == "Alien\nHeat\n"
    for name, ending in (("bigrec", ""), ("d3", "\n")):
        template = load_template(name)
        text = template.text(["Alien", "Heat"])
        assert text == f'{template.head}"Alien", "Heat"{template.tail}'
        assert text.startswith(("You are given", "Read the task"))
        assert text.endswith("\n\n### Response:\n")
        assert template.answer_text("Seven") == f'"Seven"{ending}'
        assert template.end


def test_titles_that_look_like_templates_stay_as_they_are() -> None:
    template = load_template("bigrec")
    assert template.answer_text("{title}") == '"{title}"'
    assert '"{title}", "{0} %s \\n"' in template.text(["{title}", "{0} %s \\n"])


def test_an_empty_history_leaves_head_and_tail() -> None:
    template = load_template("d3")
    assert template.text([]) == template.head + template.tail


@pytest.mark.parametrize("field", ["item", "answer"])
@pytest.mark.parametrize("text", ["no placeholder\n", "{title} and {title}\n", "{Title}\n"])
def test_item_and_answer_hold_the_title_once(field: str, text: str) -> None:
    with pytest.raises(ValidationError, match="exactly once"):
        Template.model_validate({"item": "{title}", "answer": "{title}\n", field: text})


def test_an_answer_must_end() -> None:
    with pytest.raises(ConfigError, match="answer has no end"):
        Template(item="{title}", answer='"{title}"')
    assert Template(item="{title}", answer='"{title}"', end=True).end
    assert Template(item="{title}", answer='"{title}"\n').answer_text("A") == '"A"\n'


@pytest.mark.parametrize(
    "change",
    [
        {"item": "- {title}\n"},
        {"separator": ","},
        {"tail": "next: "},
        {"end": True},
        {"instructions": ["Go on."], "head": "{instruction}"},
    ],
    ids=lambda c: next(iter(c)),
)
def test_a_running_list_is_nothing_but_items(change: dict[str, object]) -> None:
    running = {"item": "{title}\n", "answer": "{title}\n", "running": True}
    assert Template.model_validate(running).running
    with pytest.raises(ConfigError, match="not a running list"):
        Template.model_validate({**running, **change})


WORDED = """
instructions = ["a {thing}", "no {thing}"]
head = "{instruction}: "
tail = " {x} "
[words]
default = { thing = "thing", x = "{title}" }
Books = { thing = "{x}" }
"""


def worded(tmp_path: Path, text: str = WORDED) -> str:
    path = tmp_path / "worded.toml"
    path.write_text(GOOD + text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("domain", "instruction", "text"),
    [
        ("default", 0, "a thing: {x},  {title} "),
        ("default", 1, "no thing: {x},  {title} "),
        ("Books", 0, "a {x}: {x},  {title} "),
        ("unknown", 1, "no thing: {x},  {title} "),
        ("Books", "random", "a {x}: {x},  {title} "),
    ],
)
def test_words_are_put_in_once_and_titles_stay(
    tmp_path: Path, domain: str, instruction: Choice, text: str
) -> None:
    template = load_template(worded(tmp_path), domain, instruction)
    assert template.text(["{x}"]) == text
    assert len(template.heads) == (2 if instruction == "random" else 1)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ('[words.Books]\nthing = "book"', "without a default: thing"),
        ('tail = "{thin}"\n[words.default]\nthing = "a thing"', "without a default: thin"),
        ('head = "{instruction}"', "do not match"),
        ('instructions = ["Go on."]', "do not match"),
    ],
)
def test_a_placeholder_without_a_default_is_refused(
    tmp_path: Path, wrong: str, expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_template(worded(tmp_path, wrong))


def test_a_recipe_chooses_words_and_instruction(tmp_path: Path) -> None:
    settings = {
        "model.template": worded(tmp_path),
        "data.source": "amazon",
        "data.category": "Books",
    }
    assert template_of(Recipe.of(settings)).head == "a {x}: "
    assert template_of(Recipe.of({**settings, "data.category": "Toys"})).head == "a thing: "
    assert (
        template_of(Recipe.of({**settings, "model.domain": "default", "model.instruction": 1})).head
        == "no thing: "
    )
    with pytest.raises(ConfigError, match=r"no words for this domain \(did you mean 'Books'"):
        template_of(Recipe.of({**settings, "model.domain": "Boks"}))
    with pytest.raises(ConfigError, match=r"no such instruction.*\n.*0 … 1, random"):
        template_of(Recipe.of({**settings, "model.instruction": 2}))
    with pytest.raises(ConfigError, match="share their instruction"):
        Recipe.of({**settings, "model.instruction": "random", "train.packing": "tree"})


def test_a_template_without_instructions_has_one_head() -> None:
    with pytest.raises(ConfigError, match="no such instruction"):
        load_template("list", instruction="random")
    assert load_template("list", instruction=0).heads == [""]


def test_a_template_of_ones_own_is_read_to_the_letter(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('head = " Seen: "\ntail = " → "\n' + GOOD, encoding="utf-8")
    assert load_template(str(path)).text(["A", "B"]) == " Seen: A, B,  → "


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"item = {title}", "is not valid TOML"),
        (b"\xff\xfe", "is not valid TOML"),
        ((GOOD + 'foot = "x"').encode(), "foot"),
        (b'item = "{title}"', "answer"),
        (b'item = 3\nanswer = "{title}\\n"', "item"),
        (b'item = "x"\nanswer = "{title}\\n"', "exactly once"),
        (b'item = "{title}"\nanswer = "{title}"', "answer has no end"),
    ],
)
def test_a_template_that_is_wrong_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "own.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=expected) as caught:
        load_template(str(path))
    assert caught.value.accepted


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        ConfigError,
        match=r"did you mean 'bigrec'\?\): bigreck\n  accepted: auto, bigrec, d3, list, or",
    ):
        load_template("bigreck")


@pytest.mark.parametrize("name", WORDS)
def test_the_words_that_a_data_set_was_imported_with_are_its_template(name: str) -> None:
    """A prompt and its answer are the row itself, between the blocks of the template bigrec."""
    words = WORDS[name]
    template = template_of(Recipe(), card={"words": words.as_card()})
    blocks = load_template("bigrec")
    start = blocks.head.partition("### Instruction:\n")[0] + "### Instruction:\n"
    for length in (0, 1, len(GAMES)):
        history: list[str] = list(GAMES[:length])
        row = words.row(history, "Go")
        prompt = f"{start}{row.instruction}\n\n### Input:\n{row.input}{blocks.tail}"
        assert template.text(history) == prompt
        assert template.answer_text("Go") == row.output
        assert template.text_of(row.output) == "Go"


def test_every_instruction_of_the_rows_can_be_chosen() -> None:
    words = replace(WORDS["published"], instructions=("Name one.", "Which {thing}?"))
    recipe = Recipe.of({"model.instruction": "random", "model.domain": "films"})
    heads = template_of(recipe, card={"words": words.as_card()}).heads
    assert ["Name one." in head for head in heads] == [True, False]
    assert ["Which {thing}?" in head for head in heads] == [False, True]


def test_another_template_and_a_data_set_without_words_are_as_they_were() -> None:
    card = {"words": WORDS["published"].as_card()}
    named = Recipe.of({"model.template": "bigrec"})
    assert template_of(named, card=card) == load_template("bigrec")
    assert template_of(Recipe(), card={}) == load_template("list")
