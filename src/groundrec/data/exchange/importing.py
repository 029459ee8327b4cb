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
from groundrec.core.track import log
from groundrec.core.types import Catalogue, Queries
from groundrec.data.dataset import describe, report_full_disk, save
from groundrec.data.events import Events
from groundrec.data.exchange.rejoin import ImportedRows, to_queries
from groundrec.data.protocols.windows import Windows
from groundrec.data.shared_rows import SHARED, shared_rows
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

    def __call__(
        self, folder: Path, out: Path, category: str = "", *, allow_leaks: bool = False
    ) -> dict[str, Any]:
        """Save the data set in `folder`, of one `category` if it has several, to `out`.

        Returns its card. Raises `DataError` for rows of validation or test that stand in train
        too, unless `allow_leaks`, which is only given where it is true. Those of `d3` and `bigrec`
        also take `files`, by split: exactly these are read.
        """
        ...


def save_import(
    catalogue: Catalogue,
    parts: Mapping[str, ImportedRows],
    entries: Mapping[str, Any],
    out: Path,
    joined: tuple[Events, Mapping[str, Windows]] | None = None,
    unknown: Collection[str] = (),
    *,
    allow_leaks: bool = False,
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
    shared = _shared(catalogue, queries, unknown, allow_leaks)
    rows = sum(map(len, queries.values()))
    counts = {split: _known(entry, unknown) for split, entry in describe(queries).items()}
    card = {
        "rows": {"read": rows, "kept": rows},
        **_known(summarize(catalogue, queries), unknown),
        "splits": counts,
        "leakage": {**_known(leakage(queries), unknown), **shared},
        **entries,
    }
    events, splits = joined or (None, queries)
    with report_full_disk(out):
        save(catalogue, splits, card, out, events)
    return card


def _shared(
    catalogue: Catalogue,
    queries: Mapping[str, Queries],
    unknown: Collection[str],
    allow_leaks: bool,
) -> dict[str, int]:
    """Return how many rows of validation and test stand in train too; raise unless allowed."""
    has_users = "users" not in unknown
    found = shared_rows(queries, users_known=has_users, times_known="times" not in unknown)
    counts = {SHARED[name]: len(rows) for name, rows in found.items()}
    if not any(counts.values()):
        return counts
    told = " and ".join(
        f"{len(rows):,} of {len(queries[name]):,} rows of {name}"
        for name, rows in found.items()
        if len(rows)
    )
    same = "user, history and target" if has_users else "history and target"
    if allow_leaks:
        log.warning(f"{told} stand in train too, with the same {same}: scores on them mean little")
        return counts
    name, row = next((name, rows[0]) for name, rows in found.items() if len(rows))
    titles = [catalogue.titles[item] for item in queries[name].history[row][-3:]]
    target = catalogue.titles[queries[name].targets[row][0]]
    raise DataError(
        f"{told} stand in train too, with the same {same}",
        value=f"{name}, row {row + 1}: … {', '.join(titles)} → {target}",
        accepted="splits without common rows: what a model was trained on, it can repeat",
        next_step=(
            "take them out of the files, or import with --allow-leaks: groundrec import FOLDER"
            " --format … --out OUT --allow-leaks"
        ),
    )


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
