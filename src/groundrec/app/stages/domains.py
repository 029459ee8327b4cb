"""The data sets of several domains that one training reads: whether they exist, and their sizes.

Knows nothing about how they are used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from groundrec.core.errors import ArtifactError, ConfigError
from groundrec.core.files import read_json
from groundrec.core.recipe import Recipe
from groundrec.text.prompts import OWN, has_words, template_named

__all__ = ["Size", "fingerprints", "main_domain", "other_domains", "size_table", "sizes"]

FINISHED = "a folder that `groundrec prepare` or `groundrec import` has finished"


@dataclass(frozen=True)
class Size:
    """The size of a domain's data set: items and targets, None where it does not exist yet."""

    domain: str
    dataset: str
    words: str
    """Whose words its prompts use."""
    items: int | None = None
    train: int | None = None
    valid: int | None = None


def main_domain(recipe: Recipe) -> str:
    """Return the domain whose words the prompts of the main data set use."""
    return recipe.model.domain or recipe.data.category or "default"


def other_domains(recipe: Recipe) -> dict[str, Path]:
    """Return the data sets that are trained on besides the main one, by domain, sorted by name."""
    return (
        dict(sorted(recipe.train.extra_datasets.items())) if recipe.train.method != "none" else {}
    )


def fingerprints(recipe: Recipe, main: str = "") -> dict[str, str]:
    """Return the fingerprint of each other data set; raise for one that is missing or repeated.

    `main` is the fingerprint of the main data set, empty where it is not known.
    """
    found = {}
    places = {main: "the main data set"} if main else {}
    for domain, path in other_domains(recipe).items():
        found[domain] = _fingerprint(f"train.extra_datasets.{domain}", path)
        if before := places.get(found[domain]):
            raise ConfigError(
                f"train.extra_datasets.{domain} is the same as {before}",
                value=path,
                accepted="another data set: every example of one would count twice",
                next_step=f"leave train.extra_datasets.{domain} out",
            )
        places[found[domain]] = f"train.extra_datasets.{domain}"
    return found


def sizes(recipe: Recipe) -> Iterator[Size]:
    """Yield the size of the main data set and of each other one, as far as they exist."""
    yield _size(recipe, main_domain(recipe), recipe.data.dataset)
    for domain, path in other_domains(recipe).items():
        yield _size(recipe, domain, path)


def size_table(found: Sequence[Size]) -> Table:
    """Return sizes as a table for the terminal."""
    table = Table("domain", "data set", "words", "items", "training targets", "validation targets")
    for size in found:
        numbers = (
            "–" if number is None else f"{number:,}"
            for number in (size.items, size.train, size.valid)
        )
        table.add_row(*map(escape, (size.domain, size.dataset, size.words, *numbers)))
    table.caption = "train.max_examples and train.validation_queries are drawn from each"
    return table


def _fingerprint(setting: str, path: Path) -> str:
    if not (path / "dataset.json").is_file():
        raise ArtifactError(
            f"{setting} is not a finished data set",
            value=path,
            accepted=FINISHED,
            next_step=(
                f"groundrec prepare SOURCE --out {path}, or groundrec import FOLDER --format FORMAT"
                f" --out {path}"
            ),
        )
    from groundrec.data.dataset import DatasetReader

    return DatasetReader(path).fingerprint


def _size(recipe: Recipe, domain: str, path: Path | None) -> Size:
    own_domain = None if domain == main_domain(recipe) else domain
    name = template_named(recipe, own_domain)
    words = f"[words.{domain}]" if has_words(name, domain) else "default"
    if name == OWN:
        words = "its own"
    if path is None:
        return Size(domain, "made by this run", words)
    counts = (read_json(path / "dataset.json") or {}).get("counts")
    if counts is None:
        return Size(domain, f"{path} (not there yet)", words)
    targets = (counts.get(split, {}).get("targets") for split in ("train", "valid"))
    return Size(domain, str(path), words, counts.get("items"), *targets)
