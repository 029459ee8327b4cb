"""Names to implementations, a stranger's included."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from groundrec.core import registry
from groundrec.core.errors import ConfigError
from groundrec.core.registry import BUILT_IN, names, register, resolve
from groundrec.signals.counts import Popularity


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """Return the entry points that are installed, to add to."""
    there: list[EntryPoint] = []

    def entry_points(*, group: str) -> list[EntryPoint]:
        return [e for e in there if e.group == group]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    return there


def test_a_stranger_enters_by_its_entry_point(strangers: list[EntryPoint]) -> None:
    strangers.append(EntryPoint("most-common", "collections:Counter", "groundrec.signals"))
    strangers.append(EntryPoint("most-common", "math:sqrt", "groundrec.metrics"))
    from collections import Counter
    from math import sqrt

    assert resolve("signals", "most-common") is Counter
    assert resolve("metrics", "most-common") is sqrt
    assert names("signals") == sorted([*BUILT_IN["signals"], "most-common"])
    assert "most-common" not in names("sources")


def test_a_stranger_takes_no_built_in_name(strangers: list[EntryPoint]) -> None:
    strangers.append(EntryPoint("popularity", "collections:Counter", "groundrec.signals"))
    assert resolve("signals", "popularity") is Popularity


def test_a_stranger_is_imported_only_when_asked_for(strangers: list[EntryPoint]) -> None:
    strangers.append(EntryPoint("broken", "no.such.module:thing", "groundrec.signals"))
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
def test_an_unknown_name_is_refused_with_those_there_are(
    strangers: list[EntryPoint], seam: str, name: str, what: str
) -> None:
    strangers.append(EntryPoint("mine", "collections:Counter", f"groundrec.{seam}"))
    with pytest.raises(ConfigError) as caught:
        resolve(seam, name)
    error: Any = caught.value
    assert error.what == what
    assert error.value == name
    assert error.accepted == ", ".join(sorted([*BUILT_IN[seam], "mine"]))


@pytest.fixture
def of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {seam: {} for seam in BUILT_IN})


def test_a_script_registers_an_object_or_the_place_of_one(of_this_process: None) -> None:
    from collections import Counter

    register("signals", "mine", Counter)
    register("metrics", "root", "math:sqrt")
    assert resolve("signals", "mine") is Counter
    assert resolve("metrics", "root")(4) == 2
    assert "mine" in names("signals")
    register("signals", "mine", dict)
    assert resolve("signals", "mine") is dict


def test_what_is_registered_takes_the_place_of_an_installed_one_and_of_no_built_in(
    strangers: list[EntryPoint], of_this_process: None
) -> None:
    strangers.append(EntryPoint("mine", "collections:Counter", "groundrec.signals"))
    register("signals", "mine", dict)
    assert resolve("signals", "mine") is dict
    with pytest.raises(ConfigError, match="has a built-in of that name: popularity"):
        register("signals", "popularity", dict)
    with pytest.raises(ConfigError, match="did you mean 'signals'"):
        register("signal", "mine", dict)
