"""A small shop: planted interactions as a CSV file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from groundrec.core.config import Data

Event = tuple[object, object, object]
WriteShop = Callable[..., Data]


@pytest.fixture
def shop(tmp_path: Path) -> WriteShop:
    """Return a function that writes events (and titles) as tables and returns the `data` section
    that reads them.
    """

    def write(
        events: Iterable[Event], titles: dict[str, str] | None = None, name: str = "events.csv"
    ) -> Data:
        path = tmp_path / name
        path.write_text(
            "user,item,time\n" + "".join(f"{u},{i},{t}\n" for u, i, t in events), encoding="utf-8"
        )
        if titles is None:
            return Data(source="table", path=path)
        items = tmp_path / "items.csv"
        items.write_text(
            "item,title\n" + "".join(f'{i},"{t}"\n' for i, t in titles.items()),
            encoding="utf-8",
            newline="",
        )
        return Data(source="table", path=path, items=items)

    return write


@pytest.fixture
def regulars() -> list[Event]:
    """Return the events of four users who take items 1 to 6 in turn, a thousand seconds apart."""
    return [(user, item, 1000 * item + user) for user in range(1, 5) for item in range(1, 7)]
