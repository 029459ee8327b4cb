"""Settings and values that were renamed: one table from the old name to the current one.

It is used wherever settings enter: recipes, `--set`, `--grid`, scripts, and the inputs that a run
directory has recorded. Knows nothing about what a setting means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from groundrec.core.errors import ConfigError
from groundrec.core.track import log

__all__ = ["NAMES", "VALUES", "current", "current_name", "former_name", "refuse_both", "upgrade"]

NAMES: dict[str, str] = {
    "neighbours": "item_knn",
    "popularity": "recent_popularity",
    "item_knn.last": "item_knn.last_n",
    "recent_popularity.recent_days": "recent_popularity.days",
    "co_occurrence.last": "co_occurrence.last_n",
    "evaluate.people": "evaluate.example_users",
    "fuse.paper": "fuse.per_metric",
    "ground.longest": "ground.max_embed_tokens",
    "ground.texts": "ground.num_texts",
    "prepare.d3.least_items": "prepare.d3.min_items",
    "recommend.width": "recommend.tokens_per_pass",
    "train.also": "train.extra_datasets",
    "train.learn": "train.loss_on",
}
"""Old name → current name, at the same depth; sections come first. An old name within a section is
written with the section's current name: `neighbours.last` is now `item_knn.last_n`.
"""

VALUES: dict[str, dict[str, str]] = {
    "recommend.mode": {"all": "exhaustive"},
    "train.loss_on": {"choices": "branching"},
}
"""Current name of a setting → its old values → their current ones."""

_logged: set[str] = set()


def current_name(setting: str) -> str:
    """Return the current name of a setting or a section, which may be the name given."""
    name = ""
    for part in setting.split("."):
        longer = f"{name}.{part}" if name else part
        name = NAMES.get(longer, longer)
    return name


def former_name(setting: str) -> str | None:
    """Return the old name of a setting; None if it was never renamed."""
    name = setting
    for old, new in reversed(NAMES.items()):
        if name == new or name.startswith(f"{new}."):
            name = old + name.removeprefix(new)
    return name if name != setting else None


def current(setting: str, value: Any) -> tuple[str, Any]:
    """Return the current name and value of a setting or a section; log each old one once."""
    tree: Any = value
    for part in reversed(setting.split(".")):
        tree = {part: tree}
    tree = upgrade(tree, warn=True)
    name = current_name(setting)
    for part in name.split("."):
        tree = tree[part]
    return name, tree


def upgrade(tree: Mapping[str, Any], section: str = "", *, warn: bool = False) -> dict[str, Any]:
    """Return nested settings (a recipe, `config.json`, a stage's recorded inputs) with current
    names and values; whatever is not a renamed setting stays as it is.

    `section` is the current name of the section that `tree` holds; the whole recipe when left out.
    With `warn`, each old name or value is logged once in this process. Raises `ConfigError` if a
    setting or a section is given by both its old and its current name.
    """
    return _upgraded(tree, section, section, warn)


def refuse_both(settings: Iterable[str]) -> None:
    """Raise `ConfigError` if a setting is given by both its old and its current name."""
    given: dict[str, str] = {}
    for setting in settings:
        name = current_name(setting)
        if given.setdefault(name, setting) != setting:
            raise ConfigError(
                f"{name} is given twice, once by its old name",
                value=f"{given[name]}, {setting}",
                accepted=name,
                next_step=f"remove {given[name] if setting == name else setting}",
            )


def _upgraded(
    tree: Mapping[str, Any], old_section: str, section: str, warn: bool
) -> dict[str, Any]:
    refuse_both(_join(section, key) for key in tree)
    upgraded: dict[str, Any] = {}
    for key, value in tree.items():
        old = _join(old_section, key)
        new = current_name(_join(section, key))
        current_key = new.removeprefix(f"{section}.") if section else new
        if isinstance(value, Mapping):
            upgraded[current_key] = _upgraded(value, old, new, warn)
        else:
            upgraded[current_key] = _current_value(new, value, warn)
        if warn and current_key != key:
            _log_once(old, new)
    return upgraded


def _current_value(setting: str, value: Any, warn: bool) -> Any:
    values = VALUES.get(setting, {})
    if not isinstance(value, str) or value not in values:
        return value
    if warn:
        _log_once(f"{setting} = {value}", f"{setting} = {values[value]}")
    return values[value]


def _join(section: str, key: str) -> str:
    return f"{section}.{key}" if section else key


def _log_once(old: str, new: str) -> None:
    if old not in _logged:
        _logged.add(old)
        log.warning(f"{old} is now {new}")
