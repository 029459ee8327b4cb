"""Writes the pages that repeat what the code says: `make docs`. A test checks that they are current.

Knows nothing about the pages written by hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import typer

from groundrec.app.cli import app
from groundrec.core.recipe import Recipe, settings

__all__ = ["PAGES", "write"]

FOLDER = Path(__file__).resolve().parent
NOTE = "<!-- Written by `make docs` from the code: change it there. -->\n"


def cli_page() -> str:
    """Return the help of every command."""
    group: Any = typer.main.get_command(app)
    parts = [f"# Commands\n\n{NOTE}\n{group.help}\n"]
    for name, command in group.commands.items():
        parts.append(_command(name, command))
        parts += [_command(f"{name} {inner}", c) for inner, c in getattr(command, "commands", {}).items()]
    return "".join(parts)


def _command(name: str, command: Any) -> str:
    arguments = [_argument(p) for p in command.params if p.param_type_name == "argument"]
    options = ["[OPTIONS]"] * (len(arguments) < len(command.params))
    inner = ["[COMMAND]"] * hasattr(command, "commands")
    usage = " ".join(["groundrec", name, *arguments, *options, *inner])
    rows = [_row(p) for p in command.params]
    table = "\n" + _table(("", "default", "meaning"), rows) if rows else ""
    return f"\n## {name}\n\n    {usage}\n\n{command.help}\n{table}"


def parameters_page() -> str:
    """Return every setting of a recipe, section by section."""
    parts = [f"# Settings of a recipe\n\n{NOTE}"]
    top_first = sorted(settings(Recipe()), key=lambda row: "." in row[0])
    for section, rows in groupby(top_first, key=lambda row: row[0].rpartition(".")[0]):
        parts.append(f"\n## {f'[{section}]' if section else 'At the top'}\n\n")
        lines = [(f"`{key.rpartition('.')[2]}`", _plain(value), meaning) for key, value, meaning in rows]
        parts.append(_table(("setting", "default", "meaning"), lines))
    return "".join(parts)


PAGES: dict[str, Callable[[], str]] = {"cli.md": cli_page, "parameters.md": parameters_page}


def write() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")


def _argument(parameter: Any) -> str:
    name = parameter.name.upper() + "…" * (parameter.nargs == -1)
    return name if parameter.required else f"[{name}]"


def _row(parameter: Any) -> tuple[str, ...]:
    is_argument = parameter.param_type_name == "argument"
    name = _argument(parameter) if is_argument else ", ".join([*parameter.opts, *parameter.secondary_opts])
    value = f" {parameter.metavar}" if parameter.metavar and not is_argument else ""
    default = "required" if parameter.required else _plain(parameter.default or None)
    return f"`{name}{value}`", default, parameter.help


def _plain(value: Any) -> str:
    return "" if value is None else f"`{json.dumps(value, default=str, ensure_ascii=False)}`"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    write()
