"""The words of a published script's prompts, read from that script as text, never run.

BIGRec's words around a row are in `generate_prompt` of its inference.py; D3's are in dataset.py,
and what it calls a category in evaluate.py beside it. Only text and the names inside it are taken.
Knows nothing about tokens.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from groundrec.core.errors import ConfigError, did_you_mean

__all__ = ["BIGRecWords", "D3Words", "Text"]

Text = tuple[str | tuple[str], ...]
"""A text with names inside: pieces of text, and names as tuples of one."""


@dataclass(frozen=True)
class BIGRecWords:
    """What BIGRec's script writes around an instruction and an input."""

    with_input: Text
    without: Text

    @classmethod
    def of(cls, script: Path) -> BIGRecWords:
        """Return the words of an inference.py; raise `ConfigError` where it has none."""
        texts = list(_texts(_function(_parsed(script), "generate_prompt", script)))
        both = [text for text in texts if {"instruction", "input"} <= _names(text)]
        alone = [text for text in texts if "instruction" in _names(text) and text not in both]
        if not both or not alone:
            raise _no_words(script, "generate_prompt with an instruction and an input")
        return cls(both[0], alone[0])

    def prompt(self, instruction: str, text: str) -> str:
        """Return the prompt of a row."""
        values = {"instruction": instruction, "input": text}
        return _filled(self.with_input if text else self.without, values)


@dataclass(frozen=True)
class D3Words:
    """What D3's script writes before a history, and around it."""

    head: str
    """With the instruction; tokenised by itself, as the script does."""
    before: str
    """What stands before the titles in an input."""
    around: Text

    @classmethod
    def of(cls, script: Path, category: str) -> D3Words:
        """Return the words of a dataset.py for a category; raise `ConfigError` where it has none.

        The category's words are those of evaluate.py in the same folder.
        """
        tree = _parsed(script)
        values = {"category": _category(script.with_name("evaluate.py"), category)}
        instruction = _first_of_list(tree, "instructs", script)
        head = _one(_function(tree, "pre", script), {"instructs"}, script)
        around = _one(_function(tree, "generate_prompt", script), {"input", "output"}, script)
        before = _one(_function(tree, "get_history", script), {"category", "history"}, script)
        return cls(
            _filled(head, {"instructs": _filled(instruction, values)}),
            _filled(before, {**values, "history": ""}),
            around,
        )

    def input(self, titles: str) -> str:
        """Return the input of a row, with its titles as text."""
        return self.before + titles

    def prompt(self, titles: str) -> tuple[str, str]:
        """Return the two parts of a row's prompt."""
        return self.head, _filled(self.around, {"input": self.input(titles), "output": ""})

    @property
    def tail(self) -> str:
        """What stands between an input and the answer."""
        return _filled(self.around, {"input": "\0", "output": ""}).partition("\0")[2]


def _parsed(script: Path) -> ast.Module:
    try:
        return ast.parse(script.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        raise _no_words(script, "a Python file of the published code", error) from None


def _function(tree: ast.AST, name: str, script: Path) -> ast.AST:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
    raise _no_words(script, f"a function {name}")


def _texts(tree: ast.AST) -> Iterator[Text]:
    """Yield the texts with names inside of which every name is a plain one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) and (text := _text(node)):
            yield text


def _text(node: ast.JoinedStr) -> Text | None:
    parts: list[str | tuple[str]] = []
    for value in node.values:
        if isinstance(value, ast.Constant):
            parts.append(str(value.value))
        elif isinstance(value, ast.FormattedValue) and (name := _name(value.value)):
            parts.append((name,))
        else:
            return None
    return tuple(parts)


def _name(node: ast.expr) -> str | None:
    """Return `x` of `x`, of `a.x`, of `a["x"]` and of `a.x[0]`."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Subscript):
        key = node.slice.value if isinstance(node.slice, ast.Constant) else None
        return key if isinstance(key, str) else _name(node.value)
    return None


def _names(text: Text) -> set[str]:
    return {part[0] for part in text if isinstance(part, tuple)}


def _one(tree: ast.AST, names: set[str], script: Path) -> Text:
    found = next((text for text in _texts(tree) if names <= _names(text)), None)
    if found is None:
        raise _no_words(script, f"a text with {' and '.join(sorted(names))} in it")
    return found


def _first_of_list(tree: ast.AST, name: str, script: Path) -> Text:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List):
            first = node.value.elts[0] if node.value.elts else None
            named = any(_name(target) == name for target in node.targets)
            if named and isinstance(first, ast.JoinedStr) and (text := _text(first)):
                return text
            if named and isinstance(first, ast.Constant):
                return (str(first.value),)
    raise _no_words(script, f"a list {name}")


def _category(script: Path, category: str) -> str:
    for node in ast.walk(_parsed(script)):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            known = _literal_dict(node.value)
            if known and all(_name(target) == "category_dict" for target in node.targets):
                if category in known:
                    return known[category]
                raise ConfigError(
                    f"{script.name} has no words for this category{did_you_mean(category, known)}",
                    value=f"--category {category}",
                    accepted=", ".join(known),
                    next_step=f"--category {next(iter(known))}",
                )
    raise _no_words(script, "a dictionary category_dict")


def _literal_dict(node: ast.Dict) -> dict[str, str]:
    try:
        return dict(ast.literal_eval(node))
    except ValueError:
        return {}


def _filled(text: Text, values: Mapping[str, str]) -> str:
    return "".join(part if isinstance(part, str) else values.get(part[0], "") for part in text)


def _no_words(script: Path, lacking: str, error: object = None) -> ConfigError:
    return ConfigError(
        "no words of a prompt in this script",
        value=f"{script}: {error}" if error else script,
        accepted=f"BIGRec's inference.py or D3's code/dataset.py, with {lacking}",
        next_step="--template FILE.toml gives the words otherwise",
    )
