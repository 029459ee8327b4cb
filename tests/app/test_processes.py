"""A run by several processes that a launcher starts ends with the very bytes of a run by one."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import pytest

from groundrec.core.files import read_json
from groundrec.core.track import Metrics
from groundrec.train.start import last_complete_checkpoint
from tests.app.conftest import Tiny, slate_bytes
from tests.app.launched import PATIENCE, TORCHRUN, arguments, begun, killed, output, started
from tests.commands import command

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run whose slates one process has made."""
    run = begun(tiny, tmp_path_factory.mktemp("alone") / "run")
    with started([sys.executable, *arguments(tiny, run)]) as process:
        text = output(process)
    assert process.returncode == 0, text
    return run


def test_two_processes_write_what_one_writes(tiny: Tiny, alone: Path, tmp_path: Path) -> None:
    with started([*TORCHRUN, *arguments(tiny, begun(tiny, tmp_path / "run"))]) as process:
        text = output(process)
    assert process.returncode == 0, text
    assert slate_bytes(tmp_path / "run") == slate_bytes(alone)
    assert text.count("2 processes train and recommend together") == 1
    assert text.count("recommend/test finished") == 1
    lines = (tmp_path / "run" / "log.txt").read_text(encoding="utf-8").splitlines()
    assert sum("recommend/test finished" in line for line in lines) == 1
    results = [
        read_json(run / "recommend" / "test" / "manifest.json")["result"]
        for run in (tmp_path / "run", alone)
    ]
    assert results[0] == results[1]
    assert read_json(tmp_path / "run" / "status.json")["state"] == "finished"
    assert not (tmp_path / "run" / "processes").exists()


def test_from_raw_data_on_the_main_process_does_what_only_one_may(
    tiny: Tiny, tmp_path: Path
) -> None:
    start = ["-m", "groundrec", "run", str(tiny.recipe), "--run-dir", str(tmp_path / "run")]
    with started([*TORCHRUN, *start]) as process:
        text = output(process)
    assert process.returncode == 0, text
    assert text.count("batch 4 = 2 per step × 1 accumulation × 2 processes") == 1
    found, alone = (
        [row["eval_loss"] for row in Metrics.read(run / "metrics.jsonl") if "eval_loss" in row]
        for run in (tmp_path / "run", tiny.run)
    )
    assert found == pytest.approx(
        alone, abs=1e-2
    )  # sums in another order, over twelve epochs at a high rate
    assert text.count("epoch 12: validation loss") == 1
    assert (tmp_path / "run" / "report.html").exists()


def test_both_save_when_asked_to_stop_and_end_where_one_that_was_left_alone_does(
    tiny: Tiny, tmp_path: Path
) -> None:
    run, log = tmp_path / "run", tmp_path / "run" / "log.txt"
    start = [
        *TORCHRUN,
        "-m",
        "groundrec",
        "run",
        str(tiny.recipe),
        "--run-dir",
        str(run),
        "--until",
        "train",
    ]
    start += ["--if-exists", "resume", "--set", "signals=[]", "--set", "fuse.signals=[]"]
    with started(start) as process:
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            if log.exists() and "epoch 3: validation loss" in log.read_text(encoding="utf-8"):
                break
            time.sleep(0.01)
        process.terminate()
        text = output(process)
    assert process.returncode != 0, text
    assert text.count("stopped after saving a checkpoint") == 1
    assert read_json(run / "status.json")["state"] == "stopped"
    saved = last_complete_checkpoint(run / "train" / "checkpoints")
    assert saved
    with started(start) as process:
        text = output(process)
    assert process.returncode == 0, text
    assert f"resuming from {saved.name}" in text
    losses = [
        [row["eval_loss"] for row in Metrics.read(r / "metrics.jsonl") if "eval_loss" in row]
        for r in (run, tiny.run)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-2)


@pytest.mark.parametrize("which", [0, 1])
def test_a_worker_is_killed_and_the_run_resumed(
    tiny: Tiny, alone: Path, tmp_path: Path, which: int
) -> None:
    start = [*TORCHRUN, *arguments(tiny, begun(tiny, tmp_path / "run"))]
    with started(start) as process:
        killed(
            process,
            lambda line: "groundrec" in line and "torch.distributed.run" not in line,
            which,
            tmp_path / "run",
        )
        text = output(process)
    assert process.returncode != 0, text
    assert not (tmp_path / "run" / "recommend" / "valid" / "manifest.json").exists()
    with started(start) as process:
        text = output(process)
    assert process.returncode == 0, text
    assert "recommend/valid: resumed, started with the same inputs" in text
    assert slate_bytes(tmp_path / "run") == slate_bytes(alone)


def test_a_run_begun_by_two_is_finished_by_one(tiny: Tiny, alone: Path, tmp_path: Path) -> None:
    run = begun(tiny, tmp_path / "run")
    for split in ("valid", "test"):
        shutil.copytree(alone / "recommend" / split, run / "recommend" / split)
        (run / "recommend" / split / "manifest.json").unlink()
        (run / "recommend" / split / "000000005.parquet").unlink()
    with started([sys.executable, *arguments(tiny, run, "recommend.memory_limit=1GB")]) as process:
        text = output(process)
    assert process.returncode == 0, text
    assert text.count("resumed, started with the same inputs") == 2
    assert slate_bytes(run) == slate_bytes(alone)


def test_accelerate_that_starts_one_process_for_two_is_found_out(
    tiny: Tiny, tmp_path: Path
) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    start = [
        "-m",
        "groundrec",
        "run",
        str(tiny.recipe),
        "--run-dir",
        str(tmp_path / "run"),
        "--until",
        "prepare",
    ]
    with started([*launch, *start]) as process:
        text = output(process)
    assert process.returncode == 0, text
    assert "asked for several processes and started this one alone" in text
    assert "torchrun --nproc_per_node" in text


def test_one_process_says_nothing_about_several(tiny: Tiny, tmp_path: Path) -> None:
    result = command("run", tiny.recipe, "--run-dir", tmp_path / "run", "--until", "prepare")
    assert "processes" not in result.err.replace(tmp_path.name, "")
