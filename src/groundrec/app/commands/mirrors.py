"""The package index and the hubs: where they are on this machine, whether they answer, and which
mirror does.

Addresses are asked without a login, and shown without one. Knows nothing about what is fetched from
them.
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
"""Seconds until an address counts as silent, names included."""
MIRRORS = {
    "PIP_INDEX_URL": (
        "https://pypi.tuna.tsinghua.edu.cn/simple",
        "https://mirrors.aliyun.com/pypi/simple",
        "https://pypi.org/simple",
    ),
    "HF_ENDPOINT": ("https://hf-mirror.com", "https://huggingface.co"),
    "MODELSCOPE_ENDPOINT": ("https://www.modelscope.cn", "https://www.modelscope.ai"),
}
"""Addresses that serve the same, by the variable that chooses one."""
PROXY_REFUSES = 407


@dataclass(frozen=True)
class Service:
    """Something reached over the network: its address, and the variables that choose it and that
    forbid it.
    """

    name: str
    address: str
    variable: str
    path: str = ""
    forbidden_by: str = ""

    def look(self) -> tuple[str, bool, str, str]:
        """Return name, whether it answers, what was found, and the command that helps where it does
        not.
        """
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
        return (
            "export HTTPS_PROXY=http://HOST:PORT, for no mirror answers either:"
            f" {', '.join(others)}"
        )

    def _wrong(self, address: str) -> str | None:
        """Return what is wrong with an address; None where it answers as it should."""
        parts = urlsplit(address)
        if parts.scheme == "file":
            return None if Path(url2pathname(parts.path)).is_dir() else "no such folder"
        status = _ask(address.rstrip("/") + self.path)
        if isinstance(status, str):
            return status
        # A package index must have the page; a hub that asks for a login, or knows no such page, is
        # there all the same.
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
    """Return the address of the package index that pip would use here: from the environment, else
    its own files.
    """
    given = os.environ.get("PIP_INDEX_URL")
    if given:
        return given
    command = [sys.executable, "-m", "pip", "config", "list", "--disable-pip-version-check"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    values = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    found = next(
        (values[key] for key in ("install.index-url", "global.index-url") if key in values), ""
    )
    return found.strip("'\"") or "https://pypi.org/simple"


def public(address: str) -> str:
    """Return an address without the name and password that it may hold."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def _ask(address: str) -> int | str:
    """Return the status with which an address answers, or what went wrong, in a few seconds at
    most.
    """
    said: list[int | str] = ["no answer"]
    # A thread, since looking a name up knows no limit; it is left behind where it takes longer.
    thread = threading.Thread(target=lambda: said.append(_status(address)), daemon=True)
    thread.start()
    thread.join(PATIENCE + 1)
    return said[-1]


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
