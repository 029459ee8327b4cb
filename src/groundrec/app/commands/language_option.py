"""The option `--lang`, which every command has. Knows nothing about what commands print."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperCommand, TyperOption

from groundrec.core.language import LANGUAGES, choose_language, use_language

__all__ = ["give_every_command_its_language"]


class _CommandWithLanguage(TyperCommand):
    """A command with the option `--lang`, read before any other so that errors obey it too."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.params.append(_option())


def give_every_command_its_language(app: typer.Typer) -> None:
    """Add `--lang` to every command of `app` and of its groups."""
    for command in _commands(app):
        command.cls = _CommandWithLanguage


def _commands(app: typer.Typer) -> Iterator[Any]:
    yield from app.registered_commands
    for group in app.registered_groups:
        if group.typer_instance is not None:
            yield from _commands(group.typer_instance)


def _option() -> TyperOption:
    made = typer.Typer(add_completion=False)

    @made.command()
    def _only(  # pyright: ignore[reportUnusedFunction]
        lang: str | None = typer.Option(
            None,
            "--lang",
            help=f"Language: {' or '.join(LANGUAGES)}. Default: that of the locale.",
            is_eager=True,
            expose_value=False,
            callback=_use,
        ),
    ) -> None: ...

    parameters = typer.main.get_command(made).params
    return next(one for one in parameters if isinstance(one, TyperOption) and one.name == "lang")


def _use(value: str | None) -> None:
    use_language(choose_language(value))
