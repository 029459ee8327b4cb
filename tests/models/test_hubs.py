"""Base models by their names on a hub: pinned, checked, offline; against a server that speaks both
protocols.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from groundrec.core.config_model import Model, Scratch
from groundrec.core.errors import ConfigError, DataError
from groundrec.core.runs import Run
from groundrec.models.hubs import fetch, parse, pinned
from groundrec.models.language import load, open_base, scratch
from tests.commands import command
from tests.data.servers import COMMIT, Server, serving

NAMES = ("hf:owner/small", "modelscope:owner/small")
DEAD = "http://127.0.0.1:9"


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the files of a tiny model."""
    folder = tmp_path_factory.mktemp("small")
    shape = Scratch(vocabulary=300, hidden=8, layers=1, heads=1)
    scratch(Model(scratch=shape), ["one title", "another"]).save(folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: dict[str, bytes]
) -> Iterator[Server]:
    """Yield a server for both hubs, with one model, files nobody needs, and empty caches."""
    from huggingface_hub import constants

    pytest.importorskip("modelscope_hub")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "MODELSCOPE_DOMAIN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GROUNDREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with serving() as started:
        monkeypatch.setenv("HF_ENDPOINT", started.address)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", started.address)
        extra = {
            "pytorch_model.bin": b"pickled",
            "README.md": b"read me",
            "onnx/model.onnx": b"another form",
        }
        started.files |= {
            f"owner/small/{name}": content for name, content in (small | extra).items()
        }
        yield started


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_fetched_once_and_then_there_without_a_connection(
    hub: Server, small: dict[str, bytes], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fetch(name)
    assert model.files.keys() == small.keys()
    assert {file: (Path(model.path) / file).read_bytes() for file in small} == small
    assert model.revision == (COMMIT if name.startswith("hf") else "master")
    assert list(model.faults()) == []
    monkeypatch.setenv("HF_ENDPOINT", DEAD)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", DEAD)
    asked = len(hub.asked)
    lm = open_base(Model(base_model=name), (), seed=1)
    assert lm.model.num_parameters() > 0
    assert lm.tokenizer.decode(lm.tokenizer("one title")["input_ids"]) == "one title"
    assert (fetch(name), len(hub.asked)) == (model, asked)
    assert not any("pytorch_model.bin" in a.path or "onnx" in a.path for a in hub.asked)


def test_both_hubs_hold_the_same_model(hub: Server) -> None:
    assert fetch(NAMES[0]).contents == fetch(NAMES[1]).contents
    assert [model.name for model in pinned()] == list(NAMES)


@pytest.mark.parametrize("address", ["with", "without"])
def test_the_older_variable_for_modelscopes_mirror_is_heard(
    hub: Server, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """Without a scheme it means https, which this server does not speak."""
    monkeypatch.delenv("MODELSCOPE_ENDPOINT")
    monkeypatch.setenv("MODELSCOPE_DOMAIN", hub.address)
    from groundrec.data.raw.fetch import modelscope_client

    if address == "with":
        assert fetch(NAMES[1]).is_whole()
    else:
        monkeypatch.setenv("MODELSCOPE_DOMAIN", "mirror.example")
        assert modelscope_client()[0]._config.endpoint == "https://mirror.example"


def test_a_named_revision_is_asked_for(hub: Server) -> None:
    fetch("hf:owner/small@v1.0")
    fetch("modelscope:owner/small@v1.0")
    assert any("/resolve/v1.0/" in a.path for a in hub.asked)
    assert any("Revision=v1.0" in a.path for a in hub.asked)


def test_a_name_keeps_its_revision_until_the_newest_is_asked_for(
    hub: Server, small: dict[str, bytes]
) -> None:
    before = fetch(NAMES[0])
    hub.commit = "f" * 40
    hub.files["owner/small/generation_config.json"] = changed = (
        small["generation_config.json"] + b"\n"
    )
    assert fetch(NAMES[0]) == before
    after = fetch(NAMES[0], newest=True)
    assert (after.revision, after.contents != before.contents) == (hub.commit, True)
    assert (Path(after.path) / "generation_config.json").read_bytes() == changed


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_lost_is_fetched_again_and_alone(hub: Server, name: str) -> None:
    model = fetch(name)
    lost = Path(model.path) / "model.safetensors"
    lost.resolve().unlink()
    lost.unlink(missing_ok=True)
    asked = len(hub.asked)
    assert list(model.faults()) == ["model.safetensors is missing"]
    assert fetch(name) == model
    sent = [
        a.path
        for a in hub.asked[asked:]
        if a.method == "GET" and a.sent > 0 and "json" not in a.path
    ]
    assert sent
    assert all("model.safetensors" in path or "/files" in path or "/tree/" in path for path in sent)


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_connection_is_tried_again(
    hub: Server, small: dict[str, bytes], name: str
) -> None:
    hub.breaks_weights = [len(small["model.safetensors"]) // 2]
    assert list(fetch(name).faults()) == []
    asked = [a.range for a in hub.asked if "model.safetensors" in a.path and a.method == "GET"]
    assert len(asked) == 2
    # Hugging Face's client writes ten megabytes at a time: of so small a file it has kept nothing.
    assert asked[1] == (
        None if name.startswith("hf") else f"bytes={len(small['model.safetensors']) // 2}-"
    )


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_other_bytes_than_the_hub_lists_are_refused(
    hub: Server, small: dict[str, bytes], file: str
) -> None:
    good = small[file]
    hub.lists[f"owner/small/{file}"] = bytes([good[0] ^ 1]) + good[1:]
    with pytest.raises(DataError, match=rf"{file} of hf:owner/small has a wrong checksum"):
        fetch(NAMES[0])
    assert pinned() == []
    hub.lists.clear()


def test_only_safetensors_are_loaded_unless_told(
    hub: Server, small: dict[str, bytes], tmp_path: Path
) -> None:
    import torch

    plain = tmp_path / "plain"
    plain.mkdir()
    for name, content in small.items():
        (plain / name).write_bytes(content)
    weights = load(plain).model.state_dict()
    torch.save(weights, plain / "pytorch_model.bin")
    (plain / "model.safetensors").unlink()
    hub.files = {f"owner/old/{file.name}": file.read_bytes() for file in plain.iterdir()}
    for name in ("hf:owner/old", "modelscope:owner/old"):
        with pytest.raises(DataError, match=r"no safetensors[\s\S]*model\.weights=any"):
            fetch(name)
        lm = open_base(Model(base_model=name, weights="any"), (), seed=1)
        assert all(lm.model.state_dict()[key].equal(value) for key, value in weights.items())
        with pytest.raises(DataError, match="no safetensors"):
            fetch(name)
    with pytest.raises(ConfigError, match=r"no safetensors[\s\S]*model\.weights=any"):
        load(plain)


@pytest.mark.parametrize("name", ["hf:gone/model", "modelscope:gone/model"])
def test_a_model_that_is_not_there_is_an_error(hub: Server, name: str) -> None:
    with pytest.raises(DataError, match=rf"{name} cannot be downloaded|no safetensors"):
        fetch(name)


@pytest.mark.parametrize("name", ["hf:model", "hf:a/b/c", "modelscope:a/b@", "hf:../b@x y"])
def test_another_form_of_name_is_refused_before_anything_is_asked(hub: Server, name: str) -> None:
    with pytest.raises(ConfigError, match="hf:ORG/NAME"):
        parse(name)
    assert hub.asked == []


def test_the_commands_get_list_and_check(hub: Server) -> None:
    assert "no models yet" in command("models", "list").out
    got = json.loads(command("models", "get", NAMES[0], "--json").out)
    assert (got["revision"], got["whole"]) == (COMMIT, True)
    assert COMMIT[:12] in command("models", "list").out
    assert json.loads(command("models", "list", "--json").out) == [got]
    assert command("models", "check").code == 0
    (Path(got["path"]) / "config.json").resolve().write_text("{}")
    found = command("models", "check", NAMES[0])
    assert (found.code, "config.json has 2 bytes instead of" in found.out) == (1, True)
    assert "incomplete" in command("models", "list").out
    assert command("models", "get", NAMES[0]).code == 0
    assert command("models", "check").code == 0
    weights = (Path(got["path"]) / "model.safetensors").resolve()
    weights.write_bytes(bytes(weights.stat().st_size))
    assert "model.safetensors has another checksum" in command("models", "check").out
    assert command("models", "get", NAMES[0]).code == 0
    assert command("models", "check").code == 0
    assert command("models", "check", "hf:other/model").code == 2


def test_a_runs_training_depends_on_revision_and_contents(hub: Server) -> None:
    from groundrec.app.stages.made_from import Finished

    upstream = Finished(Run(Path()))
    before = upstream.base_model(NAMES[0], "safetensors")
    assert before == [NAMES[0], COMMIT, fetch(NAMES[0]).contents]
    hub.commit = "e" * 40
    fetch(NAMES[0], newest=True)
    assert upstream.base_model(NAMES[0], "safetensors")[1] == hub.commit
