"""Parse Python literals, without running them.

`parse_literal_fields` scans a dict literal and parses only the requested values, several times
faster than a full parse. Knows nothing about files.
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
    """Return the value of a Python literal, or None if the text is not one."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.literal_eval(text)
    except REFUSED:
        return None


def parse_literal_fields(text: str, wanted: Collection[str]) -> dict[str, Any] | None:
    """Return the wanted fields that a dict literal has; None if it needs a full parse.

    A dict whose first key is in double quotes may be JSON, with other escapes: None.
    """
    if not text.startswith(("{'", "{u'")):
        return None
    values = {}
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
            values[name] = _value(value)
            if values[name] is None and value != "None":
                return None
    return values if at == len(text) else None


def _value(text: str) -> Any:
    if plain := PLAIN.fullmatch(text):
        return plain[2] if plain[1] is None else plain[1]
    if number := NUMBER.fullmatch(text):
        return float(text) if number[1] else int(text)
    return parse_literal(text)
