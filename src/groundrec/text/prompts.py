"""Prompts as small template files: the words around a history, and the form of an answer.

A template is TOML. Its texts are used to the letter, blanks and newlines included. `{title}` stands
for a title, `{instruction}` for one of several instructions, any other name for a word that differs
from domain to domain. Knows nothing about tokens.
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
from groundrec.core.recipe import Recipe

__all__ = ["Choice", "Template", "has_words", "load_template", "template_names", "template_of"]

Choice = int | Literal["random"]
"""Which of a template's instructions: its number, or one at random for each training example."""

DEFAULT = "default"
"""Domain whose words are used where a domain has none of its own."""

INSTRUCTION = "{instruction}"
_FOLDER = files("groundrec.text") / "templates"
_NAME = re.compile(r"\{(\w+)\}")
_TEXTS = ("head", "item", "separator", "tail", "answer")


class Template(Section):
    """The words of a prompt: head, items joined by the separator, tail; then the answer."""

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
            raise ValueError("must hold {title} exactly once")
        return text

    def model_post_init(self, _: object) -> None:
        """Check placeholders, that an answer can be told from its continuations, and that a running
        list is one.
        """
        if not self.end and not self.answer.endswith("\n"):
            raise ConfigError(
                "an answer without an end",
                value=self.answer,
                accepted="end = true, or a final newline",
            )
        if self.running and (
            self.item != self.answer or self.separator or self.tail or self.end or self.instructions
        ):
            raise ConfigError(
                "not a running list",
                accepted="item equal to answer, no separator, tail, end or instructions",
            )
        if self.head.count(INSTRUCTION) != bool(self.instructions):
            raise ConfigError(
                "head and instructions do not fit",
                value=self.head,
                accepted=(
                    f"{INSTRUCTION} once in the head where there are `instructions`, and only there"
                ),
            )
        self._check_words()

    def _check_words(self) -> None:
        known = {"title", INSTRUCTION[1:-1], *self.words.get(DEFAULT, {})}
        used = (
            {name for text in self._texts() for name in _NAME.findall(text)}
            if self.words
            else set()
        )
        if wrong := sorted(
            (used | {name for words in self.words.values() for name in words}) - known
        ):
            raise ConfigError(
                "a word without a meaning",
                value=", ".join(wrong),
                accepted=(
                    f"names that [words.{DEFAULT}] has:"
                    f" {', '.join(self.words.get(DEFAULT, {})) or 'none yet'}"
                ),
            )

    def _texts(self) -> Iterator[str]:
        yield from (getattr(self, name) for name in _TEXTS)
        yield from self.instructions

    def filled(self, domain: str, instruction: Choice) -> Template:
        """Return the template with the words of a domain in place, and one of its instructions, or
        all of them.
        """
        words = self.words.get(DEFAULT, {}) | self.words.get(domain, {})

        def put(text: str) -> str:
            return _NAME.sub(lambda found: words.get(found[1], found[0]), text)

        texts: dict[str, object] = {name: put(getattr(self, name)) for name in _TEXTS}
        spoken = self.model_copy(
            update={**texts, "instructions": [*map(put, self.instructions)], "words": {}}
        )
        if instruction == "random" and self.instructions:
            return spoken
        if instruction == "random" or instruction >= len(spoken.heads):
            raise ConfigError(
                "no such instruction in the template",
                value=f"model.instruction = {instruction}",
                accepted=f"0 … {len(spoken.heads) - 1}" + (", random" if self.instructions else ""),
                next_step="--set model.instruction=0",
            )
        return spoken.model_copy(update={"head": spoken.heads[instruction], "instructions": []})

    @property
    def heads(self) -> list[str]:
        """The head with each instruction in its place; the first is the one that is searched with."""
        return [self.head.replace(INSTRUCTION, text) for text in self.instructions] or [self.head]

    def item_text(self, title: str, *, first: bool) -> str:
        """Return an item as it stands in the history."""
        return ("" if first else self.separator) + self.item.replace("{title}", title)

    def answer_text(self, text: str) -> str:
        """Return the answer that names an item by its `text`."""
        return self.answer.replace("{title}", text)

    def text_of(self, answer: str) -> str:
        """Return the text of an item in a written answer, without the template's words around it.

        Where answers are lines, only the first line counts.
        """
        before, _, after = (part.strip() for part in self.answer.partition("{title}"))
        line = answer.partition("\n")[0] if self.answer.endswith("\n") else answer
        return line.strip().removeprefix(before).removesuffix(after).strip()

    def text(self, titles: list[str], head: int = 0) -> str:
        """Return the whole prompt for a history of `titles`, with one of the heads."""
        history = "".join(self.item_text(title, first=i == 0) for i, title in enumerate(titles))
        return self.heads[head] + history + self.tail


def template_names() -> list[str]:
    """Return the names of the templates that come with the package."""
    return sorted(f.name.removesuffix(".toml") for f in _FOLDER.iterdir())


def template_of(recipe: Recipe, domain: str | None = None) -> Template:
    """Return a recipe's template in the words of its domain, or of another one. Raises
    `ConfigError`.
    """
    section = recipe.model
    template = _read(section.template)
    if section.domain and section.domain not in template.words:
        raise ConfigError(
            f"the template has no words for this domain{did_you_mean(section.domain, template.words)}",
            value=section.domain,
            accepted=", ".join(template.words) or "none: the template has no [words]",
            next_step="leave model.domain out, or add [words.DOMAIN] to a template of your own",
        )
    return template.filled(
        domain or section.domain or recipe.data.category or DEFAULT, section.instruction
    )


def has_words(name: str, domain: str) -> bool:
    """Return whether the template of that name, or at that path, has words of its own for a domain."""
    return domain in _read(name).words


def load_template(name: str, domain: str = DEFAULT, instruction: Choice = 0) -> Template:
    """Return the template of that name, or of the TOML file at that path, filled. Raises
    `ConfigError`.

    A domain of which the template knows nothing gets its default words.
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
            accepted=f"{', '.join(known)}, or the path of a TOML file",
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
        place = ".".join(str(p) for p in first["loc"])
        raise ConfigError(
            f"template {name}: {first['msg']}",
            value=place,
            accepted=", ".join(Template.model_fields),
        ) from None
