"""Prompts as small template files: the words around a history, and the form of an answer.

A template is TOML. Its texts are used to the letter, blanks and newlines included; `{title}` is the only placeholder.
Knows nothing about tokens.
"""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

from pydantic import Field, ValidationError, field_validator

from groundrec.core.config import Section
from groundrec.core.errors import ConfigError, closest

__all__ = ["Template", "load_template", "template_names"]


_FOLDER = files("groundrec.text") / "templates"


class Template(Section):
    """The words of a prompt: head, items joined by the separator, tail; then the answer."""

    description: str = Field(default="", description="One line for people.")
    head: str = Field(default="", description="Fixed text before the history: the instruction.")
    item: str = Field(description="One item of the history.")
    separator: str = Field(default="", description="Text between two items of the history.")
    tail: str = Field(default="", description="Fixed text between the history and the answer.")
    answer: str = Field(description="The text the model learns to write for an item.")
    end: bool = Field(default=False, description="Close the answer with the tokenizer's end token.")
    running: bool = Field(
        default=False, description="Train on every item of a sequence at once; needs `item` equal to `answer`."
    )

    @field_validator("item", "answer")
    @classmethod
    def _has_title(cls, text: str) -> str:
        if text.count("{title}") != 1:
            raise ValueError("must hold {title} exactly once")
        return text

    def model_post_init(self, _: object) -> None:
        """Check that an answer can be told from its continuations, and that a running list is one."""
        if not self.end and not self.answer.endswith("\n"):
            raise ConfigError("an answer without an end", value=self.answer, accepted="end = true, or a final newline")
        if self.running and (self.item != self.answer or self.separator or self.tail or self.end):
            raise ConfigError("not a running list", accepted="item equal to answer, no separator, tail or end")

    def item_text(self, title: str, *, first: bool) -> str:
        """Return an item as it stands in the history."""
        return ("" if first else self.separator) + self.item.replace("{title}", title)

    def answer_text(self, title: str) -> str:
        """Return the text that answers with `title`."""
        return self.answer.replace("{title}", title)

    def title_of(self, answer: str) -> str:
        """Return the title in a written answer: its first line where answers are lines, without their form."""
        before, _, after = (part.strip() for part in self.answer.partition("{title}"))
        line = answer.partition("\n")[0] if self.answer.endswith("\n") else answer
        return line.strip().removeprefix(before).removesuffix(after).strip()

    def text(self, titles: list[str]) -> str:
        """Return the whole prompt for a history of `titles`, for people to read."""
        history = "".join(self.item_text(title, first=i == 0) for i, title in enumerate(titles))
        return self.head + history + self.tail


def template_names() -> list[str]:
    """Return the names of the templates that come with the package."""
    return sorted(f.name.removesuffix(".toml") for f in _FOLDER.iterdir())


def load_template(name: str) -> Template:
    """Return the template of that name, or of the TOML file at that path. Raises `ConfigError`."""
    if name in template_names():
        file = _FOLDER / f"{name}.toml"
    elif Path(name).is_file():
        file = Path(name)
    else:
        known = template_names()
        raise ConfigError(
            f"no such template{closest(name, known)}",
            value=name,
            accepted=f"{', '.join(known)}, or the path of a TOML file",
            next_step="--set model.template=list",
        )
    try:
        return Template.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"template {name} is not valid TOML", value=error, accepted='lines like `answer = "{title}\\n"`'
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"])
        raise ConfigError(
            f"template {name}: {first['msg']}", value=place, accepted=", ".join(Template.model_fields)
        ) from None
