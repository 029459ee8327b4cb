"""Boards: what wandb's, TensorBoard's and Trackio's clients keep, and that a run goes on when they
are lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from groundrec.app import boards
from groundrec.app.boards import require, shown
from groundrec.core.config_track import Track
from groundrec.core.errors import ConfigError, MissingDependency
from groundrec.core.files import write_json
from groundrec.core.recipe import Recipe
from groundrec.core.track import Metrics, log, report_gradients

BLOCK = 32768
REPORT = {
    "methods": {"popularity": {"metrics": {"ndcg@10": {"mean": 0.25, "low": 0.2, "high": 0.3}}}}
}


def write_run(recipe: Recipe, run: Path) -> None:
    """Write what a run writes: two lines of metrics, a model, a report."""
    with shown(recipe, run):
        metrics = Metrics(run / "metrics.jsonl", "train")
        metrics.write(step=10, loss=2.5)
        metrics.write(step=20, loss=1.5)
        for step in (1, 2):
            report_gradients(step, lambda: {"head.weight": ([3, 0, 1], [-1.0, 0.0, 1.0, 2.0])})
        (run / "train").mkdir(exist_ok=True)
        write_json(run / "train" / "manifest.json", {})
        (run / "evaluate").mkdir(exist_ok=True)
        write_json(run / "evaluate" / "test.json", REPORT)
    metrics.write(step=30, loss=0.5)


def records(file: Path) -> Iterator[Any]:
    """Yield what a wandb run file holds: records in a log of blocks, each piece behind checksum,
    length and kind.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


@pytest.mark.slow
def test_wandb_offline_keeps_settings_numbers_report_and_model(tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb", reason="groundrec[wandb] is not installed")
    write_run(Recipe(name="seen", track=Track(board="wandb", model=True, watch=2)), tmp_path)
    # wandb's own process writes the end of the file after finish() has returned.
    wandb.teardown()
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    found = list(records(file))
    (begun,) = [r.run for r in found if r.HasField("run")][:1]
    assert (begun.project, begun.display_name) == ("groundrec", "seen")
    assert any(
        item.key == "train" and "learning_rate" in item.value_json for item in begun.config.update
    )
    history = [
        {"/".join(item.nested_key) or item.key: item.value_json for item in r.history.item}
        for r in found
        if r.HasField("history")
    ]
    assert [row["train/loss"] for row in history if "train/loss" in row] == ["2.5", "1.5"]
    counts = "gradients/head.weight/values"
    assert [row[counts] for row in history if counts in row] == ["[3,0,1]"]
    assert any("report" in name for row in history for name in row)
    artifacts = [
        r.request.log_artifact.artifact for r in found if r.request.HasField("log_artifact")
    ]
    artifacts += [r.artifact for r in found if r.HasField("artifact")]
    assert ("model", "seen-model") in {(artifact.type, artifact.name) for artifact in artifacts}


@pytest.mark.slow
def test_tensorboard_reads_the_numbers_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="groundrec[tensorboard] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_run(Recipe(track=Track(board="tensorboard", watch=2)), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(10, 2.5), (20, 1.5)]
    (shown_once,) = events.Histograms("gradients/head.weight")
    value = shown_once.histogram_value
    assert (shown_once.step, value.min, value.max, value.num) == (2, -1, 2, 4)
    assert sum(value.bucket) == 4
    assert events.Scalars("report/popularity/ndcg@10")[0].value == 0.25
    assert [e.step for e in events.Scalars("system/memory_gib")] == [1, 2]
    assert events.Scalars("system/memory_gib")[0].value > 0
    table = events.Tensors("report/text_summary")[0].tensor_proto.string_val[0].decode()
    assert table.splitlines() == [
        "| method | ndcg@10 |",
        "| --- | --- |",
        "| popularity | 0.2500 |",
    ]


def trackio_rows(run: Path, table: str, column: str) -> list[tuple[str, Any]]:
    """Return what Trackio's database holds: the run's name, and the JSON of each row."""
    with contextlib.closing(sqlite3.connect(run / "trackio" / "groundrec.db")) as database:
        found = database.execute(f"SELECT run_name, {column} FROM {table} ORDER BY id").fetchall()
    return [(name, json.loads(text)) for name, text in found]


@pytest.mark.slow
def test_trackio_keeps_settings_numbers_and_report_of_each_run_in_its_directory_and_asks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("trackio", reason="groundrec[trackio] is not installed")

    asked: list[tuple[object, ...]] = []

    def ask(*what: object, **_: object) -> None:
        asked.append(what)
        raise ConnectionError

    monkeypatch.setenv("HF_TOKEN", "hf_somebody")
    monkeypatch.setattr("huggingface_hub.whoami", ask)
    monkeypatch.setattr("socket.socket.connect", ask)
    monkeypatch.setenv("TRACKIO_SPACE_ID", "somebody/board")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "elsewhere"))
    for run in (tmp_path / "a", tmp_path / "b", tmp_path / "a"):
        run.mkdir(exist_ok=True)
        write_run(Recipe(name=f"run {run.name}", track=Track(board="trackio", watch=2)), run)
    for run, times in ((tmp_path / "a", 2), (tmp_path / "b", 1)):
        rows = trackio_rows(run, "metrics", "metrics")
        assert {name for name, _ in rows} == {f"run {run.name}"}
        assert [row["train/loss"] for _, row in rows if "train/loss" in row] == [2.5, 1.5] * times
        histograms = [
            row["gradients/head.weight"] for _, row in rows if "gradients/head.weight" in row
        ]
        assert [(h["values"], h["bins"]) for h in histograms] == [
            ([3, 0, 1], [-1, 0, 1, 2])
        ] * times
        report = [row["report"]["_value"] for _, row in rows if "report" in row]
        assert report == [[{"method": "popularity", "ndcg@10": 0.25}]] * times
        ((_, config),) = trackio_rows(run, "configs", "config")
        assert config["train"]["learning_rate"] == Recipe().train.learning_rate
    assert not asked
    assert os.environ["TRACKIO_SPACE_ID"] == "somebody/board"
    assert not (tmp_path / "elsewhere").exists()
    assert not capsys.readouterr().out


@pytest.mark.parametrize("at", ["begin", "write", "close"])
def test_a_board_that_is_lost_stops_nothing_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []

    def ask(what: str) -> None:
        asked.append(what)
        if what == at:
            raise ConnectionError("no server")

    class Lost:
        def __init__(self, *_: object) -> None:
            ask("begin")

        def write(self, *_: object) -> None:
            ask("write")

        def close(self, *_: object) -> None:
            ask("close")

    monkeypatch.setattr(boards, "_Wandb", Lost)
    monkeypatch.setattr(log, "propagate", True)
    write_run(Recipe(track=Track(board="wandb")), tmp_path)
    assert [row["step"] for row in Metrics.read(tmp_path / "metrics.jsonl")] == [10, 20, 30]
    assert (
        asked
        == {
            "begin": ["begin"],
            "write": ["begin", "write"],
            "close": ["begin", "write", "write", "close"],
        }[at]
    )
    assert [r.message for r in caplog.records] == [
        "  wandb failed, and the run continues without it: no server"
    ]


def test_without_a_board_nothing_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "_Wandb", None)
    monkeypatch.setattr(boards, "_Trackio", None)
    for section in (
        Track(),
        Track(board="wandb", mode="disabled"),
        Track(board="trackio", mode="disabled"),
    ):
        write_run(Recipe(track=section), tmp_path)
    assert len(Metrics.read(tmp_path / "metrics.jsonl")) == 9


def test_a_client_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards.importlib.util, "find_spec", lambda _: None)
    require(Track())
    require(Track(board="wandb", mode="disabled"))
    for board in ("wandb", "tensorboard", "trackio"):
        with pytest.raises(MissingDependency, match=rf"pip install 'groundrec\[{board}\]'"):
            require(Track(board=board))


@pytest.mark.parametrize(
    ("section", "accepted"),
    [
        (Track(watch=100), "tensorboard, trackio, wandb"),
        (Track(board="trackio", model=True), "wandb"),
    ],
)
def test_a_setting_that_no_board_would_show_is_refused(section: Track, accepted: str) -> None:
    with pytest.raises(
        ConfigError, match=f"needs a board that shows it.*\n.*track.board: {accepted}\n"
    ):
        require(section)


@pytest.mark.slow
def test_wandb_without_a_login_is_lost_at_once_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("wandb", reason="groundrec[wandb] is not installed")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(log, "propagate", True)
    write_run(Recipe(track=Track(board="wandb", mode="online")), tmp_path)
    assert len(Metrics.read(tmp_path / "metrics.jsonl")) == 3
    (lost,) = [r.message for r in caplog.records if r.name == "groundrec"]
    assert "wandb failed, and the run continues without it: No API key configured" in lost


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "while"])
def test_tensorboard_without_its_folder_is_lost_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    pytest.importorskip("tensorboard", reason="groundrec[tensorboard] is not installed")
    monkeypatch.setattr(log, "propagate", True)
    if when == "before":
        (tmp_path / "tensorboard").write_text("a file where the folder would be")
    else:
        from torch.utils.tensorboard import SummaryWriter

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    write_run(Recipe(track=Track(board="tensorboard")), tmp_path)
    assert len(Metrics.read(tmp_path / "metrics.jsonl")) == 3
    (lost,) = [r.message for r in caplog.records if r.name == "groundrec"]
    assert "tensorboard failed, and the run continues without it" in lost
