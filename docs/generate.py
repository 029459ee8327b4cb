"""Generates the reference pages from the code: `make docs`. A test checks that they are current.

Knows nothing about the pages written by hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from groundrec.app.commands.explain import manual
from groundrec.app.commands.main import app

__all__ = ["PAGES", "write"]

FOLDER = Path(__file__).resolve().parent
HEADS = {
    "en": (
        "# Settings of a recipe\n\n`groundrec explain SETTING` shows the same text with figures"
        " from your data. [中文](parameters.zh-CN.md)\n"
    ),
    "zh": (
        "# 配方的设置\n\n`groundrec explain SETTING --lang zh` 会说同样的话，还能结合你的数据。"
        "[English](parameters.md)\n"
    ),
}
NOTE = "<!-- Generated from the code by `make docs`: edit the code instead. -->\n"


def cli_page() -> str:
    """Return the help of every command."""
    group: Any = typer.main.get_command(app)
    parts = [f"# Commands\n\n{NOTE}\n{group.help}\n"]
    for name, command in group.commands.items():
        parts.append(_command(name, command))
        parts += [
            _command(f"{name} {inner}", c) for inner, c in getattr(command, "commands", {}).items()
        ]
    return "".join(parts)


def _command(name: str, command: Any) -> str:
    arguments = [_argument(p) for p in command.params if p.param_type_name == "argument"]
    options = ["[OPTIONS]"] * (len(arguments) < len(command.params))
    inner = ["[COMMAND]"] * hasattr(command, "commands")
    usage = " ".join(["groundrec", name, *arguments, *options, *inner])
    rows = [_row(p) for p in command.params]
    table = "\n" + _table(("", "default", "meaning"), rows) if rows else ""
    return f"\n## {name}\n\n    {usage}\n\n{command.help}\n{table}"


def parameters_page(language: str) -> str:
    """Return every setting of a recipe, section by section, and the originals' names for them."""
    return f"{HEADS[language]}\n{NOTE}" + "".join(f"{line}\n" for line in manual(language))


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "parameters.md": lambda: parameters_page("en"),
    "parameters.zh-CN.md": lambda: parameters_page("zh"),
}


def write() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")


def _argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper() + "…" * (parameter.nargs == -1)
    return name if parameter.required else f"[{name}]"


def _row(parameter: Any) -> tuple[str, ...]:
    is_argument = parameter.param_type_name == "argument"
    name = (
        _argument(parameter)
        if is_argument
        else ", ".join([*parameter.opts, *parameter.secondary_opts])
    )
    value = f" {parameter.metavar}" if parameter.metavar and not is_argument else ""
    default = "required" if parameter.required else _plain(parameter.default or None)
    return f"`{name}{value}`", default, parameter.help


def _plain(value: Any) -> str:
    return "" if value is None else f"`{json.dumps(value, default=str, ensure_ascii=False)}`"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )


if __name__ == "__main__":
    write()
