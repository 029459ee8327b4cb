"""Shards of slates: what is kept, what memory changes (how many queries at once) and what it never
does (a slate).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from groundrec.core.errors import ArtifactError, SearchError
from groundrec.core.processes import Processes
from groundrec.core.recipe import Recipe
from groundrec.core.track import log
from groundrec.core.types import Queries, Ragged, Slates
from groundrec.models.language import LanguageModel
from groundrec.rank import batches
from groundrec.rank import recommend as module
from groundrec.rank import slates as slates_module
from groundrec.rank.fuse import slates_to_scores
from groundrec.rank.groundings import GroundingInputs, LoadedModel
from groundrec.rank.recommend import SearchRanker, Writer
from groundrec.rank.search.search import Work
from groundrec.rank.slates import SavedSlates, Shards, load_slates, work_of
from groundrec.text.trie import Trie
from tests.commands import keeping_the_log
from tests.rank.models import END, MODELS, VOCABULARY

MODEL, ITEMS, QUERIES = MODELS["llama"], 60, 23
ERRORS = {
    "CUDA": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "CPU": RuntimeError(
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
        " bytes.\nat 1"
    ),
    "numpy": MemoryError("Unable to allocate 9.0 TiB"),
}


class Words:
    """An encoder whose prompts are the items themselves."""

    shared_prefix: tuple[int, ...] = ()

    def prompt(self, history: Any) -> list[int]:
        return [3, *(2 + int(item) % (VOCABULARY - 2) for item in history)]


@pytest.fixture
def said() -> Iterator[list[str]]:
    messages: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: messages.append(record.getMessage())
    with keeping_the_log():
        log.addHandler(listener)
        log.setLevel(logging.INFO)
        yield messages


def recommender(**section: Any) -> SearchRanker:
    rng = np.random.default_rng(5)
    catalogue = [(*rng.integers(2, VOCABULARY, rng.integers(1, 6)), END) for _ in range(ITEMS)]
    settings = {"k": 5, "beams": 7, "batch_size": 8, "shard_size": 10, **section}
    recipe = Recipe.of({"recommend": settings, "evaluate.ks": [5], "fuse.metric": "ndcg@5"})
    loaded = LoadedModel(
        LanguageModel(MODEL, None),  # type: ignore[arg-type]
        Words(),  # type: ignore[arg-type]
        Trie.compile(Ragged.of(catalogue)),
    )
    titles = [f"Title {i}" for i in range(ITEMS)]
    return SearchRanker(
        GroundingInputs(recipe, titles, np.zeros(ITEMS, np.int64), Path(), lambda: loaded)
    )


def queries(count: int = QUERIES) -> Queries:
    rng = np.random.default_rng(6)
    return Queries.of(
        Ragged.of(rng.integers(0, ITEMS, size) for size in rng.integers(1, 30, count)), 0
    )


def recommend(r: SearchRanker, some: Queries, folder: Path) -> Slates:
    folder.mkdir(exist_ok=True)
    return module.recommend(r, some, folder)


@contextmanager
def little_memory(most: int, error: Exception) -> Iterator[list[int]]:
    """Within the block, a pass over more than `most` tokens ends in `error`; yield the batch of
    each pass.
    """
    batches: list[int] = []

    def allocate(_: torch.nn.Module, __: tuple[()], given: dict[str, Any]) -> None:
        batches.append(len(given["input_ids"]))
        if given["input_ids"].numel() > most:
            raise error

    handle = MODEL.register_forward_pre_hook(allocate, with_kwargs=True)
    try:
        yield batches
    finally:
        handle.remove()


def same(a: Slates, b: Slates) -> None:
    assert a.query_ids.tolist() == b.query_ids.tolist()
    assert a.items.tolist() == b.items.tolist()
    np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)


def test_slates_are_those_of_one_query_at_a_time_in_the_order_of_the_queries(
    tmp_path: Path,
) -> None:
    found = recommend(recommender(), queries(), tmp_path)
    alone = [recommender().slates(queries().take(np.array([i])), 5) for i in range(QUERIES)]
    same(found, Slates.concatenate(alone))
    assert sorted(p.name for p in tmp_path.glob("*.parquet")) == [
        f"{start:09d}.parquet" for start in (0, 10, 20)
    ]
    same(load_slates(tmp_path), found)


def test_shards_that_are_there_are_kept_and_their_work_is_remembered(
    tmp_path: Path, monkeypatch
) -> None:
    whole = recommend(recommender(), queries(), tmp_path / "whole")
    work = work_of(tmp_path / "whole")
    assert work.tokens > QUERIES
    assert work.passes >= 3
    (tmp_path / "part").mkdir()
    for shard in (1, 2):
        Writer(recommender(), queries(), tmp_path / "part").write(shard)
    kept = {p.name: p.read_bytes() for p in (tmp_path / "part").iterdir()}
    assert Shards(tmp_path / "part", QUERIES, 10).missing() == [0]
    searched: list[int] = []
    slates = SearchRanker.slates
    monkeypatch.setattr(
        SearchRanker, "slates", lambda r, q, k: searched.extend(q.ids) or slates(r, q, k)
    )
    same(recommend(recommender(), queries(), tmp_path / "part"), whole)
    assert sorted(searched) == list(range(10))
    assert kept.items() <= {p.name: p.read_bytes() for p in (tmp_path / "part").iterdir()}.items()
    assert work_of(tmp_path / "part") == work
    assert work_of(tmp_path / "nothing") == Work()


def test_saved_slates_are_found_by_query_and_score_alike_in_any_batch(tmp_path: Path) -> None:
    whole = recommend(recommender(), queries(), tmp_path)
    saved = SavedSlates(tmp_path)
    some = np.array([17, 3, 22, 0, 11])
    found = saved.slates(queries().take(some))
    assert found.query_ids.tolist() == some.tolist()
    assert found.items.tobytes() == whole.items[some].tobytes()
    assert found.scores.tobytes() == whole.scores[some].tobytes()
    expected = slates_to_scores(load_slates(tmp_path), ITEMS)
    ranker = recommender()
    for size in (1, 4, 12, QUERIES):
        parts = [
            ranker.scores(queries().take(rows), saved)
            for rows in np.split(np.arange(QUERIES), range(size, QUERIES, size))
        ]
        assert np.concatenate(parts).tobytes() == expected.tobytes()
    assert ranker.scores(queries().take(some[:0]), saved).shape == (0, ITEMS)
    with pytest.raises(ArtifactError, match="a query has no saved slate: query 23"):
        saved.slates(queries(24).take(np.array([1, 23])))
    with pytest.raises(ArtifactError, match="no slates here"):
        SavedSlates(tmp_path / "nothing").slates(queries())


def test_of_saved_slates_only_the_shards_that_are_needed_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommend(recommender(), queries(), tmp_path)
    read: list[str] = []
    load = slates_module._read
    monkeypatch.setattr(slates_module, "_read", lambda path: read.append(path.name) or load(path))
    SavedSlates(tmp_path).slates(queries().take(np.array([21, 3, 22])))
    assert read == ["000000000.parquet", "000000020.parquet"]


def test_processes_divide_the_shards(tmp_path: Path) -> None:
    one = {p.name: p.read_bytes() for p in files(tmp_path / "one", [Processes()])}
    three = {
        p.name: p.read_bytes()
        for p in files(tmp_path / "three", [Processes(r, 3) for r in (2, 1, 0)])
    }
    assert one == three


def files(folder: Path, processes: list[Processes]) -> list[Path]:
    """Return the shards that `processes` write, each for itself."""
    folder.mkdir()
    for process in processes:
        writer = Writer(recommender(), queries(), folder, len(processes))
        for shard in process.share(len(writer.shards)):
            writer.write(shard)
    return sorted(folder.iterdir())


# -- memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["exact", "beam", "exhaustive"])
@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_out_of_memory_halves_the_batch_and_changes_no_slate(
    tmp_path: Path, said: list[str], mode: str, error: Exception
) -> None:
    expected = recommend(recommender(mode=mode), queries(), tmp_path / "expected")
    with little_memory(350 if mode == "exhaustive" else 90, error) as passes:
        found = recommend(recommender(mode=mode), queries(), tmp_path / "found")
    same(found, expected)
    halved = [line for line in said if "out of memory" in line]
    assert halved[0] == "  out of memory with 8 queries at once: going on with 4"
    assert len(halved) < 4
    assert max(passes[-3:]) <= 4


def test_out_of_memory_with_one_query_is_one_clear_error(tmp_path: Path, said: list[str]) -> None:
    with pytest.raises(SearchError) as refused, little_memory(2, ERRORS["CPU"]):
        recommend(recommender(mode="beam"), queries(), tmp_path)
    assert [line.split(": ")[1] for line in said if "out of memory" in line] == [
        f"going on with {n}" for n in (4, 2, 1)
    ]
    assert refused.value.what == "one query alone does not fit into memory"
    assert refused.value.value == str(ERRORS["CPU"]).splitlines()[0]
    assert "recommend.memory_limit" in refused.value.accepted
    assert refused.value.next_step == "--set recommend.beams=…"
    assert list(tmp_path.glob("*.parquet")) == []


def test_other_errors_are_not_taken_for_a_lack_of_memory(tmp_path: Path, said: list[str]) -> None:
    with (
        pytest.raises(RuntimeError, match="must match"),
        little_memory(0, RuntimeError("sizes must match")),
    ):
        recommend(recommender(), queries(), tmp_path)
    assert not [line for line in said if "out of memory" in line]


def predicted(said: list[str]) -> list[str]:
    return [line.strip() for line in said if "keys and values" in line]


def test_what_keys_and_values_take_is_said_once_before_the_search(
    tmp_path: Path, said: list[str]
) -> None:
    with pytest.raises(RuntimeError, match="stop"), little_memory(0, RuntimeError("stop")):
        recommend(recommender(mode="exact", budget=16, tokens_per_pass=4), queries(), tmp_path)
    longest = 1 + int(queries().history.lengths[:10].max())
    (line,) = predicted(said)
    assert line.startswith(f"keys and values: 8 queries × ({longest} + ")
    said.clear()
    recommend(recommender(), queries(), tmp_path)
    assert len(predicted(said)) == 1


@pytest.mark.parametrize("mode", ["exact", "beam", "exhaustive"])
def test_a_limit_makes_batches_smaller_and_changes_no_slate(
    tmp_path: Path, said: list[str], mode: str
) -> None:
    expected = recommend(recommender(mode=mode), queries(), tmp_path / "expected")
    said.clear()
    with little_memory(10**9, MemoryError()) as passes:
        found = recommend(
            recommender(mode=mode, memory_limit="100KB"), queries(), tmp_path / "found"
        )
    same(found, expected)
    (line,) = predicted(said)
    most = int(line.split()[3])
    assert line.endswith("; 8 at once would take more than 100 KB")
    assert most == max(passes) < 8


def test_without_a_limit_half_of_what_is_free_is_taken(
    tmp_path: Path, said: list[str], monkeypatch
) -> None:
    monkeypatch.setattr(batches, "free_bytes", lambda device, sharing: 200_000 // sharing)
    recommend(recommender(mode="beam"), queries(), tmp_path / "one")
    assert predicted(said)[0].endswith("; 8 at once would take more than 100 KB")
    said.clear()
    monkeypatch.setattr(batches, "free_bytes", lambda device, sharing: 2)
    recommend(recommender(mode="beam"), queries(), tmp_path / "two")
    assert predicted(said)[0].startswith("keys and values: 1 query × ")
    same(load_slates(tmp_path / "one"), load_slates(tmp_path / "two"))


def test_a_limit_below_one_query_is_refused_before_the_search(tmp_path: Path) -> None:
    with pytest.raises(SearchError) as refused, little_memory(0, RuntimeError("searched")):
        recommend(recommender(mode="exact", memory_limit="1KB", budget=64), queries(), tmp_path)
    assert refused.value.what == "one query alone does not fit into memory"
    assert str(refused.value.value).startswith(
        "recommend.memory_limit is less than keys and values of 1 query × "
    )
    assert refused.value.next_step == "--set recommend.budget=32"


def test_work_is_counted_anew_for_each_shard(tmp_path: Path) -> None:
    work = {}
    for size in (1, 100):
        recommend(
            recommender(shard_size=size, batch_size=100, mode="exhaustive"),
            queries(),
            tmp_path / str(size),
        )
        work[size] = work_of(tmp_path / str(size))
    assert work[1].tokens == work[100].tokens
    assert work[1].passes > work[100].passes
