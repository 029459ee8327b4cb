"""What each setting means and costs, in English and Chinese, and its name in the published code.

English meanings are declared with the settings; everything else is in `words/`, one TOML file per
section of a recipe. Knows nothing about the user's data, nor about how this is displayed.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from groundrec.core.aliases import former_name
from groundrec.core.errors import ConfigError
from groundrec.core.language import LANGUAGES
from groundrec.core.recipe import Recipe, settings

__all__ = [
    "REQUIRED",
    "Entry",
    "Flag",
    "entries",
    "find",
    "flags",
    "format_names",
    "text_file",
    "texts_of",
]

FOLDER = Path(__file__).parent / "words"
REQUIRED = ("cost", "zh", "zh_cost")
"""Keys that every setting must have in those files."""

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
    """One setting in one language.

    `called` maps its names in published code to the projects; `formerly` is its old name.
    """

    setting: str
    default: Any
    meaning: str
    cost: str
    accepted: str
    called: dict[str, str]
    formerly: str | None


@dataclass(frozen=True)
class Flag:
    """A flag of the published code that has no setting here, and what to do instead.

    `see` names related settings.
    """

    name: str
    by: str
    text: str
    see: tuple[str, ...]


def text_file(setting: str) -> Path:
    """Return the file with the texts of a setting."""
    section, dot, _ = setting.partition(".")
    return FOLDER / f"{section if dot else TOP}.toml"


@cache
def texts_of(setting: str) -> dict[str, Any]:
    """Return a setting's texts: `cost`, `zh`, `zh_cost` and optionally `called`; {} without any."""
    file = text_file(setting)
    keys = setting.split(".")
    node: Any = _read(file.stem) if file.is_file() else {}
    for key in keys[1:] or keys:
        node = node.get(key, {})
    return node


def entries(language: str) -> Iterator[Entry]:
    """Yield all settings in declaration order."""
    schema = Recipe.model_json_schema()
    for setting, default, meaning in settings(Recipe()):
        texts = texts_of(setting)
        accepted = _accepted(_property(schema, setting), LANGUAGES.index(language))
        cost, zh, zh_cost = (texts.get(key, "") for key in REQUIRED)
        if language == "zh":
            meaning = zh or meaning
            cost = zh_cost or cost
        called = texts.get("called", {})
        yield Entry(setting, default, meaning, cost, accepted, called, former_name(setting))


def flags(language: str) -> Iterator[Flag]:
    """Yield the flags of the published code that have no setting here."""
    for name, texts in _read(ORIGINALS).items():
        yield Flag(name, texts["by"], texts[language], tuple(texts["see"]))


def find(word: str) -> tuple[list[str], list[str]]:
    """Return the settings, and the published flags without a setting, that a word refers to.

    The word may be a full name, its last part, a section, an old name, or a name in the published
    code; `--num-epochs` means `num_epochs`. Raises `ConfigError` with similar names.
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
            else "a setting, its last part, its section, or its name in the published code"
        ),
        next_step="groundrec settings",
    )


def format_names(called: Mapping[str, str]) -> str:
    """Return a setting's published names on one line."""
    return "; ".join(f"{name} ({by})" for name, by in called.items())


@cache
def _names() -> dict[str, list[str]]:
    """Map every word that names settings to those settings.

    A setting takes precedence over a section of the same name.
    """
    by_word: dict[str, list[str]] = {}
    sections: dict[str, list[str]] = {}
    for setting, *_ in settings(Recipe()):
        section, _, last = setting.rpartition(".")
        for name in {last, *texts_of(setting).get("called", {})}:
            by_word.setdefault(name, []).append(setting)
        while section:
            for name in {section, section.rpartition(".")[2]}:
                sections.setdefault(name, []).append(setting)
            section = section.rpartition(".")[0]
    return {**_old_names(), **sections, **by_word, **{s: [s] for s, *_ in settings(Recipe())}}


def _old_names() -> dict[str, list[str]]:
    """Map old names of settings, their last parts and their sections to the current settings."""
    by_word: dict[str, list[str]] = {}
    for setting, *_ in settings(Recipe()):
        if old := former_name(setting):
            section, _, last = old.rpartition(".")
            for name in {old, last, section}:
                by_word.setdefault(name, []).append(setting)
    return by_word


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


def _accepted(node: dict[str, Any], number: int) -> str:
    """Return what a setting accepts, in the language of this number."""
    if "anyOf" in node:
        options = [_accepted(option, number) for option in node["anyOf"]]
        return (", or ", "，或")[number].join(dict.fromkeys(options))
    if "enum" in node or "const" in node:
        return ", ".join(f"`{value}`" for value in node.get("enum") or [node["const"]])
    kind = node["format"] if node.get("format") in KINDS else node["type"]
    bounds = [
        text[number].format(f"{node[name]:g}") for name, text in BOUNDS.items() if name in node
    ]
    return (", ", "，")[number].join([KINDS[kind][number], *bounds])
