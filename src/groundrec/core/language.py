"""The language of what people read, and its texts in Chinese: errors, tables, checks, the report.

English is written where it is used. `chinese/` maps it to Chinese, by templates in which `{0}`,
`{1}` stand for what varies. Names, paths, numbers and commands are the same in both languages.
Knows nothing about settings, whose texts are in `words/`.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from groundrec.core.errors import ConfigError, GroundrecError

__all__ = [
    "LANGUAGES",
    "chinese_texts",
    "choose_language",
    "language",
    "localize",
    "localize_error",
    "say",
    "use_language",
]

LANGUAGES = ("en", "zh")
FOLDER = Path(__file__).parent / "chinese"
VALUES = "values"
"""The file of templates for the value in an error. They match nothing that a user may have typed,
so that a title is never taken for one of our texts.
"""
SUGGESTION = re.compile(r"(.*?) \(did you mean (.+)\?\)", re.DOTALL)
PLACEHOLDER = re.compile(r"\{\d\}")
_current = ["en"]


@dataclass(frozen=True)
class _Template:
    pattern: re.Pattern[str]
    chinese: str


def choose_language(given: str | None = None, environment: Mapping[str, str] = os.environ) -> str:
    """Return the language `given`, or else the locale's, or else English.

    Raises `ConfigError` for an unsupported language.
    """
    if given is not None:
        if given not in LANGUAGES:
            raise ConfigError(
                "unsupported language",
                value=given,
                accepted=", ".join(LANGUAGES),
                next_step="--lang en",
            )
        return given
    locale = next(
        (environment[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if environment.get(name)),
        "",
    )
    return "zh" if locale.lower().startswith("zh") else "en"


def language() -> str:
    """Return the language in use, English unless `use_language` has chosen another."""
    return _current[0]


def use_language(name: str) -> None:
    """Choose the language of all texts from now on: one of `LANGUAGES`."""
    _current[0] = name


def say(template: str, *values: object) -> str:
    """Return a text of ours in the language in use, with `values` for `{0}`, `{1}` …."""
    if language() == "zh":
        template = chinese_texts().get(template, template)
    return template.format(*values)


def localize(text: str) -> str:
    """Return a finished text of ours in the language in use; unchanged if no template fits."""
    return text if language() == "en" else _translated(text)


def localize_error(error: GroundrecError) -> str:
    """Return an error as it is shown, its four parts in the language in use."""
    if language() == "en":
        return f"error: {error}"
    lines = [f"错误：{_translated(error.what)}"]
    if error.value is not None:
        lines[0] += f"：{_matched(str(error.value), (VALUES,)) or error.value}"
    if error.accepted:
        lines.append(f"  可接受：{_translated(error.accepted)}")
    if error.next_step:
        lines.append(f"  下一步：{_translated(error.next_step)}")
    return "\n".join(lines)


def _translated(text: str) -> str:
    if suggested := SUGGESTION.fullmatch(text):
        return f"{_translated(suggested[1])}（您是否指 {suggested[2].replace(' or ', ' 或 ')}？）"
    whole = _matched(text)
    if whole is not None:
        return whole
    first, comma, rest = text.partition(", or ")
    return f"{_translated(first)}，或 {_translated(rest)}" if comma else text


def _matched(text: str, files: tuple[str, ...] = ()) -> str | None:
    """Return the Chinese of a text by the most specific template; None if there is none.

    What varies stays as it is, unless it is itself one of our fixed texts.
    """
    fixed = chinese_texts(files)
    if text in fixed:
        return fixed[text]
    for template in _templates(files):
        if match := template.pattern.fullmatch(text):
            return template.chinese.format(*(fixed.get(part, part) for part in match.groups()))
    return None


@cache
def chinese_texts(files: tuple[str, ...] = ()) -> dict[str, str]:
    """Return English templates and their Chinese: of these files, or of all but the values."""
    names = files or sorted(path.stem for path in FOLDER.glob("*.toml") if path.stem != VALUES)
    texts: dict[str, str] = {}
    for name in names:
        texts |= tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    return texts


@cache
def _templates(files: tuple[str, ...]) -> list[_Template]:
    """Return the templates with placeholders, those with the most fixed text first."""
    found = [key for key in chinese_texts(files) if PLACEHOLDER.search(key)]
    found.sort(key=lambda key: -len(PLACEHOLDER.sub("", key)))
    return [_Template(_pattern(key), chinese_texts(files)[key]) for key in found]


def _pattern(template: str) -> re.Pattern[str]:
    fixed = (re.escape(part.format()) for part in PLACEHOLDER.split(template))
    return re.compile("(.*?)".join(fixed), re.DOTALL)
