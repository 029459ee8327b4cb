"""Names to implementations, built-in and third-party."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from groundrec.core import registry
from groundrec.core.errors import ConfigError
from groundrec.core.registry import BUILT_IN, names, register, resolve
from groundrec.signals.counts import Popularity


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """Return the installed entry points, a list to append to."""
    entries: list[EntryPoint] = []

    def entry_points(*, group: str) -> list[EntryPoint]:
        return [e for e in entries if e.group == group]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    return entries


def test_a_third_party_implementation_is_found_by_its_entry_point(
    installed: list[EntryPoint],
) -> None:
    installed.append(EntryPoint("most-common", "collections:Counter", "groundrec.signals"))
    installed.append(EntryPoint("most-common", "math:sqrt", "groundrec.metrics"))
    from collections import Counter
    from math import sqrt

    assert resolve("signals", "most-common") is Counter
    assert resolve("metrics", "most-common") is sqrt
    assert names("signals") == sorted([*BUILT_IN["signals"], "most-common"])
    assert "most-common" not in names("sources")


def test_a_third_party_implementation_cannot_replace_a_built_in(
    installed: list[EntryPoint],
) -> None:
    installed.append(EntryPoint("popularity", "collections:Counter", "groundrec.signals"))
    assert resolve("signals", "popularity") is Popularity


def test_a_third_party_implementation_is_imported_on_first_use(installed: list[EntryPoint]) -> None:
    installed.append(EntryPoint("broken", "no.such.module:thing", "groundrec.signals"))
    assert "broken" in names("signals")
    with pytest.raises(ModuleNotFoundError):
        resolve("signals", "broken")


@pytest.mark.parametrize(
    ("seam", "name", "what"),
    [
        ("signals", "sasrek", "unknown signal (did you mean 'sasrec'?)"),
        ("base_models", "x", "unknown base model"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(
    installed: list[EntryPoint], seam: str, name: str, what: str
) -> None:
    installed.append(EntryPoint("mine", "collections:Counter", f"groundrec.{seam}"))
    with pytest.raises(ConfigError) as caught:
        resolve(seam, name)
    error: Any = caught.value
    assert error.what == what
    assert error.value == name
    assert error.accepted == ", ".join(sorted([*BUILT_IN[seam], "mine"]))


@pytest.fixture
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {seam: {} for seam in BUILT_IN})


def test_a_script_registers_an_object_or_where_to_import_it(nothing_registered: None) -> None:
    from collections import Counter

    register("signals", "mine", Counter)
    register("metrics", "root", "math:sqrt")
    assert resolve("signals", "mine") is Counter
    assert resolve("metrics", "root")(4) == 2
    assert "mine" in names("signals")
    register("signals", "mine", dict)
    assert resolve("signals", "mine") is dict


def test_a_registered_name_replaces_an_installed_one_but_no_built_in(
    installed: list[EntryPoint], nothing_registered: None
) -> None:
    installed.append(EntryPoint("mine", "collections:Counter", "groundrec.signals"))
    register("signals", "mine", dict)
    assert resolve("signals", "mine") is dict
    with pytest.raises(ConfigError, match="has a built-in of this name: popularity"):
        register("signals", "popularity", dict)
    with pytest.raises(ConfigError, match="did you mean 'signals'"):
        register("signal", "mine", dict)
