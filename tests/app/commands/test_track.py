"""`groundrec track sync`: what would be sent, what wandb's own client says without a login."""

from __future__ import annotations

from pathlib import Path

import pytest

from groundrec.app.boards import shown
from groundrec.app.commands import track as tracking
from groundrec.app.commands.track import sync
from groundrec.core.config_track import Track
from groundrec.core.errors import ArtifactError, MissingDependency
from groundrec.core.recipe import Recipe


def kept(run: Path, *names: str) -> list[Path]:
    folders = [run / "wandb" / f"offline-run-{name}" for name in names]
    for folder in folders:
        folder.mkdir(parents=True)
    return folders


def test_wandb_is_told_what_it_kept_of_each_run_oldest_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second, first = kept(tmp_path / "a", "20260102_000000-x", "20260101_000000-y")
    (third,) = kept(tmp_path / "b", "20250101_000000-z")
    sync([tmp_path / "a", tmp_path / "b"], dry_run=True)
    assert capsys.readouterr().out.split() == [
        "python",
        "-m",
        "wandb",
        "sync",
        str(first),
        str(second),
        str(third),
    ]


def test_a_run_without_a_board_is_an_error_and_nothing_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(tmp_path / "a", "1-x")
    monkeypatch.setattr(tracking.subprocess, "run", None)
    with pytest.raises(ArtifactError, match=r"no offline data of wandb in this run.*b"):
        sync([tmp_path / "a", tmp_path / "b"])


def test_a_client_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(tmp_path, "1-x")
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingDependency, match=r"groundrec\[wandb\]"):
        sync([tmp_path])


@pytest.mark.slow
def test_the_real_client_refuses_to_send_without_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wandb = pytest.importorskip("wandb", reason="groundrec[wandb] is not installed")
    with shown(Recipe(track=Track(board="wandb")), tmp_path):
        pass
    wandb.teardown()
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ArtifactError, match="wandb login"):
        sync([tmp_path])
    assert "No API key configured" in capfd.readouterr().err
