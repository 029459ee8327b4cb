"""Prompt templates: the text around a history, and the form of an answer.

A template is a TOML file. Its texts are used verbatim, whitespace included. `{title}` is replaced
by a title, `{instruction}` by one of several instructions, and any other name by the text that the
domain gives it. Knows nothing about tokens.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator

from groundrec.core.config import Section
from groundrec.core.errors import ConfigError, did_you_mean
from groundrec.core.files import read_json
from groundrec.core.recipe import Recipe
from groundrec.core.types import Card
from groundrec.data.exchange.row_words import RowWords

__all__ = [
    "AUTO",
    "DEFAULT",
    "FRAME",
    "OWN",
    "Choice",
    "Template",
    "has_words",
    "kept_words",
    "load_template",
    "template_named",
    "template_names",
    "template_of",
]

Choice = int | Literal["random"]
"""The number of a template's instruction, or a random one for each training example."""

AUTO = "auto"
"""The template that is a data set's own where it was imported with its words, and else `LIST`."""

LIST = "list"
OWN = "the data set's own"
FRAME = "bigrec"
"""The template whose words stand around an instruction and an input."""

DEFAULT = "default"
"""The domain whose words apply where another domain defines none."""

INSTRUCTION = "{instruction}"
_FOLDER = files("groundrec.text") / "templates"
_NAME = re.compile(r"\{(\w+)\}")
_TEXTS = ("head", "item", "separator", "tail", "answer")


class Template(Section):
    """The text of a prompt: head, items joined by the separator, tail; then the answer."""

    description: str = Field(default="", description="One line for people.")
    words: dict[str, dict[str, str]] = Field(
        default={},
        description="What `{name}` stands for, domain by domain; `default` has every name.",
    )
    instructions: list[str] = Field(
        default=[], description="What `{instruction}` in the head stands for."
    )
    head: str = Field(default="", description="Fixed text before the history.")
    item: str = Field(description="One item of the history.")
    separator: str = Field(default="", description="Text between two items of the history.")
    tail: str = Field(default="", description="Fixed text between the history and the answer.")
    answer: str = Field(description="The text the model learns to write for an item.")
    end: bool = Field(default=False, description="Close the answer with the tokenizer's end token.")
    running: bool = Field(
        default=False,
        description="Train on every item of a sequence at once; needs `item` equal to `answer`.",
    )

    @field_validator("item", "answer")
    @classmethod
    def _has_title(cls, text: str) -> str:
        if text.count("{title}") != 1:
            raise ValueError("must contain {title} exactly once")
        return text

    def model_post_init(self, _: object) -> None:
        """Check the placeholders, the end of the answer, and the form of a running list."""
        if not self.end and not self.answer.endswith("\n"):
            raise ConfigError(
                "the template's answer has no end",
                value=self.answer,
                accepted="end = true, or a final newline",
            )
        if self.running and (
            self.item != self.answer or self.separator or self.tail or self.end or self.instructions
        ):
            raise ConfigError(
                "the template is not a running list",
                accepted="item equal to answer, no separator, tail, end or instructions",
            )
        if self.head.count(INSTRUCTION) != bool(self.instructions):
            raise ConfigError(
                "head and instructions do not match",
                value=self.head,
                accepted=(
                    f"{INSTRUCTION} once in the head if there are `instructions`, else not at all"
                ),
            )
        self._check_words()

    def _check_words(self) -> None:
        # Without [words], other braces are ordinary text.
        if not self.words:
            return
        defaults = self.words.get(DEFAULT, {})
        used = {name for text in self._texts() for name in _NAME.findall(text)}
        defined = {name for words in self.words.values() for name in words}
        if unknown := sorted((used | defined) - {"title", INSTRUCTION[1:-1], *defaults}):
            raise ConfigError(
                "placeholder without a default",
                value=", ".join(unknown),
                accepted=f"names defined in [words.{DEFAULT}]: {', '.join(defaults) or 'none yet'}",
            )

    def _texts(self) -> Iterator[str]:
        yield from (getattr(self, name) for name in _TEXTS)
        yield from self.instructions

    def filled(self, domain: str, instruction: Choice) -> Template:
        """Return the template with a domain's words and one instruction filled in.

        If `instruction` is `random`, all instructions are kept.
        """
        words = self.words.get(DEFAULT, {}) | self.words.get(domain, {})

        def fill(text: str) -> str:
            return _NAME.sub(lambda match: words.get(match[1], match[0]), text)

        texts: dict[str, object] = {name: fill(getattr(self, name)) for name in _TEXTS}
        filled = self.model_copy(
            update={**texts, "instructions": [*map(fill, self.instructions)], "words": {}}
        )
        if instruction == "random" and self.instructions:
            return filled
        if instruction == "random" or instruction >= len(filled.heads):
            raise ConfigError(
                "the template has no such instruction",
                value=f"model.instruction = {instruction}",
                accepted=f"0 … {len(filled.heads) - 1}" + (", random" if self.instructions else ""),
                next_step="--set model.instruction=0",
            )
        return filled.model_copy(update={"head": filled.heads[instruction], "instructions": []})

    @property
    def heads(self) -> list[str]:
        """The head with each instruction filled in; the search uses the first."""
        return [self.head.replace(INSTRUCTION, text) for text in self.instructions] or [self.head]

    def item_text(self, title: str, *, first: bool) -> str:
        """Return the text of one item of the history."""
        return ("" if first else self.separator) + self.item.replace("{title}", title)

    def answer_text(self, text: str) -> str:
        """Return the answer for an item that is written as `text`."""
        return self.answer.replace("{title}", text)

    def text_of(self, answer: str) -> str:
        """Return the item's text in a generated answer, without the template's text around it.

        Where answers end with a newline, only the first line counts.
        """
        before, _, after = (part.strip() for part in self.answer.partition("{title}"))
        line = answer.partition("\n")[0] if self.answer.endswith("\n") else answer
        return line.strip().removeprefix(before).removesuffix(after).strip()

    def text(self, titles: list[str], instruction: int = 0) -> str:
        """Return the whole prompt for a history of `titles`, with one of the instructions."""
        history = "".join(self.item_text(title, first=i == 0) for i, title in enumerate(titles))
        return self.heads[instruction] + history + self.tail


def template_names() -> list[str]:
    """Return the names of the templates in the package."""
    return sorted(f.name.removesuffix(".toml") for f in _FOLDER.iterdir())


def template_of(recipe: Recipe, domain: str | None = None, card: Card | None = None) -> Template:
    """Return the recipe's template filled in for `domain`, by default the recipe's own.

    `card` is that of the data set of the domain, by default of the one that the recipe names there.
    Raises `ConfigError` if the template or its words for the domain are missing.
    """
    section = recipe.model
    name = template_named(recipe, domain, card)
    words = kept_words(recipe, domain, card)
    template = _of_rows(words) if name == OWN and words else _read(name)
    # Words of its own need no domain to choose them by: it is a label then, also before an import.
    by_domain = name != OWN and section.template != AUTO
    if section.domain and by_domain and section.domain not in template.words:
        hint = did_you_mean(section.domain, template.words)
        raise ConfigError(
            f"the template has no words for this domain{hint}",
            value=section.domain,
            accepted=", ".join(template.words) or "none: the template has no [words]",
            next_step="leave model.domain out, or add [words.DOMAIN] to a template of your own",
        )
    return template.filled(
        domain or section.domain or recipe.data.category or DEFAULT, section.instruction
    )


def template_named(recipe: Recipe, domain: str | None = None, card: Card | None = None) -> str:
    """Return the name of the template that `template_of` returns: `auto` is resolved."""
    if recipe.model.template != AUTO:
        return recipe.model.template
    return OWN if kept_words(recipe, domain, card) else LIST


def kept_words(
    recipe: Recipe, domain: str | None = None, card: Card | None = None
) -> RowWords | None:
    """Return the words that the data set of the domain was imported with, None if it has none."""
    if card is None:
        folder = recipe.train.extra_datasets.get(domain) if domain else recipe.data.dataset
        record = (read_json(folder / "dataset.json") if folder else None) or {}
        card = record.get("card", {})
    words = (card or {}).get("words")
    return RowWords.of_card(words) if words else None


def has_words(name: str, domain: str) -> bool:
    """Return whether the template, given by name or path, has its own words for `domain`."""
    return name not in (AUTO, OWN) and domain in _read(name).words


def _of_rows(words: RowWords) -> Template:
    """Return the template of which rows with these words are the prompts and answers."""
    frame = _read(FRAME)
    start, title, _ = frame.head.partition("### Instruction:\n")
    # The whole head is one of the instructions: whatever braces it has, they stay as they are.
    opening, closing = words.marks
    before, after = words.output_marks
    return Template(
        description=f"Words of imported rows, in the blocks of the template {FRAME}.",
        instructions=[f"{text}\n\n### Input:\n{words.before}" for text in words.instructions],
        head=f"{start}{title}{INSTRUCTION}",
        item=f"{opening}{{title}}{closing}",
        separator=words.separator,
        tail=f"{words.after}{frame.tail}",
        answer=f"{before}{{title}}{after}",
        end=True,
    )


def load_template(name: str, domain: str = DEFAULT, instruction: Choice = 0) -> Template:
    """Return the template, given by name or by the path of a TOML file, with its words filled in.

    A domain that the template does not know gets the default words. Raises `ConfigError`.
    """
    return _read(name).filled(domain, instruction)


def _read(name: str) -> Template:
    if name in template_names():
        file = _FOLDER / f"{name}.toml"
    elif Path(name).is_file():
        file = Path(name)
    else:
        known = template_names()
        raise ConfigError(
            f"no such template{did_you_mean(name, known)}",
            value=name,
            accepted=f"{AUTO}, {', '.join(known)}, or the path of a TOML file",
            next_step="--set model.template=list",
        )
    try:
        return Template.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"template {name} is not valid TOML",
            value=error,
            accepted='lines like `answer = "{title}\\n"`',
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"template {name}: {first['msg']}",
            value=field,
            accepted=", ".join(Template.model_fields),
        ) from None
