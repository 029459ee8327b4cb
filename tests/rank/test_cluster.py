"""Errors where there is no cluster; with one, see tests/app/test_cluster.py."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from groundrec.core.errors import MissingDependency, ProcessError, SearchError
from groundrec.rank import cluster


def never(_: int) -> Any:
    raise AssertionError("opened")


def test_nothing_to_write_needs_no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    cluster.write_shards(never, [], 2)
    with pytest.raises(
        MissingDependency, match=r"ray is not installed\n  next: pip install 'groundrec\[ray\]'"
    ):
        cluster.write_shards(never, [0], 2)


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def init(**settings: Any) -> None:
        given.update(settings)
        raise ConnectionError("nobody there")

    stub = SimpleNamespace(init=init, data=None)
    monkeypatch.setattr(cluster, "import_module", lambda _: stub)
    monkeypatch.setenv("RAY_ADDRESS", "10.1.1.1:6379")
    with pytest.raises(
        ProcessError,
        match=r"^no Ray cluster answers: RAY_ADDRESS = 10\.1\.1\.1:6379: nobody there\n",
    ):
        cluster.write_shards(never, [0], 2)
    assert "address" not in given
    monkeypatch.delenv("RAY_ADDRESS")
    with pytest.raises(ProcessError):
        cluster.write_shards(never, [0], 2)
    assert given["address"] == "local"


def test_what_actors_say_is_passed_on_once_and_what_they_refuse_is_raised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: set[str] = set()
    with caplog.at_level("INFO", logger="groundrec"):
        cluster._relay(["a", "b"], None, heard)
        with pytest.raises(SearchError) as refused:
            cluster._relay(["b", "c"], ["what", "1", "accepted", "next"], heard)
    assert [record.message for record in caplog.records] == ["a", "b", "c"]
    assert str(refused.value) == "what: 1\n  accepted: accepted\n  next: next"


def test_of_a_failure_in_an_actor_its_first_cause_is_told() -> None:
    trace = (
        "ray::MapWorker()\n  File x\nValueError: bad\n\nThe above exception"
        " was\nray.exceptions.UserCodeException: UDF"
    )
    assert "the slates: ValueError: bad\n" in str(cluster._unfinished(Exception(trace)))
    assert "the slates: the node died\n" in str(cluster._unfinished(Exception("the node died")))
