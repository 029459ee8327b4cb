"""Runs that outlive their terminal, and what is said of them whoever dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from groundrec.app.commands import runs
from groundrec.app.jobs.job import Job
from groundrec.app.jobs.state import state_of
from groundrec.core.alive import Identity
from groundrec.core.files import read_json, write_json
from tests.app.background import Terminal, at_work, until
from tests.app.conftest import Tiny, write_shop
from tests.commands import command


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    found = Terminal(tmp_path, write_shop(tmp_path))
    yield found
    found.end()


def kill(pid: int | None, number: int = signal.SIGKILL) -> None:
    assert pid
    os.kill(pid, number)


# -- one run ---------------------------------------------------------------------------------------


def test_a_detached_run_ends_well_and_its_exit_is_recorded(terminal: Terminal) -> None:
    run = terminal.detach("one")
    state = at_work(run)
    assert (state.state, state.stage) == ("running", "prepare")
    assert state.pid
    assert state.supervisor
    assert state.memory > 2**20
    terminal.go()
    until(lambda: state_of(run).is_over)
    shown = terminal.json("runs", "show", "one")
    assert (shown["state"], shown["exit"]["code"], shown["exit"]["signal"]) == ("finished", 0, None)
    assert shown["memory"] > 2**20
    assert shown["pid"] is None
    log = (run / "log.txt").read_text(encoding="utf-8")
    assert "prepare finished in" in log
    assert log.endswith("ended: exit 0\n")
    assert "finished" in terminal.call("runs")


def test_it_has_a_session_of_its_own_and_outlives_the_terminal(terminal: Terminal) -> None:
    """A shell that leads a session hands in a run, and both the shell and its whole session get
    SIGHUP.
    """
    run = terminal.folder / "runs" / "one"
    words = [
        sys.executable,
        "-m",
        "groundrec",
        "run",
        str(terminal.recipe),
        "--run-dir",
        "runs/one",
        "--detach",
    ]
    words += ["--set", "data.source=waits", "--until", "prepare"]
    shell = subprocess.Popen(
        ["sh", "-c", f"{' '.join(words)}; echo; exec sleep 60"],
        cwd=terminal.folder,
        env=terminal.environment,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGHUP, signal.SIG_DFL
        ),  # as in a terminal, even where nohup runs this
    )
    state = at_work(run)
    assert state.pid
    assert state.supervisor
    assert os.getsid(state.pid) == os.getsid(state.supervisor) != os.getsid(shell.pid) == shell.pid
    os.killpg(shell.pid, signal.SIGHUP)
    assert shell.wait() == -signal.SIGHUP
    for pid in (state.pid, state.supervisor):
        kill(pid, signal.SIGHUP)  # what a terminal sends to those it knows
    terminal.go()
    until(lambda: state_of(run).is_over)
    assert state_of(run).state == "finished"


def test_an_error_is_told_with_its_text(terminal: Terminal) -> None:
    run = terminal.detach("one", "--set", "prepare.k_core=50")
    terminal.go()
    until(lambda: state_of(run).is_over)
    state = state_of(run)
    assert (state.state, state.exit and state.exit["code"], state.stage) == ("failed", 2, "prepare")
    assert "DataError" in state.why
    assert "failed" in terminal.call("runs", "show", "one")
    assert "error: " in terminal.call("runs", "logs", "one")


# -- who dies --------------------------------------------------------------------------------------


def test_a_killed_worker_is_killed_and_can_be_resumed(terminal: Terminal) -> None:
    run = terminal.detach("one")
    kill(at_work(run).pid)
    row = terminal.listed()["one"]
    assert (row["state"], row["exit"]["signal"], row["exit"]["code"]) == ("killed", "SIGKILL", None)
    assert row["stage"] == "prepare"
    terminal.go()
    terminal.call("runs", "resume", "one")
    until(lambda: state_of(run).is_over)
    assert state_of(run).state == "finished"
    assert "prepare: resumed" in (run / "log.txt").read_text(encoding="utf-8")


def test_a_killed_supervisor_leaves_a_run_that_works_and_says_so(terminal: Terminal) -> None:
    run = terminal.detach("one")
    kill(at_work(run).supervisor)
    until(lambda: state_of(run).supervisor is None)
    row = terminal.listed()["one"]
    assert (row["state"], row["stage"], row["supervisor"]) == ("running", "prepare", None)
    assert row["why"] == "its supervisor is gone, so its exit status will not be recorded"
    assert "running: its supervisor is gone" in terminal.call("runs", "show", "one")
    assert "in use" in terminal.call("run", terminal.recipe, "--run-dir", "runs/one", code=2)
    refused = terminal.call(
        "run", terminal.recipe, "--run-dir", "runs/one", "--if-exists", "resume", code=2
    )
    assert "another process is using this run directory" in refused
    terminal.go()
    until(lambda: state_of(run).is_over)
    assert (state_of(run).state, state_of(run).exit) == ("finished", None)


def test_a_killed_supervisor_and_a_killed_worker_are_a_lost_run(terminal: Terminal) -> None:
    run = terminal.detach("one")
    state = at_work(run)
    kill(state.supervisor)
    kill(state.pid)
    until(lambda: state_of(run).is_over)
    row = terminal.listed()["one"]
    assert (row["state"], row["exit"], row["pid"]) == ("lost", None, None)
    assert "runs resume one" in terminal.call("runs")
    assert "MiB at least" in terminal.call("runs", "show", "one")
    terminal.go()
    terminal.call("runs", "resume", "one")
    until(lambda: state_of(run).is_over)
    assert state_of(run).state == "finished"


def test_after_a_power_loss_nothing_is_at_work_even_where_pids_are_given_again(
    terminal: Terminal,
) -> None:
    """The files of the boot before name pids and starts that live now: only the boot differs."""
    run = terminal.detach("one")
    waiting = terminal.detach("two", "--after", "one")
    at_work(run)
    kill(state_of(waiting).supervisor, signal.SIGSTOP)  # or it would write that "one" is lost
    boot = read_json(run / "status.json")["boot"]
    before = {path: path.read_bytes() for path in [*run.glob("*.json"), *waiting.glob("*.json")]}
    for path in before:
        path.write_text(
            path.read_text(encoding="utf-8").replace(boot, "boot-before"), encoding="utf-8"
        )
    listed = terminal.listed()
    for path, content in before.items():
        path.write_bytes(content)
    kill(state_of(waiting).supervisor, signal.SIGCONT)
    assert [listed[name]["state"] for name in ("one", "two")] == ["lost", "lost"]
    assert listed["one"]["why"] == "the machine was restarted"
    assert state_of(run).state == "running"


def test_a_run_that_lost_its_power_goes_on(terminal: Terminal) -> None:
    run = terminal.detach("one", "--max-parallel", 1)
    state, boot = at_work(run), read_json(run / "status.json")["boot"]
    kill(state.supervisor)
    kill(state.pid)
    for path in (
        run / "status.json",
        run / "supervisor.json",
        terminal.folder / "state" / "queue.json",
    ):
        path.write_text(
            path.read_text(encoding="utf-8").replace(boot, "boot-before"), encoding="utf-8"
        )
    lost = state_of(run)
    assert (lost.state, lost.why, lost.stage) == ("lost", "the machine was restarted", "prepare")
    terminal.go()
    terminal.call("runs", "resume", "one")
    until(lambda: state_of(run).is_over)
    assert (state_of(run).state, state_of(run).why) == ("finished", "")
    assert "prepare: resumed" in (run / "log.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("change", [{"started": 1.0}, {"boot": "another"}])
def test_a_pid_that_another_process_has_by_now_is_nobody(
    tmp_path: Path, change: dict[str, object]
) -> None:

    here = Identity.of().to_json()
    write_json(tmp_path / "config.json", {})
    write_json(
        tmp_path / "status.json", {**here, "stage": "train", "state": "running", "updated": 1.0}
    )
    assert state_of(tmp_path).state == "running"
    write_json(
        tmp_path / "status.json",
        {**here, "stage": "train", "state": "running", "updated": 1.0, **change},
    )
    assert state_of(tmp_path).state == "lost"
    assert Identity.from_json({**here, **change}).send_signal(signal.SIGTERM) is False  # type: ignore[union-attr]


@pytest.mark.parametrize("exit", [None, {"code": 0, "signal": None, "ended": 2.0, "peak": 0}])
@pytest.mark.parametrize("looks", range(1, 7))
def test_who_ends_between_two_looks_was_at_work_or_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: int, exit: dict[str, object] | None
) -> None:
    """Supervisor and worker end at any look at a process, with or without a last word; nothing is
    said by halves.
    """
    here, seen = Identity.of().to_json(), []
    record = {"supervisor": here, "worker": {**here, "pid": 1}, "exit": None}
    write_json(tmp_path / "config.json", {})
    write_json(tmp_path / "supervisor.json", record)

    def is_alive(who: Identity) -> bool:
        seen.append(who)
        if len(seen) == looks:
            write_json(tmp_path / "supervisor.json", record | {"exit": exit})
        return len(seen) < looks

    monkeypatch.setattr(Identity, "is_alive", is_alive)
    end = "finished" if exit else "lost"
    state = state_of(tmp_path)
    assert (state.state, state.pid, state.stage) in [("running", 1, "starting"), (end, None, "")]
    while len(seen) < looks:
        state = state_of(tmp_path)
    assert state_of(tmp_path).state == end


def test_a_foreground_run_is_listed_and_lost_when_killed(terminal: Terminal) -> None:
    words = [
        "run",
        str(terminal.recipe),
        "--run-dir",
        "runs/one",
        "--set",
        "data.source=waits",
        "--until",
        "prepare",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "groundrec", *words],
        cwd=terminal.folder,
        env=terminal.environment,
        stderr=subprocess.DEVNULL,
    )
    run = terminal.folder / "runs" / "one"
    assert at_work(run).pid == process.pid
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert state_of(run).state == "lost", "a process that is dead and not yet buried"
    process.wait()
    terminal.go()
    terminal.call("runs", "resume", "one")
    until(lambda: state_of(run).is_over)
    assert state_of(run).state == "finished"
    assert state_of(run).settings == ("data.source=waits",)


# -- stopping and refusing
# ---------------------------------------------------------------------------------------------


def test_stopped_runs_say_so_and_go_on(terminal: Terminal) -> None:
    run = terminal.detach("one")
    at_work(run)
    assert "one: stopped" in terminal.call("runs", "stop", "one")
    state = state_of(run)
    assert (state.state, state.exit and state.exit["code"]) == ("stopped", 143)
    assert "this run is stopped" in terminal.call("runs", "stop", "one", code=2)
    terminal.go()
    terminal.call("runs", "resume", "one")
    until(lambda: state_of(run).is_over)
    assert state_of(run).state == "finished"


def test_a_run_asked_to_end_behind_a_stage_says_so_and_goes_on_to_the_end(
    terminal: Terminal,
) -> None:
    terminal.go()
    run = terminal.detach("one")
    until(lambda: state_of(run).is_over)
    assert (state_of(run).state, state_of(run).until) == ("finished", "prepare")
    assert "finished  until prepare" in terminal.call("runs")
    assert "groundrec runs resume" in terminal.call("runs", "show", "one")
    terminal.call("runs", "resume", "one")
    assert state_of(run).until == ""
    until(lambda: state_of(run).stage == "train" or state_of(run).is_over)
    assert state_of(run).state == "running"


def test_who_goes_on_waits_for_the_supervisor_that_is_leaving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from groundrec.app.jobs import background

    leaving = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    )
    supervisor = Identity.of(leaving.pid)
    worker = {**supervisor.to_json(), "pid": 2**22 + 1}
    ended = {"code": None, "signal": "SIGKILL", "ended": 2.0, "peak": 0}
    write_json(
        tmp_path / "supervisor.json",
        {"supervisor": supervisor.to_json(), "worker": worker, "exit": ended},
    )
    Job((), None, str(tmp_path)).save(tmp_path)
    seen = state_of(tmp_path)
    assert (seen.state, seen.supervisor) == ("killed", leaving.pid)
    monkeypatch.setattr(background.time, "sleep", lambda _: leaving.communicate())
    launched: list[bool] = []
    monkeypatch.setattr(background, "launch", lambda *_: launched.append(supervisor.is_alive()))
    background.resume(tmp_path)
    assert launched == [False]


def test_a_run_at_its_end_has_nothing_to_resume(tiny: Tiny, tmp_path: Path) -> None:
    shutil.copytree(tiny.run, tmp_path / "one")
    done = command("runs", "--root", tmp_path, "resume", "one")
    assert done.code == 2
    assert "this run has finished" in done.err


def test_force_ends_what_does_not_listen(terminal: Terminal) -> None:
    at_work(terminal.detach("one"))
    assert "one: killed" in terminal.call("runs", "stop", "one", "--force")


def test_two_runs_in_one_folder_are_refused_and_harm_nothing(terminal: Terminal) -> None:
    run = terminal.detach("one")
    at_work(run)
    before = {
        path: path.read_bytes()
        for path in (run / "config.json", run / "job.json", run / "recipe.toml")
    }
    again = [
        "run",
        terminal.recipe,
        "--run-dir",
        "runs/one",
        "--set",
        "seed=5",
        "--if-exists",
        "resume",
    ]
    assert "a detached run waits or works in this run directory" in terminal.call(*again, code=2)
    assert "this run is queued or running" in terminal.call(*again, "--detach", code=2)
    assert "this run is queued or running" in terminal.call("runs", "resume", "one", code=2)
    assert "this run is queued or running" in terminal.call("runs", "rm", "one", "--yes", code=2)
    assert {path: path.read_bytes() for path in before} == before
    assert state_of(run).state == "running"


def test_two_detached_at_the_same_moment_are_one(terminal: Terminal) -> None:
    words = [
        sys.executable,
        "-m",
        "groundrec",
        "run",
        str(terminal.recipe),
        "--run-dir",
        "runs/one",
        "--detach",
    ]
    words += ["--set", "data.source=waits", "--until", "prepare"]
    both = [
        subprocess.Popen(words, cwd=terminal.folder, env=terminal.environment, stdout=-3, stderr=-3)
        for _ in range(2)
    ]
    codes = sorted(process.wait() for process in both)
    run = terminal.folder / "runs" / "one"
    assert codes == [0, 2]
    at_work(run)
    terminal.go()
    until(lambda: state_of(run).is_over)
    assert state_of(run).state == "finished"
    assert (run / "log.txt").read_text(encoding="utf-8").count("started as process") == 1


def test_a_removed_run_is_gone_and_only_after_a_yes(terminal: Terminal) -> None:
    terminal.go()
    run = terminal.detach("one")
    until(lambda: state_of(run).is_over)
    terminal.call("runs", "rm", "one", code=1)
    assert run.exists()
    terminal.call("runs", "rm", "one", "--yes")
    assert list((terminal.folder / "runs").iterdir()) == []
    assert "no such run" in terminal.call("runs", "show", "one", code=2)


def test_a_log_is_followed_to_the_end_of_the_run(terminal: Terminal) -> None:
    at_work(terminal.detach("one"))
    words = [sys.executable, "-m", "groundrec", "runs", "logs", "-f", "one"]
    reader = subprocess.Popen(
        words, cwd=terminal.folder, env=terminal.environment, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout
    assert "started as process" in reader.stdout.readline()
    terminal.go()
    rest = reader.communicate(timeout=60)[0]
    assert reader.returncode == 0
    assert rest.endswith("ended: exit 0\n")
    assert rest.count("prepare finished in") == 1
    assert terminal.call("runs", "logs", "one", "-n", "1").endswith("ended: exit 0\n")


def test_a_log_is_followed_until_the_supervisor_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Identity.of().to_json()
    ended = {"code": 0, "signal": None, "ended": 1.0, "peak": 0}
    record = {"supervisor": here, "worker": {**here, "pid": -1}, "exit": ended}
    write_json(tmp_path / "config.json", {})
    write_json(tmp_path / "supervisor.json", record)
    log = tmp_path / "log.txt"
    log.write_text("prepare finished\n", encoding="utf-8")
    assert state_of(tmp_path).is_over

    def leave(_seconds: float) -> None:
        log.write_text("prepare finished\nended: exit 0\n", encoding="utf-8")
        write_json(tmp_path / "supervisor.json", record | {"supervisor": None})

    monkeypatch.setattr(runs.time, "sleep", leave)
    followed = "".join(runs._log_lines(tmp_path, follow=True, lines=9))
    assert followed == "prepare finished\nended: exit 0\n"


def test_options_of_the_background_need_it(terminal: Terminal) -> None:
    for words in (["--after", "one"], ["--max-parallel", "2"], ["--grid", "seed=0,1"]):
        assert "add --detach" in terminal.call("run", terminal.recipe, *words, code=2)
    assert "no such run" in terminal.call(
        "run", terminal.recipe, "--detach", "--after", "nobody", code=2
    )
    assert not (terminal.folder / "runs").exists()


def test_what_is_listed_is_json_for_machines(terminal: Terminal) -> None:
    assert json.loads(terminal.call("runs", "--json")) == []
    assert "no runs in runs" in terminal.call("runs")
