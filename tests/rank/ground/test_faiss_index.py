"""The FAISS index beside the exact search."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from groundrec.core.errors import MissingDependency
from groundrec.rank.ground import faiss_index as module
from groundrec.rank.ground.faiss_index import Index
from groundrec.rank.ground.nearest import Vote, nearest

needs_faiss = pytest.mark.skipif(find_spec("faiss") is None, reason="needs the extra faiss")


def random_case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    texts, items = torch.randn(7, 2, 8, generator=random), torch.randn(400, 8, generator=random)
    return texts, items, torch.rand(7, 400, generator=random) < 0.7


@needs_faiss
@pytest.mark.parametrize("vote", ["best", "nearest", "mean"])
def test_where_every_part_is_looked_at_it_finds_what_exact_search_finds(
    tmp_path: Path, vote: Vote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOKED_AT", 400)
    monkeypatch.setattr(module, "SPARE", 390)
    texts, items, allowed = random_case()
    expected, apart = nearest(texts, items, 10, vote, allowed)
    for _ in range(2):  # made, then read
        found, distances = Index(items, tmp_path / "i.faiss").nearest(texts, 10, vote, allowed)
        assert torch.equal(found, expected)
        np.testing.assert_allclose(distances, apart)


@needs_faiss
def test_a_few_parts_find_most_and_what_is_found_is_allowed_and_ordered(tmp_path: Path) -> None:
    texts, items, allowed = random_case()
    expected, _ = nearest(texts, items, 10, "best", allowed)
    found, distances = Index(items, tmp_path / "i.faiss").nearest(texts, 10, "best", allowed)
    assert allowed.gather(1, found).all()
    assert (distances.diff(dim=1) >= 0).all()
    assert (
        sum(len(set(a) & set(b)) for a, b in zip(found.tolist(), expected.tolist(), strict=True))
        > 50
    )


@needs_faiss
def test_a_query_for_which_too_few_are_found_is_compared_with_all(tmp_path: Path) -> None:
    texts, items, allowed = random_case()
    allowed[:] = False
    allowed[:, [5, 105, 205]] = True
    expected, _ = nearest(texts, items, 4, "best", allowed)
    assert torch.equal(
        Index(items, tmp_path / "i.faiss").nearest(texts, 4, "best", allowed)[0], expected
    )
    assert (expected[:, 3] == -1).all()


def test_without_the_extra_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingDependency, match=r"groundrec\[faiss\]"):
        Index(torch.zeros(3, 2), tmp_path / "i.faiss")
