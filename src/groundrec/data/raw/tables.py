"""Read CSV, TSV, Parquet and JSON tables; only the requested columns.

Knows nothing about what the columns mean.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from groundrec.core.errors import DataError
from groundrec.data.raw.files import (
    BROKEN,
    ROW,
    Backend,
    add_file_columns,
    extension,
    first_lines,
    from_arrow,
    materialize,
    read_lines,
    starts_with,
)
from groundrec.data.raw.lines import SHOWN, first_fields, read_objects

__all__ = ["columns_of", "line_numbers", "read_delimited", "read_header", "read_table"]

DELIMITERS = (",", "\t", ";", "|")
FORMATS = ".csv, .tsv, .parquet, .json, .jsonl; the text formats also as .gz"
DELIMITED = (".csv", ".tsv", ".txt")
OBJECTS = (".json", ".jsonl", ".ndjson")


def columns_of(connection: Backend, path: Path) -> list[str]:
    """Return the names of a table file's columns."""
    kind = extension(path)
    if kind in DELIMITED:
        return read_header(path, _delimiter(path))
    if kind == ".parquet":
        return list(connection.read_parquet(str(path)).columns)
    if kind in OBJECTS:
        return list(
            connection.read_json(str(path)).columns if _is_array(path) else first_fields(path)
        )
    raise DataError(
        "unknown file format", value=path, accepted=FORMATS, next_step="convert or rename it"
    )


def read_table(
    connection: Backend, path: Path, columns: Sequence[str], ids: Sequence[str] = ()
) -> ir.Table:
    """Return `columns`, as text unless from Parquet, plus `ROW`, `FILE` and `BROKEN`.

    `ids` are the columns that must be text or numbers.
    """
    kind = extension(path)
    if kind in DELIMITED:
        return read_delimited(connection, path, _delimiter(path), columns)
    if kind == ".parquet":
        return _numbered(connection.read_parquet(str(path)).select(columns), path)
    if _is_array(path):
        return _numbered(
            connection.read_json(str(path), columns=dict.fromkeys(columns, "VARCHAR")), path
        )
    return read_objects(connection, path, columns, ids)


def read_delimited(
    connection: Backend,
    path: Path,
    delimiter: str,
    columns: Sequence[str],
    *,
    names: Sequence[str] | None = None,
    quote: str = '"',
    encoding: str = "utf-8",
) -> ir.Table:
    """Return `columns` as text, plus `ROW`, `FILE` and `BROKEN`; stored.

    `names` are the columns of a file without a header line. A line with too many fields is broken.
    One with too few is broken if values may be quoted; otherwise its missing values are null.
    """
    rejects = ibis.util.gen_name("rejects")
    all_names = names or read_header(path, delimiter)
    table = connection.read_csv(
        str(path),
        columns=dict.fromkeys(all_names, "VARCHAR"),
        auto_detect=False,
        header=names is None,
        delim=delimiter,
        quote=quote,
        escape=quote,
        encoding=encoding,
        null_padding=not quote,
        store_rejects=True,
        rejects_table=rejects,
        rejects_scan=f"{rejects}_scan",
        rejects_limit=0,
    )
    first = 1 if names else 2
    read = materialize(table.select(columns).mutate(**{ROW: ibis.row_number() + first}))
    rejected = _rejected(connection, path, rejects)
    if not rejected.num_rows:
        return add_file_columns(read, path)
    broken = from_arrow(connection, rejected)
    nothing = {name: ibis.null("string") for name in columns}
    read = _renumbered(connection, read, first, rejected[ROW].to_numpy()).mutate(
        **{BROKEN: ibis.null("string")}
    )
    return add_file_columns(
        read.union(broken.select(**nothing, **{name: broken[name] for name in (ROW, BROKEN)})), path
    )


def line_numbers(path: Path, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each row's line, counting empty lines; in files that are not text, the row itself."""
    if extension(path) == ".parquet" or _is_array(path):
        return rows
    # empty[i] - i is the number of rows before the i-th empty line, plus one
    empty = _empty_lines(path, rows.max(initial=0))
    return rows + np.searchsorted(empty - np.arange(len(empty)), rows, side="right")


def _empty_lines(path: Path, rows: int) -> NDArray[np.int64]:
    """Return the numbers, from 1, of the lines without a row among the first `rows` rows.

    These are the empty lines, and between JSON objects also blank ones.
    """
    ends = None if extension(path) in OBJECTS else b"\r\n"
    empty: list[int] = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip(ends):
            empty.append(number)
        elif number - len(empty) >= rows:
            break
    return np.array(empty, np.int64)


def _rejected(connection: Backend, path: Path, rejects: str) -> pa.Table:
    """Return `ROW` and `BROKEN` of the lines that DuckDB rejected, sorted by `ROW`."""
    what = (
        "min(error_message) || ': ' || left(trim(coalesce(min(csv_line), ''), chr(10) || chr(13)),"
        f" {SHOWN})"
    )
    query = f"SELECT line, {what} FROM {rejects} GROUP BY line ORDER BY line"
    rejected = connection.raw_sql(query).fetchall()
    lines = np.array([line for line, _ in rejected], np.int64)
    empty = _empty_lines(path, lines[-1]) if rejected else lines
    return pa.table(
        {
            ROW: lines - np.searchsorted(empty, lines),
            BROKEN: pa.array([text for _, text in rejected], pa.string()),
        }
    )


def _renumbered(
    connection: Backend, read: ir.Table, first: int, taken: NDArray[np.int64]
) -> ir.Table:
    """Return the rows that were read, renumbered around those `taken` by rejected lines."""
    before = read.count().to_pyarrow().as_py()
    numbers = np.setdiff1d(np.arange(first, first + before + len(taken)), taken)
    pairs = pa.table({ROW: np.arange(first, first + before), "new_row": numbers})
    new_rows = from_arrow(connection, pairs)
    return read.join(new_rows, ROW).drop(ROW).rename({ROW: "new_row"})


def _numbered(table: ir.Table, path: Path) -> ir.Table:
    return add_file_columns(table.mutate(**{ROW: ibis.row_number() + 1}), path)


def _is_array(path: Path) -> bool:
    return extension(path) in OBJECTS and starts_with(path, b"[")


def read_header(path: Path, delimiter: str) -> list[str]:
    """Return the column names in a text file's first line; raise `DataError` for duplicates."""
    parsed = next(csv.reader([_first_line(path)], delimiter=delimiter), [])
    names = [name.strip() or f"column{i}" for i, name in enumerate(parsed)]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise DataError(
            f"two columns have the same name in {path}",
            value=", ".join(sorted(repeated)),
            accepted="a different name for each column",
            next_step="rename one of them in the file",
        )
    return names


def _delimiter(path: Path) -> str:
    return max(DELIMITERS, key=_first_line(path).count)


def _first_line(path: Path) -> str:
    if lines := first_lines(path):
        return lines[0]
    raise DataError(
        "the file has no header line",
        value=path,
        accepted="a first line with the names of the columns",
        next_step="add that line to the file",
    )
