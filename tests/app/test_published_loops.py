"""Shell loops of inference and evaluation as the published pages have them, with our commands in
them: typed in a clean folder, killed once, typed again.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.app import published

pytestmark = pytest.mark.slow

ROWS = 100
HEAD = f'groundrec() {{ "{sys.executable}" -m groundrec "$@"; }}\n'
BIGREC = """
for seed in 0 1
do
    groundrec inference \\
        --base_model "[\\"./llama/\\"]" \\
        --lora_weights ./model/movie/${seed}_1024 \\
        --test_data_path ./data/movie/test.json \\
        --result_json_data ./movie_result/${seed}_1024.json || exit 1
done
cp data/movie/movies.dat .
groundrec evaluate --input_dir ./movie_result --base_model ./llama/ --bootstrap 0 || exit 1
"""
D3 = """
info_file=$(ls -f ./info/Books*.txt)
for category in "Books"
do
    for penalty in 1.0 0.0
    do
        for i in 0 1 2
        do
            groundrec evaluate --base_model ./output_dir/${category}/ --train_file train.csv \\
                --info_file ${info_file} --category ${category} --length_penalty ${penalty} \\
                --test_data_path ./temp/${category}_base/${i}.csv \\
                --result_json_data ./temp/${category}_base/${i}.json &
        done
        wait
        python3 merge.py ./temp/${category}_base ./output_dir/${category}/${penalty}.json || exit 1
        groundrec evaluate --path ./output_dir/${category}/${penalty}.json \\
            --item_path ${info_file} --bootstrap 0 || exit 1
    done
done
"""
MERGE = """
import json, sys
folder, out = sys.argv[1:]
parts = [json.load(open(f"{folder}/{part}.json")) for part in range(3)]
json.dump([row for part in parts for row in part], open(out, "w"))
"""


def typed(loop: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", "-c", HEAD + loop],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def killed_after_its_first_shard(loop: str, folder: Path) -> None:
    process = typed(loop, folder)
    while not any(folder.glob("runs/inference/*/inference/*.parquet")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def shards(folder: Path) -> dict[str, int]:
    """Return the shards there are, and when each was written."""
    return {
        str(file): file.stat().st_mtime_ns
        for file in folder.glob("runs/inference/*/inference/*.parquet")
    }


def finished(loop: str, folder: Path) -> str:
    process = typed(loop, folder)
    told = process.communicate()[0]
    assert process.returncode == 0, told
    return told


def write_parts(folder: Path, file: Path) -> None:
    """Write three parts of a test file, each row with its number, as pandas writes them."""
    (folder / "temp" / "Books_base").mkdir(parents=True)
    with file.open(encoding="utf-8") as text:
        header, *rows = csv.reader(text)
    for part in range(3):
        start, end = part * len(rows) // 3, (part + 1) * len(rows) // 3
        with (folder / f"temp/Books_base/{part}.csv").open("w", encoding="utf-8") as out:
            writer = csv.writer(out)
            writer.writerow(["", *header])
            writer.writerows([n, *rows[n]] for n in range(start, end))


def test_bigrecs_loop(tmp_path: Path) -> None:
    base, lora = published.write_checkpoint(tmp_path, old=True)
    data = published.write_bigrec(tmp_path, ROWS)
    for seed in (0, 1):
        shutil.copytree(lora, tmp_path / f"model/movie/{seed}_1024")
    killed_after_its_first_shard(BIGREC, tmp_path)
    assert not (tmp_path / "movie_result").exists() or not any(
        (tmp_path / "movie_result").iterdir()
    )
    before = shards(tmp_path)
    told = finished(BIGREC, tmp_path)
    assert "inference: resumed" in told
    assert told.count("grounded") == 2
    after = shards(tmp_path)
    assert before.items() <= after.items()
    given = json.loads((data / "test.json").read_text(encoding="utf-8"))
    results = json.loads((tmp_path / "movie_result/0_1024.json").read_text(encoding="utf-8"))
    assert [{**row, "predict": []} for row in results] == [{**row, "predict": []} for row in given]
    some = (0, 63, 64, ROWS - 1)
    truth = published.bigrec_texts(base, lora, [given[row] for row in some])
    assert [results[row]["predict"] for row in some] == truth
    assert finished(BIGREC, tmp_path).count("inference: skipped") == 2
    assert shards(tmp_path) == after


def test_d3s_loop(tmp_path: Path) -> None:
    base, lora = published.write_checkpoint(tmp_path, "qwen")
    file = published.write_d3(tmp_path, ROWS)
    write_parts(tmp_path, file)
    (tmp_path / "merge.py").write_text(MERGE, encoding="utf-8")
    trained = shutil.copytree(lora, tmp_path / "output_dir" / "Books")
    for token_file in base.glob("*token*"):
        shutil.copy(token_file, trained)
    killed_after_its_first_shard(D3, tmp_path)
    before = shards(tmp_path)
    told = finished(D3, tmp_path)
    after = shards(tmp_path)
    assert before.items() <= after.items()
    assert told.count("HR@10") == 2
    rows = json.loads((trained / "1.0.json").read_text(encoding="utf-8"))
    assert len(rows) == ROWS
    scored = published.calc(rows, (1, 10))
    table = told[: told.index("0.0.json")]
    for metric, values in scored.items():
        for k, value in zip((1, 10), values, strict=True):
            line = next(x for x in table.splitlines() if f" {metric.upper()}@{k} " in x)
            assert f"{value:.4f}" in line
    again = finished(D3, tmp_path)
    assert again.count("inference: skipped") == 6
    assert shards(tmp_path) == after
