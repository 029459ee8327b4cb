"""The supervisor of a detached run: `python -m groundrec.app.jobs.supervise RUN`.

It has a session of its own, so closing a terminal does not end it. It waits for the run's turn,
starts the run as another process, and records how that ended. If the supervisor is killed, the run
continues and keeps its own status. Knows nothing about stages.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from groundrec.app.jobs.job import Job
from groundrec.app.jobs.queue import GPUS, Queue, Ticket, gpus, state_folder
from groundrec.app.jobs.records import RECORD, Exit, SupervisorRecord
from groundrec.app.jobs.state import state_of
from groundrec.core.alive import Identity, lock_folder, peak_bytes
from groundrec.core.errors import ArtifactError, GroundrecError, ProcessError
from groundrec.core.files import write_json
from groundrec.core.track import log, log_to

__all__ = ["Supervisor", "launch", "main"]

POLL = 0.5
"""Seconds between two looks at the queue."""
LOG = "log.txt"
_OWN_LOCK = "supervisor.lock"


def launch(run: Path, job: Job) -> None:
    """Save the job in `run` and start its supervisor; return once the run is started or queued."""
    if not hasattr(os, "fork"):
        raise ProcessError(
            "background runs are not possible on this system",
            value=sys.platform,
            accepted="Linux or macOS",
            next_step="leave out --detach",
        )
    job.save(run)
    with (run / LOG).open("ab") as log_file:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "groundrec.app.jobs.supervise", str(run.resolve())],
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=job.place,
            check=False,
        )
    if done.returncode:
        raise ArtifactError(
            "the run could not be started in the background",
            value=run,
            accepted="one detached run at a time in a run directory",
            next_step=f"groundrec runs logs {run}",
        )


class Supervisor:
    """Waits for a run's turn, starts it, and records its end."""

    def __init__(self, run: Path, job: Job, report_started: Callable[[], None]) -> None:
        self._run = run
        self._job = job
        self._queue = Queue(state_folder(), gpus())
        self._report_started = report_started
        self._stop_requested = threading.Event()
        self._worker: subprocess.Popen[bytes] | None = None
        self._record: SupervisorRecord = {
            "supervisor": Identity.of().to_json(),
            "worker": None,
            "exit": None,
        }
        self._write({})

    def work(self) -> None:
        """Wait for the run's turn, start it, and return when it has ended or was stopped."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._on_stop)
        try:
            ticket = self._wait()
            if ticket is None:
                stopped = Exit(code=None, signal="SIGTERM", ended=time.time(), peak=0)
                self._write({"waits": "", "exit": stopped})
                log.info("stopped before its turn")
                return
            self._start(ticket)
            self._end()
        finally:
            self._queue.leave(str(self._run))

    def _wait(self) -> Ticket | None:
        """Return the ticket when it is this run's turn; None if it was stopped before."""
        mine = Ticket(
            str(self._run), self._job.submitted, Identity.of(), max_parallel=self._job.max_parallel
        )
        logged = None
        while not self._stop_requested.is_set():
            waits = self._waits_after() or self._queue.take(mine)
            if isinstance(waits, Ticket):
                return waits
            if waits != logged:
                log.info(f"waiting: {waits}")
                self._write({"waits": waits})
                self._report_started()
                logged = waits
            self._stop_requested.wait(POLL)
        return None

    def _waits_after(self) -> str:
        """Return which run has to finish first, and its state; an empty string if all have."""
        for path in map(Path, self._job.after):
            state = state_of(path).state if path.is_dir() else "removed"
            if state != "finished":
                return f"until {path.name}, now {state}, has finished"
        return ""

    def _start(self, ticket: Ticket) -> None:
        environment = {**os.environ, **({GPUS: ticket.gpu} if ticket.gpu else {})}
        command = self._job.command(self._run)
        self._worker = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment)
        worker = Identity.of(self._worker.pid)
        self._queue.set_worker(ticket.run, worker)
        self._write({"waits": "", "worker": worker.to_json(), "gpu": ticket.gpu})
        self._report_started()
        log.info(
            f"started as process {worker.pid}" + (f" on GPU {ticket.gpu}" if ticket.gpu else "")
        )
        if self._stop_requested.is_set():
            worker.send_signal(signal.SIGTERM)

    def _end(self) -> None:
        assert self._worker
        code = self._worker.wait()
        name = signal.Signals(-code).name if code < 0 else None
        ended = Exit(
            code=code if code >= 0 else None,
            signal=name,
            ended=time.time(),
            peak=peak_bytes(children=True),
        )
        self._write({"exit": ended})
        log.info(f"ended: {name or f'exit {code}'}")

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stop_requested.set()
        if self._worker and self._worker.poll() is None:
            self._worker.send_signal(signal.SIGTERM)

    def _write(self, changes: SupervisorRecord) -> None:
        self._record |= changes
        write_json(self._run / RECORD, self._record)


def main() -> None:
    """Supervise the run named on the command line in a process of its own.

    The first process exits with 0 once the run is started or queued, and with 1 if that failed.
    """
    run = Path(sys.argv[1])
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        os._exit(0 if os.read(reader, 1) else 1)
    os.close(reader)
    log_to(run / LOG, quiet=True)
    try:
        with lock_folder(run, _OWN_LOCK):
            Supervisor(run, Job.of(run), lambda: _report_started(writer)).work()
    except GroundrecError as error:
        log.error(str(error))
        sys.exit(2)


def _report_started(writer: int) -> None:
    """Tell the process at the other end of the pipe that the run is started or queued."""
    # After the first report nobody reads the pipe.
    with contextlib.suppress(OSError):
        os.write(writer, b"1")


if __name__ == "__main__":
    main()
