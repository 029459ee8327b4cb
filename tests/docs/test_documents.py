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
import yaml

import groundrec
from groundrec.core.aliases import current_name
from groundrec.core.recipe import Recipe, settings
from groundrec.core.recipe_files import packaged_files
from tests.commands import command
from tests.contracts.test_layers import ORDER, ROOMS

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CHINESE = [document for document in DOCUMENTS if document.name.endswith(".zh-CN.md")]
GENERATED = ("parameters.zh-CN.md",)
"""Written from the code by docs/generate.py, and compared with it elsewhere."""
FRONT_PAGES = (ROOT / "README.md", ROOT / "README.zh-CN.md")
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


def links(document: Path) -> Iterator[tuple[str, Path, str]]:
    """Yield the text, the file and the anchor of each relative link."""
    for text, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", prose(document)):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            yield text, (document.parent / path if path else document).resolve(), anchor


def anchors(document: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def original_of(translation: Path) -> Path:
    return translation.with_name(translation.name.replace(".zh-CN", ""))


def table_rows(document: Path) -> list[list[str]]:
    """Return the cells of every table row of a page."""
    rows = re.findall(r"^\| (.*) \|$", prose(document), re.MULTILINE)
    return [row.split(" | ") for row in rows]


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
    return [pytest.param(name, words, id=f"{name}: {' '.join(words)}") for name, words in cases]


def write_toml_files(document: Path, folder: Path) -> None:
    """Write each TOML file that a document shows, under the name in its first line."""
    for block in blocks(document):
        if block.language == "toml" and (named := re.match(r"# (\S+\.toml)\n", block.text)):
            (folder / named[1]).write_text(block.text, encoding="utf-8")


@pytest.fixture
def beside_the_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder with every TOML file that the documents show."""
    for document in DOCUMENTS:
        write_toml_files(document, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("document", "arguments"), identified(shown_commands("groundrec")))
def test_a_command_that_is_shown_can_be_called(
    document: str, arguments: tuple[str, ...], beside_the_documents: Path
) -> None:
    write_toml_files(ROOT / document, beside_the_documents)  # its own, where two share a name
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
def test_a_relative_link_leads_to_a_file_and_a_heading(document: Path) -> None:
    for text, target, anchor in links(document):
        assert target.exists(), text
        if anchor:
            assert anchor in anchors(target), text


@pytest.mark.parametrize("document", CHINESE, ids=name_of)
def test_a_chinese_page_links_chinese_pages_where_there_are_any(document: Path) -> None:
    for text, target, _ in links(document):
        translation = target.with_name(target.name.replace(".md", ".zh-CN.md"))
        is_page = target.suffix == ".md" and ".zh-CN" not in target.name
        assert text == "English" or not (is_page and translation.exists()), text


@pytest.mark.parametrize("index", ["README.md", "README.zh-CN.md"])
def test_the_index_lists_every_page(index: str) -> None:
    """In Chinese, a page that has no Chinese twin is listed in English."""
    folder = ROOT / "docs"
    listed = {target for _, target, _ in links(folder / index)}
    pages = {page for page in folder.glob("*.md") if ".zh-CN" not in page.name}
    if ".zh-CN" in index:
        twins = {page: page.with_name(f"{page.stem}.zh-CN.md") for page in pages}
        pages = {twin if twin.exists() else page for page, twin in twins.items()}
    assert pages - listed == {folder / index}
    assert folder / "extending" / "README.md" in listed


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_a_script_that_is_shown_is_in_the_repository(document: Path) -> None:
    scripts = re.findall(r"\bpython (\w+/\w+\.py)\b", text_of(document))
    assert [script for script in scripts if not (ROOT / script).is_file()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_a_setting_named_in_a_sentence_exists(document: Path) -> None:
    """The changelog and the manual may also name old settings."""
    sections = {key.partition(".")[0] for key, *_ in settings(Recipe()) if "." in key}
    known = {key for key, *_ in settings(Recipe())}
    words = re.findall(r"`\[?([a-z_]+)\.([a-z_.]+)\]?(?: ?=[^`]*)?`", prose(document))
    named = {
        f"{section}.{rest}"
        for section, rest in words
        if section in sections and Path(rest).suffix != ".json"
    }
    if document.name == "CHANGELOG.md" or document.name.startswith("parameters"):
        named = {current_name(name) for name in named}
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


@pytest.mark.parametrize(
    "chinese", [page for page in CHINESE if page.name not in GENERATED], ids=name_of
)
def test_both_languages_show_the_same_code_pictures_and_headings(chinese: Path) -> None:
    english = original_of(chinese)
    assert [(b.language, b.code) for b in blocks(english)] == [
        (b.language, b.code) for b in blocks(chinese)
    ]
    for pattern in (r"^(#+) ", r"^(<!--.*-->)$", r"!\[[^\]]*\]\(([^)]+)\)", r"^(\| )", r"^(- )"):
        found = [
            re.findall(pattern, prose(document).replace(".zh-CN.svg", ".svg"), re.MULTILINE)
            for document in (english, chinese)
        ]
        assert found[0] == found[1], pattern


@pytest.mark.parametrize("page", FRONT_PAGES, ids=name_of)
def test_the_front_page_is_short_and_begins_with_how_to_install_and_run(page: Path) -> None:
    lines = text_of(page).splitlines()
    assert len(lines) <= 180
    first = blocks(page)[0]
    assert first.language == "sh"
    assert any(line.startswith("pip install") for line in first.code)
    assert any(line.startswith("groundrec run") for line in first.code)
    assert lines.index("```sh") < 25


@pytest.mark.parametrize("page", FRONT_PAGES, ids=name_of)
def test_the_front_page_links_what_a_newcomer_looks_for(page: Path) -> None:
    chinese = ".zh-CN" if ".zh-CN" in page.name else ""
    wanted = (f"data{chinese}.md", f"README{chinese}.md", "extending/signals.md")
    linked = {target for _, target, _ in links(page)}
    assert {ROOT / "docs" / name for name in wanted} <= linked


def test_the_figures_of_the_front_page_are_those_of_the_demo() -> None:
    """Method, HR@10 and NDCG@10, under the names that a reader knows."""
    names = {"language model + item-kNN": "LM + item-knn", "SASRec": "sasrec"}
    names |= {"item-kNN": "item-knn", "language model": "language model"}
    figures = {row[0]: (row[1], *row[3:]) for row in table_rows(ROOT / "docs" / "demo.md")[2:]}
    shown = {row[0]: tuple(row[1:]) for row in table_rows(ROOT / "README.md") if row[0] in names}
    assert len(shown) == 4
    assert shown == {name: figures[key] for name, key in names.items()}


def test_the_results_of_the_demo_are_the_same_on_every_page() -> None:
    methods = [row for row in table_rows(ROOT / "docs" / "demo.md") if len(row) == 5][2:]
    assert len(methods) == 8
    assert [row for row in table_rows(ROOT / "docs" / "results.md") if row in methods] == methods


def test_the_citation_has_the_version_the_licence_and_both_papers() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == groundrec.__version__
    assert citation["license"] == project["license"]
    assert citation["authors"] == project["authors"]
    papers = {value["value"] for paper in citation["references"] for value in paper["identifiers"]}
    assert papers == {"arXiv:2308.08434", "arXiv:2406.14900"}


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
    """Its page says: every item scored, renormalised, split by time, four signals, all test
    queries.
    """
    shown = json.loads(command("run", "demo", "--dry-run", "--json").out)
    demo = {key: row["value"] for key, row in shown.items()}
    assert (demo["recommend.mode"], demo["recommend.score"], demo["recommend.exclude_seen"]) == (
        "exhaustive",
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


CHINESE_TEXTS = sorted([*CHINESE, *(ROOT / "src" / "groundrec" / "core").glob("*/*.toml")])
NOT_CHINESE = {
    "去除": "“除以” is division; “去除” means to remove",
    "截掉的是末尾": "BIGRec's code keeps the first tokens, D3's the last",
    "房间": "代码结构",
    "怪处": "不合常理之处",
    "用哪种数": "数值精度",
    "换一种数": "数值精度",
    "没有代价": "无",
    "请求": "查询, the word for a query",
    "基座模型": "基础模型, the word for a base model",
    "清单": "manifest",
}
"""Words that mean something else here, or that have another name on every page, and why."""


@pytest.mark.parametrize("document", CHINESE_TEXTS, ids=name_of)
def test_a_chinese_text_uses_the_fields_words(document: Path) -> None:
    text = text_of(document)
    assert {word: why for word, why in NOT_CHINESE.items() if word in text} == {}
