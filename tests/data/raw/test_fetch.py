"""Raw data by URL: resumed, checked, cached; against a server on this machine."""

from __future__ import annotations

import hashlib
import http
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from groundrec.core.config import Data
from groundrec.core.errors import DataError, MissingDependency
from groundrec.data.dataset import load
from groundrec.data.raw import fetch
from groundrec.data.raw.fetch import check_location, local_path
from groundrec.data.raw.files import open_duckdb
from groundrec.data.sources.table import TableSource
from tests.commands import command
from tests.data.servers import COMMIT, Server, serving

CONTENT = b"user,item,time\n" + b"".join(b"%d,%d,%d\n" % (n, n, n) for n in range(5000))
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Yield a server with one file, an empty cache, and no wait between attempts."""
    monkeypatch.setenv("GROUNDREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "WAIT", 0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as started:
        started.files["/data/events.csv"] = CONTENT
        yield started


def url_of(server: Server) -> str:
    return f"{server.address}/data/events.csv"


def kept(tmp_path: Path) -> list[str]:
    """Return the names of the files in the cache that hold data."""
    return sorted(p.name for p in (tmp_path / "cache").rglob("*.csv*"))


@pytest.mark.parametrize("sha256", [None, DIGEST])
def test_a_file_is_fetched_once_and_then_there_without_a_server(
    server: Server, tmp_path: Path, sha256: str | None
) -> None:
    path = local_path(url_of(server), "data.path", sha256)
    assert (path.name, path.read_bytes()) == ("events.csv", CONTENT)
    assert path.is_relative_to(tmp_path / "cache")
    server.files.clear()
    assert local_path(url_of(server), "data.path", sha256) == path
    assert len(server.asked) == 1
    assert kept(tmp_path) == ["events.csv"]


def test_a_broken_connection_goes_on_where_it_stopped(server: Server) -> None:
    server.breaks_after = [10_000, 0, 7_000]
    assert local_path(url_of(server), "data.path", DIGEST).read_bytes() == CONTENT
    assert [(a.range, a.sent) for a in server.asked] == [
        (None, 10_000),
        ("bytes=10000-", 0),
        ("bytes=10000-", 7_000),
        ("bytes=17000-", len(CONTENT) - 17_000),
    ]


def test_a_download_that_gave_up_goes_on_the_next_time(server: Server, tmp_path: Path) -> None:
    server.breaks_after = [1_000] * fetch.ATTEMPTS
    with pytest.raises(
        DataError, match=r"the connection ended after[\s\S]*resumes after 5,000 bytes"
    ):
        local_path(url_of(server), "data.path")
    assert kept(tmp_path) == ["events.csv.part"]
    assert local_path(url_of(server), "data.path").read_bytes() == CONTENT
    assert server.asked[-1].range == "bytes=5000-"
    assert kept(tmp_path) == ["events.csv"]


@pytest.mark.parametrize(
    ("validator", "resumes"), [("Last-Modified", True), ("weak", False), ("none", False)]
)
def test_without_a_strong_validator_it_begins_anew(
    server: Server, validator: str, resumes: bool
) -> None:
    server.validator, server.breaks_after = validator, [10_000]
    assert local_path(url_of(server), "data.path").read_bytes() == CONTENT
    assert server.asked[1].range == ("bytes=10000-" if resumes else None)


def test_a_server_without_ranges_sends_all_of_it_again(server: Server) -> None:
    server.ranges, server.breaks_after = False, [10_000]
    assert local_path(url_of(server), "data.path").read_bytes() == CONTENT
    assert server.asked[1].sent == len(CONTENT)


def test_a_file_that_changed_meanwhile_is_not_mixed(server: Server) -> None:
    server.breaks_after = [10_000] * fetch.ATTEMPTS
    with pytest.raises(DataError, match="cannot be downloaded"):
        local_path(url_of(server), "data.path")
    server.files["/data/events.csv"] = changed = CONTENT.replace(b"9", b"8")
    assert local_path(url_of(server), "data.path").read_bytes() == changed


def test_a_part_that_is_whole_already_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    """What is left when the process ends between the last byte and the new name."""
    server.breaks_after = [1_000] * fetch.ATTEMPTS
    with pytest.raises(DataError, match="cannot be downloaded"):
        local_path(url_of(server), "data.path")
    (part,) = (tmp_path / "cache").rglob("*.part")
    part.write_bytes(CONTENT)
    assert local_path(url_of(server), "data.path").read_bytes() == CONTENT


def test_a_wrong_checksum_is_refused_and_nothing_kept(server: Server, tmp_path: Path) -> None:
    server.files["/data/events.csv"] = CONTENT + b"9,9,9\n"
    with pytest.raises(
        DataError, match=rf"events\.csv has a wrong checksum[\s\S]*accepted: {DIGEST}"
    ):
        local_path(url_of(server), "data.path", DIGEST)
    assert kept(tmp_path) == []
    server.files["/data/events.csv"] = CONTENT
    assert local_path(url_of(server), "data.path", DIGEST).read_bytes() == CONTENT


def test_another_digest_in_the_recipe_fetches_anew(server: Server) -> None:
    local_path(url_of(server), "data.path")
    newer = CONTENT + b"9,9,9\n"
    server.files["/data/events.csv"] = newer
    assert local_path(url_of(server), "data.path").read_bytes() == CONTENT
    assert (
        local_path(url_of(server), "data.path", hashlib.sha256(newer).hexdigest()).read_bytes()
        == newer
    )


def test_what_may_pass_is_tried_again_and_what_will_not_is_not(server: Server) -> None:
    server.answers_instead = [
        http.HTTPStatus.SERVICE_UNAVAILABLE,
        http.HTTPStatus.TOO_MANY_REQUESTS,
    ]
    assert local_path(url_of(server), "data.path").read_bytes() == CONTENT
    assert len(server.asked) == 3
    with pytest.raises(DataError, match=r"missing\.csv cannot be downloaded: HTTP Error 404"):
        local_path(f"{server.address}/missing.csv", "data.path")
    assert len(server.asked) == 4


def test_nobody_there_is_an_error(server: Server) -> None:
    with pytest.raises(DataError, match=r"cannot be downloaded: .*refused"):
        local_path("http://127.0.0.1:9/events.csv", "data.path")


def test_a_source_reads_from_a_url(server: Server, tmp_path: Path) -> None:
    data = Data(source="table", path=url_of(server), sha256=DIGEST)
    with open_duckdb(tmp_path / "scratch") as connection:
        assert TableSource(data).read(connection).interactions.count().to_pyarrow().as_py() == 5000


def test_a_run_from_a_url_needs_the_server_once(server: Server, tmp_path: Path) -> None:
    rows = "".join(
        f"u{u},f{(u + n) % 30},{10**9 + 60 * n + u}\n" for u in range(40) for n in range(12)
    )
    server.files["/data/events.csv"] = f"user,item,time\n{rows}".encode()
    recipe = tmp_path / "web.toml"
    recipe.write_text(f'[data]\nsource = "table"\npath = "{url_of(server)}"\n')
    until = ("--until", "prepare", "--run-dir")
    assert command("run", recipe, "--dry-run").code == 0
    assert server.asked == []
    assert command("run", recipe, *until, tmp_path / "one").code == 0
    server.files.clear()
    assert (
        "skipped" in command("run", recipe, *until, tmp_path / "one", "--if-exists", "resume").err
    )
    assert command("run", recipe, *until, tmp_path / "two").code == 0
    assert (
        load(tmp_path / "one" / "prepare").fingerprint
        == load(tmp_path / "two" / "prepare").fingerprint
    )
    assert len(server.asked) == 1


def test_looking_whether_a_url_is_known_asks_nobody(server: Server) -> None:
    check_location(url_of(server), "data.path")
    TableSource(Data(source="table", path=url_of(server)))
    assert server.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/file",
        "s3://bucket/file",
        "hf://models/a/b/c",
        "hf://datasets/owner/name",
        "file:///etc/x",
    ],
)
def test_an_unknown_kind_of_place_is_refused(url: str) -> None:
    with pytest.raises(
        DataError,
        match=r"unknown kind of location for raw data[\s\S]*hf://datasets/OWNER/NAME/FILE",
    ):
        check_location(url, "data.path")


def test_a_file_on_disk_is_checked_too(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_bytes(CONTENT)
    assert local_path(path, "data.path", DIGEST) == path
    with pytest.raises(DataError, match="has a wrong checksum"):
        local_path(path, "data.path", "0" * 64)
    with pytest.raises(DataError, match="a folder has no digest"):
        local_path(tmp_path, "data.path", DIGEST)


@pytest.fixture
def hub(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Return the server as a hub with one data set, and an empty cache of the hub's own client."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server.files["owner/name/raw/events.csv"] = CONTENT
    return server


@pytest.mark.parametrize(
    "url", ["hf://datasets/owner/name/raw/events.csv", "hf://datasets/owner/name@v1/raw/events.csv"]
)
def test_a_file_of_a_hub_is_fetched_once(
    hub: Server, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = local_path(url, "data.path", DIGEST)
    assert (path.name, path.read_bytes()) == ("events.csv", CONTENT)
    assert COMMIT in path.parts
    assert ("/resolve/v1/" in hub.asked[-1].path) == ("@v1" in url)
    fetched = sum(a.sent for a in hub.asked)
    assert local_path(url, "data.path", DIGEST) == path
    assert sum(a.sent for a in hub.asked) == fetched == len(CONTENT)


def test_a_file_of_a_hub_is_there_without_the_hub(
    hub: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = local_path("hf://datasets/owner/name/raw/events.csv", "data.path")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert local_path("hf://datasets/owner/name/raw/events.csv", "data.path") == path


def test_a_file_that_the_hub_does_not_have_is_an_error(hub: Server) -> None:
    with pytest.raises(
        DataError, match=r"hf://datasets/owner/name/gone\.csv cannot be downloaded: .*404"
    ):
        local_path("hf://datasets/owner/name/gone.csv", "data.path")
    with pytest.raises(DataError, match="wrong checksum"):
        local_path("hf://datasets/owner/name/raw/events.csv", "data.path", "0" * 64)


def test_a_file_of_modelscope_is_fetched_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("modelscope_hub")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.address)
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    server.files["owner/name/raw/events.csv"] = CONTENT
    url = "modelscope://datasets/owner/name/raw/events.csv"
    path = local_path(url, "data.path", DIGEST)
    assert (path.name, path.read_bytes()) == ("events.csv", CONTENT)
    server.files.clear()
    assert local_path(url, "data.path", DIGEST) == path
    with pytest.raises(DataError, match=r"gone\.csv cannot be downloaded: [\s\S]*404"):
        local_path("modelscope://datasets/owner/name/gone.csv", "data.path")


def test_without_its_client_modelscope_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope_hub", None)
    with pytest.raises(MissingDependency, match=r"pip install 'groundrec\[modelscope\]'"):
        local_path("modelscope://datasets/owner/name/file.csv", "data.path")
