"""What the documents show is true: commands parse, files are there, both languages agree, every
module is named.
"""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from groundrec.core.recipe import Recipe, settings
from groundrec.core.recipe_files import packaged_files
from tests.commands import command
from tests.contracts.test_layers import ORDER, ROOMS

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SHELL = ("sh", "bash", "shell", "console")
NEVER = re.compile(
    r"(?<![\w.])/(work|tmp|root|home|Users)\b|\b(TODO|FIXME|XXX)\b|lorem ipsum|coming soon",
    re.IGNORECASE,
)
"""Paths of somebody's machine, and promises."""


class Block(NamedTuple):
    """A fenced block: its language and its text."""

    language: str
    text: str

    @property
    def code(self) -> list[str]:
        """The lines without comments and empty lines; a comment may be translated."""
        lines = (re.sub(r"(^|\s+)# .*$", "", line).rstrip() for line in self.text.splitlines())
        return [line for line in lines if line]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text_of(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def blocks(document: Path) -> list[Block]:
    return [
        Block(*found)
        for found in re.findall(
            r"^```(\w*)\n(.*?)^```$", text_of(document), re.MULTILINE | re.DOTALL
        )
    ]


def prose(document: Path) -> str:
    """Return the text without fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text_of(document), flags=re.MULTILINE | re.DOTALL)


def shown_commands(program: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield (document, arguments) for each time `program` is called in a shell block."""
    for document in DOCUMENTS:
        for block in blocks(document):
            if block.language not in SHELL:
                continue
            for line in block.text.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if words and words[0] == program:
                    yield name_of(document), tuple(words[1:])


def identified(cases: Iterator[tuple[str, tuple[str, ...]]]) -> list[Any]:
    return [pytest.param(words, id=f"{name}: {' '.join(words)}") for name, words in cases]


@pytest.fixture
def beside_the_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder with every TOML file that README.md shows, under its name."""
    for block in blocks(ROOT / "README.md"):
        if block.language == "toml" and (named := re.match(r"# (\S+\.toml)\n", block.text)):
            (tmp_path / named[1]).write_text(block.text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("arguments", identified(shown_commands("groundrec")))
def test_a_command_that_is_shown_can_be_called(
    arguments: tuple[str, ...], beside_the_documents: Path
) -> None:
    is_dry = arguments[0] == "run" and (
        arguments[1].removeprefix("recipes/").removesuffix(".toml") in packaged_files()
        or (beside_the_documents / arguments[1]).is_file()
    )
    shown = command(*arguments, "--dry-run" if is_dry else "--help")
    assert shown.code == 0, shown.err
    assert shown.out


@pytest.mark.parametrize("arguments", [["run", "demo", "--tempo", "3"], ["rum", "demo"]])
def test_a_command_that_does_not_exist_would_be_found(arguments: list[str]) -> None:
    assert command(*arguments, "--help").code != 0


def test_a_setting_that_does_not_exist_would_be_found(beside_the_documents: Path) -> None:
    assert command("run", "my-shop.toml", "--set", "train.epoch=1", "--dry-run").code == 2


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_what_make_is_asked_for_is_in_the_makefile(document: Path) -> None:
    targets = re.findall(
        r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    in_shell = "\n".join(b.text for b in blocks(document) if b.language in SHELL)
    asked = re.findall(r"`make ([a-z][a-z-]*)", prose(document)) + re.findall(
        r"^make ([a-z-]+)", in_shell, re.MULTILINE
    )
    assert set(asked) <= set(targets)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_a_relative_link_leads_to_a_file(document: Path) -> None:
    targets = [
        target for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)) if "://" not in target
    ]
    assert [t for t in targets if not (document.parent / t.partition("#")[0]).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_a_setting_named_in_a_sentence_exists(document: Path) -> None:
    sections = {key.partition(".")[0] for key, *_ in settings(Recipe()) if "." in key}
    known = {key for key, *_ in settings(Recipe())}
    words = re.findall(r"`\[?([a-z_]+)\.([a-z_.]+)\]?(?: ?=[^`]*)?`", prose(document))
    named = {
        f"{section}.{rest}"
        for section, rest in words
        if section in sections and Path(rest).suffix != ".json"
    }
    files = {f"{section}.json" for section in sections} | {
        f"{section}.toml" for section in sections
    }
    assert {
        n for n in named - files if not any(k == n or k.startswith(f"{n}.") for k in known)
    } == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_a_block_says_its_language_and_is_valid(document: Path) -> None:
    for block in blocks(document):
        assert block.language in (*SHELL, "toml", "python", "text"), block.text
        if block.language == "toml":
            tomllib.loads(block.text)
        if block.language == "python":
            compile(block.text, name_of(document), "exec")


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_a_document_speaks_of_the_project_only(document: Path) -> None:
    assert [found[0] for found in NEVER.finditer(text_of(document))] == []


def test_both_languages_show_the_same_code_pictures_and_headings() -> None:
    english, chinese = ROOT / "README.md", ROOT / "README.zh-CN.md"
    assert [(b.language, b.code) for b in blocks(english)] == [
        (b.language, b.code) for b in blocks(chinese)
    ]
    for pattern in (r"^(#+) ", r"^(<!--.*-->)$", r"!\[[^\]]*\]\(([^)]+)\)", r"^(\| )", r"^(- )"):
        found = [
            re.findall(pattern, prose(document), re.MULTILINE) for document in (english, chinese)
        ]
        assert found[0] == found[1], pattern


def test_the_architecture_names_every_module_and_no_other() -> None:
    named = re.findall(
        rf"^\| `((?:{'|'.join(ROOMS)})/[\w/]+)` \|", text_of(ROOT / "ARCHITECTURE.md"), re.MULTILINE
    )
    assert named == [module.removeprefix("groundrec.").replace(".", "/") for module in ORDER]


def test_the_licence_is_the_one_that_is_declared() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "license"
    ]
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    name, version = re.search(r"^\s*(Apache) License\s+Version (2\.0)", text, re.MULTILINE).groups()  # type: ignore[union-attr]
    assert declared == f"{name}-{version}"
    assert text.rstrip().endswith("limitations under the License.")
    assert "APPENDIX" in text


def test_the_demo_is_described_as_it_is() -> None:
    """The README's words about the demo: exact scoring, renormalised, choices only, split by time,
    all test queries.
    """
    shown = json.loads(command("run", "demo", "--dry-run", "--json").out)
    demo = {key: row["value"] for key, row in shown.items()}
    assert (demo["recommend.mode"], demo["recommend.score"], demo["recommend.exclude_seen"]) == (
        "all",
        "renormalised",
        True,
    )
    assert (demo["prepare.protocol"], demo["prepare.valid_share"], demo["prepare.test_share"]) == (
        "global-time",
        0.1,
        0.1,
    )
    assert (demo["model.base_model"], demo["model.template"]) == ("scratch", "list")
    assert demo["signals"] == ["popularity", "item-knn", "co-occurrence", "sasrec"]
    assert demo["recommend.test_queries"] is None
