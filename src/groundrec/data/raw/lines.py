"""Read files with one object per line, JSON or a Python literal; only the requested fields.

Every line is a row, so that none is lost: for a line that it cannot parse, DuckDB gives a row of
nulls. Python's parsers, which accept slightly more (lone surrogates, Python literals), then try
these lines again; the text of those that still fail is in `BROKEN`. Knows nothing about what the
fields mean.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from groundrec.data.raw.files import (
    BROKEN,
    ROW,
    Backend,
    Column,
    add_file_columns,
    first_lines,
    from_arrow,
    limit_threads,
    read_lines,
    release_memory,
    to_arrow,
)
from groundrec.data.raw.literals import parse_literal, parse_literal_fields

__all__ = ["SHOWN", "first_fields", "read_objects", "scan_objects"]

SHOWN = 200
"""Characters of a broken line to keep."""

SAMPLED_LINES = 100
BATCH = 1 << 14


def read_objects(
    connection: Backend, path: Path, fields: Sequence[str], ids: Sequence[str] = ()
) -> ir.Table:
    """Return the fields as text (lists and objects as JSON) plus `ROW`, `FILE`, `BROKEN`; stored.

    A missing field is null. `BROKEN` is also set where one of `ids` is a list or an object.
    """
    if _is_literal(path):
        return add_file_columns(_parsed(connection, path, fields, ids, None), path)
    table = _scanned(connection, path, fields)
    doubtful = _doubtful(table, fields, ids)
    rows = to_arrow(table.filter(doubtful).select(ROW))[ROW].to_pylist()
    if not rows:
        return add_file_columns(table, path)
    clear = table.filter(~doubtful).mutate(**{BROKEN: ibis.null("string")})
    return add_file_columns(
        clear.union(_parsed(connection, path, fields, ids, frozenset(rows))), path
    )


def scan_objects(
    connection: Backend, path: Path, fields: Sequence[str], ids: Sequence[str] = ()
) -> ir.Table | None:
    """Return the same without storing it; None for a file of Python literals.

    Every `ROW` is 0, and `BROKEN` is set for every line that may be bad, without a second try.
    """
    if _is_literal(path):
        return None
    columns = dict.fromkeys(fields, "VARCHAR")
    table = connection.read_json(
        str(path), columns=columns, format="newline_delimited", ignore_errors=True
    )
    doubt = _doubtful(table, fields, ids).ifelse("not read yet", ibis.null("string"))
    return add_file_columns(table.mutate(**{ROW: ibis.literal(0), BROKEN: doubt}), path)


def _doubtful(table: ir.Table, fields: Sequence[str], ids: Sequence[str]) -> Column:
    """Return where a row has none of the fields, or an id that looks like a list or an object."""
    doubtful: Column = ibis.and_(*(table[f].isnull() for f in fields))
    for field in ids:
        text: Column = table[field]
        doubtful |= text.fill_null("").startswith("[") | text.fill_null("").startswith("{")
    return doubtful


def first_fields(path: Path) -> dict[str, Any]:
    """Return all fields of the objects in the first lines, each with its first value."""
    fields: dict[str, Any] = {}
    for line in first_lines(path, SAMPLED_LINES):
        fields = {**(_object(line.encode())[0] or {}), **fields}
    return fields


def _scanned(connection: Backend, path: Path, fields: Sequence[str]) -> ir.Table:
    """Return one row per non-empty line, all null where the line is not an object."""
    name = ibis.util.gen_name("lines")
    columns = ", ".join(f"{_text_literal(f)}: 'VARCHAR'" for f in fields)
    with limit_threads(connection, path.stat().st_size):
        connection.raw_sql(
            f"CREATE TEMP TABLE {name} AS SELECT * FROM read_json({_text_literal(str(path))}, "
            f"format = 'newline_delimited', columns = {{{columns}}}, ignore_errors = true)"
        )
    release_memory(connection)
    table: Any = connection.table(name)
    return table.mutate(**{ROW: table.rowid() + 1})


def _text_literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _no_text(field: str) -> str:
    return f"{field} is neither text nor a number: "


def _parsed(
    connection: Backend,
    path: Path,
    fields: Sequence[str],
    ids: Sequence[str],
    wanted: Collection[int] | None,
) -> ir.Table:
    """Return the rows `wanted`, or all if None, as parsed by Python."""
    schema = pa.schema(
        [*((f, pa.string()) for f in fields), (ROW, pa.int64()), (BROKEN, pa.string())]
    )
    rows = _rows(path, fields, ids, wanted)
    blocks = iter(lambda: list(islice(rows, BATCH)), [])
    batches = (
        pa.record_batch([list(c) for c in zip(*block, strict=True)], schema) for block in blocks
    )
    reader = pa.RecordBatchReader.from_batches(schema, batches)
    return from_arrow(connection, reader)


def _rows(
    path: Path, fields: Sequence[str], ids: Sequence[str], wanted: Collection[int] | None
) -> Iterator[tuple[str | int | None, ...]]:
    full = (line for line in read_lines(path) if line.strip())
    for row, line in enumerate(full, 1):
        if wanted is not None and row not in wanted:
            continue
        value, broken = _object(line, fields)
        value = value or {}
        for field in ids:
            if isinstance(value.get(field), list | dict):
                broken = _no_text(field) + str(_text(value[field]))[:SHOWN]
        yield (*(_text(value.get(f)) for f in fields), row, broken)


def _object(
    line: bytes, wanted: Collection[str] | None = None
) -> tuple[dict[str, Any] | None, str | None]:
    """Return a line's object, with at least the fields `wanted`, and None; or None and its text."""
    try:
        text = line.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return None, "not UTF-8: " + line.decode("utf-8", errors="replace").strip()[:SHOWN]
    if wanted and (found := parse_literal_fields(text, wanted)) is not None:
        return found, None
    for parse in (_json, parse_literal):
        if isinstance(value := parse(text), dict):
            return value, None
    return None, f"not an object: {text[:SHOWN]}"


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        value = json.dumps(value, default=str, ensure_ascii=False)
    return value if value.isascii() else value.encode("utf-8", errors="replace").decode("utf-8")


def _is_literal(path: Path) -> bool:
    """Return whether the first object in a file is a Python literal, not JSON."""
    for text in first_lines(path, SAMPLED_LINES):
        for parse in (_json, parse_literal):
            if isinstance(parse(text), dict):
                return parse is parse_literal
    return False
