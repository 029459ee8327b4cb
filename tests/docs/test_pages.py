"""Pages that are notebooks run as they stand, in an empty folder, and print what they show."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from groundrec.core import registry
from tests.commands import keeping_the_log
from tests.docs.test_documents import ROOT, Block, blocks, name_of

DOCS = ROOT / "docs"
PAGES = [DOCS / "tutorial.md", *sorted((DOCS / "extending").glob("*.md"))]
DEMO = ROOT / "runs" / "demo" / "report.html"
NEAR = 0.1
"""How far a figure with a decimal point may be from the one shown: it depends on the machine."""


def cells(page: Path) -> Iterator[tuple[str, str]]:
    """Yield the code of each Python block, and what is shown below as its output."""
    shown = [*blocks(page), Block("", "")]
    for block, below in itertools.pairwise(shown):
        if block.language == "python":
            yield block.text, below.text if below.language == "text" else ""


def is_as_shown(printed: str, shown: str) -> bool:
    figure = r"-?\d+\.\d+"
    near = (
        abs(float(a) - float(b)) <= NEAR
        for a, b in zip(*(re.findall(figure, t) for t in (printed, shown)))  # noqa: B905
    )
    return re.sub(figure, "#", printed) == re.sub(figure, "#", shown) and all(near)


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in an empty folder, from which modules are imported, and leave nothing registered."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_registered", {seam: {} for seam in registry.BUILT_IN})
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_prints_what_it_shows(page: Path, empty_folder: Path) -> None:
    space: dict[str, Any] = {"__name__": "__main__"}
    with keeping_the_log():
        for code, shown in cells(page):
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(code, name_of(page), "exec"), space)
            assert is_as_shown(out.getvalue(), shown), out.getvalue()


def test_another_output_would_be_found() -> None:
    assert is_as_shown("HR 0.86 of 80\n", "HR 0.91 of 80\n")
    assert not is_as_shown("HR 0.86 of 80\n", "HR 0.61 of 80\n")
    assert not is_as_shown("HR 0.86 of 80\n", "HR 0.86 of 81\n")
    assert not is_as_shown("HR 0.86\n", "")


@pytest.mark.skipif(not DEMO.is_file(), reason="needs the finished run of `make demo`")
def test_the_front_page_prints_what_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    code, shown = next(cells(ROOT / "README.md"))
    with keeping_the_log(), contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    assert is_as_shown(out.getvalue(), shown), out.getvalue()


def test_the_code_of_the_front_page_is_short_and_shows_its_output() -> None:
    code, shown = next(cells(ROOT / "README.md"))
    assert len(Block("python", code).code) <= 6
    assert shown


def test_the_tutorial_is_short() -> None:
    assert (
        sum(len(block.code) for block in blocks(DOCS / "tutorial.md") if block.language == "python")
        < 80
    )
