"""Base models that wandb keeps: `wandb:ENTITY/PROJECT/NAME:vN`, by a stand-in for its client, and
by the real one.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from groundrec.core.config_model import Model, Scratch
from groundrec.core.errors import ConfigError, DataError, MissingDependency
from groundrec.models.hubs import fetch, parse, pinned
from groundrec.models.language import open_base, scratch
from groundrec.train.start import find_start

NAME = "wandb:us/shop/seen-model:v3"


class Client(ModuleType):
    """Answers like wandb's: one artifact, the files of a folder; `asked` is what was asked for."""

    class Error(Exception):
        """As wandb's."""

    def __init__(self, folder: Path) -> None:
        super().__init__("wandb")
        self.folder, self.asked = folder, list[str]()

    def Api(self) -> Client:
        return self

    def artifact(self, name: str) -> Any:
        self.asked.append(name)
        if name != "us/shop/seen-model:v3":
            raise self.Error(f"{name} not found")
        sizes = {
            file.name: SimpleNamespace(size=file.stat().st_size) for file in self.folder.iterdir()
        }
        return SimpleNamespace(manifest=SimpleNamespace(entries=sizes), get_entry=self._entry)

    def _entry(self, file: str) -> Any:
        def download(root: str) -> None:
            self.asked.append(file)
            Path(root).mkdir(parents=True, exist_ok=True)
            shutil.copy(self.folder / file, root)

        return SimpleNamespace(download=download)


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Return a client whose artifact is a tiny model beside a file nobody needs."""
    scratch(
        Model(scratch=Scratch(vocabulary=300, hidden=8, layers=1, heads=1)), ["one title"]
    ).save(tmp_path / "kept")
    (tmp_path / "kept" / "optimizer.pt").write_bytes(b"not wanted")
    client = Client(tmp_path / "kept")
    monkeypatch.setitem(sys.modules, "wandb", client)
    monkeypatch.setenv("GROUNDREC_CACHE", str(tmp_path / "cache"))
    return client


def test_an_artifact_is_fetched_once_and_is_a_model_to_begin_with(wandb: Client) -> None:
    lm = open_base(Model(base_model=NAME), (), seed=1)
    asked = list(wandb.asked)
    assert (asked[0], "model.safetensors" in asked, "optimizer.pt" in asked) == (
        "us/shop/seen-model:v3",
        True,
        False,
    )
    start = find_start(Path(NAME))
    assert (start.kind, start.path) == ("model", Path(pinned()[0].path))
    kept = open_base(Model(base_model=str(wandb.folder)), (), seed=1).model.state_dict()
    assert all(weights.equal(kept[key]) for key, weights in lm.model.state_dict().items())
    assert wandb.asked == asked


def test_what_was_lost_is_fetched_again(wandb: Client) -> None:
    model = fetch(NAME)
    (Path(model.path) / "model.safetensors").unlink()
    assert fetch(NAME) == model
    assert wandb.asked.count("model.safetensors") == 2
    assert model.is_whole()


def test_an_artifact_that_cannot_be_had_is_an_error(wandb: Client) -> None:
    with pytest.raises(DataError, match=r"v4 not found[\s\S]*wandb login"):
        fetch("wandb:us/shop/seen-model:v4")
    assert pinned() == []


@pytest.mark.parametrize(
    "name",
    ["wandb:us/shop/m", "wandb:us/shop/m:latest", "wandb:shop/m:v1", "wandb:us/shop/../m:v1"],
)
def test_only_a_numbered_version_is_a_name(name: str) -> None:
    with pytest.raises(ConfigError, match="wandb:ENTITY/PROJECT/NAME:vN"):
        parse(name)


def test_a_client_that_is_not_installed_is_named(
    wandb: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingDependency, match=r"groundrec\[wandb\]"):
        fetch(NAME)


@pytest.mark.slow
def test_the_real_client_without_a_login_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="groundrec[wandb] is not installed")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    for name in ("HOME", "GROUNDREC_CACHE", "WANDB_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    with pytest.raises(DataError, match=r"No API key[\s\S]*wandb login"):
        fetch(NAME)
