"""What the terminal shows is whole: no bracketed word is dropped, no figure cut."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from groundrec.core.recipe import Recipe, settings
from groundrec.core.tables import fit
from tests.app.conftest import Tiny, title
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


NAMES = st.lists(
    st.text(alphabet="ab [/]语\u0301-", min_size=1, max_size=60),
    min_size=1,
    max_size=4,
    unique=True,
)


@given(NAMES, st.integers(40, 200), st.integers(1, 12))
def test_no_figure_of_a_table_is_cut(names: list[str], width: int, figures: int) -> None:
    table = Table(Column("method", overflow="fold"), *(f"metric {n}" for n in range(figures)))
    figure = "0.1234–0.5678"
    for name in names:
        table.add_row(Text(name), *[figure] * figures)
    with io.StringIO() as out:
        console = Console(file=out, width=width)
        fit(table, console)
        console.print(table)
        shown = out.getvalue()
    assert shown.count(figure) == len(names) * figures
    assert "…" not in shown


@pytest.mark.parametrize("width", [40, 80, 140])
@pytest.mark.parametrize("asked", ["runs", "show", "explain-item", "card"])
def test_every_table_of_a_run_shows_its_figures_whole(
    tiny: Tiny, tmp_path: Path, width: int, asked: str
) -> None:
    run = tmp_path / ("a-run-with-a-rather-long-name-" * 4)
    run.symlink_to(tiny.run)
    arguments = {
        "runs": ("runs", "--root", tmp_path),
        "show": ("runs", "--root", tmp_path, "show", run.name),
        "explain-item": ("explain-item", run, title(3), title(4)),
        "card": ("card", run, "--picture", tmp_path / "card.png"),
    }[asked]
    narrow = command(*arguments, width=width)
    assert narrow.code == 0, narrow.err
    wide = command(*arguments, width=400)
    figure = re.compile(r"(?<![\w.])-?\d[\d,]*\.\d+(?![\w.])")
    assert figure.findall(narrow.out) == figure.findall(wide.out)
    assert "…" not in narrow.out
