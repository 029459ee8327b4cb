"""Ranking texts against a catalogue by L2: groundrec's search beside `torch.cdist` and two
`argsort`.

    python benchmarks/ground.py [--texts 5000] [--items 100000] [--dim 2048] [--slice 500]
        [--rounds 1]

Each side runs in a process of its own, on the same random numbers, and tells its processor seconds
and its peak memory. `cdist` and two `argsort` is how BIGRec's public evaluation ranks. It ranks
`--slice` texts: its time is proportional to the texts, and is given for all of them; so is its
memory beyond the embeddings. `--slice 0` ranks all at once. The sides take turns for `--rounds`;
medians are printed, and the least and the most of the ratios.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from statistics import median

import torch

from groundrec.core.alive import peak_bytes
from groundrec.rank.ground.nearest import nearest

K = 50
SIDES = ("groundrec", "argsort")
NAMES = ("seconds", "peak")


def main() -> None:
    """Measure both sides, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (
        ("texts", 5000),
        ("items", 100_000),
        ("dim", 2048),
        ("slice", 500),
        ("rounds", 1),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.side:
        print(json.dumps(measure(a.side, a.texts, a.items, a.dim, a.slice)))
        return
    rounds = [{side: run([*sys.argv, "--side", side]) for side in SIDES} for _ in range(a.rounds)]
    print(
        f"{a.texts} texts, {a.items} items of dimension {a.dim}, {torch.get_num_threads()}"
        " thread(s)\n"
    )
    print(
        "| side | processor seconds | peak memory in GB | beyond the embeddings in GB |\n| --- |"
        " --- | --- | --- |"
    )
    for side in SIDES:
        seconds, peak, beyond = (
            median(one[side][name] for one in rounds) for name in (*NAMES, "beyond")
        )
        print(f"| {side} | {seconds:.1f} | {peak / 1e9:.2f} | {beyond / 1e9:.2f} |")
    faster, smaller = (
        [one["argsort"][name] / one["groundrec"][name] for one in rounds] for name in NAMES
    )
    print(
        f"\n{median(faster):.1f}× as fast ({min(faster):.1f}-{max(faster):.1f}),"
        f" {median(smaller):.1f}× less memory"
    )
    ours, theirs = (rounds[0][side]["first"] for side in SIDES)
    same = sum(x == y for x, y in zip(ours, theirs, strict=False))
    print(f"the same {K} items in the same order for {same} of {len(theirs)} texts")


def run(command: list[str]) -> dict:
    """Return what one side tells."""
    return json.loads(
        subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, check=True
        ).stdout
    )


def measure(side: str, texts: int, items: int, dim: int, part: int) -> dict:
    """Return processor seconds, peak bytes, those beyond the embeddings, and the first texts'
    items.
    """
    random = torch.Generator().manual_seed(0)
    written, catalogue = (torch.randn(n, dim, generator=random) for n in (texts, items))
    base, count = peak_bytes() or 0, part if part and side == "argsort" else texts
    start = time.process_time()
    first = ours(written, catalogue) if side == "groundrec" else theirs(written[:count], catalogue)
    seconds, share = time.process_time() - start, texts / count
    beyond = ((peak_bytes() or 0) - base) * share
    return {
        "seconds": seconds * share,
        "peak": base + beyond,
        "beyond": beyond,
        "first": first[:100].tolist(),
    }


def ours(texts: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """Return each text's nearest items."""
    return nearest(texts[:, None], items, K)[0]


def theirs(texts: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """Return each text's nearest items, from the rank of every item."""
    rank = torch.cdist(texts, items).argsort(-1).argsort(-1)
    return (rank < K).nonzero()[:, 1].view(-1, K).gather(1, rank[rank < K].view(-1, K).argsort(1))


if __name__ == "__main__":
    main()
