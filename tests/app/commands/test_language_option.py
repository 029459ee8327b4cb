"""`--lang zh`, and a Chinese locale, at the command line."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import typer

from groundrec.app.commands.main import app
from groundrec.app.jobs.job import Job
from groundrec.core.language import language, use_language
from tests.app.conftest import Tiny
from tests.commands import command

CHINESE = re.compile(r"[\u4e00-\u9fff]")


def test_every_command_takes_it() -> None:
    group = typer.main.get_command(app)
    commands = dict(group.commands)  # pyright: ignore[reportAttributeAccessIssue]
    for name, found in commands.items():
        for inner in getattr(found, "commands", {"": found}).values():
            assert "--lang" in [opt for one in inner.params for opt in one.opts], name


@pytest.mark.parametrize(
    "arguments",
    [("run", "dmo"), ("settings", "trian"), ("explain", "epoch_s"), ("runs", "show", "nothing")],
)
def test_an_error_obeys_the_option_and_the_locale(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(*arguments).err.startswith("error: ")
    asked = command(*arguments, "--lang", "zh")
    assert (asked.code, asked.err[:3]) == (2, "错误：")
    assert "\n  下一步：groundrec " in asked.err
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert command(*arguments).err == asked.err
    assert command(*arguments, "--lang", "en").err.startswith("error: ")


def test_a_language_that_is_not_there_is_refused() -> None:
    refused = command("settings", "--lang", "fr")
    assert (refused.code, refused.err.splitlines()[0]) == (2, "error: unsupported language: fr")


def test_tables_and_checks_are_chinese() -> None:
    settings = command("settings", "train", "--lang", "zh").out
    assert "设置" in settings
    assert "完整遍历训练集" in settings or CHINESE.search(settings.partition("train.epochs")[2])
    dry = command("run", "demo", "--dry-run", "--lang", "zh", "--set", "seed=3").out
    assert re.search(r"seed +│ 3 +│ --set", dry)
    assert "默认值" in dry
    assert " default " not in dry
    doctor = command("doctor", "--lang", "zh").out
    assert re.search("内存 .* GiB 中有 .* GiB 空闲", doctor)
    assert "（可选）" in doctor


def test_json_has_the_same_keys_in_both_languages() -> None:
    for arguments in (("settings", "train"), ("doctor",), ("run", "demo", "--dry-run")):
        english, chinese = (
            json.loads(command(*arguments, "--json", "--lang", lang).out) for lang in ("en", "zh")
        )
        kinds = [sorted(one) if isinstance(one, dict) else len(one) for one in (english, chinese)]
        assert kinds[0] == kinds[1]


def test_a_run_writes_its_report_in_the_language_asked_for(tiny: Tiny, tmp_path: Path) -> None:
    shutil.copytree(tiny.run, tmp_path / "run")
    again = ("--run-dir", tmp_path / "run", "--if-exists", "resume")
    changed = ("--set", "evaluate.example_users=2", "--lang", "zh")
    done = command("run", tiny.recipe, *again, *changed)
    assert done.code == 0, done.err
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert '<html lang="zh-CN">' in page
    assert "<h2>数据</h2>" in page


def test_a_background_run_keeps_the_language(tmp_path: Path) -> None:
    assert "--lang en" in " ".join(Job((), None, "/").command(tmp_path))
    use_language("zh")
    try:
        job = Job((), None, "/")
    finally:
        use_language("en")
    job.save(tmp_path)
    assert language() == "en"
    assert "--lang zh" in " ".join(Job.of(tmp_path).command(tmp_path))
