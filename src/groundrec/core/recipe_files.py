"""Recipe files: TOML files on disk, and those shipped with the package, which have names.

Knows nothing about what a recipe says.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from groundrec.core.errors import ConfigError, did_you_mean
from groundrec.core.track import log

__all__ = ["find_recipe", "packaged_files"]

FOLDER = Path(__file__).parents[1] / "recipes"
NEAREST = 5
"""How many packaged names an error suggests."""


def packaged_files(suffix: str = ".toml") -> dict[str, Path]:
    """Return the packaged files with a suffix, by name: `d3/baseline`, `accelerate/ddp`."""
    paths = sorted(FOLDER.rglob(f"*{suffix}"))
    return {path.relative_to(FOLDER).as_posix().removesuffix(suffix): path for path in paths}


def find_recipe(recipe: str | Path, folder: Path = Path()) -> Path:
    """Return the path of a recipe: a file, seen from `folder`, else a packaged recipe's name.

    Raises `ConfigError` where there is neither.
    """
    path = folder / recipe
    if path.is_file():
        return path
    name, packaged = Path(recipe).as_posix(), packaged_files()
    if name in packaged:
        return packaged[name]
    # Recipes used to lie in the repository's own folder `recipes`.
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
