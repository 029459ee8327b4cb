"""Python literals: the same values as the whole parse gives, or none."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundrec.data.raw.literals import parse_literal, parse_literal_fields

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3)
)
DICTS = st.dictionaries(
    st.sampled_from(["id", "title", "x", "it's"]) | st.text(max_size=3), VALUES, max_size=5
)
WANTED = ("id", "title")


@given(value=DICTS)
def test_the_fields_are_those_of_the_whole_parse(value: dict[str, Any]) -> None:
    found = parse_literal_fields(repr(value), WANTED)
    if found is not None:
        assert found == {key: value[key] for key in WANTED if key in value}


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@given(text=st.text(st.sampled_from("{}[]()'\"\\u:, a1"), max_size=14), tail=st.booleans())
def test_what_is_no_literal_gives_no_field_that_a_whole_parse_would_not(
    text: str, tail: bool
) -> None:
    """A value that is not wanted may be nonsense, as `nan` is; a wanted one may not."""
    line = f"{{'id': {text}, 'x': 1}}" if tail else f"{{'x': 1, 'id': {text}}}"
    found = parse_literal_fields(line, ("id",))
    if found is not None:
        assert found == {"id": ast.literal_eval(line)["id"]}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{u'id': u'7', u'title': u\"It's\", 'x': nan}", {"id": "7", "title": "It's"}),
        ("{'id': 'a\\u2605\\'b', 'related': {'also': ['{', '}'], 'id': 5}}", {"id": "a★'b"}),
        ("{'title': 'x', 'title': 'y'}", {"title": "y"}),
        ("{'id': open('made')}", None),
        ("{'id': made}", None),
        ("{'id': 'a' 'b'}", None),
        ("{'id': 1} + {}", None),
        ('{"id": "\\/"}', None),
        ("['id']", None),
        ("{'id': 'never ends}", None),
    ],
)
def test_fields_of(text: str, found: dict[str, Any] | None) -> None:
    assert parse_literal_fields(text, WANTED) == found


def test_a_text_that_never_ends_is_given_up_at_once() -> None:
    """Quadratic or worse behaviour would not end in this century."""
    assert parse_literal_fields("{'x': '" + "\\'" * 200_000, WANTED) is None
    assert parse_literal_fields("{'x': [" + "'a', " * 200_000, WANTED) is None
    assert parse_literal_fields("{'x': " + "[" * 200_000, WANTED) is None


def test_nothing_is_run() -> None:
    assert parse_literal("__import__('os').getcwd()") is None
    assert parse_literal("[" * 5000 + "]" * 5000) is None
