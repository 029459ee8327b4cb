"""`groundrec explain`, and the manual that says the same, in two languages.

Knows nothing about the texts; they are in `core.glossary`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from groundrec.app.commands.options import Json
from groundrec.app.commands.settings_table import format_value
from groundrec.app.commands.terminal import print_table
from groundrec.core.config_learn import Train
from groundrec.core.errors import ConfigError
from groundrec.core.glossary import (
    Entry,
    Flag,
    entries,
    find,
    flags,
    format_names,
)
from groundrec.core.language import LANGUAGES, language

__all__ = ["explain_setting", "manual"]

BATCH = ("train.batch_size", "train.micro_batch_size")
FEW = 4
"""How many settings are explained in full when one name stands for several."""
LABELS = {
    "default": ("default", "默认值"),
    "accepted": ("accepted", "可取的值"),
    "cost": ("what it costs", "代价"),
    "called": ("the originals call it", "原代码的叫法"),
    "formerly": ("formerly", "旧名"),
    "set": ("set it", "如何设置"),
    "example": ("for example", "例如"),
    "data": ("in your data", "在你的数据里"),
    "more": (
        "`--run RUN` or `--dataset FOLDER` shows it in your own data",
        "加上 `--run RUN` 或 `--dataset FOLDER`，就能看到它在你自己数据上的样子",
    ),
    "see": ("see", "参见"),
    "flag": ("no setting corresponds to it", "这里没有对应的设置"),
    "setting": ("setting", "设置"),
    "meaning": ("meaning", "含义"),
}


def explain_setting(
    setting: Annotated[
        str,
        typer.Argument(
            help="A setting, its last part, its section, or its name in published code."
        ),
    ],
    run: Annotated[
        Path | None, typer.Option(help="A run directory, for an example from its data.")
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="A prepared data set, for an example from it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Explain SETTING: meaning, cost, its name in published code, and its effect on your data."""
    if run and dataset:
        raise ConfigError(
            "--run and --dataset cannot be combined",
            value=f"{run}, {dataset}",
            accepted="one of the two",
            next_step="leave out --dataset",
        )
    lang = language()
    settings, without = find(setting)
    found = [entry for entry in entries(lang) if entry.setting in settings]
    notes = [flag for flag in flags(lang) if flag.name in without]
    examples = _examples(found, run or dataset, lang) if len(found) <= FEW else {}
    if as_json:
        rows = [{**asdict(entry), "example": examples.get(entry.setting, [])} for entry in found]
        print(json.dumps([*rows, *map(asdict, notes)], ensure_ascii=False, default=str))
        return
    _print(found, notes, examples, lang, has_data=bool(run or dataset))


def manual(lang: str) -> Iterator[str]:
    """Yield the lines of the manual: every setting by section, then the names in published code."""
    top_first = sorted(entries(lang), key=lambda entry: "." in entry.setting)
    for section, rows in groupby(top_first, key=lambda entry: entry.setting.rpartition(".")[0]):
        yield f"\n## {f'[{section}]' if section else {'en': 'At the top', 'zh': '顶层'}[lang]}\n"
        for entry in rows:
            yield from _paragraphs(entry, lang)
    yield f"\n## {_label('called', lang).capitalize()}\n"
    yield f"| {_label('called', lang)} | | {_label('setting', lang)} |\n| --- | --- | --- |"
    yield from sorted(_published_names(lang), key=str.lower)


def _paragraphs(entry: Entry, lang: str) -> Iterator[str]:
    colon, full_stop = {"en": (": ", "."), "zh": ("：", "。")}[lang]

    def fact(name: str, text: str) -> str:
        return f"{_label(name, lang).capitalize()}{colon}{text}{full_stop}"

    facts = [fact("accepted", entry.accepted)]
    if entry.default is not None:
        facts.insert(0, fact("default", f"`{format_value(entry.default)}`"))
    if entry.called:
        facts.append(fact("called", format_names(entry.called)))
    if entry.formerly:
        facts.append(fact("formerly", f"`{entry.formerly}`"))
    yield f"### `{entry.setting}`\n"
    yield f"{entry.meaning}\n"
    yield f"*{_label('cost', lang).capitalize()}*{colon}{entry.cost}\n"
    yield (" " if lang == "en" else "").join(facts) + "\n"


def _published_names(lang: str) -> Iterator[str]:
    for entry in entries(lang):
        for name, by in entry.called.items():
            yield f"| `{name}` | {by} | `{entry.setting}` |"
    for flag in flags(lang):
        yield f"| `{flag.name}` | {flag.by} | {flag.text} |"


def _examples(found: Sequence[Entry], folder: Path | None, lang: str) -> dict[str, list[str]]:
    """Return an example's lines for each setting that has one."""
    from groundrec.app.commands.explain_data import EXAMPLES, ExampleData, batch_lines

    if folder is None:
        lines = list(batch_lines(Train(), lang))
        return {entry.setting: lines for entry in found if entry.setting in BATCH}
    data = ExampleData.at(folder, lang)
    return {
        entry.setting: list(EXAMPLES[entry.setting](data))
        for entry in found
        if entry.setting in EXAMPLES
    }


def _print(
    found: Sequence[Entry],
    notes: Sequence[Flag],
    examples: dict[str, list[str]],
    lang: str,
    *,
    has_data: bool,
) -> None:
    console = Console(highlight=False)
    if len(found) > FEW:
        columns = [
            Column(_label(name, lang), overflow="fold")
            for name in ("setting", "default", "meaning")
        ]
        table = Table(*columns)
        for entry in found:
            table.add_row(entry.setting, Text(format_value(entry.default)), Text(entry.meaning))
        print_table(table)
        return
    for entry in found:
        _print_entry(console, entry, examples.get(entry.setting, []), lang, has_data=has_data)
    for flag in notes:
        console.print(Text(f"{flag.name} ({flag.by}): {_label('flag', lang)}", style="bold"))
        console.print(Padding(Text(flag.text), (0, 2)))
        if flag.see:
            console.print(Padding(Text(f"{_label('see', lang)}  {', '.join(flag.see)}"), (0, 2)))


def _print_entry(
    console: Console, entry: Entry, example: list[str], lang: str, *, has_data: bool
) -> None:
    from groundrec.app.commands.explain_data import EXAMPLES

    console.print(Text(entry.setting, style="bold"))
    console.print(Padding(Text(entry.meaning), (0, 2, 1, 2)))
    table = Table.grid(Column(no_wrap=True), Column(overflow="fold"), padding=(0, 2))
    rows = {
        "cost": entry.cost,
        "default": format_value(entry.default),
        "accepted": entry.accepted.replace("`", ""),
        "called": format_names(entry.called),
        "formerly": entry.formerly,
        "set": f"--set {entry.setting}=…",
        "data" if has_data else "example": "\n".join(example),
    }
    if not has_data and entry.setting in EXAMPLES:
        rows["data"] = _label("more", lang)
    for name, text in rows.items():
        if text:
            table.add_row(Text(_label(name, lang), style="dim"), Text(text))
    console.print(Padding(table, (0, 2, 1, 2)))


def _label(name: str, lang: str) -> str:
    return LABELS[name][LANGUAGES.index(lang)]
