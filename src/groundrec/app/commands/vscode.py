"""VS Code's `launch.json`: the entries that attach to a run, put beside what is there already,
comments included.

Knows nothing about what the entries start.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from groundrec.app.commands.debug import HERE, PORT
from groundrec.core.errors import ConfigError
from groundrec.core.runs import atomic_write

__all__ = ["configurations", "merged", "plain", "write"]

TOKEN = re.compile(
    r'(?P<text>"(?:\\.|[^"\\])*")|(?P<comment>//[^\n]*|/\*.*?\*/)|(?P<mark>[{}\[\],])', re.DOTALL
)
INDENT = "    "


def configurations(ranks: int) -> dict[str, list[dict[str, Any]]]:
    """Return the entries that attach to each process, and the one that attaches to all."""
    names = [f"groundrec: rank {rank}" for rank in range(ranks)]
    attach = [
        {
            "name": name,
            "type": "debugpy",
            "request": "attach",
            "connect": {"host": HERE, "port": PORT + rank},
            "justMyCode": False,
        }
        for rank, name in enumerate(names)
    ]
    return {
        "configurations": attach,
        "compounds": [{"name": "groundrec: every rank", "configurations": names}],
    }


def write(folder: Path, ranks: int) -> list[str]:
    """Add to `.vscode/launch.json` in `folder` what it lacks; return the names of what was added."""
    file = folder / ".vscode" / "launch.json"
    before = file.read_text(encoding="utf-8") if file.exists() else '{\n    "version": "0.2.0"\n}\n'
    try:
        after, added = merged(before, configurations(ranks))
    except ValueError as error:
        raise ConfigError(
            f"{file} is not JSON with comments",
            value=error,
            accepted="the file as VS Code writes it, or none",
        ) from None
    if added:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as part:
            part.write_text(after, encoding="utf-8")
    return added


def merged(text: str, wanted: dict[str, list[dict[str, Any]]]) -> tuple[str, list[str]]:
    """Return the text with those `wanted` entries whose names it lacks, and these names. Nothing
    else is touched.

    Raises `ValueError` where the text is no object, or one of its lists is none.
    """
    added = []
    for key, entries in wanted.items():
        there = _list(plain(text), key)
        missing = [entry for entry in entries if entry["name"] not in there]
        if missing:
            text = _insert(text, key, missing)
            added += [entry["name"] for entry in missing]
    if added and not isinstance(plain(text), dict):
        raise ValueError("an entry cannot be added")
    return text, added


def plain(text: str) -> Any:
    """Return the value of JSON with comments and with commas behind the last of a list."""
    pieces = []
    last = -1
    at = 0
    for token in TOKEN.finditer(text):
        pieces.append(text[at : token.start()])
        at = token.end()
        if token["comment"]:
            continue
        if token[0] in "]}" and last >= 0 and not "".join(pieces[last + 1 :]).strip():
            pieces[last] = ""
        pieces.append(token[0])
        last = len(pieces) - 1 if token[0] == "," else -1
    return json.loads("".join([*pieces, text[at:]]))


def _list(value: Any, key: str) -> set[Any]:
    """Return the names in a list of the object."""
    if not isinstance(value, dict) or not isinstance(value.get(key, []), list):
        raise ValueError(f"no object with a list of {key}")
    return {entry.get("name") for entry in value.get(key, []) if isinstance(entry, dict)}


def _insert(text: str, key: str, entries: list[dict[str, Any]]) -> str:
    """Return the text with entries at the head of the list `key`, made where it is not there."""
    written = ",\n".join(
        _indented(json.dumps(entry, indent=4, ensure_ascii=False), 2) for entry in entries
    )
    begin, empty = _opening(text, f'"{key}"')
    if begin is not None:
        return f"{text[:begin]}\n{written}{'' if empty else ','}{text[begin:]}"
    begin, empty = _opening(text, None)
    assert begin is not None
    whole = f'\n{INDENT}"{key}": [\n{written}\n{INDENT}]'
    return f"{text[:begin]}{whole}{'' if empty else ','}{text[begin:]}"


def _opening(text: str, key: str | None) -> tuple[int | None, bool]:
    """Return where the list of the outermost object's `key` opens, or the object itself, and
    whether it is empty.
    """
    tokens = [token for token in TOKEN.finditer(text) if not token["comment"]]
    depth = 0
    named = key is None
    for token, behind in zip(tokens, [*tokens[1:], None], strict=True):
        if named and token[0] == ("{" if key is None else "["):
            rest = _without_comments(text[token.end() : behind.start() if behind else len(text)])
            return token.end(), not rest and behind is not None and behind[0] in "]}"
        depth += (token[0] in "[{") - (token[0] in "]}")
        named = named or (depth == 1 and token[0] == key and _is_key(text, token.end()))
    return None, True


def _is_key(text: str, at: int) -> bool:
    return _without_comments(text[at : at + text[at:].find(":") + 1]) == ":"


def _without_comments(text: str) -> str:
    return TOKEN.sub(lambda token: "" if token["comment"] else token[0], text).strip()


def _indented(text: str, levels: int) -> str:
    return "\n".join(INDENT * levels + line for line in text.splitlines())
