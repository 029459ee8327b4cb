"""The front page's picture: it is current, and what it says of the two searches is true."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "trie.py"
spec = importlib.util.spec_from_file_location("docs_trie", SCRIPT)
assert spec
assert spec.loader
script: Any = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = script
spec.loader.exec_module(script)


def every_title() -> dict[str, float]:
    """Return title → score, best first."""
    scores = {t: p * q for p, titles in script.BRANCHES.values() for t, q in titles.items()}
    return dict(sorted(scores.items(), key=lambda item: -item[1]))


@pytest.mark.parametrize("language", script.PAGES)
def test_the_picture_is_current(language: str) -> None:
    shown = (SCRIPT.parent / script.PAGES[language]).read_text(encoding="utf-8")
    assert shown == script.drawing(language)


@pytest.mark.parametrize("name", script.PAGES.values())
def test_the_picture_is_legible_on_light_and_dark_pages(name: str) -> None:
    """It brings its own background, and colours for both."""
    root = ElementTree.parse(SCRIPT.parent / name).getroot()
    namespace = "{http://www.w3.org/2000/svg}"
    assert root.find(f"{namespace}rect[@class='card']") is not None
    style = root.findtext(f"{namespace}style") or ""
    assert "prefers-color-scheme: dark" in style
    assert root.findtext(f"{namespace}title")


def test_the_probabilities_are_some() -> None:
    assert sum(p for p, _ in script.BRANCHES.values()) == pytest.approx(1)
    assert [sum(t.values()) for _, t in script.BRANCHES.values()] == pytest.approx([1] * 4)


def test_the_exact_search_finds_the_best_without_reading_everything() -> None:
    found, unread = script.best_first(script.K)
    assert found == dict(list(every_title().items())[: script.K])
    assert unread
    assert all(script.BRANCHES[token][0] <= min(found.values()) for token in unread)


def test_the_beam_loses_the_second_best() -> None:
    best, second = list(every_title())[: script.K]
    assert best in script.beam(script.K)
    assert second not in script.beam(script.K)
