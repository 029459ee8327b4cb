"""Runs as tables for the terminal.

Knows nothing about how a state is found out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Column, Table

from groundrec.app.jobs.state import State

if TYPE_CHECKING:
    from groundrec.app.stages import comparison
    from groundrec.app.stages.seeds import SeedRow
    from groundrec.evaluate.statistics import Interval

__all__ = ["RESUMABLE", "comparison_table", "details_table", "runs_table", "seeds_table"]

STYLES = {
    "running": "green",
    "queued": "cyan",
    "failed": "red",
    "killed": "red",
    "lost": "red",
    "stopped": "yellow",
}
RESUMABLE = ("stopped", "failed", "killed", "lost")


def runs_table(states: Sequence[State]) -> Table:
    """Return one line per run."""
    # Names and states stay on one line; what a run waits for or failed with may take several.
    fixed = [Column(name, no_wrap=True) for name in ("run", "state")]
    folded = [Column(name, overflow="fold") for name in ("stage", "progress", "best", "memory")]
    table = Table(*fixed, *folded, box=None, pad_edge=False)
    for s in states:
        state = f"[{STYLES[s.state]}]{s.state}[/]" if s.state in STYLES else s.state
        stage = s.stage or s.why.partition("\n")[0] or (f"until {s.until}" if s.until else "")
        table.add_row(
            escape(s.name),
            state,
            escape(stage),
            _format_progress(s),
            _format_best(s),
            _format_bytes(s.memory),
        )
    return table


def details_table(s: State) -> Table:
    """Return everything that is known about one run."""
    table = Table.grid(Column(), Column(overflow="fold"), padding=(0, 2))
    for name, value in _details(s):
        table.add_row(name, escape(value))
    return table


def _details(s: State) -> Iterator[tuple[str, str]]:
    yield "run", s.path
    yield "state", s.state + (f": {s.why}" if s.why else "")
    if s.stage:
        yield "stage", s.stage
    if s.completed is not None:
        yield "progress", _format_progress(s)
    if s.until:
        yield "until", s.until
    if s.best:
        yield "best", _format_best(s)
    if s.memory:
        yield "memory", f"{_format_bytes(s.memory)} {_memory_measured(s)}"
    if s.pid or s.supervisor:
        processes = {"run": s.pid, "supervisor": s.supervisor}
        yield "processes", ", ".join(f"{name} {pid}" for name, pid in processes.items() if pid)
    if s.gpu:
        yield "GPU", s.gpu
    if s.exit:
        yield "exit", str(s.exit["signal"] or s.exit["code"])
    if s.sweep:
        yield "sweep", s.sweep
    if s.settings:
        yield "set", " ".join(s.settings)
    yield "log", f"{s.path}/log.txt"
    if s.state in RESUMABLE or (s.state == "finished" and s.until):
        yield "resume", f"groundrec runs resume {s.path}"


def comparison_table(found: comparison.Table, unmeasured: Sequence[State]) -> Table:
    """Return one line per run and method, and one per run that has not measured anything yet."""
    keys = list(found.rows[0].settings)
    metrics = list(found.rows[0].metrics)
    has_methods = len({row.method for row in found.rows}) > 1
    method_column = ["method"] if has_methods else []
    table = Table("run", *method_column, *keys, *metrics, box=None, pad_edge=False)
    for row in found.rows:
        method = [escape(row.method)] if has_methods else []
        values = (escape(str(row.settings[key])) for key in keys)
        cells = (_format_metric(row.metrics[name], row.versus.get(name)) for name in metrics)
        table.add_row(escape(row.run), *method, *values, *cells)
    for state in unmeasured:
        asked = dict(setting.split("=", 1) for setting in state.settings)
        method = [""] if has_methods else []
        values = (escape(asked.get(key, "")) for key in keys)
        table.add_row(escape(state.name), *method, *values, state.state)
    return table


def seeds_table(rows: Sequence[SeedRow]) -> Table:
    """Return one line per method of runs that differ in their seed alone."""
    keys = list(rows[0].settings)
    has_methods = len({row.method for row in rows}) > 1
    method_column = ["method"] if has_methods else []
    table = Table("runs", *method_column, *keys, *rows[0].metrics, box=None, pad_edge=False)
    for row in rows:
        method = [escape(row.method)] if has_methods else []
        values = (escape(str(row.settings[key])) for key in keys)
        cells = (f"{found.mean:.4f} ± {found.deviation:.4f}" for found in row.metrics.values())
        table.add_row(escape(row.name), *method, *values, *cells)
    return table


def _format_metric(mean: Interval, paired: comparison.Paired | None) -> str:
    text = f"{mean.mean:.4f} ({mean.low:.4f}–{mean.high:.4f})"
    if not paired:
        return text
    interval = f"({paired.low:+.4f}…{paired.high:+.4f})"
    return f"{text}\n{paired.difference:+.4f} {interval} p {paired.p:.3f}"


def _format_progress(s: State) -> str:
    if s.completed is None:
        return ""
    total = f"/{s.total:,.0f}" if s.total else ""
    left = f", {_format_duration(s.eta)} left" if s.eta is not None else ""
    return f"{s.what} {s.completed:,.0f}{total}{left}"


def _format_best(s: State) -> str:
    if s.best is None:
        return ""
    return f"{s.best.metric} {s.best.value:.4f}" + (f" {s.best.method}" if s.best.method else "")


def _format_duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _memory_measured(s: State) -> str:
    """Return when the memory was measured: now, or at its peak.

    Of a lost run only what it held when its last stage started is known.
    """
    return "now" if s.pid else "at least" if s.state == "lost" else "at most"


def _format_bytes(size: float) -> str:
    if not size:
        return ""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
