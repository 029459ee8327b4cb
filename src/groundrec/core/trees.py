"""Settings as nested dicts, by full names such as `train.epochs`, and as TOML.

Knows nothing about which settings there are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from groundrec.core.errors import ConfigError

__all__ = ["assign", "leaves", "toml"]

BARE = re.compile(r"[A-Za-z0-9_-]+")
"""A part of a TOML key that needs no quotation marks."""


def toml(settings: Mapping[str, Any]) -> str:
    """Return settings by their full names as TOML, one per line."""
    # JSON without null is also valid TOML.
    return "".join(
        f"{_quoted(key)} = {json.dumps(value, ensure_ascii=False)}\n"
        for key, value in settings.items()
    )


def _quoted(key: str) -> str:
    """Return a setting's name as a TOML key, with quotation marks where TOML needs them."""
    return ".".join(
        part if BARE.fullmatch(part) else json.dumps(part, ensure_ascii=False)
        for part in key.split(".")
    )


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of a nested dict with its full name."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def assign(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a value of a nested dict by its full name; missing sections are added."""
    *sections, last = key.split(".")
    for name in sections:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise ConfigError(
                "not a section",
                value=name,
                accepted="section.setting=value",
                next_step="groundrec settings",
            )
    tree[last] = value
