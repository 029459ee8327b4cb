"""Compare all methods: two data sets, three seeds, intervals over users, one table per data set.

    python benchmarks/methods.py [--data movielens-100k ml-latest-small] [--seeds 0 1 2]
                                 [--out runs/tables] [--show]

Runs the packaged recipe `tables/DATA` with each seed, and again with SASRec in the search, reusing
SASRec and the language model of the first run. Finished runs are skipped, so an interrupted
benchmark resumes. `--show` runs nothing and prints the tables of the finished runs.

A number is the mean over queries and seeds. Its interval resamples users, after averaging each
query's values over seeds: the interval shows the variation between users, the last column that
between seeds.

Every fusion is compared with the best of its parts on test, Holm-corrected over all fusions. The
late fusion that is best on validation is also compared without correction: it is a single
comparison, chosen without looking at test.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from groundrec.core.files import read_json
from groundrec.evaluate.statistics import compare_to_reference, intervals

DATA = ("movielens-100k", "ml-latest-small")
METRICS = ("hr@10", "ndcg@10", "ndcg@20")
MAIN = "ndcg@10"
IN_SEARCH, LM = "LM + sasrec, in the search", "language model"
GUIDED = (
    "recommend.assistant=sasrec",
    'recommend.methods=["search"]',
    "fuse.signals=[]",
    'signals=["sasrec"]',
)
SHARED = ("signals/sasrec", "train")
PARTS = {"LM": LM, "grounded": "grounded"}
Values = NDArray[np.float64]


def main() -> None:
    """Run what is missing and print a table for each data set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", default=DATA)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/tables"))
    parser.add_argument("--show", action="store_true")
    a = parser.parse_args()
    run_dirs = {data: [(seed, a.out / f"{data}-{seed}") for seed in a.seeds] for data in a.data}
    if not a.show:
        # seed by seed, so that an interrupted benchmark has a table of every data set
        for seed in range(len(a.seeds)):
            for data in a.data:
                run(data, *run_dirs[data][seed])
    for data, seeds in run_dirs.items():
        done = [measured(run_dir) for _, run_dir in seeds if finished(run_dir)]
        print(f"\n## {data}\n\n{table(done) if done else 'nothing is finished'}")


def run(data: str, seed: int, run_dir: Path) -> None:
    """Run a recipe in `run_dir`, then with SASRec in the search in a second directory."""
    start(data, seed, run_dir, ())
    start(data, seed, guided(run_dir), GUIDED, "--until", "prepare")
    for part in SHARED:
        if not (guided(run_dir) / part).exists():
            shutil.copytree(run_dir / part, guided(run_dir) / part)
    start(data, seed, guided(run_dir), GUIDED)


def guided(run_dir: Path) -> Path:
    """Return the directory of the run with SASRec in the search."""
    return run_dir.with_name(f"{run_dir.name}-in-search")


def finished(run_dir: Path) -> bool:
    """Return whether a run has been evaluated."""
    return (run_dir / "evaluate" / "manifest.json").exists()


def start(data: str, seed: int, run_dir: Path, settings: tuple[str, ...], *more: str) -> None:
    """Run the recipe of a data set in a separate process, with its output in the terminal."""
    sets = [word for setting in (f"seed={seed}", *settings) for word in ("--set", setting)]
    command = [
        sys.executable,
        "-m",
        "groundrec",
        "run",
        f"tables/{data}",
        "--run-dir",
        str(run_dir),
        "--if-exists",
        "resume",
    ]
    subprocess.run([*command, *sets, *more], check=True, env={"OMP_NUM_THREADS": "1", **os.environ})


@dataclass(frozen=True)
class Measured:
    """The results of one seed: values per query, by method and metric."""

    ids: NDArray[np.int64]
    users: NDArray[np.str_]
    values: dict[str, dict[str, Values]]
    valid: dict[str, float]
    """The main metric of each late fusion on validation."""


def measured(run_dir: Path) -> Measured:
    """Return the results of a seed's two runs, or of the first if the second is unfinished."""
    ids, users, values = per_query(run_dir)
    valid = on_validation(run_dir)
    if not finished(guided(run_dir)):
        return Measured(ids, users, values, valid)
    other, _, inside = per_query(guided(run_dir))
    if not np.array_equal(ids, other):
        sys.exit(f"{run_dir} and {guided(run_dir)} ranked different queries")
    return Measured(ids, users, {**values, IN_SEARCH: inside[LM]}, valid)


def on_validation(run_dir: Path) -> dict[str, float]:
    """Return the best value of each curve from which a late fusion's weight was chosen."""
    found: dict[str, float] = {}
    for key, chosen in read_json(run_dir / "fuse" / "weights.json").items():
        if "curve" not in chosen:  # `learned` has weights instead
            continue
        model, _, signal = key.rpartition("/")
        curve = [point["mean"] for point in chosen["curve"]]
        found[f"{'grounded' if model else 'LM'} + {signal}"] = max(curve)
    return found


def per_query(
    run_dir: Path,
) -> tuple[NDArray[np.int64], NDArray[np.str_], dict[str, dict[str, Values]]]:
    """Return query ids, users, and the values of every method."""
    columns = pq.read_table(run_dir / "evaluate" / "per_query.parquet").to_pydict()
    values: dict[str, dict[str, Values]] = {}
    for name, column in columns.items():
        method, _, metric = name.rpartition(" ")
        if metric in METRICS:
            values.setdefault(method, {})[metric] = np.asarray(column, np.float64)
    return np.asarray(columns["query_id"]), np.asarray(columns["user"]), values


def table(seeds: list[Measured]) -> str:
    """Return a Markdown table, the best method first, followed by the comparisons of fusions.

    A method's mean is over the seeds that have it; the last column lists them.
    """
    first = seeds[0]
    if any(not np.array_equal(first.ids, other.ids) for other in seeds):
        sys.exit("the seeds ranked different queries")
    found = {m: [s.values[m] for s in seeds if m in s.values] for s in seeds for m in s.values}
    means = {
        m: {k: np.mean([v[k] for v in each], axis=0) for k in METRICS} for m, each in found.items()
    }
    ends = {m: intervals(columns, first.users) for m, columns in means.items()}
    lines = [
        "| method | HR@10 | NDCG@20 | NDCG@10 (95% interval over users) | each seed |",
        "| --- | --- | --- | --- | --- |",
    ]
    for m in sorted(means, key=lambda name: -ends[name][MAIN].mean):
        hr, at10, at20 = (ends[m][k] for k in METRICS)
        each = ", ".join(f"{v[MAIN].mean():.4f}" for v in found[m])
        lines.append(
            f"| {m} | {hr.mean:.3f} | {at20.mean:.4f} | {at10.mean:.4f}"
            f" ({at10.low:.3f}–{at10.high:.3f}) | {each} |"
        )
    people = (
        f"{len(first.ids):,} test queries of {len(np.unique(first.users))} users, {len(seeds)}"
        " seed(s)."
    )
    main = {m: v[MAIN] for m, v in means.items()}
    return "\n".join(
        [*lines, "", people, "", *versus_parts(seeds, main), "", chosen_on_validation(seeds, main)]
    )


def versus_parts(seeds: list[Measured], values: Mapping[str, Values]) -> list[str]:
    """Return a line per fusion: its difference from its best part and the Holm-corrected p.

    Differences are taken within a seed and then averaged over the seeds that have the fusion.
    """
    users = seeds[0].users
    pairs = {
        m: max(parts(m, values), key=lambda part: values[part].mean())
        for m in values
        if parts(m, values)
    }
    differences = {
        m: np.mean(
            [s.values[m][MAIN] - s.values[part][MAIN] for s in seeds if m in s.values], axis=0
        )
        for m, part in pairs.items()
    }
    tested = compare_to_reference({"": np.zeros(len(users)), **differences}, "", users)
    ends = intervals(differences, users)
    ordered = sorted(pairs, key=lambda m: -values[m].mean())
    return [
        "| fusion | its best part | difference (95% interval) | p after Holm |",
        "| --- | --- | --- | --- |",
        *(
            f"| {m} | {pairs[m]} | {ends[m].mean:+.4f} ({ends[m].low:+.4f} to {ends[m].high:+.4f}) "
            f"| {tested[m].adjusted:.4f} |"
            for m in ordered
        ),
    ]


def chosen_on_validation(seeds: list[Measured], values: Mapping[str, Values]) -> str:
    """Return the test result of the fusion that is best on validation, with an uncorrected p."""
    valid = {m: float(np.mean([s.valid[m] for s in seeds])) for m in seeds[0].valid}
    fusion = max(valid, key=valid.__getitem__)
    part = max(parts(fusion, values), key=lambda name: values[name].mean())
    users, difference = seeds[0].users, {fusion: values[fusion] - values[part]}
    p = compare_to_reference({"": np.zeros(len(users)), **difference}, "", users)[fusion].adjusted
    end = intervals(difference, users)[fusion]
    return (
        f"Best on validation: {fusion} ({valid[fusion]:.4f} there). On test, against {part}:"
        f" {end.mean:+.4f} ({end.low:+.4f} to {end.high:+.4f}), p = {p:.4f}."
    )


def parts(method: str, values: Mapping[str, Values]) -> list[str]:
    """Return the parts of a fusion; none for any other method."""
    names = method.split(",")[0].split(" (")[0].split(" + ")
    return [PARTS.get(name, name) for name in names] if len(names) > 1 else []


if __name__ == "__main__":
    main()
