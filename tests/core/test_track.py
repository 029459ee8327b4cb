"""What a run reports while it works."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from groundrec.core import track
from groundrec.core.files import read_json
from groundrec.core.track import Metrics, log, log_to, progress, progress_bar, progress_to
from tests.commands import keeping_the_log


def test_lines_are_read_back_in_order_with_their_stage(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    Metrics(path, "train").write(step=1, loss=2.5)
    Metrics(path, "sasrec").write(epoch=1)
    rows = Metrics.read(path)
    assert [{k: v for k, v in row.items() if k != "time"} for row in rows] == [
        {"stage": "train", "step": 1, "loss": 2.5},
        {"stage": "sasrec", "epoch": 1},
    ]


def test_a_line_cut_short_is_skipped_and_corrupts_no_other(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    Metrics(path, "train").write(step=1)
    Metrics(path, "train").write(step=2)
    path.write_bytes(path.read_bytes()[:-9])
    assert [row["step"] for row in Metrics.read(path)] == [1]
    again = Metrics(path, "train")
    again.write(step=2)
    again.write(step=3)
    assert [row["step"] for row in Metrics.read(path)] == [1, 2, 3]


def test_a_missing_file_has_no_lines(tmp_path: Path) -> None:
    assert Metrics.read(tmp_path / "metrics.jsonl") == []
    (tmp_path / "metrics.jsonl").touch()
    Metrics(tmp_path / "metrics.jsonl", "train").write(step=1)
    assert (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").startswith("{")


@pytest.mark.parametrize("quiet", [False, True])
def test_the_log_goes_to_the_terminal_unless_quiet_and_to_the_newest_file_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: bool
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := io.StringIO())
    with keeping_the_log():
        log_to(tmp_path / "old.txt", quiet=quiet)
        log_to(tmp_path / "new.txt", quiet=quiet)
        log.info("[bold]50%[/bold] of titles")
    assert (tmp_path / "old.txt").read_text(encoding="utf-8") == ""
    assert (
        (tmp_path / "new.txt")
        .read_text(encoding="utf-8")
        .endswith(" INFO [bold]50%[/bold] of titles\n")
    )
    assert terminal.getvalue() == ("" if quiet else "[bold]50%[/bold] of titles\n")


def test_progress_changes_nothing_and_is_hidden_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := io.StringIO())
    assert list(progress(range(5), "working")) == [0, 1, 2, 3, 4]
    assert list(progress(iter("abc"), "working", total=3)) == ["a", "b", "c"]
    assert terminal.getvalue() == ""


def test_progress_is_written_for_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, clock = tmp_path / "progress.json", iter(range(1000))
    monkeypatch.setattr(track.time, "monotonic", lambda: next(clock))
    progress_to(file)
    try:
        written = []
        for _ in progress(range(3), "working"):
            state = read_json(file)
            written.append((state["what"], state["completed"], state["total"], state["first"]))
        assert written == [("working", 0, 3, 0), ("working", 1, 3, 0), ("working", 2, 3, 0)]
        assert read_json(file)["completed"] == 3
        with progress_bar() as bar:
            task = bar.add_task("resumed", total=10, completed=4)
            bar.update(task, completed=6)
        state = read_json(file)
        assert (state["what"], state["first"], state["completed"]) == ("resumed", 4, 6)
        assert state["since"] <= state["updated"]
    finally:
        progress_to(None)
    list(progress(range(2), "unseen"))
    assert read_json(file)["what"] == "resumed"


def test_progress_is_written_about_once_a_second_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "progress.json"
    monkeypatch.setattr(track.time, "monotonic", lambda: 5.0)
    progress_to(file)
    try:
        seen = [read_json(file)["completed"] for _ in progress(range(100), "working")]
    finally:
        progress_to(None)
    assert set(seen) == {0}
    assert read_json(file)["completed"] == 100


def test_recording_in_a_run_changes_nothing_that_is_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Warnings are shown even without handlers; afterwards no handler is left."""
    code = f"""
from pathlib import Path
from groundrec.core.track import record_in, log
with record_in(Path({str(tmp_path)!r})):
    log.info("only in the file")
    log.warning("everywhere")
log.info("nowhere")
assert not log.handlers
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert capfd.readouterr().err == "everywhere\n"
    lines = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == [
        "INFO only in the file",
        "WARNING everywhere",
    ]
