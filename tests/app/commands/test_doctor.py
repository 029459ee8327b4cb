"""`groundrec doctor`: what it finds, what it finds missing, and the command it names; no address
but this machine's.
"""

from __future__ import annotations

import json
import socket
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from groundrec.app.commands import doctor, mirrors
from groundrec.app.commands.mirrors import pip_index, public
from tests.commands import Result, command
from tests.data.servers import Server, serving

SIMPLE = "/simple/pip/"


@pytest.fixture
def server() -> Iterator[Server]:
    """Yield a server that is a package index; a hub's address is there too, with nothing at it."""
    with serving() as server:
        server.files[SIMPLE] = b"<a>pip-1.0.tar.gz</a>"
        yield server


@pytest.fixture(autouse=True)
def world(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let every address be the server's, and every folder and program be one of the test's."""
    for name in (
        *("MODELSCOPE_ENDPOINT", "HF_HUB_OFFLINE", "JAVA_HOME"),
        *("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "NETRC"),
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("MODELSCOPE_DOMAIN", server.address)
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.address}/simple")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("GROUNDREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(mirrors, "MIRRORS", dict.fromkeys(mirrors.MIRRORS, (closed(),)))
    monkeypatch.setattr(mirrors, "PATIENCE", 10.0)
    monkeypatch.setattr(doctor, "MIN_MEMORY", 0.0)
    monkeypatch.setattr(doctor, "MIN_DISK", 0.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)
    monkeypatch.setattr(torch.version, "cuda", None)


def closed() -> str:
    """Return an address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def program(folder: Path, name: str, prints: str) -> None:
    """Put a program that prints something into the folder that programs are looked for in."""
    (folder / "bin").mkdir(exist_ok=True, parents=True)
    (folder / "bin" / name).write_text(f"#!/bin/sh\necho '{prints}' >&2\n", encoding="utf-8")
    (folder / "bin" / name).chmod(0o755)


def looked(*arguments: object) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return the exit status, and the checks by name."""
    result = command("doctor", *arguments, "--json")
    said = json.loads(result.out)
    assert said["ok"] == (result.code == 0)
    return result.code, {check["name"]: check for check in said["checks"]}


def check_of(name: str) -> dict[str, Any]:
    return looked()[1][name]


def test_where_all_that_is_needed_is_there_it_exits_with_0(server: Server) -> None:
    code, found = looked()
    assert code == 0
    assert {name for name, check in found.items() if check["needed"]} == set(doctor.ALWAYS)
    assert all(
        found[name]["ok"]
        for name in (*doctor.ALWAYS, "package index", "Hugging Face", "ModelScope", "GPU")
    )
    assert found["Hugging Face"]["found"] == f"{server.address} answers"
    assert found["package index"]["found"] == f"{server.address}/simple answers"
    assert SIMPLE in [asked.path for asked in server.asked]
    assert found["torch"]["found"] == f"{torch.__version__.split('+')[0]}, CPU build"


def test_each_line_has_a_mark_and_the_command_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", closed())
    monkeypatch.setattr(doctor, "MIN_MEMORY", 1e9)
    result: Result = command("doctor")
    lines = result.out.splitlines()
    assert result.code == 1
    assert all(line[0] in "✓✗" or "→ " in line for line in lines)
    at = next(i for i, line in enumerate(lines) if line.startswith("✗ memory"))
    assert lines[at + 1].strip().startswith("→ --set train.micro_batch_size=1")
    at = next(i for i, line in enumerate(lines) if line.startswith("✗ Hugging Face"))
    assert lines[at].endswith("(optional)")
    assert lines[at + 1].strip().startswith("→ export HTTPS_PROXY=")


def test_a_mirror_that_answers_is_the_one_that_is_named(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", closed())
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.address}/wrong")
    answering = {
        "HF_ENDPOINT": (closed(), server.address),
        "PIP_INDEX_URL": (closed(), f"{server.address}/simple"),
    }
    monkeypatch.setattr(mirrors, "MIRRORS", answering)
    code, found = looked()
    assert code == 0
    assert not found["Hugging Face"]["ok"]
    assert "refused" in found["Hugging Face"]["found"]
    assert found["Hugging Face"]["fix"] == f"export HF_ENDPOINT={server.address}"
    assert found["package index"]["found"] == f"{server.address}/wrong: answers with status 404"
    assert found["package index"]["fix"] == f"export PIP_INDEX_URL={server.address}/simple"


def test_a_server_that_fails_or_never_answers_is_not_reachable(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODELSCOPE_DOMAIN")
    monkeypatch.setattr(mirrors, "PATIENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "timed out" in check_of("ModelScope")["found"]
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", closed())
    monkeypatch.setenv("PIP_INDEX_URL", "file:///nowhere")
    server.answers_instead[:] = [503]
    assert check_of("Hugging Face")["found"] == f"{server.address}: answers with status 503"


def test_a_password_in_an_address_is_sent_to_its_server_and_shown_to_nobody(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.address.replace('//', '//me:secret@')}/simple")
    result = command("doctor")
    assert "secret" not in result.out + result.err
    assert f"✓ package index {server.address}/simple answers" in " ".join(result.out.split())
    assert public("https://me:secret@example.org/simple?token=1") == "https://example.org/simple"


def test_a_package_index_may_be_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", tmp_path.as_uri())
    assert check_of("package index")["ok"]
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "none").as_uri())
    assert check_of("package index")["found"].endswith("no such folder")


def test_the_package_index_is_the_one_that_pip_would_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_INDEX_URL")
    file = tmp_path / "pip.conf"
    file.write_text("[global]\nindex-url = https://mirror.example.org/simple\n", encoding="utf-8")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    assert pip_index() == "https://mirror.example.org/simple"
    monkeypatch.setenv("PIP_INDEX_URL", "https://other.example.org/simple")
    assert pip_index() == "https://other.example.org/simple"


def test_a_hub_that_is_switched_off_is_not_asked(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("MODELSCOPE_DOMAIN", closed())
    check = check_of("Hugging Face")
    assert (check["ok"], check["found"], check["fix"]) == (
        False,
        "HF_HUB_OFFLINE forbids it",
        "unset HF_HUB_OFFLINE",
    )
    assert {asked.path for asked in server.asked} == {SIMPLE}


def recipe(folder: Path, text: str) -> Path:
    file = folder / "recipe.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_what_a_recipe_needs_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = recipe(tmp_path, '[data]\nsource = "table"\npath = "hf://datasets/one/two/three.csv"\n')
    assert looked(file)[0] == 0
    monkeypatch.setenv("HF_ENDPOINT", closed())
    code, found = looked(file)
    assert code == 1
    assert found["Hugging Face"]["needed"]
    assert not found["ModelScope"]["needed"]
    assert looked()[0] == 0
    assert looked(recipe(tmp_path, "seed = 1"))[0] == 0


def test_an_optional_part_is_missing_until_a_recipe_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    required = [
        ("numpy>=1", None),
        ("surely-not-installed>=1", "lora"),
        ("pytest", "dev"),
        ("numpy>=1", "ray"),
    ]
    monkeypatch.setattr(doctor, "_requirements", lambda: iter(required))
    code, found = looked()
    assert code == 0
    assert found["extra: lora"]["found"] == "missing or too old: surely-not-installed>=1"
    assert found["extra: lora"]["fix"] == "pip install 'groundrec[lora]'"
    assert found["extra: ray"]["ok"]
    assert "extra: dev" not in found
    file = recipe(tmp_path, '[model]\nbase_model = "folder"\n[train]\nmethod = "lora"\n')
    assert looked(file)[0] == 1


def test_a_package_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor, "_requirements", lambda: iter([("numpy>=999", None), ("torch>=2", None)])
    )
    code, found = looked()
    assert code == 1
    assert found["packages"]["found"] == "missing or too old: numpy>=999"
    assert found["packages"]["fix"] == "pip install 'numpy>=999'"


def test_what_this_package_requires_is_read_from_its_own_description() -> None:
    required = set(doctor._requirements())
    assert ("torch>=2.6", None) in required
    assert {("peft>=0.17", "lora"), ("peft>=0.17", "qlora")} <= required


def test_old_python_and_no_torch_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MIN_PYTHON", (99, 0))
    monkeypatch.setitem(sys.modules, "torch", None)
    code, found = looked()
    assert code == 1
    assert "python99.0" in found["Python"]["fix"]
    assert not found["torch"]["ok"]
    assert "GPU" not in found


def test_little_memory_and_little_disk_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = namedtuple("memory", "total available")(16 << 30, 1 << 30)
    usage = namedtuple("usage", "total used free")(9 << 30, 8 << 30, 1 << 30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    assert looked()[0] == 0
    monkeypatch.setattr(doctor, "MIN_MEMORY", 2.0)
    monkeypatch.setattr(doctor, "MIN_DISK", 5.0)
    code, found = looked()
    assert code == 1
    assert found["memory"]["found"] == "1.0 of 16.0 GiB free"
    assert found["disk: cache"]["found"].startswith("1.0 GiB free in ")
    assert "GROUNDREC_CACHE" in found["disk: cache"]["fix"]
    assert "--run-dir" in found["disk: runs"]["fix"]


def test_a_gpu_that_torch_cannot_use_is_told(tmp_path: Path) -> None:
    assert check_of("GPU")["found"] == "none: everything runs on the CPU"
    program(tmp_path, "nvidia-smi", "NVIDIA H100")
    check = check_of("GPU")
    assert (check["ok"], check["found"]) == (
        False,
        "found NVIDIA H100, but torch is a CPU build",
    )
    assert "torch" in check["fix"]


@pytest.mark.parametrize(
    ("prints", "ok", "found"),
    [
        ('openjdk version "17.0.15" 2025-04-15', True, "17.0.15"),
        ('java version "1.8.0_301"', False, "1.8.0_301"),
        ('openjdk version "21" 2023-09-19', True, "21"),
    ],
)
def test_java_is_asked_for_its_version(tmp_path: Path, prints: str, ok: bool, found: str) -> None:
    assert check_of("Java")["found"] == "none; Spark needs 17"
    program(tmp_path, "java", prints)
    check = check_of("Java")
    assert (check["ok"], check["found"]) == (ok, f"{found}; Spark needs 17")


def test_java_home_comes_before_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "java", 'version "17.0.1"')
    program(tmp_path / "old", "java", 'version "11.0.2"')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "old"))
    check = check_of("Java")
    assert not check["ok"]
    assert "JAVA_HOME" in check["fix"]


def test_java_is_needed_where_a_recipe_asks_for_spark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        doctor, "_requirements", lambda: iter([("surely-not-installed>=1", "spark")])
    )
    code, found = looked(recipe(tmp_path, '[prepare]\nengine = "spark"\n'))
    assert code == 1
    assert found["Java"]["needed"]
    assert found["extra: spark"]["needed"]
    assert not looked(recipe(tmp_path, "seed = 1"))[1]["Java"]["needed"]


def test_a_login_at_wandb_is_found_wherever_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda _: None)
    assert check_of("wandb")["fix"] == "pip install 'groundrec[wandb]' && wandb login"
    monkeypatch.setattr(doctor, "find_spec", lambda _: object())
    assert check_of("wandb")["fix"].startswith("wandb login")
    (tmp_path / ".netrc").write_text(
        "machine api.wandb.ai login user password made-up\n", encoding="utf-8"
    )
    (tmp_path / ".netrc").chmod(0o600)
    assert check_of("wandb")["found"] == "logged in at api.wandb.ai"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not check_of("wandb")["ok"]
    monkeypatch.setenv("WANDB_API_KEY", "made-up")
    assert check_of("wandb")["found"] == "logged in at wandb.example.org"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert check_of("wandb")["found"] == "WANDB_MODE=offline: no login is needed"
