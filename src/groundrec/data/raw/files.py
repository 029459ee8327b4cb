"""DuckDB, its tables, and raw files as bytes and lines.

A table read from a file has three additional columns. `FILE` is its path. `ROW` is the line of a
text file, counted from 1 with the header (a record with line breaks inside quotes counts as one
line, an empty line as none), or the row of a JSON array or a Parquet file. `BROKEN` is null, or the
text of a line that cannot be parsed. Knows nothing about formats.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import tempfile
import warnings
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

import duckdb
import ibis
import ibis.expr.operations as ops
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from groundrec.core.errors import DataError

__all__ = [
    "BROKEN",
    "FILE",
    "ROW",
    "Backend",
    "Column",
    "add_file_columns",
    "check_path",
    "damaged_file",
    "drop_sources",
    "drop_tables",
    "extension",
    "first_lines",
    "from_arrow",
    "is_duckdb",
    "limit_threads",
    "materialize",
    "open_duckdb",
    "read_lines",
    "release_memory",
    "starts_with",
    "stream_batches",
    "to_arrow",
]

Column: TypeAlias = Any
"""A column of a table; its methods depend on its type, which is known only at run time."""

ROW = "__row__"
FILE = "__file__"
BROKEN = "__broken__"
UNREADABLE = (
    duckdb.InvalidInputException,
    duckdb.ConversionException,
    duckdb.IOException,
    duckdb.Error,
)
BYTES_PER_THREAD = 1 << 28
"""Bytes of a file per thread: fewer would not be worth the memory of another thread."""

MEMORY_SETTINGS = {
    "allocator_flush_threshold": "'1MB'",
    "allocator_bulk_deallocation_flush_threshold": "'1MB'",
    "allocator_background_threads": "true",
}
"""Settings that make DuckDB return freed memory early."""

CUT_SHORT = (EOFError, gzip.BadGzipFile, zlib.error)


@contextlib.contextmanager
def open_duckdb(folder: Path, memory_limit: str | None = None) -> Iterator[Backend]:
    """Yield a DuckDB connection that spills to `folder` and raises `DataError` for bad files."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=".spill-", dir=folder) as spill,
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message="fetch_arrow_table", category=DeprecationWarning)
        connection = ibis.duckdb.connect(temp_directory=spill)
        connection.raw_sql("SET TimeZone = 'UTC'")
        limit = f"'{memory_limit}'" if memory_limit else "current_setting('memory_limit')"
        connection.raw_sql(f"SET VARIABLE memory_limit = {limit}")
        for setting, value in MEMORY_SETTINGS.items():
            connection.raw_sql(f"SET {setting} = {value}")
        release_memory(connection)
        try:
            yield connection
        except duckdb.Error as error:
            if "No space left on device" in str(error):
                raise OSError(errno.ENOSPC, str(error)) from None
            if isinstance(error, duckdb.OutOfMemoryException):
                raise _too_little_memory(error, memory_limit) from None
            if type(error) not in UNREADABLE:
                raise
            raise _unreadable(error) from None
        finally:
            connection.disconnect()


def _too_little_memory(error: duckdb.Error, limit: str | None) -> DataError:
    return DataError(
        "the engine ran out of memory, or of disk space for spilling",
        value=str(error).splitlines()[0],
        accepted=f"more than {limit or 'the memory of this machine'}, and free disk space",
        next_step="--set prepare.memory_limit=… to a higher value, or write to a larger disk",
    )


def _unreadable(error: duckdb.Error) -> DataError:
    text = "; ".join(str(error).splitlines()[:3])
    if "gzip" in text.lower():
        return damaged_file(text)
    return DataError(
        "a raw file cannot be read",
        value=text,
        accepted=(
            "UTF-8 text with equally many fields in every line, complete Parquet or JSON files"
        ),
        next_step="fix or remove that line",
    )


def damaged_file(what: str) -> DataError:
    """Return the error for a truncated or corrupted compressed file."""
    return DataError(
        "a raw file is damaged",
        value=what,
        accepted="a complete gzip file",
        next_step="get the file again: its download was probably interrupted",
    )


def is_duckdb(table: ir.Table) -> bool:
    """Return whether a table belongs to DuckDB, in this process."""
    return isinstance(table.get_backend(), Backend)


@contextlib.contextmanager
def limit_threads(connection: Any, size: int) -> Iterator[None]:
    """Limit DuckDB's threads within the block to suit a file of `size` bytes: each needs memory."""
    if not isinstance(connection, Backend):
        yield
        return
    (threads,) = connection.raw_sql("SELECT current_setting('threads')").fetchone()
    connection.raw_sql(f"SET threads = {min(1 + size // BYTES_PER_THREAD, threads)}")
    try:
        yield
    finally:
        connection.raw_sql(f"SET threads = {threads}")


def materialize(table: ir.Table) -> ir.Table:
    """Return `table`, computed once and stored by its engine until `drop_tables`."""
    backend: Any = table.get_backend()
    kept = backend.create_table(
        ibis.util.gen_name("stored"), table, temp=isinstance(backend, Backend)
    )
    release_memory(backend)
    return kept


def from_arrow(connection: Backend, rows: pa.Table | pa.RecordBatchReader) -> ir.Table:
    """Return Arrow rows as a table of the engine."""
    name = ibis.util.gen_name("arrow")
    connection.con.register(f"{name}_rows", rows)
    connection.raw_sql(f"CREATE TEMP TABLE {name} AS SELECT * FROM {name}_rows")
    connection.con.unregister(f"{name}_rows")
    return connection.table(name)


def to_arrow(table: ir.Table) -> pa.Table:
    """Return the rows of `table`; unlike Ibis' own conversion, without going through pandas."""
    backend: Any = table.get_backend()
    query = backend.compile(table)
    if isinstance(backend, Backend):
        return backend.con.sql(query).to_arrow_table()
    return backend.raw_sql(query).toArrow()


def stream_batches(table: ir.Table, rows: int = 1 << 17) -> Iterator[pa.RecordBatch]:
    """Yield the rows of `table` in the engine's order, in batches of about `rows`."""
    backend = table.get_backend()
    if isinstance(backend, Backend):
        yield from backend.con.sql(backend.compile(table)).to_arrow_reader(rows)
    else:
        yield from to_arrow(table).to_batches(rows)


def drop_tables(*tables: ir.Table) -> None:
    """Drop materialized tables."""
    for table in tables:
        backend: Any = table.get_backend()
        backend.raw_sql(f"DROP TABLE {table.get_name()}")
        release_memory(backend)


def drop_sources(table: ir.Table) -> None:
    """Drop every materialized table that `table` is derived from; it becomes unreadable.

    This concerns DuckDB only: other engines read `table` from a file, deleted when they close.
    """
    backend: Any = table.get_backend()
    if not isinstance(backend, Backend):
        return
    read: Any = table.op().find(ops.DatabaseTable)
    sources = {op.name for op in read}
    for (name,) in backend.raw_sql("SELECT table_name FROM duckdb_tables()").fetchall():
        if name in sources:
            backend.raw_sql(f'DROP TABLE "{name}"')
    release_memory(backend)


def release_memory(backend: Any) -> None:
    """Make Arrow and the engine return freed memory to the system.

    DuckDB does so whenever its memory limit is set.
    """
    pa.default_memory_pool().release_unused()
    if isinstance(backend, Backend):
        backend.raw_sql("SET memory_limit = getvariable('memory_limit')")


def check_path(path: Path | None, setting: str) -> Path:
    """Return `path` if it exists and is not empty; else raise `DataError` with what does exist."""
    if path is None:
        raise DataError(
            "no raw data given",
            value=f"{setting} is not set",
            accepted="a file or folder",
            next_step=f"--set {setting}=…",
        )
    if not path.exists():
        near = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        there = (
            f"{path.parent} has {_listed(near)}"
            if path.parent.is_dir()
            else f"no folder {path.parent} either"
        )
        raise DataError(
            "no such file or folder", value=path, accepted=there, next_step=f"--set {setting}=…"
        )
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(
            "the file is empty",
            value=path,
            accepted="a file with at least one row",
            next_step=f"--set {setting}=…",
        )
    return path


def _listed(names: Sequence[str], most: int = 12) -> str:
    return (
        ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
        or "no files"
    )


def extension(path: Path) -> str:
    """Return a file's extension without `.gz`, in lower case: `.csv` for `events.csv.gz`."""
    return next((s for s in reversed(path.suffixes) if s != ".gz"), "").lower()


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a plain or gzip file with their ends, without a byte order mark.

    A damaged gzip file raises `DataError`.
    """
    with _opened(path) as file:
        if first := next(file, b""):
            yield first.removeprefix(BOM_UTF8)
        yield from file


def starts_with(path: Path, mark: bytes) -> bool:
    """Return whether a plain or gzip file starts with `mark`, after any whitespace."""
    with _opened(path) as file:
        return file.read(1 << 10).lstrip(BOM_UTF8 + b" \t\r\n").startswith(mark)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with (
        path.open("rb") as raw,
        cast(IO[bytes], gzip.open(raw)) if path.suffix == ".gz" else raw as file,
    ):
        try:
            yield file
        except CUT_SHORT as error:
            raise damaged_file(f"{path}: {error}") from None


def first_lines(path: Path, count: int = 1) -> list[str]:
    """Return the first non-empty lines without their ends; invalid UTF-8 is replaced."""
    lines = (
        line.decode("utf-8-sig", errors="replace").rstrip("\r\n")
        for line in read_lines(path)
        if line.strip()
    )
    return list(islice(lines, count))


def add_file_columns(table: ir.Table, path: Path) -> ir.Table:
    """Return `table`, which has `ROW`, with `FILE`, and with a null `BROKEN` if it has none."""
    broken = table[BROKEN] if BROKEN in table.columns else ibis.null("string")
    return table.mutate(**{FILE: ibis.literal(str(path)), BROKEN: broken})
