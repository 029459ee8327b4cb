"""Locate raw data: a path on this machine, or a URL or hub file, downloaded once into a cache.

An interrupted download resumes, in this process or a later one, if the server can confirm that the
file has not changed. Knows nothing about the contents of files.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from groundrec.core.errors import DataError, MissingDependency
from groundrec.core.files import digest, read_json, write_json
from groundrec.core.track import log, progress_bar
from groundrec.data.raw.download import cache_folder
from groundrec.data.raw.files import check_path

__all__ = ["check_location", "download_error", "local_path", "modelscope_client", "sha256_of"]

HUB = re.compile(r"(?:hf|modelscope)://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)")
ACCEPTED = "a path, https://…, hf://datasets/OWNER/NAME/FILE, modelscope://datasets/OWNER/NAME/FILE"
ATTEMPTS = 5
WAIT = 1.0
"""Seconds before the second attempt; the wait doubles each time."""

TIMEOUT = 60
"""Seconds without an answer after which a connection is given up."""

BLOCK = 1 << 20
TRANSIENT_STATUSES = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses after which a retry may succeed."""


def check_location(location: Path | str | None, setting: str) -> None:
    """Raise `DataError` for a missing path or an unsupported URL, without downloading."""
    if not isinstance(location, str):
        check_path(location, setting)
    elif urlsplit(location).scheme not in FETCH or (
        not location.startswith("http") and not HUB.fullmatch(location)
    ):
        raise DataError(
            "unknown kind of location for raw data",
            value=location,
            accepted=ACCEPTED,
            next_step=f"--set {setting}=…",
        )


def local_path(location: Path | str | None, setting: str, sha256: str | None = None) -> Path:
    """Return the path on this machine, downloading the file first if necessary.

    Raises `DataError` if that fails or the file's digest is not `sha256`.
    """
    check_location(location, setting)
    if isinstance(location, str):
        return FETCH[urlsplit(location).scheme](location, sha256)
    path = check_path(location, setting)
    if sha256:
        _check(str(path), sha256_of(path), sha256)
    return path


def _from_web(url: str, sha256: str | None) -> Path:
    folder = cache_folder() / "downloads" / digest(url)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / (Path(unquote(urlsplit(url).path)).name or "file")
    with FileLock(folder / ".lock"):
        record = read_json(folder / "download.json")
        if (
            record
            and file.exists()
            and file.stat().st_size == record["size"]
            and sha256 in (None, record["sha256"])
        ):
            return file
        part = file.with_name(f"{file.name}.part")
        log.info(f"downloading {url} into {folder}")
        _download_with_retries(url, part)
        actual = sha256_of(part)
        if sha256 not in (None, actual):
            part.unlink()
            _check(url, actual, str(sha256))
        part.replace(file)
        write_json(
            folder / "download.json", {"url": url, "sha256": actual, "size": file.stat().st_size}
        )
    log.info(
        f"{file.name}: {file.stat().st_size:,} bytes, sha256 {actual}"
        + ("" if sha256 else "; no digest to check it against")
    )
    return file


def _download_with_retries(url: str, part: Path) -> None:
    """Download the rest of a file, retrying after transient errors."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _resume_download(url, part)
            return
        except (OSError, http.client.HTTPException) as error:
            final = (
                isinstance(error, urllib.error.HTTPError) and error.code not in TRANSIENT_STATUSES
            )
            if final or attempt == ATTEMPTS:
                raise download_error(url, error, part) from None
            log.warning(f"{part.name}: {error}; retrying")
            time.sleep(WAIT * 2 ** (attempt - 1))


def _resume_download(url: str, part: Path) -> None:
    """Append the missing bytes to `part`; start over if the server cannot, or the file changed."""
    state = part.with_name("part.json")
    have = part.stat().st_size if part.exists() else 0
    tag = (read_json(state) or {}).get("tag") if have else None
    headers = {"Range": f"bytes={have}-", "If-Range": tag} if tag else {}
    try:
        answer = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT
        )
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
            raise
        part.unlink()
        return _resume_download(url, part)
    with answer:
        begin = have if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        if begin and not answer.headers["Content-Range"].startswith(f"bytes {begin}-"):
            raise OSError(
                f"requested the bytes from {begin}, but the server sent"
                f" {answer.headers['Content-Range']}"
            )
        write_json(state, {"tag": _version_tag(answer.headers)})
        length = answer.headers["Content-Length"]
        _copy(answer, part, begin, begin + int(length) if length else None)
    state.unlink()
    return None


def _copy(answer: http.client.HTTPResponse, part: Path, begin: int, total: int | None) -> None:
    with part.open("ab" if begin else "wb") as file, progress_bar() as bar:
        task = bar.add_task(part.stem, total=total, completed=begin)
        while block := answer.read(BLOCK):
            file.write(block)
            bar.advance(task, len(block))
        os.fsync(file.fileno())
        if total not in (None, file.tell()):
            raise OSError(f"the connection ended after {file.tell():,} of {total:,} bytes")


def _version_tag(headers: http.client.HTTPMessage) -> str | None:
    """Return what identifies a version of a file; a weak ETag does not."""
    strong = headers["ETag"] and not headers["ETag"].startswith("W/")
    return headers["ETag"] if strong else headers["Last-Modified"]


def download_error(url: str, error: Exception, part: Path | None = None) -> DataError:
    """Return the error for a failed download, with how to resume it."""
    kept = part.stat().st_size if part and part.exists() else 0
    return DataError(
        f"{url} cannot be downloaded",
        value=str(error) or type(error).__name__,
        accepted="a working connection and an existing file",
        next_step=(
            f"run the same command again: it resumes after {kept:,} bytes"
            if kept
            else "check the address, or get the file another way and give its path"
        ),
    )


def _from_hugging_face(url: str, sha256: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    repository, revision, name = _hub_parts(url)
    try:
        path = Path(
            hf_hub_download(
                repository,
                name,
                repo_type="dataset",
                revision=revision,
                endpoint=os.environ.get("HF_ENDPOINT"),
            )
        )
    except (OSError, ValueError) as error:
        raise download_error(url, error) from None
    log.info(f"{url}: commit {path.parts[path.parts.index('snapshots') + 1]}")
    if sha256:
        _check(url, sha256_of(path), sha256)
    return path


def modelscope_client() -> tuple[Any, type[Exception]]:
    """Return ModelScope's client, for the mirror in the environment, and its error class."""
    try:
        from modelscope_hub import HubApi, HubConfig
        from modelscope_hub.errors import HubError
    except ImportError:
        raise MissingDependency("modelscope-hub", "modelscope") from None
    mirror = os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN")
    with warnings.catch_warnings():  # the client warns about the older of the two variables
        warnings.simplefilter("ignore", FutureWarning)
        config = HubConfig(
            endpoint=mirror if not mirror or "://" in mirror else f"https://{mirror}"
        )
        return HubApi(config), HubError


def _from_modelscope(url: str, sha256: str | None) -> Path:
    client, failed = modelscope_client()
    repository, revision, name = _hub_parts(url)
    try:
        path = client.download_file(repository, "dataset", name, revision=revision)
    except (OSError, failed) as error:
        raise download_error(url, error) from None
    if sha256:
        _check(url, sha256_of(path), sha256)
    return path


def _hub_parts(url: str) -> tuple[str, str | None, str]:
    """Return repository, revision and file of a hub's URL."""
    parts = HUB.fullmatch(url)
    assert parts
    return parts[1], parts[2], parts[3]


def sha256_of(path: Path) -> str:
    """Return the SHA-256 digest of a file in hexadecimal digits."""
    if path.is_dir():
        raise DataError(
            "a folder has no digest",
            value=path,
            accepted="data.sha256 together with the path of a single file",
            next_step="leave data.sha256 out, or name the file",
        )
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(name: str, actual: str, expected: str) -> None:
    if actual != expected:
        raise DataError(
            f"{name} has a wrong checksum",
            value=actual,
            accepted=expected,
            next_step=(
                "check whether the file or the recipe's sha256 is wrong; a download was discarded"
            ),
        )


FETCH: dict[str, Callable[[str, str | None], Path]] = {
    "http": _from_web,
    "https": _from_web,
    "hf": _from_hugging_face,
    "modelscope": _from_modelscope,
}
"""URL scheme → the function that downloads it."""
