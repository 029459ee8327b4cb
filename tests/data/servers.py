"""A web server on this machine that serves files as the real ones do: ranges, validators, and two
hubs' protocols.

It can break off and send altered bytes, and keeps what it was asked. Knows nothing about who asks.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote

__all__ = ["COMMIT", "Asked", "Server", "serving"]

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER_HUB_PATH = re.compile(
    r"/api/v1/(?:datasets|models)/([\w.-]+/[\w.-]+)/repo\?Revision=([^&]+)&FilePath=(.+)"
)
HUB_PATH = re.compile(r"(?:/datasets)?/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)")
TREE_PATH = re.compile(r"/api/models/([\w.-]+/[\w.-]+)/tree/.+")
OTHER_TREE_PATH = re.compile(r"/api/v1/models/([\w.-]+/[\w.-]+)/repo/files\?.+")


@dataclass(frozen=True)
class Asked:
    """One request: its method, path and range, and how many bytes of the file were sent."""

    method: str
    path: str
    range: str | None
    sent: int


@dataclass
class Server:
    """What is served, and how badly."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    """Contents by path; a hub's file has the path `OWNER/NAME/FILE`."""
    breaks_after: list[int] = field(default_factory=list)
    """The next answers end after so many bytes, one each."""
    breaks_weights: list[int] = field(default_factory=list)
    """The same, but of `*.safetensors` alone."""
    answers_instead: list[int] = field(default_factory=list)
    """The next answers are these statuses, one each."""
    lists: dict[str, bytes] = field(default_factory=dict)
    """What the hubs' listings say of a path, where it is not what is served."""
    commit: str = COMMIT
    validator: str = "ETag"
    """`ETag`, `weak`, `Last-Modified`, or none."""
    ranges: bool = True
    asked: list[Asked] = field(default_factory=list)


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """Yield a server that listens until the block ends."""
    server = Server()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(server)) as listening:
        server.address = f"http://127.0.0.1:{listening.server_address[1]}"
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()


def _in_tree(name: str, content: bytes) -> dict[str, object]:
    """Return a file as Hugging Face lists it: large ones, here the weights, with their sha256."""
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry: dict[str, object] = {"type": "file", "path": name, "size": len(content), "oid": blob}
    if name.endswith((".safetensors", ".bin")):
        entry["lfs"] = {
            "oid": hashlib.sha256(content).hexdigest(),
            "size": len(content),
            "pointerSize": 130,
        }
    return entry


def _handler(server: Server) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_HEAD(self) -> None:
            self._answer(send=False)

        def do_GET(self) -> None:
            self._answer(send=True)

        def _answer(self, *, send: bool) -> None:
            path = unquote(self.path)
            hub = HUB_PATH.fullmatch(path) or OTHER_HUB_PATH.fullmatch(path)
            content = server.files.get(
                f"{hub[1]}/{hub[3]}" if hub else self.path, self._listing(path)
            )
            instead = server.answers_instead.pop(0) if server.answers_instead else None
            if content is None or instead:
                self._note(0)
                headers = {"X-Error-Code": "EntryNotFound"} if hub else {}
                self._head(instead or 404, {**headers, "Content-Length": "0"})
                return
            tag = hashlib.sha256(content).hexdigest()
            begin = self._begin(tag)
            if begin is not None and begin >= len(content):
                self._note(0)
                self._head(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
                return
            headers = self._validators(tag)
            if begin is not None:
                headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
            content = content[begin or 0 :]
            headers["Content-Length"] = str(len(content))
            if hub:
                headers["X-Repo-Commit"] = server.commit
            self._head(206 if "Content-Range" in headers else 200, headers)
            if send:
                self._send(content)

        def _listing(self, path: str) -> bytes | None:
            """Return a hub's answer about the files of a model; None where it is asked for
            something else.
            """
            tree, other = TREE_PATH.fullmatch(path), OTHER_TREE_PATH.fullmatch(path)
            if not tree and not other:
                return None
            prefix = f"{(tree or other)[1]}/"  # type: ignore[index]
            found = {
                p.removeprefix(prefix): c
                for p, c in (server.files | server.lists).items()
                if p.startswith(prefix)
            }
            if tree:
                return json.dumps(
                    [_in_tree(name, content) for name, content in found.items()]
                ).encode()
            files = [
                {
                    "Path": name,
                    "Type": "blob",
                    "Size": len(content),
                    "Sha256": hashlib.sha256(content).hexdigest(),
                }
                for name, content in found.items()
            ]
            return json.dumps({"Code": 200, "Success": True, "Data": {"Files": files}}).encode()

        def _begin(self, tag: str) -> int | None:
            """Return where the part that is asked for begins; None where all is to be sent."""
            found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")
            same = self.headers["If-Range"] in (None, *self._validators(tag).values())
            return int(found[1]) if server.ranges and found and same else None

        def _validators(self, tag: str) -> dict[str, str]:
            made = {"ETag": f'"{tag}"', "weak": f'W/"{tag}"', "Last-Modified": f"day {tag}"}
            name = {"weak": "ETag"}.get(server.validator, server.validator)
            return {name: made[server.validator]} if server.validator in made else {}

        def _head(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def _send(self, content: bytes) -> None:
            if server.breaks_after:
                content = content[: server.breaks_after.pop(0)]
                self.close_connection = True
            if server.breaks_weights and ".safetensors" in self.path:
                content = content[: server.breaks_weights.pop(0)]
                self.close_connection = True
            self._note(len(content))
            with contextlib.suppress(ConnectionError):
                self.wfile.write(content)

        def _note(self, sent: int) -> None:
            server.asked.append(Asked(self.command, self.path, self.headers["Range"], sent))

    return Handler
