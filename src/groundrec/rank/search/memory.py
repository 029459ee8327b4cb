"""How much memory the keys and values of a search take, and how many queries fit at once.

Knows nothing about what is searched for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch

from groundrec.core import config_rank
from groundrec.rank.search.exact import STRIDE
from groundrec.rank.search.exhaustive import TOKENS_AT_ONCE
from groundrec.rank.search.scoring import TrieScoring

__all__ = ["SHARE", "Need", "free_bytes", "is_out_of_memory", "readable", "size_of", "tree_tokens"]

SHARE = 0.5
"""Share of the free memory that keys and values may take where no limit is given; the rest is for
logits and masks.
"""
CONTAINER = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Need:
    """What the keys and values of a batch take: `prompt` + `tree` tokens for each query, of `token`
    bytes.
    """

    queries: int
    prompt: int
    tree: int
    token: int

    @property
    def total(self) -> int:
        """Bytes."""
        return self.queries * (self.prompt + self.tree) * self.token

    def __str__(self) -> str:
        queries = f"{self.queries} quer{'y' if self.queries == 1 else 'ies'}"
        return (
            f"{queries} × ({self.prompt} + {self.tree}) tokens × {readable(self.token)} ="
            f" {readable(self.total)}"
        )


def tree_tokens(scoring: TrieScoring, section: config_rank.Recommend) -> int:
    """Return the most tree tokens that one query's search may hold at once."""
    nodes = torch.arange(len(scoring), device=scoring.depth.device)
    length = scoring.tokens_to_read(nodes).cpu().numpy()
    whole = int(length.sum())
    if section.mode == "exhaustive":
        return min(whole, TOKENS_AT_ONCE + int(scoring.trie.depth.max()))
    if section.mode == "beam":
        return _beam_tokens(scoring, length, max(section.beams, section.k))
    return min(
        whole,
        max(
            section.budget + section.tokens_per_pass + STRIDE - 2,
            _beam_tokens(scoring, length, section.k),
        ),
    )


def _beam_tokens(scoring: TrieScoring, length: np.ndarray, beams: int) -> int:
    """Return the most tokens that `beams` hypotheses read: at each depth, they enter the longest
    edges there are.
    """
    start = scoring.trie.depth - scoring.trie.edge_lengths
    order = np.lexsort([-length, start])
    rank = np.arange(len(order)) - np.searchsorted(start[order], start[order])
    return int(length[order][rank < beams].sum())


def free_bytes(device: torch.device, sharing: int = 1) -> int:
    """Return how much memory on `device` one of `sharing` processes may still take."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        each = -(-sharing // torch.cuda.device_count())
        return (torch.cuda.mem_get_info(device)[0] + kept) // each
    return min(psutil.virtual_memory().available, _left_in_container()) // sharing


def _left_in_container() -> int:
    """Return what a control group leaves this process; more than any machine has where there is
    none.
    """
    try:
        most = int((CONTAINER / "memory.max").read_text())
        used = int((CONTAINER / "memory.current").read_text())
        fields = dict(line.split() for line in (CONTAINER / "memory.stat").read_text().splitlines())
        return max(0, most - used + int(fields.get("inactive_file", 0)))
    except (OSError, ValueError):  # no such file, or "max"
        return 2**63


def size_of(text: str) -> int:
    """Return the bytes of a size like `4GB` (thousands) or `4GiB` (1024s)."""
    number = text.rstrip("KMGTiB")
    unit = text.lstrip("0123456789.")
    return int(float(number) * (1024 if "i" in unit else 1000) ** "BKMGT".index(unit[0]))


def readable(size: float) -> str:
    """Return bytes in words, e.g. `1.0 GB`, in thousands."""
    power = min(4, max(0, len(str(int(size))) - 1) // 3)
    value = size / 1000**power
    return f"{value:.{1 if value < 10 and power else 0}f} {('B', 'KB', 'MB', 'GB', 'TB')[power]}"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocator failed, torch's on any device or numpy's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in text
        for words in ("can't allocate memory", "out of memory", "cublas_status_alloc_failed")
    )
