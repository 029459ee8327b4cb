"""Engines for preparation: DuckDB in this process, or Spark.

Both read raw files with DuckDB, streaming, so that the same rows are bad with either. With `duckdb`
the rest is computed there, too. With `spark` a few typed columns are written as Parquet files to
the output folder, DuckDB is closed, and Spark reads them: all later tables are the same Ibis
expressions, computed and stored by Spark. Knows nothing about what is computed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import ibis
import psutil

from groundrec.core.errors import DataError, GroundrecError, MissingDependency
from groundrec.data.java import OLDEST, java
from groundrec.data.raw.files import open_duckdb
from groundrec.data.sources.table import RawData, Source

__all__ = ["Read", "check_spark", "duckdb", "settings", "spark"]

Read: TypeAlias = Callable[[Source], RawData]
"""Maps a source to its raw tables, which exist until the engine is closed."""

ARGUMENTS = "PYSPARK_SUBMIT_ARGS"
MIB = 1 << 20
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
FULL = "No space left on device"


@contextlib.contextmanager
def duckdb(folder: Path, memory_limit: str | None = None) -> Iterator[Read]:
    """Yield the function that reads a source into DuckDB, which spills to `folder`."""
    with open_duckdb(folder, memory_limit) as connection:
        yield lambda source: source.read(connection)


@contextlib.contextmanager
def spark(folder: Path, memory_limit: str | None = None) -> Iterator[Read]:
    """Yield the function that reads a source into Spark, which stores tables in `folder`.

    All of Spark's machines must see that folder. The memory limit applies to DuckDB, and then to
    the driver, Spark's process on this machine.
    """
    check_spark()
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=".spark-", dir=folder.resolve()) as kept,
        contextlib.ExitStack() as stack,
        _spark_errors(),
    ):

        def read(source: Source) -> RawData:
            files = [Path(kept) / f"{name}.parquet" for name in ("interactions", "items")]
            with open_duckdb(folder, memory_limit) as connection:
                raw = source.read(connection)
                for table, file in zip((raw.interactions, raw.items), files, strict=True):
                    table.to_parquet(file, compression="zstd")
            backend = stack.enter_context(_session(Path(kept), memory_limit))
            interactions, items = (backend.read_parquet(file) for file in files)
            return RawData(interactions, items, encoding=raw.encoding)

        yield read


def check_spark() -> None:
    """Raise unless pyspark is installed and Java is new enough."""
    if find_spec("pyspark") is None:
        raise MissingDependency("pyspark", "spark")
    installed = java()
    if not installed.suffices:
        raise GroundrecError(
            "Spark needs a newer Java",
            value=f"Java {installed.version}",
            accepted=f"Java {OLDEST} or later",
            next_step=installed.fix,
        )


@contextlib.contextmanager
def _session(kept: Path, memory_limit: str | None) -> Iterator[Any]:
    """Yield Spark as an Ibis backend whose tables are files in `kept`.

    Spark runs in one process that listens on this machine only, unless `PYSPARK_SUBMIT_ARGS` names
    another master.
    """
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = import_module("pyspark.sql").SparkSession.builder.appName("groundrec")
    if ARGUMENTS not in os.environ:
        address = {f"spark.driver.{name}": "127.0.0.1" for name in ("host", "bindAddress")}
        builder = builder.config(map={"spark.master": "local[*]", **address})
    session = builder.config(map=settings(kept, memory_limit)).getOrCreate()
    try:
        yield ibis.pyspark.connect(session)
    finally:
        session.stop()


def settings(kept: Path, memory_limit: str | None) -> dict[str, str]:
    """Return the settings that Spark needs wherever it runs."""
    return {
        "spark.driver.memory": f"{_mib(memory_limit)}m",
        "spark.driver.maxResultSize": "0",
        "spark.log.level": "ERROR",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "4" if ARGUMENTS not in os.environ else "200",
        "spark.sql.warehouse.dir": kept.as_uri(),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }


def _mib(memory_limit: str | None) -> int:
    """Return a limit in MiB, by default half of the available memory."""
    if not memory_limit:
        return psutil.virtual_memory().available // 2 // MIB
    number, unit = re.split(r"(?=[KMGT])", memory_limit)
    return max(512, int(float(number) * UNITS[unit[0]] / MIB))


@contextlib.contextmanager
def _spark_errors() -> Iterator[None]:
    """Turn Spark's errors about memory and disk into the same ones as DuckDB's."""
    errors = (
        import_module("py4j.protocol").Py4JError,
        import_module("pyspark.errors").PySparkException,
    )
    try:
        yield
    except errors as error:
        text = str(error)
        if FULL in text:
            raise OSError(errno.ENOSPC, FULL) from None
        if "OutOfMemoryError" not in text:
            raise
        raise DataError(
            "Spark ran out of memory",
            value=text.splitlines()[0],
            accepted="more memory for the driver, Spark's process on this machine",
            next_step="--set prepare.memory_limit=… to a higher value",
        ) from None
