"""Shards of slates computed on a Ray cluster: each actor holds the model and writes its shards.

Every machine must see the folder of slates. A shard is a file that is written whole or not at all,
so an actor that dies loses one shard of work, which Ray gives to another. Knows nothing about
recipes or run directories.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from math import ceil
from typing import Any

import numpy as np

from groundrec.core.errors import GroundrecError, MissingDependency, ProcessError, SearchError
from groundrec.core.track import log, progress
from groundrec.rank.recommend import Writer

__all__ = ["write_shards"]

STORE = 100 * 2**20
"""Bytes of a local cluster's object store, which holds only the numbers of shards."""
WORKERS = 2


def write_shards(
    open_writer: Callable[[int], Writer], shards: Sequence[int], workers: int | None
) -> None:
    """Write `shards` with `workers` actors; None is one per GPU, or two without a GPU.

    Each actor calls `open_writer` once, with the number of actors that may share its memory; it
    must be picklable for Ray. Raises `SearchError` if a search is refused, `ProcessError` if the
    cluster fails.
    """
    if not shards:
        return
    with _connected() as ray:
        logged: set[str] = set()
        try:
            batches = _write_on_actors(ray, open_writer, shards, workers).iter_batches(batch_size=1)
            for batch in progress(batches, "recommending", len(shards)):
                messages, refusal = json.loads(str(batch["outcome"][0]))
                _relay(messages, refusal, logged)
        except ray.exceptions.RayError as error:
            raise _unfinished(error) from error


def _write_on_actors(
    ray: Any, open_writer: Callable[[int], Writer], shards: Sequence[int], workers: int | None
) -> Any:
    """Return the data set that writes the shards when it is read."""
    has = ray.cluster_resources()
    cpus = has.get("CPU", 0)
    gpus = has.get("GPU", 0)
    workers = min(workers or int(gpus) or WORKERS, len(shards))
    sharing = ceil(workers / gpus) if gpus else workers
    log.info(f"  Ray {ray.__version__}: {workers} actors on {cpus:g} CPUs and {gpus:g} GPUs")
    return ray.data.from_items(
        [{"shard": shard} for shard in shards], override_num_blocks=len(shards)
    ).map_batches(
        _Actor,
        fn_constructor_args=(open_writer, sharing),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=min(1.0, cpus / workers),
        num_gpus=min(1.0, gpus / workers) or None,
    )


class _Actor(logging.Handler):
    """A writer in a Ray process; it collects log messages, which would be lost there."""

    def __init__(self, open_writer: Callable[[int], Writer], sharing: int) -> None:
        super().__init__()
        log.addHandler(self)
        log.setLevel(logging.INFO)
        self._messages: list[str] = []
        self._writer = open_writer(sharing)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self._messages.append(record.getMessage())

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Write the shards; return the messages logged and the user's error, if any.

        The error travels as data because Ray would keep only its text.
        """
        refusal = None
        try:
            for shard in batch["shard"]:
                self._writer.write(int(shard))
        except GroundrecError as error:
            refusal = [error.what, error.value, error.accepted, error.next_step]
        outcome = json.dumps([self._messages, refusal], default=str)
        self._messages = []
        return {"outcome": np.array([outcome])}


def _relay(messages: list[str], refusal: list[str] | None, logged: set[str]) -> None:
    """Log an actor's messages that no other has logged, and raise the error it met."""
    for message in messages:
        if message not in logged:
            log.info(message)
    logged.update(messages)
    if refusal:
        what, value, accepted, next_step = refusal
        raise SearchError(what, value=value, accepted=accepted, next_step=next_step)


@contextmanager
def _connected() -> Iterator[Any]:
    """Yield Ray, connected to the cluster at `RAY_ADDRESS`, or to a local one started here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage reports unless asked for
    try:
        ray = import_module("ray")
        _ = import_module("ray.data")
    except ImportError:
        raise MissingDependency("ray", "ray") from None
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    own = {} if "RAY_ADDRESS" in os.environ else {"address": "local", "object_store_memory": STORE}
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, **own)
    except ConnectionError as error:
        raise ProcessError(
            "no Ray cluster answers",
            value=f"RAY_ADDRESS = {os.environ.get('RAY_ADDRESS')}: {error}",
            accepted="the address of a running cluster, with its authentication (RAY_AUTH_MODE)",
            next_step="ray status, or unset RAY_ADDRESS to start one on this machine",
        ) from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    try:
        yield ray
    finally:
        ray.shutdown()


def _unfinished(error: Exception) -> ProcessError:
    causes = [
        line.strip()
        for line in str(error).splitlines()
        if re.match(r"[\w.]*(Error|Exception)\b", line.strip())
    ]
    return ProcessError(
        "Ray could not finish the slates",
        value=causes[0] if causes else error,
        accepted="a cluster whose machines see the run directory and have the same packages",
        next_step="the same command with --if-exists resume; finished shards are kept",
    )
