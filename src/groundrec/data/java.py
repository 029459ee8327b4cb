"""Find the Java installation of this machine.

Knows nothing about what it is used for.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

__all__ = ["OLDEST", "Java", "java"]

OLDEST = 17


class Java(NamedTuple):
    """The installed version, or `none`, and the command that installs a sufficient one."""

    version: str
    suffices: bool
    fix: str


def java() -> Java:
    """Return the Java in JAVA_HOME or, if that is not set, on PATH."""
    home = os.environ.get("JAVA_HOME")
    output = _version_text(str(Path(home) / "bin" / "java") if home else "java")
    number = re.search(r'version "((?:1\.)?(\d+)[^"]*)"', output)
    fix = (
        "brew install openjdk@17"
        if sys.platform == "darwin"
        else "apt-get install openjdk-17-jre-headless"
    )
    if home:
        fix += ", or set JAVA_HOME to another"
    return Java(number[1] if number else "none", bool(number) and int(number[2]) >= OLDEST, fix)


def _version_text(program: str) -> str:
    try:
        done = subprocess.run(
            [program, "-version"], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr
