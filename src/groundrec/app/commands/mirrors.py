"""The package index and the hubs: their addresses, whether they answer, and mirrors that do.

Addresses are shown without a login. Knows nothing about what is downloaded from them.
"""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from urllib.request import url2pathname

__all__ = ["MIRRORS", "Service", "pip_index", "public", "services"]

PATIENCE = 3.0
"""Seconds until an address counts as unreachable, name lookup included."""
MIRRORS = {
    "PIP_INDEX_URL": (
        "https://pypi.tuna.tsinghua.edu.cn/simple",
        "https://mirrors.aliyun.com/pypi/simple",
        "https://pypi.org/simple",
    ),
    "HF_ENDPOINT": ("https://hf-mirror.com", "https://huggingface.co"),
    "MODELSCOPE_ENDPOINT": ("https://www.modelscope.cn", "https://www.modelscope.ai"),
}
"""Equivalent addresses, by the environment variable that chooses one."""
PROXY_REFUSES = 407


@dataclass(frozen=True)
class Service:
    """A service on the network, and the variables that choose its address and forbid its use."""

    name: str
    address: str
    variable: str
    path: str = ""
    forbidden_by: str = ""

    def look(self) -> tuple[str, bool, str, str]:
        """Return its name, whether it answers, what was found, and what to do if it does not."""
        shown = public(self.address)
        if self.forbidden_by and os.environ.get(self.forbidden_by, "").lower() in (
            "1",
            "true",
            "yes",
            "on",
        ):
            return self.name, False, f"{self.forbidden_by} forbids it", f"unset {self.forbidden_by}"
        wrong = self._wrong(self.address)
        if wrong is None:
            return self.name, True, f"{shown} answers", ""
        return self.name, False, f"{shown}: {wrong}", self._help()

    def _help(self) -> str:
        others = [mirror for mirror in MIRRORS[self.variable] if mirror != self.address.rstrip("/")]
        answering = next((mirror for mirror in others if self._wrong(mirror) is None), None)
        if answering:
            return f"export {self.variable}={answering}"
        return f"export HTTPS_PROXY=http://HOST:PORT; no mirror answers either: {', '.join(others)}"

    def _wrong(self, address: str) -> str | None:
        """Return what is wrong with an address; None if it answers as it should."""
        parts = urlsplit(address)
        if parts.scheme == "file":
            return None if Path(url2pathname(parts.path)).is_dir() else "no such folder"
        status = _ask(address.rstrip("/") + self.path)
        if isinstance(status, str):
            return status
        # A package index must have the page; a hub that asks for a login, or does not have the
        # page, is reachable all the same.
        refused = (
            status >= http.HTTPStatus.BAD_REQUEST
            if self.path
            else status >= 500 or status == PROXY_REFUSES
        )
        return f"answers with status {status}" if refused else None


def services() -> Iterator[Service]:
    """Yield the package index and the hubs, as pip and the hubs' own clients would find them."""
    yield Service("package index", pip_index(), "PIP_INDEX_URL", path="/pip/")
    hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    yield Service("Hugging Face", hub, "HF_ENDPOINT", forbidden_by="HF_HUB_OFFLINE")
    scope = (
        os.environ.get("MODELSCOPE_ENDPOINT")
        or os.environ.get("MODELSCOPE_DOMAIN")
        or "www.modelscope.cn"
    )
    yield Service(
        "ModelScope", scope if "://" in scope else f"https://{scope}", "MODELSCOPE_ENDPOINT"
    )


def pip_index() -> str:
    """Return the address of the package index that pip would use here."""
    given = os.environ.get("PIP_INDEX_URL")
    if given:
        return given
    command = [sys.executable, "-m", "pip", "config", "list", "--disable-pip-version-check"]
    printed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    values = dict(line.split("=", 1) for line in printed.splitlines() if "=" in line)
    found = next(
        (values[key] for key in ("install.index-url", "global.index-url") if key in values), ""
    )
    return found.strip("'\"") or "https://pypi.org/simple"


def public(address: str) -> str:
    """Return an address without the name and password that it may hold."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def _ask(address: str) -> int | str:
    """Return the HTTP status of an address, or what went wrong, within a few seconds."""
    answers: list[int | str] = ["no answer"]
    # In a thread, because a name lookup has no timeout; one that takes too long is abandoned.
    thread = threading.Thread(target=lambda: answers.append(_status(address)), daemon=True)
    thread.start()
    thread.join(PATIENCE + 1)
    return answers[-1]


def _status(address: str) -> int | str:
    parts = urlsplit(address)
    asked = urllib.request.Request(public(address), headers={"User-Agent": "groundrec"})
    if parts.username:
        login = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        login.add_password(None, public(address), parts.username, parts.password or "")
        opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(login))
    else:
        opener = urllib.request.build_opener()
    try:
        with opener.open(asked, timeout=PATIENCE) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(getattr(error, "reason", error)) or type(error).__name__
