"""`groundrec doctor --vscode`: its entries are in launch.json afterwards, and all else is as it
was.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundrec.app.commands.debug import PORT
from groundrec.app.commands.vscode import configurations, merged, plain
from tests.commands import command

OURS = ["groundrec: rank 0", "groundrec: rank 1", "groundrec: every rank"]
THEIRS = """// My own launch configurations.
{
    "version": "0.2.0", // as VS Code writes it
    /* "configurations": [ not these ] */
    "inputs": [{ "configurations": ["nor these"] }],
    "configurations": [
        // the web server: http://localhost
        { "name": "web \\"server\\" // not a comment", "type": "node", "request": "launch", },
    ],
}
"""


def names(value: dict[str, Any]) -> list[str]:
    return [
        entry["name"] for key in ("configurations", "compounds") for entry in value.get(key, [])
    ]


def test_without_a_file_one_is_written_that_attaches_to_the_ports_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert json.loads(command("doctor", "--vscode", "--json").out)[:2] == OURS[:2]
    written = json.loads((tmp_path / ".vscode" / "launch.json").read_text(encoding="utf-8"))
    attach = written["configurations"]
    assert [entry["connect"] for entry in attach[:2]] == [
        {"host": "127.0.0.1", "port": PORT + rank} for rank in range(2)
    ]
    assert {(entry["type"], entry["request"]) for entry in attach} == {("debugpy", "attach")}
    assert written["compounds"][0]["configurations"] == [entry["name"] for entry in attach]
    assert written["version"] == "0.2.0"


def test_what_is_there_stays_to_the_letter_and_a_second_time_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / ".vscode" / "launch.json"
    file.parent.mkdir()
    file.write_text(THEIRS, encoding="utf-8")
    assert "added groundrec: rank 0" in command("doctor", "--vscode").out
    once = file.read_text(encoding="utf-8")
    lines = iter(once.splitlines())
    assert all(
        line.rstrip(",") in (new.rstrip(",") for new in lines) for line in THEIRS.splitlines()
    )
    value = plain(once)
    assert 'web "server" // not a comment' in names(value)
    assert set(OURS) <= set(names(value))
    assert value["inputs"] == [{"configurations": ["nor these"]}]
    assert "nothing to add" in command("doctor", "--vscode").out
    assert file.read_text(encoding="utf-8") == once


def test_an_entry_of_the_same_name_that_somebody_changed_is_kept() -> None:
    changed = {"configurations": [{"name": OURS[0], "port": 1}]}
    text, added = merged(json.dumps(changed), configurations(2))
    assert added == OURS[1:]
    assert [e for e in plain(text)["configurations"] if e["name"] == OURS[0]] == changed[
        "configurations"
    ]


@pytest.mark.parametrize(
    "text", ["[]", "", '{"configurations": {}}', '{"configurations": [}', "// nothing"]
)
def test_a_file_that_is_none_is_refused_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / ".vscode" / "launch.json"
    file.parent.mkdir()
    file.write_text(text, encoding="utf-8")
    refused = command("doctor", "--vscode")
    assert refused.code == 2
    assert "is not JSON with comments" in refused.err
    assert file.read_text(encoding="utf-8") == text


TEXTS = st.text('ab"\\/*,{}[]:\n', max_size=8) | st.sampled_from(
    ["name", "configurations", "compounds"]
)
VALUES = st.recursive(
    TEXTS | st.integers() | st.none(),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(TEXTS, v, max_size=3),
)
LISTS = st.lists(st.fixed_dictionaries({"name": TEXTS}, optional={"more": VALUES}), max_size=3)
OBJECTS = st.fixed_dictionaries(
    {}, optional={"before": VALUES, "configurations": LISTS, "compounds": LISTS, "after": VALUES}
)
COMMENTS = st.sampled_from(["", " // [{,\n", " /* ], */ ", "\n"])


def written(value: Any, comment: str) -> str:
    """Return JSON as people write it: comments, and commas behind the last of a list."""
    if isinstance(value, dict):
        inner = "".join(
            f"{json.dumps(key)}{comment}:{written(one, comment)},{comment}"
            for key, one in value.items()
        )
        return f"{{{comment}{inner}}}"
    if isinstance(value, list):
        return (
            f"[{comment}{''.join(written(one, comment) + comment + ',' for one in value)}]{comment}"
        )
    return json.dumps(value)


@given(OBJECTS, COMMENTS)
def test_whatever_is_there_the_entries_are_added_and_nothing_else_changes(
    value: dict[str, Any], comment: str
) -> None:
    text = written(value, comment)
    assert plain(text) == value
    after, added = merged(text, configurations(2))
    assert added == OURS
    found = plain(after)
    wanted = configurations(2)
    assert {k: v for k, v in found.items() if k not in wanted} == {
        k: v for k, v in value.items() if k not in wanted
    }
    for key, entries in wanted.items():
        assert found[key] == entries + value.get(key, [])
    assert merged(after, wanted) == (after, [])
