"""What each setting is and costs, in English and Chinese, and what the originals call it.

English meanings are declared with the settings; the rest is in `words/`, one TOML file for each
section of a recipe. Knows nothing about anybody's data, nor about how this is shown.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from groundrec.core.errors import ConfigError
from groundrec.core.recipe import Recipe, settings

__all__ = [
    "LANGUAGES",
    "WORDS",
    "Entry",
    "Flag",
    "entries",
    "file_of",
    "find",
    "flags",
    "language",
    "parts",
    "spoken",
]

LANGUAGES = ("en", "zh")
FOLDER = Path(__file__).parent / "words"
WORDS = ("cost", "zh", "zh_cost")
"""What every setting must have there."""

ORIGINALS = "originals"
TOP = "recipe"
KINDS = {
    "integer": ("an integer", "整数"),
    "number": ("a number", "数"),
    "string": ("text", "文本"),
    "boolean": ("true or false", "true 或 false"),
    "path": ("a path", "路径"),
    "array": ("a list", "列表"),
    "object": ("a table", "表"),
    "null": ("unset", "不填"),
}
BOUNDS = {
    "minimum": ("at least {}", "不小于 {}"),
    "maximum": ("at most {}", "不大于 {}"),
    "exclusiveMinimum": ("above {}", "大于 {}"),
    "exclusiveMaximum": ("below {}", "小于 {}"),
}


@dataclass(frozen=True)
class Entry:
    """One setting in one language. `called` maps the originals' names for it to who calls it so."""

    setting: str
    default: Any
    meaning: str
    cost: str
    accepted: str
    called: dict[str, str]


@dataclass(frozen=True)
class Flag:
    """A flag of the originals that no setting stands for, what to do instead, and the settings it
    has to do with.
    """

    name: str
    by: str
    text: str
    see: tuple[str, ...]


def language(asked: str | None = None, environment: Mapping[str, str] = os.environ) -> str:
    """Return the language `asked` for, else the locale's where there are words in it, else English."""
    if asked is not None:
        if asked not in LANGUAGES:
            raise ConfigError(
                "no words in this language", value=asked, accepted=", ".join(LANGUAGES)
            )
        return asked
    locale = next(
        (environment[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if environment.get(name)),
        "",
    )
    return "zh" if locale.lower().startswith("zh") else "en"


def file_of(setting: str) -> Path:
    """Return the file with the words of a setting."""
    section, dot, _ = setting.partition(".")
    return FOLDER / f"{section if dot else TOP}.toml"


@cache
def parts(setting: str) -> dict[str, Any]:
    """Return what the words' file says of a setting: `cost`, `zh`, `zh_cost` and perhaps `called`;
    {} where nothing.
    """
    file = file_of(setting)
    keys = setting.split(".")
    node: Any = _read(file.stem) if file.is_file() else {}
    for key in keys[1:] or keys:
        node = node.get(key, {})
    return node


def entries(language: str) -> Iterator[Entry]:
    """Yield every setting, in the order they are declared."""
    schema = Recipe.model_json_schema()
    for setting, default, meaning in settings(Recipe()):
        words = parts(setting)
        accepted = _accepted(_property(schema, setting), LANGUAGES.index(language))
        cost, zh, zh_cost = (words.get(key, "") for key in WORDS)
        if language == "zh":
            meaning = zh or meaning
            cost = zh_cost or cost
        yield Entry(setting, default, meaning, cost, accepted, words.get("called", {}))


def flags(language: str) -> Iterator[Flag]:
    """Yield the originals' flags that are no settings."""
    for name, words in _read(ORIGINALS).items():
        yield Flag(name, words["by"], words[language], tuple(words["see"]))


def find(word: str) -> tuple[list[str], list[str]]:
    """Return the settings, and the flags without a setting, that a word names.

    It may be the whole name, its last part, its section, or an original's name for it;
    `--num-epochs` is `num_epochs`. Raises `ConfigError` with what may have been meant.
    """
    known = _names()
    without = [flag.name for flag in flags("en")]
    plain = word.lstrip("-").replace("-", "_")
    exact = plain if plain in known or plain in without else plain.lower()
    if exact in known or exact in without:
        return known.get(exact, []), [name for name in without if name == exact]
    near = difflib.get_close_matches(exact, [*known, *without], n=3, cutoff=0.6)
    near += [s for s in known if "." in s and len(exact) > 2 and exact in s and s not in near][:5]
    raise ConfigError(
        "no such setting"
        + (f" (did you mean {' or '.join(map(repr, near[:3]))}?)" if near else ""),
        value=word,
        accepted=(
            ", ".join(near)
            if len(near) > 3
            else "a setting, its last part, its section, or the originals' name for it"
        ),
        next_step="groundrec settings",
    )


def spoken(called: Mapping[str, str]) -> str:
    """Return the originals' names on one line."""
    return "; ".join(f"{name} ({by})" for name, by in called.items())


@cache
def _names() -> dict[str, list[str]]:
    """Return every word that names settings, and which. A setting comes before a section of the
    same name.
    """
    found: dict[str, list[str]] = {}
    sections: dict[str, list[str]] = {}
    for setting, *_ in settings(Recipe()):
        section, _, last = setting.rpartition(".")
        for name in {last, *parts(setting).get("called", {})}:
            found.setdefault(name, []).append(setting)
        while section:
            for name in {section, section.rpartition(".")[2]}:
                sections.setdefault(name, []).append(setting)
            section = section.rpartition(".")[0]
    return {**sections, **found, **{setting: [setting] for setting, *_ in settings(Recipe())}}


@cache
def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


def _property(schema: dict[str, Any], setting: str) -> dict[str, Any]:
    """Return the JSON schema of one setting."""
    node = schema
    for key in setting.split("."):
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        node = node["properties"][key]
    return node


def _accepted(node: dict[str, Any], word: int) -> str:
    """Return what a setting accepts, in words."""
    if "anyOf" in node:
        found = [_accepted(one, word) for one in node["anyOf"]]
        return (", or ", "，或")[word].join(dict.fromkeys(found))
    if "enum" in node or "const" in node:
        return ", ".join(f"`{value}`" for value in node.get("enum") or [node["const"]])
    kind = KINDS[node.get("format", node["type"]) if node.get("format") in KINDS else node["type"]][
        word
    ]
    bounds = [text[word].format(f"{node[name]:g}") for name, text in BOUNDS.items() if name in node]
    return (", ", "，")[word].join([kind, *bounds])
