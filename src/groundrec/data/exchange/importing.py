"""What all importers share: the errors, the card, and saving what was read.

An importer reads a folder, checks every row, and saves a data set with exactly those splits. A row
that cannot be used is an error with its file and line, never skipped: a part of a published split
would be another split. Knows nothing about file formats.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from groundrec.core.errors import DataError
from groundrec.core.types import Catalogue
from groundrec.data.dataset import describe, report_full_disk, save
from groundrec.data.events import Events
from groundrec.data.exchange.rejoin import ImportedRows, to_queries
from groundrec.data.protocols.windows import Windows
from groundrec.data.summary import leakage, summarize

__all__ = ["NO_TIMES_NOTE", "Importer", "save_import", "unusable_row"]

ABOUT = {"times": ("moment", "time_span", "first", "last"), "users": ("user", "density", "events")}
"""Words in the keys of card entries that describe times or users."""

NO_TIMES_NOTE = (
    "The files contain no times: a query's time is its row number, counted from train through valid"
    " to test."
)


class Importer(Protocol):
    """An entry of the registry's seam `imports`."""

    def __call__(self, folder: Path, out: Path, category: str = "") -> dict[str, Any]:
        """Save the data set in `folder`, of one `category` if it has several, to `out`.

        Returns its card.
        """
        ...


def save_import(
    catalogue: Catalogue,
    parts: Mapping[str, ImportedRows],
    entries: Mapping[str, Any],
    out: Path,
    joined: tuple[Events, Mapping[str, Windows]] | None = None,
    unknown: Collection[str] = (),
) -> dict[str, Any]:
    """Save an imported data set and return its card: `entries`, and what can be measured.

    `unknown` names `times` or `users` if the files do not contain them: numbers stand in for them,
    and the card does not describe them. `joined` are the events, and the splits as their windows.
    """
    if empty := [split for split, part in parts.items() if not part.users]:
        raise DataError(
            f"the {empty[0]} split has no rows",
            value=f"0 rows in {empty[0]}",
            accepted="at least one row in each of train, valid and test",
            next_step="get the files again",
        )
    queries = to_queries(parts)
    rows = sum(map(len, queries.values()))
    counts = {split: _known(entry, unknown) for split, entry in describe(queries).items()}
    card = {
        "rows": {"read": rows, "kept": rows},
        **_known(summarize(catalogue, queries), unknown),
        "splits": counts,
        "leakage": _known(leakage(queries), unknown),
        **entries,
    }
    events, splits = joined or (None, queries)
    with report_full_disk(out):
        save(catalogue, splits, card, out, events)
    return card


def _known(entries: Mapping[str, Any], unknown: Collection[str]) -> dict[str, Any]:
    """Return the entries that do not describe what is `unknown`."""
    words = [word for name in unknown for word in ABOUT[name]]
    return {key: value for key, value in entries.items() if not any(word in key for word in words)}


def unusable_row(file: Path, location: str, value: object, accepted: str) -> DataError:
    """Return the error for a row that cannot be used."""
    return DataError(
        f"{file.name}, {location}: this row cannot be used",
        value=value,
        accepted=accepted,
        next_step=f"fix {file}: an import never skips rows",
    )
