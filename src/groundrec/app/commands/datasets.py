"""Data sets at the command line: made from raw interactions, and written in the formats of other
code.

Knows nothing about what protocols and formats do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from groundrec.app.stages.checks import check_names
from groundrec.core.errors import ArtifactError, ConfigError
from groundrec.core.recipe import Recipe, load_recipe
from groundrec.core.registry import resolve
from groundrec.core.track import log
from groundrec.data.dataset import DatasetReader, report_full_disk

__all__ = ["bring", "export", "make", "recipe_of"]

WINDOW = ("st_year", "st_month", "ed_year", "ed_month")


def recipe_of(given: Mapping[str, Any], overrides: Sequence[str]) -> Recipe:
    """Return the recipe of settings by their names, None meaning not given; a window of time means
    protocol `d3`.
    """
    given = {key: value for key, value in given.items() if value is not None}
    if any(f"prepare.d3.{name}" in given for name in WINDOW):
        given = {"prepare.protocol": "d3", **given}
    # A JSON text is a TOML text, too.
    texts = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in given.items()]
    recipe, _ = load_recipe(None, [*texts, *overrides])
    check_names(recipe)
    return recipe


def make(recipe: Recipe, out: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Prepare a data set in `out` and return its fingerprint and counts; refuse to replace another
    unasked.
    """
    _spare(out, overwrite)
    from groundrec.data.prepare import prepare

    log.info(f"{recipe.data.source}, protocol {recipe.prepare.protocol}")
    prepare(recipe.data, recipe.prepare, recipe.seed, out)
    return _summary(DatasetReader(out))


def export(
    source: Path, name: str, out: Path, template: Path | None = None, *, overwrite: bool = False
) -> list[Path]:
    """Write the data set in `source`, or that of the run there, in the format `name`; return the
    files.

    Refuse to write beside other files unasked, and a `template` for a format without words.
    """
    write = resolve("formats", name)
    words = {"template": template} if template else {}
    if words and "template" not in signature(write).parameters:
        raise ConfigError(
            f"the format {name} has no words to set",
            value=f"--template {template}",
            accepted="a template for the format bigrec",
            next_step="leave --template out",
        )
    _spare_file(out)
    if not overwrite and any(file.is_file() for file in out.rglob("*")):
        raise ArtifactError(
            "there are files already",
            value=out,
            accepted="an empty or new folder",
            next_step="another --out, or add --overwrite to replace those of the same names",
        )
    inside = source / "dataset"
    reader = DatasetReader(inside if (inside / "dataset.json").exists() else source)
    with report_full_disk(out):
        return write(reader, out, **words)


def bring(folder: Path, name: str, out: Path, category: str, *, overwrite: bool = False) -> None:
    """Import what other code has prepared in `folder`; refuse to replace a data set unasked."""
    _spare(out, overwrite)
    resolve("imports", name)(folder, out, category)


def _spare_file(out: Path) -> None:
    above = next(path for path in (out, *out.parents) if path.exists())
    if not above.is_dir():
        raise ArtifactError(
            "a file is where a folder should be",
            value=above,
            accepted="a folder",
            next_step="choose another --out",
        )


def _spare(out: Path, overwrite: bool) -> None:
    _spare_file(out)
    if (out / "dataset.json").exists() and not overwrite:
        raise ArtifactError(
            "there is a data set already",
            value=out,
            accepted="another --out",
            next_step="add --overwrite to replace it once the new one is whole",
        )


def _summary(reader: DatasetReader) -> dict[str, Any]:
    splits = reader.card.get("splits", {})
    queries = {name: counts["queries"] for name, counts in splits.items()}
    return {"fingerprint": reader.fingerprint, "items": len(reader.catalogue), **queries}
