"""`groundrec settings`, and the settings of one recipe as `--dry-run` shows them.

Knows nothing about what settings mean; the schema says that.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from groundrec.app.commands.options import Json
from groundrec.app.commands.terminal import print_table
from groundrec.app.stages.domains import size_table, sizes
from groundrec.core.errors import ConfigError, did_you_mean
from groundrec.core.glossary import entries
from groundrec.core.language import language, say
from groundrec.core.recipe import Recipe, settings

__all__ = ["format_value", "print_settings", "settings_command"]


def settings_command(
    section: Annotated[str, typer.Argument(help="Show this section only.")] = "",
    as_json: Json = False,
) -> None:
    """Show every setting, or those of SECTION, with its default and its meaning."""
    shown = [entry for entry in entries(language()) if entry.setting.startswith(section)]
    if not shown:
        known = {key.partition(".")[0] for key, *_ in settings(Recipe())}
        raise ConfigError(
            f"no such section{did_you_mean(section, known)}",
            value=section,
            accepted=", ".join(sorted(known)),
            next_step="groundrec settings",
        )
    if as_json:
        names = ("setting", "default", "meaning")
        rows = [{name: getattr(entry, name) for name in names} for entry in shown]
        print(json.dumps(rows, default=str, ensure_ascii=False))
        return
    table = _new_table([entry.setting for entry in shown], "default", "meaning")
    for entry in shown:
        # Meanings name tables in brackets, [train], which rich would take for markup and drop.
        meaning = escape(entry.meaning)
        table.add_row(entry.setting, escape(format_value(entry.default)), meaning)
    print_table(table)


def print_settings(recipe: Recipe, origin: dict[str, str], *, as_json: bool) -> None:
    """Print every setting of a recipe, its value and where that came from."""
    domains = list(sizes(recipe)) if recipe.train.extra_datasets else []
    if as_json:
        rows = {key: {"value": value, "from": origin[key]} for key, value, _ in settings(recipe)}
        if domains:
            rows["train.extra_datasets"]["sizes"] = [vars(size) for size in domains]
        print(json.dumps(rows, default=str))
        return
    table = _new_table([key for key, *_ in settings(recipe)], "value", "from")
    for key, value, _ in settings(recipe):
        style = "dim" if origin[key] == "default" else "bold"
        table.add_row(key, escape(format_value(value)), escape(say(origin[key])), style=style)
    print_table(table)
    if domains:
        print_table(size_table(domains))


def format_value(value: object) -> str:
    """Return a setting's value as JSON, which TOML mostly reads too; `–` if it is unset."""
    return "–" if value is None else json.dumps(value, default=str, ensure_ascii=False)


def _new_table(keys: Sequence[str], *columns: str) -> Table:
    """Return an empty table of settings in which names are never broken, and nothing is cut."""
    widest = max(map(len, keys))
    folded = (Column(say(name), overflow="fold") for name in columns)
    return Table(Column(say("setting"), min_width=widest, overflow="fold"), *folded)
