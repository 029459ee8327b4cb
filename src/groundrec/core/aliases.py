"""Settings and values that were renamed: one table from the old name to the current one.

It is used wherever settings enter: recipes, `--set`, scripts, and the inputs that a run directory
has recorded. Knows nothing about what a setting means.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["NAMES", "VALUES", "current_name", "upgrade"]

NAMES: dict[str, str] = {}
"""Old name → current name, both at the same depth. The section of an old name is the current one:
with `{"a": "b", "b.x": "b.y"}`, `a.x` is now `b.y`.
"""

VALUES: dict[str, dict[str, str]] = {}
"""Current name of a setting → its old values → their current ones."""


def current_name(setting: str) -> str:
    """Return the current name of a setting or a section, which may be the name given."""
    name = ""
    for part in setting.split("."):
        longer = f"{name}.{part}" if name else part
        name = NAMES.get(longer, longer)
    return name


def upgrade(tree: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """Return nested settings (a recipe, `config.json`, a stage's recorded inputs) with current
    names and values; whatever is not a renamed setting stays as it is.

    `section` is the current name of the section that `tree` holds; the whole recipe when left out.
    """
    upgraded: dict[str, Any] = {}
    for key, value in tree.items():
        name = current_name(f"{section}.{key}" if section else key)
        if isinstance(value, Mapping):
            value = upgrade(value, name)
        elif isinstance(value, str):
            value = VALUES.get(name, {}).get(value, value)
        upgraded[name.rpartition(".")[2]] = value
    return upgraded
