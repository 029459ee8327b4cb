"""What the terminal shows is whole: no bracketed word is dropped, no figure cut."""

from __future__ import annotations

import re

import pytest

from groundrec.core.recipe import Recipe, settings
from tests.app.conftest import Tiny
from tests.commands import command

INTERVAL = re.compile(r"[01]\.\d{4} \([01]\.\d{4}–[01]\.\d{4}\)")


def test_settings_keep_words_in_brackets() -> None:
    bracketed = {
        word for _, _, meaning in settings(Recipe()) for word in re.findall(r"\[[a-z]+\]", meaning)
    }
    assert "[data]" in bracketed
    shown = command("settings", width=300).out
    assert all(word in shown for word in bracketed)


def test_a_setting_is_folded_and_never_cut_on_a_narrow_terminal() -> None:
    shown = command("settings", "train", width=60).out
    assert "…" not in shown


@pytest.mark.parametrize("width", [40, 250])
def test_a_comparison_of_runs_shows_every_interval_whole(tiny: Tiny, width: int) -> None:
    arguments = ("runs", "compare", tiny.run, "--method", "all", "--metric", "all")
    shown = command(*arguments, width=width)
    assert shown.code == 0, shown.err
    rows = [line for line in shown.out.splitlines() if line.startswith("/")]
    assert len(rows) == 6
    assert {len(INTERVAL.findall(row)) for row in rows} == {9}
    assert "…" not in shown.out.replace("…+", "").replace("…-", "")
