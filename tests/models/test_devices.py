"""Which device a model goes to, and how much of its memory is this process's."""

from __future__ import annotations

import pytest
import torch

from groundrec.models.language import default_device
from groundrec.rank.search.memory import free_bytes


@pytest.mark.parametrize(("rank", "expected"), [(None, "cuda:0"), ("1", "cuda:1"), ("5", "cuda:1")])
def test_processes_of_one_machine_take_its_accelerators_in_turn(
    monkeypatch: pytest.MonkeyPatch, rank: str | None, expected: str
) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    if rank:
        for name, value in {
            "RANK": rank,
            "WORLD_SIZE": "8",
            "LOCAL_RANK": rank,
            "LOCAL_WORLD_SIZE": "8",
        }.items():
            monkeypatch.setenv(name, value)
    assert default_device() == torch.device(expected)


def test_without_an_accelerator_it_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)
    assert default_device() == torch.device("cpu")


@pytest.mark.parametrize(
    ("sharing", "expected"), [(1, 1200), (4, 1200), (5, 600), (8, 600), (9, 400)]
)
def test_processes_divide_a_gpu_only_where_several_use_it(
    monkeypatch: pytest.MonkeyPatch, sharing: int, expected: int
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 2000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 300)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert free_bytes(torch.device("cuda", 0), sharing) == expected
