"""Runs as tables for the terminal.

Knows nothing about how a state is found out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from groundrec.app.jobs.state import State

if TYPE_CHECKING:
    from groundrec.app.stages import comparison as compare
    from groundrec.evaluate.statistics import Interval

__all__ = ["BEGUN_AGAIN", "comparison", "facts", "listing", "print_table"]

STYLES = {
    "running": "green",
    "queued": "cyan",
    "failed": "red",
    "killed": "red",
    "lost": "red",
    "stopped": "yellow",
}
BEGUN_AGAIN = ("stopped", "failed", "killed", "lost")


def print_table(table: Table) -> None:
    """Print a table to the terminal."""
    Console(highlight=False).print(table)


def listing(states: Sequence[State]) -> Table:
    """Return one line for each run."""
    fixed = (Column(name, no_wrap=True) for name in ("run", "state"))
    table = Table(*fixed, "stage", "progress", "best", "memory", box=None, pad_edge=False)
    for s in states:
        state = f"[{STYLES[s.state]}]{s.state}[/]" if s.state in STYLES else s.state
        stage = s.stage or s.why.partition("\n")[0] or (f"until {s.until}" if s.until else "")
        table.add_row(escape(s.name), state, escape(stage), _progress(s), _best(s), _size(s.memory))
    return table


def facts(s: State) -> Table:
    """Return what there is to say of one run."""
    table = Table.grid(padding=(0, 2))
    for name, value in _facts(s):
        table.add_row(name, escape(value))
    return table


def _facts(s: State) -> Iterator[tuple[str, str]]:
    yield "run", s.path
    yield "state", s.state + (f": {s.why}" if s.why else "")
    if s.stage:
        yield "stage", s.stage
    if s.completed is not None:
        yield "progress", _progress(s)
    if s.until:
        yield "until", s.until
    if s.best:
        yield "best", _best(s)
    if s.memory:
        yield "memory", f"{_size(s.memory)} {_when(s)}"
    if s.pid or s.supervisor:
        yield (
            "processes",
            ", ".join(f"{n} {p}" for n, p in (("run", s.pid), ("supervisor", s.supervisor)) if p),
        )
    if s.gpu:
        yield "GPU", s.gpu
    if s.exit:
        yield "exit", str(s.exit["signal"] or s.exit["code"])
    if s.sweep:
        yield "sweep", s.sweep
    if s.settings:
        yield "set", " ".join(s.settings)
    yield "log", f"{s.path}/log.txt"
    if s.state in BEGUN_AGAIN or (s.state == "finished" and s.until):
        yield "go on", f"groundrec runs resume {s.path}"


def comparison(found: compare.Table, waiting: Sequence[State]) -> Table:
    """Return one line for each run and method, and one for each run that has measured nothing yet."""
    keys = list(found.rows[0].settings)
    metrics = list(found.rows[0].metrics)
    method = ["method"] * (len({row.method for row in found.rows}) > 1)
    fixed = [
        Column(name, no_wrap=True) for name in ("run", *method, *keys)
    ]  # no narrow terminal may leave one out
    table = Table(*fixed, *metrics, box=None, pad_edge=False)
    for row in found.rows:
        cells = (_cell(row.metrics[name], row.versus.get(name)) for name in metrics)
        values = (escape(str(row.settings[key])) for key in keys)
        table.add_row(escape(row.run), *[row.method] * len(method), *values, *cells)
    for state in waiting:
        asked = dict(setting.split("=", 1) for setting in state.settings)
        values = (escape(asked.get(key, "")) for key in keys)
        table.add_row(escape(state.name), *[""] * len(method), *values, state.state)
    return table


def _cell(mean: Interval, paired: compare.Paired | None) -> str:
    text = f"{mean.mean:.4f} ({mean.low:.4f}–{mean.high:.4f})"
    if not paired:
        return text
    return (
        f"{text}\n{paired.difference:+.4f} ({paired.low:+.4f}…{paired.high:+.4f}) p {paired.p:.3f}"
    )


def _progress(s: State) -> str:
    if s.completed is None:
        return ""
    total = f"/{s.total:,.0f}" if s.total else ""
    left = f", {_duration(s.eta)} left" if s.eta is not None else ""
    return f"{s.what} {s.completed:,.0f}{total}{left}"


def _best(s: State) -> str:
    if s.best is None:
        return ""
    return f"{s.best.metric} {s.best.value:.4f}" + (f" {s.best.method}" if s.best.method else "")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _when(s: State) -> str:
    """Return what the memory told is; of a run that is lost, only what it held when a stage began
    is known.
    """
    return "now" if s.pid else "at least" if s.state == "lost" else "at most"


def _size(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB" if size else ""
