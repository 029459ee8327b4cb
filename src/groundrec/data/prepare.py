"""Prepare a data set: source, protocol, card, files.

A *protocol* turns raw tables into a catalogue, three splits and counts, with its own cleaning and
numbering; it is registered by name. Knows nothing about models or metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from groundrec.core.config import Data, Prepare
from groundrec.core.registry import resolve
from groundrec.core.track import log
from groundrec.core.types import Catalogue
from groundrec.data.dataset import copy, describe, report_full_disk, save
from groundrec.data.events import Events
from groundrec.data.protocols.windows import Prepared, Windows
from groundrec.data.sources.table import RawData

__all__ = ["Protocol", "prepare"]

Protocol: TypeAlias = Callable[[RawData, Prepare, int, Path], Prepared]
"""Maps raw tables, the section `prepare`, the seed and the folder for bad rows to the result."""


def prepare(data: Data, section: Prepare, seed: int, folder: Path) -> dict[str, Any]:
    """Write the prepared data set into `folder` and return its card."""
    if data.dataset:
        with report_full_disk(folder):
            return copy(data.dataset, folder)
    protocol: Protocol = resolve("protocols", section.protocol)
    with report_full_disk(folder):
        with resolve("engines", section.engine)(folder, section.memory_limit) as read:
            prepared = protocol(read(resolve("sources", data.source)(data)), section, seed, folder)
        pa.default_memory_pool().release_unused()
        card = {
            "settings": {
                **data.model_dump(mode="json"),
                **section.model_dump(mode="json"),
                "seed": seed,
            },
            "rows": dict(prepared.rows),
            **_statistics(prepared.catalogue, prepared.events),
            "splits": describe(prepared.splits),
            "leakage": _leakage(prepared.splits),
            **prepared.card,
        }
        _warn_about_leakage(section.protocol, card["leakage"])
        save(prepared.catalogue, prepared.splits, card, folder, prepared.events)
    return card


def _warn_about_leakage(protocol: str, leakage: Mapping[str, float]) -> None:
    if share := leakage["train_events_at_or_after_a_test_moment_on_average"]:
        log.warning(
            f"{protocol}: for the average test query, {share:.1%} of the training events happen at"
            " the same time or later: the model has been trained on events from after the test"
        )


def _statistics(catalogue: Catalogue, events: Events) -> dict[str, Any]:
    moments = np.flatnonzero(
        (np.diff(events.user, prepend=-1) != 0) | (np.diff(events.time, prepend=-1) != 0)
    )
    return {
        "users": len(events.users),
        "items": len(catalogue),
        "events": len(events),
        "moments": len(moments),
        "moments_of_several_events": int((np.diff(moments, append=len(events)) > 1).sum()),
        "density": round(len(events) / (len(events.users) * len(catalogue)), 6),
        "duplicate_titles": len(catalogue) - len(set(catalogue.titles)),
        "time_span": [
            f"{np.datetime64(int(t), 's')}Z" for t in (events.time.min(), events.time.max())
        ],
    }


def _leakage(splits: Mapping[str, Windows]) -> dict[str, float]:
    """Return how far training overlaps with test in time, and what of test it lacks, as shares."""
    train = splits["train"]
    test = splits["test"]
    targets = train.target_counts
    late = targets[train.times >= test.times.min()].sum()
    # for each test query, the number of training events before it: [Q]
    earlier = np.searchsorted(np.sort(np.repeat(train.times, targets)), test.times)
    tested = test.target_items
    total = int(targets.sum())
    return {
        "train_events_at_or_after_first_test_moment": _share(late, total),
        "train_events_at_or_after_a_test_moment_on_average": round(
            1 - float(earlier.mean()) / total, 6
        ),
        "test_queries_of_users_unseen_in_train": _share(
            _unseen(test.users, train.users), len(test)
        ),
        "test_targets_unseen_in_train": _share(_unseen(tested, train.target_items), len(tested)),
    }


def _unseen(numbers: NDArray[np.int32], seen: NDArray[np.int32]) -> np.integer:
    """Return how many of the numbers are not in `seen`; a table of flags, as numbers are small."""
    known = np.zeros(max(numbers.max(), seen.max()) + 1, bool)
    known[seen] = True
    return (~known[numbers]).sum()


def _share(part: np.integer, whole: int) -> float:
    return round(float(part) / whole, 6)
