"""The English templates of all errors, read from the source: what `localize_error` is given."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import groundrec
from groundrec.core import errors

SOURCE = Path(groundrec.__file__).parent
ERRORS = {name for name in errors.__all__ if name[0].isupper()} - {"MissingDependency"} | {"Check"}
PARTS = ("what", "value", "accepted", "next_step", "name", "ok", "found", "fix")
POSITIONAL = {"Check": ("name", "ok", "found", "fix")}
SUGGESTED = "did_you_mean"
SUGGESTION = re.compile(r" \(did you mean .*?\?\)$")

COMMAND = re.compile(
    r"(groundrec|pip|wandb|torchrun|accelerate|export|unset|ray|make|conda|Pipeline|Recommender\.load)\b"
    r"(?!.*\b(or|and|with|the|which|in|another|again|names|saves)\b).*",
    re.DOTALL,
)
FLAGS = re.compile(r"((--[\w-]+([ =]([\w.]+=)?(\{\w+[^}]*\}|[^\s;]+))?|-m \w+ \w+|[A-Z]+) ?)+")
SETTINGS = re.compile(r"[\w.]+ (=|≥) \S+?(, [\w.]+ = \S+?)*")
NAMES = re.compile(
    r"([^a-zA-Z]|\{\d\}|[\w-]*[._=:/][\w.=:/{}…-]*|[A-Z_]{2,}|`[^`]*`|[0-9a-f]{32,})*"
)
WORDS = re.compile("sdpa|auto, fp32, .*|external|none|[a-z]+ resume|Python|torch|Java( .0.)?")
"""Names of values, of programs and of packages."""


class Message(NamedTuple):
    """One text of an error: where it is written, which part it is, its template."""

    where: str
    part: str
    template: str

    @property
    def is_technical(self) -> bool:
        """Whether it is the same in every language: a command, flags, names."""
        return any(
            kind.fullmatch(self.template) for kind in (COMMAND, FLAGS, SETTINGS, NAMES, WORDS)
        )


class _Helper(NamedTuple):
    """A function that passes its parameters on to an error: its name, and which go where."""

    parameters: tuple[str, ...]
    parts: dict[str, str]


@cache
def messages() -> list[Message]:
    """Return every text of every error and check, in the order of the source."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCE.rglob("*.py")}
    return sorted({m for path, tree in trees.items() for m in _of_file(path, tree)})


def _of_file(path: Path, tree: ast.Module) -> Iterator[Message]:
    constants = _constants(tree)
    helpers = _helpers(tree)
    for call in _calls(tree):
        name = _name(call.func)
        helper = helpers.get(name)
        if name in ERRORS:
            given = _arguments(call, POSITIONAL.get(name, PARTS[:1]))
        elif helper:
            passed = _arguments(call, helper.parameters)
            given = {
                helper.parts[key]: value for key, value in passed.items() if key in helper.parts
            }
        else:
            continue
        where = f"{path.relative_to(SOURCE)}:{call.lineno}"
        for part, node in given.items():
            for template in _templates(node, constants):
                if part in PARTS and re.search("[A-Za-z]", template):
                    yield Message(where, part, template)


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _name(node: ast.expr) -> str:
    return getattr(node, "id", getattr(node, "attr", ""))


def _arguments(call: ast.Call, positional: Iterable[str]) -> dict[str, ast.expr]:
    given = dict(zip(positional, call.args, strict=False))
    return given | {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}


def _constants(tree: ast.Module) -> dict[str, ast.expr]:
    assigned = (node for node in tree.body if isinstance(node, ast.Assign))
    return {_name(node.targets[0]): node.value for node in assigned}


def _helpers(tree: ast.Module) -> dict[str, _Helper]:
    found: dict[str, _Helper] = {}
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        names = tuple(one.arg for one in function.args.args if one.arg not in ("self", "cls"))
        names += tuple(one.arg for one in function.args.kwonlyargs)
        parts = {
            value.id: part
            for call in _calls(function)
            if _name(call.func) in ERRORS
            for part, value in _arguments(call, PARTS[:1]).items()
            if isinstance(value, ast.Name) and value.id in names and part != "value"
        }
        if parts:
            found[function.name] = _Helper(names, parts)
    return found


def _templates(node: ast.expr, constants: dict[str, ast.expr]) -> list[str]:
    """Return what an expression may be, its variable parts as `{0}`, `{1}` …."""
    texts = [SUGGESTION.sub("", text) for text in _raw(node, constants)]
    return [_numbered(text) for text in texts]


def _raw(node: ast.expr, constants: dict[str, ast.expr]) -> list[str]:
    match node:
        case ast.Constant(value=str(text)):
            return [text.replace("\0", "")]
        case ast.JoinedStr(values=values):
            return ["".join(parts) for parts in product(*(_raw(v, constants) for v in values))]
        case ast.FormattedValue(value=ast.Call(func=function)) if _name(function) == SUGGESTED:
            return [""]
        case ast.FormattedValue(value=ast.Name(id=name)) if name in constants:
            return _raw(constants[name], constants)
        case ast.IfExp(body=one, orelse=other):
            return _raw(one, constants) + _raw(other, constants)
        case ast.BoolOp(values=values):
            return [text for value in values for text in _raw(value, constants)]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            pairs = product(_raw(left, constants), _raw(right, constants))
            return ["".join(pair) for pair in pairs]
        case ast.BinOp(left=left, op=ast.Mult()):
            return [*_raw(left, constants), ""]
        case ast.Name(id=name) if name in constants:
            return _raw(constants[name], constants)
    return ["\0"]


def _numbered(text: str) -> str:
    """Return a text with its variable parts numbered, other braces doubled beside them."""
    first, *rest = text.split("\0")
    if not rest:
        return first
    doubled = [part.replace("{", "{{").replace("}", "}}") for part in (first, *rest)]
    return doubled[0] + "".join(f"{{{i}}}{part}" for i, part in enumerate(doubled[1:]))
