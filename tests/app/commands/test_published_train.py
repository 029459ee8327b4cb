"""Published training commands as typed: failed, killed, repeated, resumed, in loops."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from groundrec.app.commands.published_data import DataFiles
from groundrec.app.commands.published_flags import parse_flags
from groundrec.core.files import read_json
from tests.app.published import INSTRUCTION, ITEMS, title, write_checkpoint, write_d3_data
from tests.commands import Result, command

LINE = (
    "--base_model",
    '["./llama"]',
    "--train_data_path",
    '["./data/movie/train.json"]',
    "--val_data_path",
    '["./data/movie/valid_5000.json"]',
    "--output_dir",
    "./model/movie/0_8",
    *("--sample", "8", "--batch_size", "4", "--num_epochs", "2"),
)
LOOPS = """
set -e
for seed in 0 1
do
    for sample in 8
    do
        groundrec train \\
            --base_model ./llama/ \\
            --train_data_path "[\\"./data/movie/train.json\\"]"   \\
            --val_data_path "[\\"./data/movie/valid_5000.json\\"]" \\
            --output_dir ./model/movie/${seed}_${sample} \\
            --batch_size 128 \\
            --micro_batch_size 4 \\
            --num_epochs 30 \\
            --learning_rate 1e-4 \\
            --cutoff_len 512 \\
            --lora_r 8 \\
            --lora_alpha 16\\
            --lora_dropout 0.05 \\
            --lora_target_modules '[q_proj,v_proj]' \\
            --train_on_inputs \\
            --group_by_length \\
            --resume_from_checkpoint 'XXX' \\
            --seed $seed \\
            --sample $sample
    done
done
groundrec train --base_model ./llama/ \\
    --train_data_path "[\\"./data/movie/train.json\\", \\"./data/game/train.json\\"]"  \\
    --val_data_path "[\\"./data/movie/valid_5000.json\\", \\"./data/game/valid_5000.json\\"]"  \\
    --output_dir ./model/multi/0_8 --num_epochs 2 --sample 8 --seed 0
for category in "Toys_and_Games" "Books"
do
    train_file=$(ls -f ./data/Amazon/train/${category}*11.csv)
    eval_file=$(ls -f ./data/Amazon/valid/${category}*11.csv)
    groundrec train --local-rank=0 \\
        --base_model ./llama \\
        --train_file ${train_file} \\
        --eval_file ${eval_file} \\
        --output_dir ./output_dir/${category} \\
        --category ${category}
    cp ./llama/*token* ./output_dir/${category}/
done
"""
RUNS = (
    *("model/movie/0_8", "model/movie/1_8", "model/multi/0_8"),
    *("output_dir/Toys_and_Games", "output_dir/Books"),
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a clean folder of the originals' layout, in which commands are typed."""
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path, "llama")
    for number, domain in enumerate(("movie", "game")):
        folder = tmp_path / "data" / domain
        folder.mkdir(parents=True)
        rng = random.Random(number)
        for name, size in (("train", 20), ("valid_5000", 8), ("test_5000", 8)):
            rows = [_row(domain, rng.sample(range(ITEMS), 7)) for _ in range(size)]
            (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    for category in ("Toys_and_Games", "Books"):
        name = f"{category}_5_2017-10-2018-11"
        write_d3_data(tmp_path / "data" / "Amazon", name, train=12, valid=6, test=6)
    return tmp_path


def _row(domain: str, items: list[int]) -> dict[str, str]:
    *history, target = [f"{title(item)} of the {domain}s" for item in items]
    listed = ", ".join(f'"{one}"' for one in history)
    return {"instruction": INSTRUCTION, "input": f"Before: {listed}\n ", "output": f'"{target}"'}


def train(*more: str) -> Result:
    return command("train", *LINE, *more, width=200)


def imports(place: Path) -> list[str]:
    """Return the data sets that were imported, by name."""
    return sorted(file.parent.name for file in place.glob("imported-data/*/dataset.json"))


def test_the_same_command_works_after_a_failure_and_so_does_the_advice(place: Path) -> None:
    failed = train("--cutoff_len", "64")
    assert failed.code == 2
    again = train("--cutoff_len", "64")
    assert again.err.splitlines()[-3:] == failed.err.splitlines()[-3:]
    advice = failed.err.rpartition("next: ")[2].split()
    assert advice[0] == "--set"
    done = train("--cutoff_len", "64", *advice)
    assert done.code == 0, done.err
    assert "train: skipped" in train("--cutoff_len", "64", *advice).err


def test_a_trained_model_is_not_lost_to_other_settings(place: Path) -> None:
    assert train().code == 0
    model = (place / "model/movie/0_8/train/adapter_model.safetensors").read_bytes()
    for more in (("--learning_rate", "1e-3"), ("--num_epochs", "4"), ("--sample", "-1")):
        for refused in (train(*more), train(*more, "--dry-run")):
            assert (refused.code, "was trained with other settings" in refused.err) == (2, True)
    assert (place / "model/movie/0_8/train/adapter_model.safetensors").read_bytes() == model
    assert train("--learning_rate", "1e-3", "--if-exists", "new").code == 0
    assert (place / "model/movie/0_8-2/train/adapter_model.safetensors").read_bytes() != model
    assert len(imports(place)) == 1


def test_a_checkpoint_is_used_itself_or_refused(place: Path) -> None:
    assert train().code == 0
    own = "model/movie/0_8"
    newest = f"{own}/train/checkpoints/checkpoint-4"
    assert (place / newest).is_dir()
    gone = train("--resume_from_checkpoint", f"{own}/checkpoint-9")
    assert (gone.code, "no such checkpoint" in gone.err) == (2, True)
    elsewhere = train("--resume_from_checkpoint", "model/lost", "--output_dir", "model/b")
    assert (elsewhere.code, "no such checkpoint" in elsewhere.err) == (2, True)
    older = train("--resume_from_checkpoint", f"{own}/checkpoint-2")
    assert (older.code, "a later checkpoint" in older.err) == (2, True)
    for named in (newest, f"{own}/checkpoint-4", own, "True"):
        assert train("--resume_from_checkpoint", named).code == 0
    advice = older.err.rpartition("next: ")[2].split()
    more = train(*advice, "--num_epochs", "5", "--set", "train.warmup_steps=0")
    assert more.code == 0, more.err
    assert "resuming from checkpoint-2" in more.err
    assert "made for 2 epochs, is stretched to 5: the learning rate goes on at" in more.err


@pytest.mark.parametrize(
    "more",
    [
        ("--base_model", "./no-such-model"),
        ("--train_data_path", "no.json"),
        ("--val_data_path", "no.json"),
        ("--test_data_path", "no.json"),
        ("--batch_size", "6"),
        ("--num_epochs", "0"),
        ("--resume_from_checkpoint", "model/lost"),
        ("--output_dir", "llama"),
        ("--output_dir", "llama/config.json/out"),
        ("--if-exists", "again"),
        ("--set", "train.epoch=3"),
        ("--lora_r", "many"),
    ],
)
def test_a_dry_run_refuses_what_the_run_refuses(place: Path, more: tuple[str, ...]) -> None:
    before = sorted(place.rglob("*"))
    dry, real = train(*more, "--dry-run"), train(*more)
    assert (dry.code, real.code) == (2, 2), dry.err
    assert dry.err == real.err
    assert sorted(place.rglob("*")) == before


def test_runs_of_a_loop_share_one_import_also_when_they_start_together(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Path] = []
    own = DataFiles._import

    def slow(self: DataFiles, out: Path) -> None:
        begun.append(out)
        time.sleep(0.2)
        own(self, out)

    monkeypatch.setattr(DataFiles, "_import", slow)
    asked = [parse_flags([*LINE, "--seed", str(seed)]).data[0] for seed in (0, 1, 2)]
    threads = [threading.Thread(target=one.import_once) for one in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(begun) == len(imports(place)) == 1
    rows = json.loads(Path("data/movie/train.json").read_text(encoding="utf-8"))
    Path("data/movie/train.json").write_text(json.dumps(rows[:12]), encoding="utf-8")
    changed = parse_flags(LINE).data[0].import_once()
    assert read_json(changed / "dataset.json")["counts"]["train"]["queries"] == 12
    assert len(imports(place)) == 2


def run_script(place: Path, until: Callable[[], bool] = lambda: False) -> tuple[int, str]:
    """Run the loops in a shell, killed with all it has started once `until` holds."""
    (place / "bin").mkdir(exist_ok=True)
    shim = place / "bin" / "groundrec"
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m groundrec "$@"\n', encoding="utf-8")
    shim.chmod(0o755)
    (place / "run.sh").write_text(LOOPS, encoding="utf-8")
    paths = {"PATH": f"{place / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": ":".join(sys.path)}
    shell = subprocess.Popen(
        ["bash", "run.sh"],
        cwd=place,
        env={**os.environ, **paths},
        stdout=subprocess.DEVNULL,
        stderr=(log := (place / "log").open("wb")),
        start_new_session=True,
    )
    while shell.poll() is None and not until():
        time.sleep(0.05)
    if shell.poll() is None:
        os.killpg(shell.pid, signal.SIGKILL)
    code = shell.wait()
    log.close()
    return code, (place / "log").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_published_loops_run_as_typed_killed_repeated_and_resumed(place: Path) -> None:
    checkpoint = "model/movie/1_8/train/checkpoints/checkpoint-*/whole.json"
    code, _ = run_script(place, until=lambda: any(place.glob(checkpoint)))
    assert code == -signal.SIGKILL
    code, log = run_script(place)
    assert code == 0, log[-3000:]
    assert "train: resumed, started with the same inputs" in log
    assert "resuming from checkpoint-" in log
    for run in RUNS:
        assert (place / run / "train" / "manifest.json").is_file(), run
    config = read_json(place / "model/movie/0_8/config.json")
    assert (config["train"]["schedule"], config["train"]["patience"]) == ("linear", 5)
    config = read_json(place / "output_dir/Books/config.json")
    assert (config["train"]["method"], config["train"]["patience"]) == ("full", 1)
    assert len(imports(place)) == 4
    code, log = run_script(place)
    assert code == 0, log[-3000:]
    assert log.count("train: skipped") == len(RUNS)
