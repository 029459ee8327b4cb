"""VS Code's `launch.json`: entries that attach to a run are added, the rest and comments are kept.

Knows nothing about what the entries start.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from groundrec.app.commands.debug import HERE, PORT
from groundrec.core.errors import ConfigError
from groundrec.core.files import atomic_write

__all__ = ["configurations", "merged", "plain", "write"]

TOKEN = re.compile(
    r'(?P<text>"(?:\\.|[^"\\])*")|(?P<comment>//[^\n]*|/\*.*?\*/)|(?P<mark>[{}\[\],])', re.DOTALL
)
INDENT = "    "
JsonValue = dict[str, "JsonValue"] | list["JsonValue"] | str | float | bool | None
Entry = dict[str, JsonValue]
"""One entry of a list in `launch.json`."""


def configurations(ranks: int) -> dict[str, list[Entry]]:
    """Return the entries that attach to each process, and the one that attaches to all."""
    names: list[JsonValue] = [f"groundrec: rank {rank}" for rank in range(ranks)]
    attach: list[Entry] = [
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
    """Add the missing entries to `.vscode/launch.json` in `folder`; return their names."""
    file = folder / ".vscode" / "launch.json"
    before = file.read_text(encoding="utf-8") if file.exists() else '{\n    "version": "0.2.0"\n}\n'
    try:
        after, added = merged(before, configurations(ranks))
    except ValueError as error:
        raise ConfigError(
            f"{file} is not JSON with comments",
            value=error,
            accepted="the file as VS Code writes it, or no file",
            next_step=f"mend {file}, or move it away",
        ) from None
    if added:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as part:
            part.write_text(after, encoding="utf-8")
    return added


def merged(text: str, wanted: dict[str, list[Entry]]) -> tuple[str, list[str]]:
    """Return the text with the `wanted` entries it lacks by name, and their names.

    Everything else stays as it is. Raises `ValueError` if the text is not an object, or one of the
    lists is not a list.
    """
    added = []
    for key, entries in wanted.items():
        present = _names(plain(text), key)
        missing = [entry for entry in entries if entry["name"] not in present]
        if missing:
            text = _insert(text, key, missing)
            added += [str(entry["name"]) for entry in missing]
    if added and not isinstance(plain(text), dict):
        raise ValueError("an entry cannot be added")
    return text, added


def plain(text: str) -> Any:
    """Return the value of JSON that may have comments and trailing commas."""
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


def _names(value: JsonValue, key: str) -> set[str]:
    """Return the names of the entries in one list of an object."""
    entries = value.get(key, []) if isinstance(value, dict) else None
    if not isinstance(entries, list):
        raise ValueError(f"no object with a list of {key}")
    return {str(entry.get("name")) for entry in entries if isinstance(entry, dict)}


def _insert(text: str, key: str, entries: list[Entry]) -> str:
    """Return the text with entries at the start of the list `key`, which is added if missing."""
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
    """Return where the list `key` of the outermost object opens, and whether it is empty.

    Without a key, do the same for the object itself.
    """
    tokens = [token for token in TOKEN.finditer(text) if not token["comment"]]
    # How many brackets are open: only a key directly in the outermost object counts.
    depth = 0
    named = key is None
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if named and token[0] == ("{" if key is None else "["):
            rest = _without_comments(
                text[token.end() : following.start() if following else len(text)]
            )
            return token.end(), not rest and following is not None and following[0] in "]}"
        depth += (token[0] in "[{") - (token[0] in "]}")
        named = named or (depth == 1 and token[0] == key and _is_key(text, token.end()))
    return None, True


def _is_key(text: str, at: int) -> bool:
    return _without_comments(text[at : at + text[at:].find(":") + 1]) == ":"


def _without_comments(text: str) -> str:
    return TOKEN.sub(lambda token: "" if token["comment"] else token[0], text).strip()


def _indented(text: str, levels: int) -> str:
    return "\n".join(INDENT * levels + line for line in text.splitlines())
