"""Compare `groundrec prepare` and `export` with the published `process.py`: time and peak memory.

    python benchmarks/prepare.py [PROCESS_PY] [--python PYTHON] [--folder FOLDER] [--rounds 3]
                                 [--large 10000000]

PROCESS_PY is `code/process.py` of the repository SAI990323/DecodingMatters, which has no licence
and is not part of this one; PYTHON is an interpreter that has its packages (fire, loguru, tqdm).
Synthetic Amazon reviews are written to FOLDER: small catalogues, for which the time window extends
back to 1996, and a million reviews, as dense as the published 5-core of Books, nearly all inside
the window. Both programs read them in turn, each in its own process, and their files are compared
byte by byte. The medians of the rounds are printed; processor seconds do not depend on other load.
A second table shows groundrec alone on `--large` reviews with a memory limit; this takes 5 GB of
disk space. Without PROCESS_PY only groundrec runs.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "data"))

from amazon import Shape, write_amazon

CATEGORY = "Books"
OURS = [sys.executable, "-c", "from groundrec.app.commands.main import main; main()"]
WINDOW = [
    "--K",
    "5",
    "--st_year",
    "2017",
    "--st_month",
    "10",
    "--ed_year",
    "2018",
    "--ed_month",
    "11",
]
LIMIT = "2GB"
SMALL = Shape()
SMALL_ONES = 5


class Cost(NamedTuple):
    """The time and the memory that a process took."""

    seconds: float
    processor: float
    mib: float


def main() -> None:
    """Write the reviews, run both programs and print two tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("process", nargs="?", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "groundrec-prepare"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--recent", type=float, default=0.95, help="share of the reviews inside the window"
    )
    parser.add_argument(
        "--large", type=int, default=10_000_000, help="0 leaves the second table out"
    )
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    run([*OURS, "list"], given.folder)  # so that every module is compiled
    theirs = (
        [given.python, str(given.process.resolve()), "--category", CATEGORY]
        if given.process
        else None
    )
    if theirs:
        small(given.folder / "small", theirs)
    raw = reviews(given.folder / "million", 1_000_000, given.recent)
    rounds = [one_round(raw, theirs) for _ in range(given.rounds)]
    costs = {
        name: Cost(*map(median, zip(*(r[name] for r in rounds), strict=True))) for name in rounds[0]
    }
    compare(costs)
    if given.large:
        large(given.folder / "large", given.large, given.recent, costs["prepare"])


def small(folder: Path, theirs: list[str]) -> None:
    """Check that both programs write the same files for small catalogues."""
    for seed in range(SMALL_ONES):
        write_amazon(folder, CATEGORY, SMALL, seed)
        one_round(folder, theirs)
    (file,) = (folder / "files" / "info").iterdir()
    print(
        f"{SMALL_ONES} small catalogues, the last {file.stem}: four files each, the same to the"
        " byte"
    )


def reviews(folder: Path, count: int, recent: float) -> Path:
    """Return the folder with `count` synthetic reviews, written if missing."""
    done = folder / f"{count}-{recent}"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        shape = Shape(
            users=count * 68 // 1000, items=count * 26 // 1000, reviews=count, recent=recent
        )
        write_amazon(folder, CATEGORY, shape)
        done.touch()
    size = (folder / f"{CATEGORY}_5.json").stat().st_size
    print(f"{count:,} reviews, {size / 1e6:,.0f} MB of JSON, {recent:.0%} inside the window")
    return folder


def one_round(raw: Path, theirs: list[str] | None) -> dict[str, Cost]:
    """Return what each program took, after comparing their files."""
    costs = {}
    if theirs:
        costs["process.py"] = run(theirs, fresh(raw / "theirs"))
    ours, files = fresh(raw / "ours"), fresh(raw / "files")
    costs["prepare"] = prepare(raw, ours)
    costs["export"] = run([*OURS, "export", str(ours), "--format", "d3", "--out", str(files)], raw)
    if theirs:
        names = [file.relative_to(raw / "theirs") for file in (raw / "theirs").glob("*/*")]
        _, differ, missing = filecmp.cmpfiles(raw / "theirs", files, map(str, names), shallow=False)
        assert len(names) == 4, names
        assert not differ, differ
        assert not missing, missing
    return costs


def prepare(raw: Path, out: Path, *options: str) -> Cost:
    """Return what `groundrec prepare` took."""
    command = [
        "prepare",
        "amazon",
        "--category",
        CATEGORY,
        *WINDOW,
        "--path",
        str(raw),
        "--out",
        str(out),
        *options,
    ]
    return run([*OURS, *command], raw)


def fresh(folder: Path) -> Path:
    """Return an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def run(command: list[str], folder: Path) -> Cost:
    """Return the wall seconds and the peak resident memory of a process that works in `folder`."""
    environment = {**os.environ, "TZ": "UTC"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryFile() as log:
        start = time.monotonic()
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            sys.exit(f"{' '.join(command)}\n{log.read().decode(errors='replace')[-2000:]}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def compare(costs: dict[str, Cost]) -> None:
    """Print the first table."""
    ours, export = costs["prepare"], costs["export"]
    both = Cost(
        ours.seconds + export.seconds, ours.processor + export.processor, max(ours.mib, export.mib)
    )
    theirs = costs.get("process.py")
    print(
        f"{'':<18}{'seconds':>10}{'processor s':>13}{'peak MiB':>10}"
        f"{'faster':>10}{'processor':>11}{'memory':>10}"
    )
    for name, cost in {**costs, "prepare + export": both}.items():
        print(f"{name:<18}{cost.seconds:>10.1f}{cost.processor:>13.1f}{cost.mib:>10.0f}", end="")
        if theirs:
            seconds, processor, mib = (a / b for a, b in zip(theirs, cost, strict=True))
            print(f"{seconds:>9.1f}×{processor:>10.1f}×{'1/' + format(mib, '.1f'):>10}", end="")
        print()


def large(folder: Path, count: int, recent: float, million: Cost) -> None:
    """Print the second table."""
    cost = prepare(reviews(folder, count, recent), fresh(folder / "ours"), "--memory-limit", LIMIT)
    print(
        f"{'':<30}{'seconds':>10}{'processor s':>13}{'peak MiB':>10}"
        f"{'µs per review':>16}{'processor µs':>14}"
    )
    for name, n, c in (
        ("1,000,000", 1_000_000, million),
        (f"{count:,}, limit {LIMIT}", count, cost),
    ):
        each, processor = c.seconds / n * 1e6, c.processor / n * 1e6
        print(
            f"{name:<30}{c.seconds:>10.1f}{c.processor:>13.1f}{c.mib:>10.0f}"
            f"{each:>16.2f}{processor:>14.2f}"
        )


if __name__ == "__main__":
    main()
