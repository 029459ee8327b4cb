"""A search holds no more memory than estimated; sizes, limits and errors of allocators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundrec.core.config_rank import Recommend
from groundrec.core.types import Ragged
from groundrec.rank.search import exhaustive as every
from groundrec.rank.search import memory
from groundrec.rank.search.memory import (
    Need,
    free_bytes,
    is_out_of_memory,
    readable,
    size_of,
    tree_tokens,
)
from groundrec.rank.search.search import Search
from groundrec.rank.search.tree_reader import TreeReader, bytes_per_token
from groundrec.text.trie import Trie
from tests.rank.models import END, MODELS, VOCABULARY

tokens = st.integers(2, VOCABULARY - 1)
catalogues = st.lists(
    st.lists(tokens, max_size=6).map(lambda row: (*row, END)), min_size=1, max_size=20
)


def most_slots(act: Any) -> int:
    """Return the most tree tokens that lay in a cache while `act()` ran."""
    most, read = 0, TreeReader.read

    def watched(self: TreeReader, *arguments: Any) -> torch.Tensor:
        nonlocal most
        logits = read(self, *arguments)
        most = max(most, self.slots)
        return logits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TreeReader, "read", watched)
        act()
    return most


@given(
    catalogues,
    st.sampled_from(["full", "renormalised"]),
    st.integers(1, 6),
    st.integers(1, 30),
    st.integers(1, 4),
)
@settings(max_examples=80, deadline=None)
def test_no_search_holds_more_tokens_than_was_said(catalogue, score, k, budget, width) -> None:
    search = Search(MODELS["llama"], Trie.compile(Ragged.of(catalogue)), score)
    one, several = [[3, 4]], [[3, 4], [5], [6, 7, 8]]

    def said(mode: str) -> int:
        return tree_tokens(
            search.scoring, Recommend(mode=mode, k=k, beams=k, budget=budget, tokens_per_pass=width)
        )  # type: ignore[arg-type]

    assert most_slots(lambda: search.beam(several, k, k)) <= said("beam")
    assert most_slots(lambda: search.all(several)) <= said("exhaustive")
    assert most_slots(lambda: search.exact(one, k, width=width, budget=budget)) <= said("exact")


def test_a_wide_beam_is_said_to_read_the_whole_trie_and_a_narrow_one_less(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    catalogue = [(*rng.integers(2, VOCABULARY, 6), END) for _ in range(300)]
    scoring = Search(MODELS["llama"], Trie.compile(Ragged.of(catalogue))).scoring
    whole = int(scoring.tokens_to_read(torch.arange(len(scoring))).sum())
    assert tree_tokens(scoring, Recommend(mode="beam", k=300, beams=300)) == whole
    assert tree_tokens(scoring, Recommend(mode="beam", k=5, beams=5)) < whole / 4
    assert tree_tokens(scoring, Recommend(mode="exact", k=5, budget=500, tokens_per_pass=16)) == 518
    assert tree_tokens(scoring, Recommend(mode="exact", k=5, budget=10**9)) == whole
    monkeypatch.setattr(memory, "TOKENS_AT_ONCE", 100)
    monkeypatch.setattr(every, "TOKENS_AT_ONCE", 100)
    assert tree_tokens(scoring, Recommend(mode="exhaustive")) == 107


def test_keys_and_values_take_what_the_cache_takes() -> None:
    for model in MODELS.values():
        reader = TreeReader(model, [[3, 4, 5], [6]])
        held = sum(
            t.numel() * t.itemsize
            for layer in reader._cache.layers
            for t in (layer.keys, layer.values)
        )
        assert Need(2, 3, 0, bytes_per_token(model)).total == held


def test_a_need_reads_as_a_calculation() -> None:
    need = Need(queries=32, prompt=185, tree=512, token=46_080)
    assert need.total == 32 * (185 + 512) * 46_080
    assert str(need) == "32 queries × (185 + 512) tokens × 46 KB = 1.0 GB"
    assert str(Need(1, 3, 0, 128)) == "1 query × (3 + 0) tokens × 128 B = 384 B"


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GB", 4e9), ("4GiB", 2**32), ("1.5MB", 1.5e6), ("512KiB", 2**19), ("2TB", 2e12)],
)
def test_sizes_are_read_as_they_are_written(text: str, size: float) -> None:
    assert size_of(text) == size
    assert Recommend(memory_limit=text).memory_limit == text


@given(st.integers(0, 10**16))
def test_sizes_are_written_to_two_digits(size: int) -> None:
    number, unit = readable(size).split()
    value = float(number) * 1000 ** ("B", "KB", "MB", "GB", "TB").index(unit)
    assert value == pytest.approx(size, rel=0.06)


def test_processes_and_containers_divide_what_is_free(tmp_path: Path, monkeypatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(memory, "CONTAINER", tmp_path / "none")
    machine = free_bytes(cpu)
    assert machine > 0
    for name, text in {
        "memory.max": "1000",
        "memory.current": "700",
        "memory.stat": "anon 9\ninactive_file 200",
    }.items():
        (tmp_path / name).write_text(f"{text}\n", encoding="utf-8")
    monkeypatch.setattr(memory, "CONTAINER", tmp_path)
    assert (free_bytes(cpu), free_bytes(cpu, sharing=2)) == (500, 250)
    (tmp_path / "memory.max").write_text("max\n", encoding="utf-8")
    assert free_bytes(cpu) > 1000


def test_allocators_that_fail_are_known_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as failed:
        torch.empty(2**50)
    assert is_out_of_memory(failed.value)
    assert is_out_of_memory(
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    )
    assert is_out_of_memory(MemoryError("Unable to allocate 9. TiB for an array"))
    assert not is_out_of_memory(
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")
    )
    assert not is_out_of_memory(ValueError("out of memory"))
