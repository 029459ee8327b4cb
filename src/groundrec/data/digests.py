"""Digests of the contents of columns, independent of files, machines and block sizes.

Knows nothing about what the columns mean.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from json.encoder import encode_basestring_ascii

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from groundrec.core.types import Ragged
from groundrec.data.arrays import as_arrow, as_texts, bytes_of

__all__ = ["QueryHashes", "hash_array", "hash_texts", "quoted"]


def hash_array(array: NDArray[np.integer]) -> str:
    """Return the digest of the numbers as little-endian bytes of their own width."""
    return hashlib.sha256(_little(array)).hexdigest()


def hash_texts(texts: Iterable[str]) -> str:
    """Return the digest of the texts in order."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def quoted(texts: pa.StringArray) -> pa.StringArray:
    """Return each text as an element of a JSON list, preceded by a comma."""
    if not _is_plain(texts):
        return as_texts(f", {encode_basestring_ascii(text)}" for text in texts.to_pylist())
    first = as_arrow(np.zeros(len(texts), np.int32))
    before, after, between = (as_texts([mark]).take(first) for mark in (', "', '"', ""))
    return pc.call_function(
        "binary_join_element_wise", [before, texts, after, between], pc.JoinOptions()
    )


def _is_plain(texts: pa.StringArray) -> bool:
    """Return whether JSON needs no escapes for any character of the texts."""
    characters = np.frombuffer(bytes_of(texts), np.uint8)
    return not (
        (characters < ord(" "))
        | (characters > ord("~"))
        | (characters == ord('"'))
        | (characters == ord("\\"))
    ).any()


class QueryHashes:
    """Digests of the columns of queries, fed block by block; block sizes do not matter."""

    def __init__(self) -> None:
        self._ids, self._users, self._times, *self._lists = (hashlib.sha256() for _ in range(7))
        self._first = True

    def add(
        self,
        ids: NDArray[np.int64],
        users: pa.StringArray,
        times: NDArray[np.int64],
        history: Ragged,
        targets: Ragged,
    ) -> None:
        """Add the next queries; `users` are `quoted`."""
        self._ids.update(_little(ids))
        self._times.update(_little(times))
        if len(ids):
            self._users.update(b"[" if self._first else b", ")
            self._users.update(bytes_of(users)[2:])
            self._first = False
        arrays = [
            array for ragged in (history, targets) for array in (ragged.values, ragged.lengths)
        ]
        for column, array in zip(self._lists, arrays, strict=True):
            column.update(_little(array))

    def digests(self) -> list[str]:
        """Return the digests of ids, users, times, and of values and lengths of both lists."""
        users = self._users.copy()
        users.update(b"[]" if self._first else b"]")
        return [column.hexdigest() for column in (self._ids, users, self._times, *self._lists)]


def _little(array: NDArray[np.integer]) -> memoryview:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data
