"""What people read, in Chinese: every error has its words, and only words of ours are changed."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundrec.core.errors import ConfigError, GroundrecError, MissingDependency, did_you_mean
from groundrec.core.language import (
    PLACEHOLDER,
    VALUES,
    chinese_texts,
    choose_language,
    language,
    localize,
    localize_error,
    say,
    use_language,
)
from tests.core.messages import Message, messages

UNTRANSLATED = 12
"""How many texts of errors and checks have no Chinese; it must not grow. They are values such as
`{0} of {1}`: a title that a user typed might fit them.
"""
CHINESE = re.compile(r"[\u4e00-\u9fff]")


@pytest.fixture
def chinese() -> Iterator[None]:
    use_language("zh")
    yield
    use_language("en")


def is_translated(message: Message) -> bool:
    """Return whether a template is shown in Chinese, whole or each part of `A, or B`."""
    filled = PLACEHOLDER.sub("7", message.template.replace("{{", "{").replace("}}", "}"))
    if message.is_technical or not re.search("[A-Za-z]{2}", filled):
        return True
    if message.part == "value":
        shown = localize_error(GroundrecError("", value=filled))
        return CHINESE.search(shown.removeprefix("错误：")) is not None
    first, comma, rest = message.template.partition(", or ")
    if comma and message.template not in chinese_texts():
        return all(is_translated(message._replace(template=part)) for part in (first, rest))
    return CHINESE.search(localize(filled)) is not None


@pytest.mark.usefixtures("chinese")
def test_every_error_has_its_chinese() -> None:
    lacking = [message for message in messages() if not is_translated(message)]
    shown = "\n".join(f"{m.where} {m.part}: {m.template}" for m in lacking)
    assert len(lacking) <= UNTRANSLATED, f"add them to src/groundrec/core/chinese:\n{shown}"


def test_the_templates_are_those_of_real_errors() -> None:
    """The reader of the source finds what a raised error says, helpers and suggestions included."""
    templates = {message.template for message in messages()}
    assert {"no such recipe", "bad value for {0}", "{0}, {1}: this row cannot be used"} <= templates
    assert not any("did you mean" in template for template in templates)


def test_placeholders_agree() -> None:
    for files in ((), (VALUES,)):
        for english, translation in chinese_texts(files).items():
            assert CHINESE.search(translation) or not re.search("[a-z]{3} ", english), english
            if re.search(r"\{0\}", english):
                found = [sorted(set(PLACEHOLDER.findall(text))) for text in (english, translation)]
                assert set(found[1]) <= set(found[0]), english


def test_the_locale_chooses_the_language_unless_one_is_given() -> None:
    for environment in ({}, {"LANG": "C.UTF-8"}, {"LC_ALL": "de_DE"}):
        assert choose_language(None, environment) == "en"
    for environment in ({"LANG": "zh_CN.UTF-8"}, {"LC_ALL": "", "LANG": "zh_TW"}):
        assert choose_language(None, environment) == "zh"
    assert choose_language(None, {"LC_ALL": "en_US.UTF-8", "LANG": "zh_CN.UTF-8"}) == "en"
    assert choose_language("zh", {"LC_ALL": "en_US.UTF-8"}) == "zh"
    with pytest.raises(ConfigError, match="unsupported language: fr"):
        choose_language("fr")


def test_english_is_the_default_and_stays_as_it_is() -> None:
    assert language() == "en"
    error = ConfigError("no such recipe", value="x", accepted="a TOML file", next_step="wait")
    assert localize_error(error) == f"error: {error}"
    assert localize("not a folder") == "not a folder"


@pytest.mark.usefixtures("chinese")
def test_the_four_parts_of_an_error_are_chinese() -> None:
    error = ConfigError(
        f"unknown signal{did_you_mean('sasrek', ['sasrec'])}",
        value="sasrek",
        accepted="a recipe, or a TOML file, or at most 5",
        next_step="groundrec list signals, or leave it out",
    )
    assert localize_error(error) == (
        "错误：未知的 信号（您是否指 'sasrec'？）：sasrek\n"
        "  可接受：a recipe，或 TOML 文件，或 不大于 5\n"
        "  下一步：groundrec list signals，或 去掉它"
    )
    assert localize_error(MissingDependency("ray", "ray")) == (
        "错误：没有安装 ray\n  下一步：pip install 'groundrec[ray]'"
    )


@pytest.mark.usefixtures("chinese")
def test_what_varies_may_hold_braces_and_breaks() -> None:
    assert say("above {0}", "{x}") == "高于 {x}"
    assert localize("bad value for {a}\n{b}") == "{a}\n{b} 的值无效"


@pytest.mark.usefixtures("chinese")
@given(st.text(max_size=30) | st.sampled_from(["House of Cards", "title", "model", "0 to 5"]))
def test_what_a_user_typed_is_shown_as_typed(typed: str) -> None:
    shown = localize_error(GroundrecError("not in the catalogue", value=typed))
    assert shown == f"错误：物品库里没有：{typed}"


@pytest.mark.usefixtures("chinese")
@given(st.integers(0, 10**9).map(str) | st.from_regex(r"[a-z_.]+/[a-z_.]+", fullmatch=True))
def test_names_and_numbers_survive_translation(varying: str) -> None:
    for message in messages():
        if message.part == "what":
            text = PLACEHOLDER.sub(lambda _: varying, message.template)
            assert localize(text).count(varying) >= text.count(varying), text
