from __future__ import annotations

import hashlib
import io
import logging
import zipfile
from pathlib import Path

import pytest

from groundrec.core.config import Data
from groundrec.core.errors import DataError
from groundrec.data.raw import download
from groundrec.data.raw.files import open_duckdb
from groundrec.data.sources.movielens import MovieLens100K

INTER = b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t9\t3\t881250949\n"
ITEM = b"item_id:token\tmovie_title:token_seq\trelease_year:token\n9\tToy Story\t1995\n"
CONTENTS = dict(zip(download.WHEEL_FILES, (INTER, ITEM), strict=True))


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def unreachable(*_: object) -> bytes:
    raise OSError("no route to host")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache, with both places unreachable and the planted files' digests as the
    expected ones.
    """
    monkeypatch.setenv("GROUNDREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "download_wheel", unreachable)
    monkeypatch.setattr(download, "_get", unreachable)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
    monkeypatch.setattr(download, "WHEEL_FILES", digests)
    return tmp_path / "cache"


def test_the_wheel_is_used_and_then_the_cache(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("groundrec"), "propagate", True)
    caplog.set_level(logging.INFO, "groundrec")
    monkeypatch.setattr(
        download, "download_wheel", lambda _: zipped({**CONTENTS, "recbole/evil.py": b"x"})
    )
    folder = download.movielens_100k()
    assert sorted(p.name for p in folder.iterdir()) == ["ml-100k.inter", "ml-100k.item"]
    assert [p.name for p in cache.iterdir()] == ["ml-100k"]
    monkeypatch.setattr(download, "download_wheel", unreachable)
    assert download.movielens_100k() == folder
    assert caplog.text.count("no redistribution") == 1


def test_the_source_reads_what_was_downloaded(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "download_wheel", lambda _: zipped(CONTENTS))
    with open_duckdb(tmp_path / "scratch") as connection:
        raw = MovieLens100K(Data()).read(connection)
        assert raw.items.to_pyarrow()["title"].to_pylist() == ["Toy Story (1995)"]


def test_grouplens_is_asked_when_the_index_cannot_be_reached(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = zipped(
        {"ml-100k/u.data": b"1\t9\t3\t5\n", "ml-100k/u.item": b"9|Toy", "ml-100k/u.user": b""}
    )
    monkeypatch.setattr(download, "_get", lambda url: content)
    monkeypatch.setattr(download, "ZIP_MD5", hashlib.md5(content).hexdigest())
    assert sorted(p.name for p in download.movielens_100k().iterdir()) == ["u.data", "u.item"]


def test_a_wheel_with_other_bytes_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tampered = {name: content + b"9\t9\t9\t9\n" for name, content in CONTENTS.items()}
    monkeypatch.setattr(download, "download_wheel", lambda _: zipped(tampered))
    with pytest.raises(DataError, match=r"ml-100k\.inter has a wrong checksum"):
        download.movielens_100k()
    assert not list(cache.iterdir())


def test_a_zip_with_other_bytes_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        download, "_get", lambda url: zipped({"ml-100k/u.data": b"", "ml-100k/u.item": b""})
    )
    with pytest.raises(DataError, match=r"ml-100k\.zip has a wrong checksum"):
        download.movielens_100k()
    assert not list(cache.iterdir())


def test_nothing_reachable_says_what_was_tried(cache: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"package index: no route to host; GroupLens: no route[\s\S]*data\.path=FOLDER",
    ):
        download.movielens_100k()
    assert not list(cache.iterdir())
