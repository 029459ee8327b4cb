"""`groundrec explain`: what it says of a setting, in two languages, and what it finds in somebody's
own data.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from groundrec.app.commands.explain_data import EXAMPLES, ExampleData
from groundrec.core.recipe import Recipe, settings
from groundrec.models import language
from tests.app.conftest import FILMS, LENGTH, USERS, Tiny
from tests.commands import command


def said(*arguments: object) -> str:
    """Return what `explain` prints, without the breaks of lines."""
    result = command("explain", *arguments)
    assert result.code == 0, result.err
    return re.sub(r"\s+", " ", result.out)


def test_a_setting_is_explained_in_both_languages(monkeypatch: pytest.MonkeyPatch) -> None:
    english = said("cutoff_len", "--lang", "en")
    assert english.startswith("train.cutoff_len Maximum sequence length in tokens.")
    for text in (
        "attention with its square",
        "512",
        "an integer, at least 16",
        "cutoff_len (BIGRec, D3, alpaca-lora)",
    ):
        assert text in english
    chinese = said("cutoff_len", "--lang", "zh")
    assert "一条序列最多多少个 token。" in chinese
    assert "原代码的叫法 cutoff_len (BIGRec, D3, alpaca-lora)" in chinese
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert said("cutoff_len") == chinese


def test_a_flag_without_a_setting_says_what_to_do_instead() -> None:
    assert "one directory holds everything that a run produces" in said(
        "output_dir", "--lang", "en"
    )
    assert "see train.resume_from" in said("resume_from_checkpoint", "--lang", "en")


def test_a_section_is_a_table_of_its_settings() -> None:
    table = said("evaluate", "--lang", "zh")
    assert all(f"evaluate.{name}" in table for name in ("ks", "bootstrap", "example_users"))
    assert "train." not in said("recommend", "--lang", "en").replace("`train.cutoff_len`", "")


def test_the_batch_is_taken_apart_without_any_data() -> None:
    assert "batch 128 = 4 per step × 16 accumulation × 2 processes" in said(
        "micro_batch_size", "--lang", "en"
    )
    assert "批次 128 = 每步 4 × 累积 16 × 2 个进程" in said("micro_batch_size", "--lang", "zh")


def test_the_batch_of_a_run_is_taken_apart_where_it_divides(tiny: Tiny) -> None:
    shown = said("train.batch_size", "--lang", "en", "--run", tiny.run)
    assert "batch 4 = 2 per step × 2 accumulation × 1 process " in shown
    assert "batch 4 = 2 per step × 1 accumulation × 2 processes" in shown
    assert "4 processes" not in shown


def test_prompts_that_are_trimmed_are_counted_as_training_counts_them(tiny: Tiny) -> None:
    [row] = json.loads(command("explain", "train.cutoff_len", "--run", tiny.run, "--json").out)
    x = ExampleData.at(tiny.run, "en")
    lengths, whose = x.prompt_lengths()
    assert whose == str(tiny.run / "train")
    assert len(lengths) == len(x.histories) == USERS
    x.histories[:] = [history[: i % LENGTH + 1] for i, history in enumerate(x.histories)]
    lengths, _ = x.prompt_lengths()
    limit = int(sorted(lengths)[len(lengths) // 2])
    encoder = _encoder(tiny, limit)
    for history in x.histories:
        encoder.prompt(history)
    trimmed = sum(int(n) > limit for n in lengths)
    assert 0 < trimmed == encoder.trimmed < USERS
    assert row["example"][0].startswith(f"{USERS} test queries")
    assert row["example"][-1] == "0.0% lose their oldest items at 256"


def _encoder(tiny: Tiny, limit: int):
    from groundrec.text.prompts import load_template
    from groundrec.text.tokens import Encoder

    tokenizer = language.load(tiny.run / "train").tokenizer
    return Encoder(
        load_template("list"),
        tokenizer,
        ExampleData.at(tiny.run, "en").dataset.catalogue.titles,
        limit,
    )


def test_a_data_set_alone_is_counted_in_words_of_its_own_titles(tiny: Tiny) -> None:
    [row] = json.loads(
        command(
            "explain", "cutoff_len", "--lang", "en", "--dataset", tiny.run / "prepare", "--json"
        ).out
    )
    assert row["example"][0].endswith("in tokens of 4,096 pieces learned from the titles:")
    assert row["example"][-1] == "0.0% lose their oldest items at 512"


def test_examples_are_true(tiny: Tiny) -> None:
    def lines(setting: str, lang: str = "en") -> str:
        [row] = json.loads(
            command("explain", setting, "--lang", lang, "--run", tiny.run, "--json").out
        )
        return "\n".join(row["example"])

    assert f"{USERS * LENGTH} rows read" in lines("prepare.k_core")
    assert f"median {LENGTH - 1}, 95% at most {LENGTH - 1}, longest {LENGTH - 1}" in lines(
        "sequential.max_length"
    )
    assert "0.0% are longer than 20" in lines("sequential.max_length")
    assert f"test {USERS} queries" in re.sub(" +", " ", lines("prepare.protocol"))
    assert "0.0% of the test targets" in lines("recommend.exclude_seen")
    assert f"{USERS} test queries: 1 files" in lines("recommend.shard_size")
    assert f"有历史的目标共 {USERS * (LENGTH - 3)} 个" in lines("train.epochs", "zh")
    prompt = lines("model.template").splitlines()
    shown = [int(re.search(r"Film (\d+)", line)[1]) for line in prompt[1:]]  # type: ignore[index]
    assert [(film + 1) % FILMS for film in shown[:-1]] == shown[1:]
    assert "▸" in prompt[-1]


def test_every_example_belongs_to_a_setting_and_works(tiny: Tiny) -> None:
    assert set(EXAMPLES) <= {setting for setting, *_ in settings(Recipe())}
    x = ExampleData.at(tiny.run, "zh")
    for setting, example in EXAMPLES.items():
        assert re.search(r"[\u4e00-\u9fff]", "".join(example(x))), setting


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    unknown = command("explain", "cuttof_len")
    assert (unknown.code, "did you mean 'cutoff_len'" in unknown.err) == (2, True)
    nothing = command("explain", "cutoff_len", "--run", tmp_path)
    assert (nothing.code, "no prepared data found" in nothing.err) == (2, True)
    both = command("explain", "cutoff_len", "--run", tmp_path, "--dataset", tmp_path)
    assert (both.code, "one of the two" in both.err) == (2, True)
    assert command("explain", "cutoff_len", "--lang", "fr").code == 2
