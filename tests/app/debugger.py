"""A small client of the debug adapter protocol: what an editor says to debugpy, over a socket.

Knows nothing about what is debugged.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["PATIENCE", "Debugger", "attached", "free_ports"]

PATIENCE = 120


def free_ports(count: int) -> int:
    """Return the first of `count` ports in a row that nobody uses."""
    while True:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            for port in range(first + 1, first + count):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


@contextlib.contextmanager
def attached(
    port: int, alive: Callable[[], bool], breakpoint: tuple[Path, int]
) -> Iterator[Debugger]:
    """Yield a debugger attached to who waits at `port`, with a breakpoint at a line of a file."""
    with _connection(port, alive) as connection, connection.makefile("rb") as answers:
        debugger = Debugger(connection, answers)
        debugger.attach(*breakpoint)
        yield debugger
        debugger.request("disconnect", terminateDebuggee=False)


@contextlib.contextmanager
def _connection(port: int, alive: Callable[[], bool]) -> Iterator[socket.socket]:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
            break
        except ConnectionRefusedError:
            if not alive() or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    with connection:
        yield connection


class Debugger:
    """One connection to an adapter. Messages that nobody waits for yet are kept."""

    def __init__(self, connection: socket.socket, answers: BinaryIO) -> None:
        self._connection, self._answers, self._number = connection, answers, 0
        self._kept: list[dict[str, Any]] = []

    def attach(self, file: Path, line: int) -> None:
        """Attach, set one breakpoint, and let the process go on."""
        self.request(
            "initialize",
            adapterID="debugpy",
            clientID="test",
            pathFormat="path",
            linesStartAt1=True,
        )
        attaching = self.send("attach", justMyCode=False)
        self.event("initialized")
        asked = {"source": {"path": str(file)}, "breakpoints": [{"line": line}]}
        [point] = self.request("setBreakpoints", **asked)["breakpoints"]
        assert point["verified"], point
        self.request("configurationDone")
        self.answer(attaching)

    def stopped(self) -> dict[str, str]:
        """Wait for the breakpoint; return the local variables there, as the debugger shows them."""
        thread = self.event("stopped")["threadId"]
        self._frame = self.request("stackTrace", threadId=thread)["stackFrames"][0]["id"]
        scopes = self.request("scopes", frameId=self._frame)["scopes"]
        local = next(scope for scope in scopes if scope["name"] == "Locals")["variablesReference"]
        self._thread = thread
        return {
            v["name"]: v["value"]
            for v in self.request("variables", variablesReference=local)["variables"]
        }

    def evaluate(self, expression: str) -> str:
        """Return an expression's value where the process is stopped."""
        return self.request("evaluate", expression=expression, frameId=self._frame)["result"]

    def go_on(self) -> None:
        """Let a stopped process run again."""
        self.request("continue", threadId=self._thread)

    def request(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and return the body of its answer."""
        return self.answer(self.send(command, **arguments))

    def send(self, command: str, **arguments: Any) -> int:
        """Send a request and return its number."""
        self._number += 1
        message = {
            "seq": self._number,
            "type": "request",
            "command": command,
            "arguments": arguments,
        }
        body = json.dumps(message).encode()
        self._connection.sendall(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        return self._number

    def answer(self, number: int) -> dict[str, Any]:
        """Wait for the answer to a request and return its body."""
        found = self._wait(lambda m: m["type"] == "response" and m["request_seq"] == number)
        assert found["success"], found
        return found.get("body") or {}

    def event(self, name: str) -> dict[str, Any]:
        """Wait for an event and return its body."""
        return self._wait(lambda m: m["type"] == "event" and m["event"] == name)["body"]

    def _wait(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while not (found := next((m for m in self._kept if wanted(m)), None)):
            self._kept.append(self._read())
        self._kept.remove(found)
        return found

    def _read(self) -> dict[str, Any]:
        length = 0
        while line := self._answers.readline().strip():
            name, _, value = line.partition(b":")
            length = int(value) if name == b"Content-Length" else length
        body = self._answers.read(length)
        assert body, "the adapter has closed the connection"
        return {"body": {}, **json.loads(body)}
