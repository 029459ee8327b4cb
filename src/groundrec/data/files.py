"""Raw files of any common format as tables of an engine, with the line each row came from.

`ROW` is the line of a text file counted from 1, the header included (a record with line breaks inside quotes counts as
one line), and the row of a JSON array or a Parquet file. Knows nothing about what the columns mean.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import duckdb
import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from groundrec.core.errors import DataError

__all__ = ["FILE", "ROW", "Backend", "Column", "engine", "existing", "forget", "read_delimited", "read_table", "stored"]

Column: TypeAlias = Any
"""A column of a table. Which methods it has depends on its type, known only when the file is open."""

ROW, FILE = "__row__", "__file__"
DELIMITERS = (",", "\t", ";", "|")
FORMATS = ".csv, .tsv, .parquet, .json, .jsonl; the text formats also as .gz"
UNREADABLE = (duckdb.InvalidInputException, duckdb.ConversionException, duckdb.IOException, duckdb.Error)


@contextlib.contextmanager
def engine(folder: Path) -> Iterator[Backend]:
    """Yield a DuckDB connection that spills into `folder`; what it cannot read becomes a `DataError`."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".spill-", dir=folder) as spill, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fetch_arrow_table", category=DeprecationWarning)
        connection = ibis.duckdb.connect(temp_directory=spill)
        connection.raw_sql("SET TimeZone = 'UTC'")
        try:
            yield connection
        except duckdb.Error as error:
            if type(error) not in UNREADABLE:
                raise
            raise DataError(
                "a raw file cannot be read",
                value="; ".join(str(error).splitlines()[:3]),
                accepted="UTF-8 text with the same number of fields in every line, whole Parquet or JSON files",
                next_step="mend or remove that line",
            ) from None
        finally:
            connection.disconnect()


def stored(table: ir.Table) -> ir.Table:
    """Return `table` computed once and kept by its engine, on disk where memory is short, until `forget`."""
    return table.get_backend().create_table(ibis.util.gen_name("stored"), table, temp=True)


def forget(table: ir.Table) -> None:
    """Free a `stored` table."""
    backend: Any = table.get_backend()
    backend.raw_sql(f"DROP TABLE {table.get_name()}")


def existing(path: Path | None, setting: str) -> Path:
    """Return `path` if it is there and not empty; raise `DataError`, with what is there instead, if not."""
    if path is None:
        raise DataError("no raw data named", accepted="a file or folder", next_step=f"--set {setting}=…")
    if not path.exists():
        near = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        there = f"{path.parent} has {_listed(near)}" if path.parent.is_dir() else f"no folder {path.parent} either"
        raise DataError("no such file or folder", value=path, accepted=there, next_step=f"--set {setting}=…")
    if path.is_file() and path.stat().st_size == 0:
        raise DataError("the file is empty", value=path, accepted="a file with at least one interaction")
    return path


def _listed(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "no files"


def read_delimited(
    connection: Backend,
    path: Path,
    delimiter: str,
    *,
    names: Sequence[str] | None = None,
    quote: str = '"',
    encoding: str = "utf-8",
) -> ir.Table:
    """Return every column as text, plus `ROW` and `FILE`; `names` are the columns of a file without a header line.

    A line with too few fields ends in nulls; one with too many cannot be read.
    """
    columns = names or _header(path, delimiter)
    table = connection.read_csv(
        str(path),
        columns=dict.fromkeys(columns, "VARCHAR"),
        auto_detect=False,
        header=names is None,
        delim=delimiter,
        quote=quote,
        escape=quote,
        encoding=encoding,
        null_padding=True,
        parallel=not quote,
    )
    return _placed(table, path, first=1 if names else 2)


def read_table(connection: Backend, path: Path) -> ir.Table:
    """Return the table of a CSV, TSV, Parquet or JSON file, plus `ROW` and `FILE`; all but Parquet as text."""
    kind = next((s for s in reversed(path.suffixes) if s != ".gz"), "").lower()
    if kind in (".csv", ".tsv", ".txt"):
        return read_delimited(connection, path, "\t" if kind == ".tsv" else _delimiter(path))
    if kind == ".parquet":
        return _placed(connection.read_parquet(str(path)), path, first=1)
    if kind in (".json", ".jsonl", ".ndjson"):
        columns = connection.read_json(str(path)).columns
        texts = connection.read_json(str(path), columns=dict.fromkeys(columns, "VARCHAR"))
        return _placed(texts, path, first=1)
    raise DataError("unknown kind of file", value=path, accepted=FORMATS, next_step="convert it, or rename it")


def _placed(table: ir.Table, path: Path, first: int) -> ir.Table:
    return table.mutate(**{ROW: ibis.row_number() + first, FILE: ibis.literal(path.name)})


def _first_line(path: Path) -> str:
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        return file.readline().decode("utf-8-sig", errors="replace").rstrip("\r\n")


def _delimiter(path: Path) -> str:
    line = _first_line(path)
    return max(DELIMITERS, key=line.count)


def _header(path: Path, delimiter: str) -> list[str]:
    names = [
        name.strip() or f"column{i}"
        for i, name in enumerate(next(csv.reader([_first_line(path)], delimiter=delimiter), []))
    ]
    if twice := {name for name in names if names.count(name) > 1}:
        raise DataError(f"two columns have the same name in {path}", value=", ".join(sorted(twice)))
    if not names:
        raise DataError(
            "the file has no header line", value=path, accepted="a first line with the names of the columns"
        )
    return names
