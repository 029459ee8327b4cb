"""Several processes of one run: who works, who waits, and when waiting ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groundrec.core import processes
from groundrec.core.errors import ProcessError
from groundrec.core.files import read_json
from groundrec.core.processes import SINGLE_PROCESS, Processes, launcher_started_one
from groundrec.core.recipe import Recipe
from groundrec.core.runs import Run

LAUNCHED = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
}


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("HEARTBEAT", 0.05), ("POLL", 0.01), ("TIMEOUT", 2.0)):
        monkeypatch.setattr(processes, name, seconds)


def in_processes(world_size: int, act: Callable[[Processes], Any]) -> list[Any]:
    """Return what `act` returns or raises in each process; here, processes are threads."""
    results: list[Any] = [None] * world_size

    def run(rank: int) -> None:
        try:
            results[rank] = act(Processes(rank, world_size, rank, world_size))
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_the_environment_of_a_launcher_is_read() -> None:
    assert (
        Processes.of({})
        == Processes.of({"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "4"})
        == SINGLE_PROCESS
    )
    assert Processes.of(LAUNCHED) == Processes(3, 4, 1, 2)
    assert not Processes.of(LAUNCHED).is_main
    assert SINGLE_PROCESS.is_main


@pytest.mark.parametrize("world_size", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_every_piece_of_work_is_done_once(world_size: int, count: int) -> None:
    shares = [Processes(rank, world_size).share(count) for rank in range(world_size)]
    assert sorted(piece for share in shares for piece in share) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_launcher_that_started_one_process_of_several_is_detected() -> None:
    several = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"}
    assert launcher_started_one(several)
    assert not launcher_started_one({**several, "WORLD_SIZE": "2"})
    assert not launcher_started_one({"ACCELERATE_MIXED_PRECISION": "no"})
    assert not launcher_started_one({"MASTER_ADDR": "127.0.0.1"})


def test_libraries_see_a_single_process_only_inside_the_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    with SINGLE_PROCESS.as_single_process():
        assert Processes.of() == SINGLE_PROCESS
        assert os.environ["MASTER_ADDR"] == "127.0.0.1"
    assert Processes.of() == Processes(3, 4, 1, 2)


def test_a_single_process_writes_no_heartbeats(tmp_path: Path) -> None:
    with SINGLE_PROCESS.rendezvous(tmp_path / "processes", "message") as (here, message):
        assert (here, message) == (SINGLE_PROCESS, "message")
    assert list(tmp_path.iterdir()) == []


def left_by_killed_processes(folder: Path) -> None:
    folder.mkdir()
    for rank in range(3):
        (folder / f"{rank}.json").write_text(
            json.dumps({"beat": 1, "message": "old"}), encoding="utf-8"
        )


def test_all_get_the_main_process_s_message_and_clean_up(tmp_path: Path) -> None:
    left_by_killed_processes(tmp_path / "processes")

    def act(process: Processes) -> str:
        with process.rendezvous(tmp_path / "processes", "new" if process.is_main else "") as (
            _,
            message,
        ):
            return message

    assert in_processes(3, act) == ["new"] * 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rank", [0, 1])
def test_waiting_for_a_process_that_never_arrives_ends(tmp_path: Path, rank: int) -> None:
    left_by_killed_processes(tmp_path / "processes")
    missing = ["process 1 of 2", "the main process"][rank]
    with pytest.raises(ProcessError, match=f"^{missing} is lost: no heartbeat for 2 s"):  # noqa: SIM117
        with Processes(rank, 2).rendezvous(tmp_path / "processes", "message"):
            pass


def test_a_running_process_is_waited_for_and_a_dead_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "TIMEOUT", 60.0)
    code = (
        "import sys, time; from pathlib import Path; from groundrec.core import processes;"
        " processes.HEARTBEAT = 0.05\nwith processes.Processes(1, 2).rendezvous(Path(sys.argv[1])):"
        " time.sleep(600)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "processes")])
    with Processes(0, 2).rendezvous(tmp_path / "processes", "message") as (here, _):
        monkeypatch.setattr(processes, "TIMEOUT", 1.0)
        polls = iter(range(200))  # twice the timeout
        here.wait(lambda: next(polls) == 199, "its slates")
        other.kill()
        assert other.wait() < 0
        with pytest.raises(ProcessError, match="while waiting for its slates"):
            here.wait(lambda: False, "its slates")
    assert list(tmp_path.iterdir()) == []


# -- stages ----------------------------------------------------------------------------------------


def stages(path: Path, act: Callable[[Run], Any], if_exists: Any = "resume") -> list[Any]:
    """Return what `act` returns in each of three processes that share a run."""

    def shared(process: Processes) -> Any:
        with Run.shared(path, Recipe(), None, if_exists, process) as run:
            return act(run)

    return in_processes(3, shared)


def test_a_run_is_opened_once_and_shared_by_all(tmp_path: Path) -> None:
    assert stages(tmp_path / "run", lambda run: run.path) == [tmp_path / "run"] * 3
    assert stages(tmp_path / "run", lambda run: run.path, "new") == [tmp_path / "run-2"] * 3
    assert not list(tmp_path.rglob("processes"))


def test_the_main_process_works_and_the_others_wait_for_it(tmp_path: Path) -> None:
    workers: list[int] = []

    def act(run: Run) -> str:
        def work(folder: Path) -> dict[str, int]:
            workers.append(run.processes.rank)
            (folder / "done.txt").write_text("done", encoding="utf-8")
            return {"rank": run.processes.rank}

        folder = run.step("stage", {"seed": 0}, work)
        run.status(rank=run.processes.rank)
        return (folder / "done.txt").read_text(encoding="utf-8")

    for _ in range(2):  # the second time it is finished already
        assert stages(tmp_path / "run", act) == ["done"] * 3
        assert workers == [0]
        assert read_json(tmp_path / "run" / "stage" / "manifest.json")["result"] == {"rank": 0}
        assert read_json(tmp_path / "run" / "status.json")["rank"] == 0


def test_all_processes_work_on_a_shared_stage(tmp_path: Path) -> None:
    def act(run: Run) -> list[str]:
        def work(folder: Path) -> None:
            for piece in run.processes.share(7):
                (folder / f"{piece}.txt").write_text(str(run.processes.rank), encoding="utf-8")
            run.processes.wait(lambda: len(list(folder.glob("*.txt"))) == 7, "the pieces")

        run.step("other", {"seed": seed}, lambda _: None)
        folder = run.step("stage", {"seed": seed}, work, together=True)
        return [p.read_text(encoding="utf-8") for p in sorted(folder.glob("*.txt"))]

    for seed in (0, 1):  # noqa: B007
        assert stages(tmp_path / "run", act) == [["0", "1", "2", "0", "1", "2", "0"]] * 3


def test_when_the_main_process_fails_the_others_stop_waiting(tmp_path: Path) -> None:
    def act(run: Run) -> None:
        def work(_: Path) -> None:
            raise ValueError("failed")

        run.step("stage", {}, work)

    failed, *waited = stages(tmp_path / "run", act)
    assert isinstance(failed, ValueError)
    assert all(isinstance(error, ProcessError) for error in waited)
    assert "the main process is lost" in str(waited[0])
    assert read_json(tmp_path / "run" / "status.json")["state"] == "failed"
