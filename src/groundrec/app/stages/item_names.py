"""The items that a user names by title or id. Knows nothing about runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from groundrec.core.errors import DataError, did_you_mean
from groundrec.core.types import Catalogue

__all__ = ["ItemNames"]


class ItemNames:
    """Titles and item ids of a catalogue, and the items that each one stands for."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._items: dict[str, list[int]] = {}
        for names in (catalogue.titles, catalogue.item_ids):
            for item, name in enumerate(names):
                self._items.setdefault(name, []).append(item)

    def items(self, name: str, source: object = "") -> list[int]:
        """Return the items with this title or item id; raise `DataError` for an unknown name.

        `source` says in the message where the name was read.
        """
        if name not in self._items:
            raise DataError(
                f"not in the catalogue{did_you_mean(name, self._items)}",
                value=f"{name}{source}",
                accepted="a title or an item id",
            )
        return self._items[name]

    def listed(self, path: Path | None) -> NDArray[np.int32] | None:
        """Return the items named in a text file, one name a line, ascending; None for no file."""
        if path is None:
            return None
        items: set[int] = set()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip():
                items.update(self.items(line.strip(), f" ({path}, line {number})"))
        return np.array(sorted(items), np.int32)
