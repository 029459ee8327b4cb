"""What a result may depend on besides its inputs. Knows nothing about runs."""

from __future__ import annotations

import contextlib
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from groundrec import __version__

__all__ = ["environment"]


def environment() -> dict[str, Any]:
    """Return versions, platform, git revision and command line: what a result may depend on besides
    its inputs.
    """
    packages = {}
    for name in ("torch", "transformers", "tokenizers", "peft", "numpy", "duckdb"):
        with contextlib.suppress(PackageNotFoundError):
            packages[name] = version(name)
    return {
        "groundrec": __version__,
        "python": platform.python_version(),
        "packages": packages,
        "git": _git_revision(),
        "argv": sys.argv,
        "finished": int(time.time()),
    }


def _git_revision() -> str | None:
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    out = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return out.stdout.strip() or None
