"""Python literals as data: parsed, never run.

`parse_literal_fields` walks over a dict literal and looks only at the values that are asked for, which is
several times faster than a whole parse. Knows nothing about files.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Collection
from typing import Any

__all__ = ["parse_literal", "parse_literal_fields"]

TEXT = r"""u?(?:'[^'\\]*+(?:\\.[^'\\]*+)*+'|"[^"\\]*+(?:\\.[^"\\]*+)*+")"""
NAME = r"""u?(?:'([^'\\]*+)'|"([^"\\]*+)")"""
FLAT = rf"""(?:[^\[\]{{}}()'"]++|{TEXT})*+"""
NESTED = rf"""[\[{{](?:[^\[\]{{}}()'"]++|{TEXT}|[\[{{]{FLAT}[\]}}])*+[\]}}]"""
PAIR = re.compile(rf"\s*+{NAME}\s*+:\s*+({TEXT}|[-+.\w]++|{NESTED})\s*+([,}}])", re.DOTALL)
PLAIN = re.compile(NAME, re.DOTALL)
NUMBER = re.compile(r"-?(?:0|[1-9]\d*+)(\.\d++)?", re.ASCII)
REFUSED = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)


def parse_literal(text: str) -> Any:
    """Return the value of a Python literal, or None where it is none."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.literal_eval(text)
    except REFUSED:
        return None


def parse_literal_fields(text: str, wanted: Collection[str]) -> dict[str, Any] | None:
    """Return those of the wanted fields that a dict literal has; None for what only a whole parse
    can tell.

    A dict whose first key is in double quotes may be JSON, where texts mean other things: None.
    """
    if not text.startswith(("{'", "{u'")):
        return None
    found = {}
    at = 1
    mark = ","
    while mark == ",":
        pair = PAIR.match(text, at)
        if not pair:
            return None
        single, double, value, mark = pair.groups()
        at = pair.end()
        name = double if single is None else single
        if name in wanted:
            found[name] = _value(value)
            if found[name] is None and value != "None":
                return None
    return found if at == len(text) else None


def _value(text: str) -> Any:
    if plain := PLAIN.fullmatch(text):
        return plain[2] if plain[1] is None else plain[1]
    if number := NUMBER.fullmatch(text):
        return float(text) if number[1] else int(text)
    return parse_literal(text)
