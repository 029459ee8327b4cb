"""Data sets prepared from raw interactions, imported from other code, and exported to it.

Knows nothing about what protocols and formats do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import cast

from groundrec.app.stages.checks import check_names
from groundrec.core.errors import ArtifactError, ConfigError
from groundrec.core.inputs import step_folder
from groundrec.core.recipe import Recipe, load_recipe
from groundrec.core.registry import resolve
from groundrec.core.track import log
from groundrec.data.dataset import DatasetReader, report_full_disk

__all__ = [
    "d3_words",
    "export_dataset",
    "import_dataset",
    "prepare_dataset",
    "recipe_of",
    "refuse_files",
]

WINDOW = ("st_year", "st_month", "ed_year", "ed_month")


def recipe_of(given: Mapping[str, str | int | None], overrides: Sequence[str]) -> Recipe:
    """Return the recipe of settings by name, where None is not given.

    A time window implies the protocol `d3`.
    """
    given = {key: value for key, value in given.items() if value is not None}
    if any(f"prepare.d3.{name}" in given for name in WINDOW):
        given = {"prepare.protocol": "d3", **given}
    # Strings and numbers are written alike in JSON and TOML.
    texts = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in given.items()]
    recipe, _ = load_recipe(None, [*texts, *overrides])
    check_names(recipe)
    return recipe


def d3_words(
    k_core: int | None,
    metadata: str | None,
    reviews: str | None,
    output: str | None,
    path: str | None,
) -> dict[str, str | int]:
    """Return the settings of words of D3's process.py; any of them implies the protocol `d3`.

    Raises `ConfigError` for an `output` that is not true, and for one of two files.
    """
    if output is not None and output.lower() != "true":
        raise ConfigError(
            "preparing data writes it", value=f"--output {output}", accepted="--output True"
        )
    if (metadata is None) != (reviews is None) or (reviews and path):
        raise ConfigError(
            "reviews and metadata are two files",
            value=", ".join(filter(None, (path, reviews, metadata))),
            accepted="--reviews FILE --metadata FILE, or --path FOLDER --category NAME",
            next_step="give both files, and no --path",
        )
    found: dict[str, str | int | None] = {
        "prepare.k_core": k_core,
        "data.path": reviews,
        "data.items": metadata,
    }
    given = {key: value for key, value in found.items() if value is not None}
    return {"prepare.protocol": "d3", **given} if given or output else {}


def prepare_dataset(recipe: Recipe, out: Path, *, overwrite: bool = False) -> dict[str, str | int]:
    """Prepare a data set in `out` and return its fingerprint and counts.

    Raises `ArtifactError` if there is one already and it is not to be overwritten.
    """
    _refuse_dataset(out, overwrite)
    from groundrec.data.prepare import prepare

    log.info(f"{recipe.data.source}, protocol {recipe.prepare.protocol}")
    prepare(recipe.data, recipe.prepare, recipe.seed, out)
    return _counts(DatasetReader(out))


def export_dataset(
    source: Path, name: str, out: Path, template: Path | None = None, *, overwrite: bool = False
) -> list[Path]:
    """Write the data set in `source`, or that of the run there, in the format `name`.

    Return the files. Raises `ConfigError` for a `template` that the format does not use, and
    `ArtifactError` for files already in `out` that are not to be overwritten.
    """
    write = resolve("formats", name)
    options = {"template": template} if template else {}
    if options and "template" not in signature(write).parameters:
        raise ConfigError(
            f"the format {name} does not use a template",
            value=f"--template {template}",
            accepted="a template for the format bigrec",
            next_step="leave out --template",
        )
    refuse_files(out, overwrite=overwrite)
    of_run = step_folder(source, "prepare")
    reader = DatasetReader(of_run if (of_run / "dataset.json").exists() else source)
    with report_full_disk(out):
        return write(reader, out, **options)


def import_dataset(
    folder: Path,
    name: str,
    out: Path,
    category: str,
    files: Mapping[str, Path] | None = None,
    *,
    overwrite: bool = False,
    allow_leaks: bool = False,
) -> None:
    """Import into `out` what other code, by its `name`, has prepared in `folder`.

    `files` are the splits' files to read instead of those that the folder is expected to hold.
    Raises `ArtifactError` if there is a data set already and it is not to be overwritten, and
    `DataError` for rows of validation or test that stand in train too, unless `allow_leaks`.
    """
    _refuse_dataset(out, overwrite)
    # Importers of other packages need not know of these.
    options: dict[str, object] = {"allow_leaks": True} if allow_leaks else {}
    if files:
        options["files"] = files
    resolve("imports", name)(folder, out, category, **options)


def refuse_files(out: Path, *, overwrite: bool) -> None:
    """Raise `ArtifactError` unless files may be written to `out`."""
    _refuse_file(out)
    if not overwrite and any(file.is_file() for file in out.rglob("*")):
        raise ArtifactError(
            "the output folder is not empty",
            value=out,
            accepted="an empty or new folder",
            next_step="choose another --out, or add --overwrite to replace files of the same names",
        )


def _refuse_file(out: Path) -> None:
    existing = next(path for path in (out, *out.parents) if path.exists())
    if not existing.is_dir():
        raise ArtifactError(
            "not a folder",
            value=existing,
            accepted="a folder, or a name that is not taken",
            next_step="choose another --out",
        )


def _refuse_dataset(out: Path, overwrite: bool) -> None:
    _refuse_file(out)
    if (out / "dataset.json").exists() and not overwrite:
        raise ArtifactError(
            "there is already a data set here",
            value=out,
            accepted="another --out",
            next_step="add --overwrite to replace it once the new one is complete",
        )


def _counts(reader: DatasetReader) -> dict[str, str | int]:
    splits = cast(Mapping[str, Mapping[str, int]], reader.card.get("splits", {}))
    queries = {name: counts["queries"] for name, counts in splits.items()}
    return {"fingerprint": reader.fingerprint, "items": len(reader.catalogue), **queries}
