"""Recipe files: TOML files on disk, and those shipped with the package, which have names.

Knows nothing about which settings there are.
"""

from __future__ import annotations

import difflib
import functools
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from groundrec.core import aliases
from groundrec.core.errors import ConfigError, did_you_mean
from groundrec.core.track import log
from groundrec.core.trees import assign, leaves

__all__ = [
    "EXTENDS",
    "find_recipe",
    "override",
    "packaged_files",
    "read_recipe",
    "read_toml",
    "refuse_both",
]

FOLDER = Path(__file__).parents[1] / "recipes"
EXTENDS = "extends"
"""Key that names the recipe to extend: a file relative to this one, or a packaged name."""
DATASET = "data.dataset"
RAW = {"data.source", "data.path"}
"""Settings that say which raw data a data set is prepared from."""
NEAREST = 5
"""Maximum number of packaged names that an error suggests."""


def packaged_files(suffix: str = ".toml") -> dict[str, Path]:
    """Return the packaged files with a suffix, by name: `d3/baseline`, `accelerate/ddp`."""
    paths = sorted(FOLDER.rglob(f"*{suffix}"))
    return {path.relative_to(FOLDER).as_posix().removesuffix(suffix): path for path in paths}


def find_recipe(recipe: str | Path, folder: Path = Path()) -> Path:
    """Return the path of a recipe: a file relative to `folder`, or else a packaged recipe by name.

    Raises `ConfigError` if there is neither.
    """
    path = folder / recipe
    if path.is_file():
        return path
    name = Path(recipe).as_posix()
    packaged = packaged_files()
    if name in packaged:
        return packaged[name]
    # Recipes used to be in the repository's folder `recipes`.
    moved = name.removeprefix("recipes/").removesuffix(".toml")
    if name == f"recipes/{moved}.toml" and moved in packaged:
        log.warning(f"{name} is now a packaged recipe: use its name, `{moved}`")
        return packaged[moved]
    raise _no_such_recipe(path, name, packaged)


def _no_such_recipe(path: Path, name: str, packaged: dict[str, Path]) -> ConfigError:
    nearest = difflib.get_close_matches(name, packaged, n=NEAREST, cutoff=0.4)
    files = sorted(p.as_posix() for p in path.parent.glob("*.toml") if p.name != "pyproject.toml")
    return ConfigError(
        f"no such recipe{did_you_mean(name, [*packaged, *files])}",
        value=path,
        accepted=", ".join([*files, *nearest]) or "a TOML file, or the name of a packaged recipe",
        next_step="groundrec recipes list",
    )


def read_recipe(path: Path, above: tuple[Path, ...] = ()) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings of a recipe and of those it extends, and the file each comes from."""
    given = read_toml(path)
    base = given.pop(EXTENDS, None)
    chain = (*above, path.resolve())
    origin = dict.fromkeys((key for key, _ in leaves(given)), path.name)
    if base is None:
        return given, origin
    extended_path = find_recipe(base, path.parent) if isinstance(base, str) else None
    if extended_path is None or extended_path.resolve() in chain:
        raise ConfigError(
            f"{path} does not extend another recipe",
            value=f"{EXTENDS} = {json.dumps(base, default=str)}",
            accepted="a recipe file or a packaged recipe that does not extend this one in turn",
            next_step="groundrec recipes list",
        )
    extended, origins = read_recipe(extended_path, chain)
    override(extended, origins, list(leaves(given)), path.name)
    return extended, origins | origin


def read_toml(path: Path) -> dict[str, Any]:
    """Return the settings in a TOML file, with current names and values."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is not valid TOML",
            value=error,
            accepted="lines like `k_core = 5` under a [section]",
        ) from None
    return aliases.upgrade(tree, warn=True)


def override(
    given: dict[str, Any],
    origin: dict[str, str],
    settings: Iterable[tuple[str, Any]],
    where: str,
) -> None:
    """Set values of a nested dict by their full names, and drop what they replace.

    `where` says where they stand; `origin` loses the settings that are dropped.
    """
    settings = list(settings)
    _drop_replaced(given, origin, {key for key, _ in settings}, where)
    for key, value in settings:
        assign(given, key, value)


def _drop_replaced(
    given: dict[str, Any], origin: dict[str, str], new: set[str], where: str
) -> None:
    """Drop from `given` how data is prepared, if the `new` settings name a finished data set.

    The other way round, drop the finished data set if they name raw data. `where` they
    stand is said with everything that was dropped, and dropped settings have no `origin`.
    """
    old = [key for key, _ in leaves(given)]
    if DATASET in new and not new & RAW:
        dropped = [key for key in old if _prepares(key)]
    elif new & RAW and DATASET not in new:
        dropped = [key for key in old if key == DATASET]
    else:
        return
    if not dropped:
        return
    category = given.get("data", {}).get("category")
    for key in dropped:
        _remove(given, key)
    for key in [key for key in origin if key in dropped]:
        del origin[key]
    why = "names a finished data set" if DATASET in new else "names raw data"
    text = f"{where} {why}, so these settings of the recipe do not apply: {', '.join(dropped)}"
    if "data.category" in dropped:
        text += f'; model.domain = "{category}" keeps the words of that category in prompts'
    _warn_once(text)


def refuse_both(given: Mapping[str, Any]) -> None:
    """Raise `ConfigError` if a finished data set is named, and also how to prepare one."""
    keys = [key for key, value in leaves(dict(given)) if value is not None]
    if DATASET in keys and (others := [key for key in keys if _prepares(key)]):
        raise ConfigError(
            "data.dataset names a finished data set, to which no other setting applies",
            value=", ".join(others),
            accepted="no other setting of [data] and [prepare]",
            next_step="remove them, or leave out data.dataset and prepare the data with them",
        )


def _prepares(key: str) -> bool:
    return key != DATASET and key.startswith(("data.", "prepare."))


def _remove(tree: dict[str, Any], key: str) -> None:
    """Remove a value of a nested dict by its full name."""
    *sections, last = key.split(".")
    for name in sections:
        tree = tree[name]
    del tree[last]


@functools.cache
def _warn_once(text: str) -> None:
    """Log a warning, once however often a command reads its recipe."""
    log.warning(text)
