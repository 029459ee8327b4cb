"""Recipe files: TOML files on disk, and those shipped with the package, which have names.

Knows nothing about which settings there are.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from pathlib import Path
from typing import Any

from groundrec.core import aliases
from groundrec.core.errors import ConfigError, did_you_mean
from groundrec.core.track import log
from groundrec.core.trees import assign, leaves

__all__ = ["EXTENDS", "find_recipe", "packaged_files", "read_recipe", "read_toml"]

FOLDER = Path(__file__).parents[1] / "recipes"
EXTENDS = "extends"
"""Key that names the recipe to extend: a file relative to this one, or a packaged name."""
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
    for key, value in leaves(given):
        assign(extended, key, value)
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
