"""The embedded engine, its tables, and raw files as bytes and lines.

A table read from a file has three more columns. `FILE` is its path. `ROW` is the line of a text
file counted from 1, the header included (a record with line breaks inside quotes counts as one
line, an empty line not at all), and the row of a JSON array or a Parquet file. `BROKEN` is null, or
says what stands in a line that no row could be read from. Knows nothing about formats.
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
"""A column of a table. Which methods it has depends on its type, known only when the file is open."""

ROW = "__row__"
FILE = "__file__"
BROKEN = "__broken__"
UNREADABLE = (
    duckdb.InvalidInputException,
    duckdb.ConversionException,
    duckdb.IOException,
    duckdb.Error,
)
SHARE = 1 << 28
"""Bytes of a file for which one more thread is worth its memory."""

THRIFTY = {
    "allocator_flush_threshold": "'1MB'",
    "allocator_bulk_deallocation_flush_threshold": "'1MB'",
    "allocator_background_threads": "true",
}
"""Settings with which DuckDB gives freed memory back soon."""

CUT_SHORT = (EOFError, gzip.BadGzipFile, zlib.error)


@contextlib.contextmanager
def open_duckdb(folder: Path, memory_limit: str | None = None) -> Iterator[Backend]:
    """Yield a DuckDB connection that spills into `folder`; what it cannot read or hold becomes a
    `DataError`.
    """
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
        for setting, value in THRIFTY.items():
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
        "the engine has too little memory, or too little room to set data aside",
        value=str(error).splitlines()[0],
        accepted=f"more than {limit or 'the memory of this machine'}, and free space on disk",
        next_step="--set prepare.memory_limit=… higher, or write to a disk with more room",
    )


def _unreadable(error: duckdb.Error) -> DataError:
    text = "; ".join(str(error).splitlines()[:3])
    if "gzip" in text.lower():
        return damaged_file(text)
    return DataError(
        "a raw file cannot be read",
        value=text,
        accepted=(
            "UTF-8 text with the same number of fields in every line, whole Parquet or JSON files"
        ),
        next_step="mend or remove that line",
    )


def damaged_file(what: str) -> DataError:
    """Return the error of a compressed file that is cut short or altered."""
    return DataError(
        "a raw file is damaged",
        value=what,
        accepted="a whole gzip file",
        next_step="get the file again: its download was probably interrupted",
    )


def is_duckdb(table: ir.Table) -> bool:
    """Return whether a table is of the engine in this process, DuckDB."""
    return isinstance(table.get_backend(), Backend)


@contextlib.contextmanager
def limit_threads(connection: Any, size: int) -> Iterator[None]:
    """Let DuckDB use no more threads in the block than a file of `size` bytes is worth: each needs
    memory.
    """
    if not isinstance(connection, Backend):
        yield
        return
    (threads,) = connection.raw_sql("SELECT current_setting('threads')").fetchone()
    connection.raw_sql(f"SET threads = {min(1 + size // SHARE, threads)}")
    try:
        yield
    finally:
        connection.raw_sql(f"SET threads = {threads}")


def materialize(table: ir.Table) -> ir.Table:
    """Return `table` computed once and kept by its engine, on disk where memory is short, until
    `drop_tables`.
    """
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
    """Return the rows of `table`; unlike Ibis' own way, without a detour over pandas."""
    backend: Any = table.get_backend()
    query = backend.compile(table)
    if isinstance(backend, Backend):
        return backend.con.sql(query).to_arrow_table()
    return backend.raw_sql(query).toArrow()


def stream_batches(table: ir.Table, rows: int = 1 << 17) -> Iterator[pa.RecordBatch]:
    """Yield the rows of `table`, about so many at a time, in the engine's order."""
    backend = table.get_backend()
    if isinstance(backend, Backend):
        yield from backend.con.sql(backend.compile(table)).to_arrow_reader(rows)
    else:
        yield from to_arrow(table).to_batches(rows)


def drop_tables(*tables: ir.Table) -> None:
    """Free `materialize` tables."""
    for table in tables:
        backend: Any = table.get_backend()
        backend.raw_sql(f"DROP TABLE {table.get_name()}")
        release_memory(backend)


def drop_sources(table: ir.Table) -> None:
    """Free every `materialize` table that `table` is made of; it cannot be read any more.

    Only DuckDB's: another engine has read `table` from a file, which ends with the engine.
    """
    backend: Any = table.get_backend()
    if not isinstance(backend, Backend):
        return
    read: Any = table.op().find(ops.DatabaseTable)
    under = {op.name for op in read}
    for (name,) in backend.raw_sql("SELECT table_name FROM duckdb_tables()").fetchall():
        if name in under:
            backend.raw_sql(f'DROP TABLE "{name}"')
    release_memory(backend)


def release_memory(backend: Any) -> None:
    """Have Arrow and the engine return to the system what they have freed but kept for later.

    DuckDB does so when its memory limit is set.
    """
    pa.default_memory_pool().release_unused()
    if isinstance(backend, Backend):
        backend.raw_sql("SET memory_limit = getvariable('memory_limit')")


def check_path(path: Path | None, setting: str) -> Path:
    """Return `path` if it is there and not empty; raise `DataError`, with what is there instead, if
    not.
    """
    if path is None:
        raise DataError(
            "no raw data named", accepted="a file or folder", next_step=f"--set {setting}=…"
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
            "the file is empty", value=path, accepted="a file with at least one interaction"
        )
    return path


def _listed(names: Sequence[str], most: int = 12) -> str:
    return (
        ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
        or "no files"
    )


def extension(path: Path) -> str:
    """Return the extension that says what a file holds: `.csv` for `events.csv.gz`."""
    return next((s for s in reversed(path.suffixes) if s != ".gz"), "").lower()


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield every line of a plain or gzip file, its end included, a byte order mark at the very
    beginning left out.

    A damaged gzip file raises `DataError`.
    """
    with _opened(path) as file:
        if first := next(file, b""):
            yield first.removeprefix(BOM_UTF8)
        yield from file


def starts_with(path: Path, mark: bytes) -> bool:
    """Return whether a plain or gzip file begins with `mark`, white space aside."""
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
    """Return the first lines that are not empty, without their ends; bytes that are not UTF-8 are
    replaced.
    """
    full = (
        line.decode("utf-8-sig", errors="replace").rstrip("\r\n")
        for line in read_lines(path)
        if line.strip()
    )
    return list(islice(full, count))


def add_file_columns(table: ir.Table, path: Path) -> ir.Table:
    """Return `table`, which has `ROW`, with `FILE`, and with `BROKEN` null unless it is there."""
    broken = table[BROKEN] if BROKEN in table.columns else ibis.null("string")
    return table.mutate(**{FILE: ibis.literal(str(path)), BROKEN: broken})
