"""Old names and values of settings mean what the current ones mean."""

from __future__ import annotations

import pytest

from groundrec.core import aliases
from groundrec.core.aliases import current_name, upgrade


@pytest.fixture
def renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aliases, "NAMES", {"a": "b", "b.x": "b.y", "c.d.e": "c.d.f"})
    monkeypatch.setattr(aliases, "VALUES", {"b.y": {"all": "exhaustive"}})


@pytest.mark.parametrize(
    ("old", "current"),
    [
        ("a", "b"),
        ("a.x", "b.y"),
        ("b.x", "b.y"),
        ("a.z", "b.z"),
        ("c.d.e", "c.d.f"),
        ("c.a", "c.a"),
        ("seed", "seed"),
    ],
)
@pytest.mark.usefixtures("renamed")
def test_an_old_name_has_a_current_one(old: str, current: str) -> None:
    assert current_name(old) == current


@pytest.mark.usefixtures("renamed")
def test_nested_settings_are_upgraded_and_nothing_else_is() -> None:
    old = {"seed": 3, "a": {"x": "all", "z": "all"}, "c": {"d": {"e": [1]}}, "files": [["a", 1]]}
    new = {
        "seed": 3,
        "b": {"y": "exhaustive", "z": "all"},
        "c": {"d": {"f": [1]}},
        "files": [["a", 1]],
    }
    assert upgrade(old) == new
    assert upgrade(new) == new
    assert upgrade(old["a"], "b") == new["b"]
