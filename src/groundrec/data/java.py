"""Which Java would be started on this machine.

Knows nothing about what is done with it.
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
    """What was found: `none` where there is no Java."""

    version: str
    suffices: bool
    fix: str


def java() -> Java:
    """Return the Java of JAVA_HOME or, where that is not set, of PATH; and the command that
    installs one.
    """
    home = os.environ.get("JAVA_HOME")
    said = _version_text(str(Path(home) / "bin" / "java") if home else "java")
    number = re.search(r'version "((?:1\.)?(\d+)[^"]*)"', said)
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
