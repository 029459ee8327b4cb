"""Shards of slates computed on a cluster by Ray Data: actors that hold the model, each writing the
shards it is given.

The folder of slates must be one that every machine sees. A shard is a file that is written whole or
not at all, so an actor that dies loses one shard of work, which Ray gives to another. Knows nothing
about recipes or run directories.
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
"""Bytes of a local cluster's object store: numbers of shards are all that it holds."""
WORKERS = 2


def write_shards(
    open_writer: Callable[[int], Writer], shards: Sequence[int], workers: int | None
) -> None:
    """Write `shards` with so many actors; with one for each GPU, or 2 without GPUs, where `workers`
    is None.

    Each actor calls `open_writer` once, with the number of actors that may share its memory; it
    must be something that can be sent to another process. Raises `SearchError` where a search is
    refused, `ProcessError` where the cluster cannot go on.
    """
    if not shards:
        return
    with _connected() as ray:
        heard: set[str] = set()
        try:
            batches = _handed_out(ray, open_writer, shards, workers).iter_batches(batch_size=1)
            for batch in progress(batches, "recommending", len(shards)):
                messages, refusal = json.loads(str(batch["told"][0]))
                _pass_on(messages, refusal, heard)
        except ray.exceptions.RayError as error:
            raise _unfinished(error) from error


def _handed_out(
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
    """A writer in a process of Ray's, where nobody hears what is logged."""

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
        """Write the shards; return what was logged, and the error that is the user's: Ray would
        keep its text only.
        """
        refusal = None
        try:
            for shard in batch["shard"]:
                self._writer.write(int(shard))
        except GroundrecError as error:
            refusal = [error.what, error.value, error.accepted, error.next_step]
        told = json.dumps([self._messages, refusal], default=str)
        self._messages = []
        return {"told": np.array([told])}


def _pass_on(messages: list[str], refusal: list[str] | None, heard: set[str]) -> None:
    """Log what an actor logged and none did before; raise what it raised."""
    for message in messages:
        if message not in heard:
            log.info(message)
    heard.update(messages)
    if refusal:
        what, value, accepted, next_step = refusal
        raise SearchError(what, value=value, accepted=accepted, next_step=next_step)


@contextmanager
def _connected() -> Iterator[Any]:
    """Yield Ray, connected to the cluster that `RAY_ADDRESS` names, or to one of its own on this
    machine.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # tells nobody anything unless asked to
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
            accepted="the address of a cluster, and what it asks of who connects (RAY_AUTH_MODE)",
            next_step="ray status, or unset RAY_ADDRESS to start one on this machine",
        ) from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    try:
        yield ray
    finally:
        ray.shutdown()


def _unfinished(error: Exception) -> ProcessError:
    told = [
        line.strip()
        for line in str(error).splitlines()
        if re.match(r"[\w.]*(Error|Exception)\b", line.strip())
    ]
    return ProcessError(
        "Ray could not finish the slates",
        value=told[0] if told else error,
        accepted="a cluster whose machines see the run directory and have the same packages",
        next_step="the same command with --if-exists resume; shards that are there are kept",
    )
