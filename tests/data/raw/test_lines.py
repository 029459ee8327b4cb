"""One object per line: every line is a row, and says what stood there when it held no object."""

from __future__ import annotations

import ast
import gzip
import json
from codecs import BOM_UTF8
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from groundrec.core.errors import DataError
from groundrec.data.raw.files import BROKEN, ROW, open_duckdb
from groundrec.data.raw.lines import first_fields, read_objects
from groundrec.data.raw.tables import line_numbers

FIELDS = ("user", "time")


def rows_of(path: Path, scratch: Path) -> list[dict[str, Any]]:
    with open_duckdb(scratch) as connection:
        table = read_objects(connection, path, FIELDS, ids=("user",))
        return table.order_by(ROW).select(*FIELDS, ROW, BROKEN).to_pyarrow().to_pylist()


GOOD = '{"user": "ann", "time": 5, "text": "long"}'
BAD = {
    "words": b"hello",
    "cut short": b'{"user": "bo", "time":',
    "a list": b"[1, 2]",
    "a number": b"7",
    "two objects": b'{"user": "bo"} {"user": "cy"}',
    "not UTF-8": b'{"user": "b\xff", "time": 5}',
    "a zero byte": b'{"user": "b\x00", "time": 5}',
    "code": b"__import__('os').getcwd()",
    "code inside": b'{"user": __import__("os").getcwd()}',
    "much too deep": b"{'user': " + b"[" * 5000 + b"]" * 5000 + b"}",
}


@pytest.mark.parametrize("what", BAD)
def test_a_line_that_holds_no_object_is_a_row_that_says_so(what: str, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\n".join([GOOD.encode(), BAD[what], GOOD.encode()]))
    first, bad, last = rows_of(path, tmp_path / "scratch")
    assert (first["user"], last["user"], first[BROKEN], last[BROKEN]) == ("ann", "ann", None, None)
    assert (bad["user"], bad["time"], bad[ROW]) == (None, None, 2)
    shown = BAD[what][:20].decode(errors="replace")
    assert (
        bad[BROKEN]
        == f"{bad[BROKEN].split(': ', 1)[0]}: " + BAD[what].decode(errors="replace")[:200]
    )
    assert shown in bad[BROKEN]


@pytest.mark.parametrize("value", ['{"a": 1}', "[1]", "[]"])
def test_an_id_that_is_no_text_is_said(value: str, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(f'{GOOD}\n{{"user": {value}, "time": 5}}\n')
    bad = rows_of(path, tmp_path / "scratch")[1]
    assert bad[BROKEN].replace(" ", "") == f"user is neither text nor a number: {value}".replace(
        " ", ""
    )


def test_texts_that_look_like_lists_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"user": "[1]", "time": 1}\n{"user": "{}", "time": 2}\n')
    assert [(r["user"], r[BROKEN]) for r in rows_of(path, tmp_path / "scratch")] == [
        ("[1]", None),
        ("{}", None),
    ]


def test_what_only_python_reads_is_read(tmp_path: Path) -> None:
    """A lone surrogate is no JSON for the engine; the line is good all the same."""
    path = tmp_path / "events.jsonl"
    path.write_text(
        f'{GOOD}\n{{"user": "bo", "time": 6, "text": "\\ud83d"}}\n{{"user": "\\ud83d", "time":'
        " 7}\n"
    )
    assert [(r["user"], r["time"], r[BROKEN]) for r in rows_of(path, tmp_path / "scratch")] == [
        ("ann", "5", None),
        ("bo", "6", None),
        ("?", "7", None),
    ]


def test_a_line_of_ten_megabytes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(
        f'{GOOD}\n{{"text": "{"x" * 10_000_000}", "user": "bo", "time":'
        f" 6}}\n{'y' * 10_000_000}\n{GOOD}\n"
    )
    rows = rows_of(path, tmp_path / "scratch")
    assert [r["user"] for r in rows] == ["ann", "bo", None, "ann"]
    assert rows[2][BROKEN] == "not an object: " + "y" * 200


VALUES = st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.text(max_size=6)
OBJECTS = st.dictionaries(st.sampled_from(["user", "time", "x", "y z"]), VALUES, max_size=4)
LINES = st.one_of(
    OBJECTS.map(lambda o: json.dumps(o).encode()),
    OBJECTS.map(lambda o: json.dumps(o, ensure_ascii=False).encode(errors="replace")),
    OBJECTS.map(lambda o: repr(o).encode()),
    st.sampled_from([b"", b"  ", *(line for line in BAD.values() if len(line) < 100)]),
    st.binary(max_size=8).map(lambda b: b.replace(b"\n", b"").replace(b"\r", b"")),
)


@example(lines=[BOM_UTF8], zipped=False)
@example(lines=[BOM_UTF8, b'{"user": "ann", "time": 5}', b"", b"x"], zipped=False)
@example(lines=[BOM_UTF8, b'{"user": "ann", "time": 5}', b"", b"x"], zipped=True)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(lines=st.lists(LINES, min_size=1, max_size=12), zipped=st.booleans())
def test_every_line_is_a_row_in_its_place(tmp_path: Path, lines: list[bytes], zipped: bool) -> None:
    """Compared with the lines counted by hand: none is lost, none is doubled, and each is where it
    was.
    """
    content = b"".join(line + b"\n" for line in lines)
    path = tmp_path / ("e.jsonl.gz" if zipped else "e.jsonl")
    path.write_bytes(gzip.compress(content) if zipped else content)
    full = [
        (n, line)
        for n, line in enumerate(content.removeprefix(BOM_UTF8).split(b"\n"), 1)
        if line.strip()
    ]
    assume(not full or not full[0][1].lstrip().startswith(b"["))
    rows = rows_of(path, tmp_path / "scratch")
    assert [r[ROW] for r in rows] == list(range(1, len(full) + 1))
    assert line_numbers(path, np.array([r[ROW] for r in rows], np.int64)).tolist() == [
        n for n, _ in full
    ]
    for row, (_, line) in zip(rows, full, strict=True):
        if line.startswith(b"{") and line.endswith(b"}") and row[BROKEN] is None:
            assert_holds(row, line)
        else:
            assert row[BROKEN]


def assert_holds(row: dict[str, Any], line: bytes) -> None:
    try:
        value = json.loads(line)
    except ValueError:
        value = ast.literal_eval(line.decode())
    for field in FIELDS:
        expected = value.get(field)
        text = expected if isinstance(expected, str | None) else json.dumps(expected)
        assert row[field] == (None if text is None else text.encode(errors="replace").decode())


def test_python_literals_are_parsed_and_never_run(tmp_path: Path) -> None:
    path = tmp_path / "games.json"
    rows = [
        "{u'user': u'It\\'s me', u'time': 5, u'ok': True, u'tags': [u'a', u'b']}",
        "{u'user': u\"Ren\\xe9e\", u'time': 6.5}",
        "{'user': 'x', 'time': open('made', 'w')}",
        "{'user': ['x']}",
    ]
    path.write_text("\n".join(rows), encoding="utf-8")
    one, two, three, four = rows_of(path, tmp_path / "scratch")
    assert (one["user"], one["time"], one[BROKEN]) == ("It's me", "5", None)
    assert (two["user"], two["time"]) == ("Renée", "6.5")
    assert three[BROKEN] == "not an object: " + rows[2]
    assert four[BROKEN] == 'user is neither text nor a number: ["x"]'
    assert not Path("made").exists()


def test_fields_are_those_of_the_first_lines(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text('nonsense\n{"a": 1}\n{"a": 2, "b": 3}\n')
    assert first_fields(path) == {"a": 1, "b": 3}


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("line", [GOOD, "{'user': 'ann', 'time': 5}"], ids=["JSON", "Python"])
def test_a_gzip_file_cut_short_is_an_error(line: str, kept: float, tmp_path: Path) -> None:
    content = gzip.compress(
        "".join(f"{line} \n" if n % 7 else f"{line}\n" for n in range(20_000)).encode()
    )
    path = tmp_path / "e.jsonl.gz"
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(
        DataError, match=r"a raw file is damaged[\s\S]*e\.jsonl\.gz[\s\S]*get the file again"
    ):
        rows_of(path, tmp_path / "scratch")
