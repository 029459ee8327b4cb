"""The page a run ends with: valid, whole in itself, escaped, the same for the same report."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from groundrec.core.errors import ConfigError
from groundrec.core.language import use_language
from groundrec.evaluate.report import (
    Curve,
    FusionCurve,
    Method,
    Pick,
    Report,
    Series,
    UserExample,
    console_table,
    headline,
    picture,
    table_text,
    write_report,
)
from groundrec.evaluate.statistics import Comparison, Interval

VOID = {"meta", "input", "br", "hr", "img", "link"}
NASTY = '<script>alert("x")</script> & Söhne $x_1$'
BEYOND = {
    "coverage": 0.5,
    "gini": 0.25,
    "novelty": 7.0,
    "popularity_lift": -0.5,
    "repeat_rate": 0.0,
    "invalid": 0.03,
}


class Page(HTMLParser):
    """Collects what a test asks of a page: unbalanced tags, ids, references, and the text of each
    tag.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.text: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append((self.open[-1] if self.open else "", data.strip()))

    def _note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.references += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href")
        ]

    def inside(self, tag: str) -> list[str]:
        return [text for name, text in self.text if name == tag and text]


def method(name: str, kind: str, ndcg: float, comparison: Comparison | None = None) -> Method:
    metrics = {
        f"{metric}@{k}": Interval(ndcg, ndcg - 0.01, ndcg + 0.01)
        for metric in ("hr", "ndcg")
        for k in (5, 10)
    }
    slices = {"head": Interval(ndcg, ndcg - 0.02, ndcg + 0.02), "tail": Interval(0.0, 0.0, 0.0)}
    return Method(name, kind, metrics, BEYOND, slices, (0.7, 0.3), comparison)  # pyright: ignore[reportArgumentType]


def report() -> Report:
    curve = Curve(
        "Loss",
        "epoch",
        (Series("train", (1, 2), (3.0, 2.0)), Series("validation", (1, 2), (3.1, 2.5))),
        2,
    )
    return Report(
        title=f"A run of {NASTY}",
        dataset="a small shop",
        data=(("items", 1682), ("split", "global-time")),
        warnings=("This split leaks the future.",),
        methods=(
            method("popularity", "signal", 0.1, Comparison(-0.1, 0.001, 0.002)),
            method("co-occurrence", "signal", 0.2),
            method("LM + co-occurrence", "fused", 0.25, Comparison(0.05, 0.0001, 0.0004)),
        ),
        reference="co-occurrence",
        queries=1000,
        users=400,
        curves=(curve,),
        fusion=(
            FusionCurve(
                "co-occurrence", "NDCG@10", (0, 0.5, 1), (0.1, 0.2, 0.15), (0.01, 0.01, 0.01), 0.5
            ),
        ),
        examples=(
            UserExample(
                "user 7",
                ("Old", NASTY),
                {"popularity": (Pick("Miss"), Pick(NASTY, True))},
                (NASTY,),
            ),
        ),
        recipe="name = 'run'\n# <b>",
        environment=(("torch", "2.13"),),
        target_exposure=(0.5, 0.5),
    )


def written(folder: Path, what: Report) -> str:
    write_report(folder / "report.html", what)
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_is_balanced_html_with_unique_ids(tmp_path: Path) -> None:
    text = written(tmp_path, report())
    page = Page(text)
    assert text.startswith("<!doctype html>")
    assert page.wrong == []
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("svg") == 4


def test_the_page_refers_only_to_itself(tmp_path: Path) -> None:
    text = written(tmp_path, report())
    page = Page(text)
    assert page.references
    assert all(
        reference.startswith("#") and reference[1:] in page.ids for reference in page.references
    )
    assert all(target[1:] in page.ids for target in re.findall(r"url\(([^)]*)\)", text))
    assert "http" not in text
    assert "@import" not in text


def test_titles_are_text_never_markup(tmp_path: Path) -> None:
    page = Page(written(tmp_path, report()))
    assert page.tags.count("script") == 1
    assert page.inside("mark") == ["marked", NASTY]
    assert page.inside("title") == [f"A run of {NASTY}"]
    assert NASTY in page.inside("li")
    assert "# <b>" in page.inside("pre")[0]


def test_names_in_pictures_are_text_never_markup_nor_formulas(tmp_path: Path) -> None:
    strange = replace(report(), methods=(*report().methods, method(NASTY, "language", 0.05)))
    assert NASTY in Page(written(tmp_path, strange)).inside("text")


def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    assert written(tmp_path, report()) == written(tmp_path, report())
    for name in ("a.png", "a.svg"):
        picture(tmp_path / name, report())
        first = (tmp_path / name).read_bytes()
        picture(tmp_path / name, report())
        assert (tmp_path / name).read_bytes() == first


def test_pictures_take_their_colours_from_the_page(tmp_path: Path) -> None:
    drawings = re.findall(r"<svg.*?</svg>", written(tmp_path, report()), re.DOTALL)
    assert all("var(--ink)" in drawing for drawing in drawings)
    assert not [
        colour
        for drawing in drawings
        for colour in re.findall(r"(?<!url\()#[0-9a-f]{6}\b", drawing)
    ]


def test_methods_are_ranked_and_the_best_of_a_column_is_bold(tmp_path: Path) -> None:
    text = written(tmp_path, report())
    names = re.findall(r'<th scope="row" class="dot \w+">([^<]*)</th>', text)
    assert names[:3] == ["LM + co-occurrence", "co-occurrence", "popularity"]
    assert re.findall(r'class="n best[^"]*"[^>]*>([\d.]+)', text) == ["0.250"] * 4


def test_differences_are_marked_only_where_significant(tmp_path: Path) -> None:
    text = written(tmp_path, report())
    assert "+25% (p &lt; 0.001) ▲" in text
    assert "−50% (p = 0.002) ▼" in text
    unsure = replace(
        report(),
        methods=(report().methods[1], method("LM", "language", 0.21, Comparison(0.01, 0.2, 0.4))),
    )
    assert "+5% (p = 0.400)</td>" in written(tmp_path, unsure)


def test_the_headline_says_how_far_and_how_sure() -> None:
    start = "On a small shop, LM + co-occurrence reaches NDCG@10 = 0.250"
    assert headline(report()) == f"{start}, 25% above co-occurrence (0.200), p < 0.001."
    unsure = method("LM", "language", 0.21, Comparison(0.01, 0.2, 0.4))
    assert headline(replace(report(), methods=(report().methods[1], unsure))).endswith(
        "with p = 0.400, this could be chance."
    )
    alone = replace(report(), methods=report().methods[:2])
    assert headline(alone).endswith(
        "co-occurrence reaches NDCG@10 = 0.200; no other method does better."
    )


def test_what_was_not_measured_leaves_no_section_and_no_number(tmp_path: Path) -> None:
    unknown = float("nan")
    methods = [
        replace(
            m,
            metrics={"ndcg@10": Interval(m.metrics["ndcg@10"].mean, unknown, unknown)},
            beyond={"gini": unknown},
        )
        for m in report().methods
    ]
    text = written(
        tmp_path,
        replace(report(), methods=tuple(methods), curves=(), fusion=(), examples=(), bootstrap=0),
    )
    assert "nan" not in Page(text).inside("td")
    assert "nan" not in Page(text).inside("small")
    assert "bootstrap samples" not in text
    assert Page(text).inside("h2") == [
        "All methods on the same queries",
        "The data",
        "Popular and rare items",
        "Beyond accuracy",
        "Reproducing this",
    ]


def test_the_terminal_shows_the_same_table() -> None:
    out = io.StringIO()
    console = Console(width=160, file=out)
    console.print(console_table(report()))
    lines = out.getvalue().splitlines()
    row = next(line for line in lines if "LM + co-occurrence" in line)
    assert "0.250 0.240–0.260" in row
    assert "+25% (p < 0.001) ▲" in row
    assert "NDCG@5" not in "".join(lines)


@pytest.mark.parametrize("width", [80, 100, 140, 200])
def test_numbers_stay_whole_beside_very_long_names(width: int) -> None:
    long = "LM + a signal called " + "something-rather-long-" * 8
    methods = (
        *report().methods,
        method(long, "fused", 0.22, Comparison(0.02, 0.0001, 0.0004)),
        method("x" * 150, "signal", 0.15, Comparison(-0.05, 0.001, 0.002)),
    )
    text = table_text(replace(report(), methods=methods), width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for m in methods:
        mean = m.metrics["ndcg@10"].mean
        assert f"{mean:.3f} {mean - 0.01:.3f}–{mean + 0.01:.3f}" in text
    assert text.count("p < 0.001") == 2
    assert "x" * 150 in "".join(re.findall(r"^ *(x+)", text, re.MULTILINE))
    assert "reference" in text


def test_numbers_stay_whole_with_many_metrics_and_a_long_reference() -> None:
    reference = "a reference with a rather long name, and then some more of it"
    values = [(0.1, Comparison(-0.1, 0.001, 0.002)), (0.2, None)]
    methods = [
        replace(
            method(name, "signal", value, comparison),
            metrics={
                f"{metric}@10": Interval(value, value - 0.01, value + 0.01)
                for metric in ("ndcg", *(f"metric{n}" for n in range(12)))
            },
        )
        for name, (value, comparison) in zip(("popularity", reference), values, strict=True)
    ]
    text = table_text(replace(report(), methods=tuple(methods), reference=reference))
    assert "…" not in text
    assert text.count("0.100") == 13
    assert text.count("0.200") == 13


def test_a_report_whose_names_do_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="reference is not a method"):
        replace(report(), reference="nobody")
    with pytest.raises(ConfigError, match="without mrr@10"):
        replace(report(), main_metric="mrr@10")
    with pytest.raises(ConfigError, match=r"\.png or \.svg"):
        picture(tmp_path / "a.bmp", report())


@pytest.fixture
def chinese() -> Iterator[None]:
    use_language("zh")
    yield
    use_language("en")


@pytest.mark.usefixtures("chinese")
def test_the_page_and_the_table_are_chinese(tmp_path: Path) -> None:
    ours = replace(
        report(),
        warnings=("The 5-core is computed over all events, including test: a mild leak.",),
    )
    text = written(tmp_path, ours)
    page = Page(text)
    assert '<html lang="zh-CN">' in text
    assert not page.wrong
    assert page.inside("h2")[0] == "所有方法，同一批查询"
    assert page.inside("h1") == [
        "在 a small shop 上，LM + co-occurrence 的 NDCG@10 = 0.250，"
        "比 co-occurrence (0.200) 高 25%，p < 0.001。"
    ]
    assert any(line.startswith("5-core 在全部交互上计算") for line in page.inside("p"))
    assert page.inside("mark")[0] == "标出"
    # Names of methods, titles and recipes stay as they are.
    assert "LM + co-occurrence" in page.inside("th")
    assert NASTY in page.inside("li")
    assert "与 co-occurrence 相比" in table_text(ours)
    left = [text for text in page.inside("p") if re.search("[a-z]{4,} [a-z]{4,} [a-z]{4,}", text)]
    assert left == []
