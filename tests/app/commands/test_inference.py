"""Existing checkpoints asked by the words of the published scripts, beside these scripts'
algorithms written by hand.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from groundrec.rank.recommend import Writer
from tests.app import published
from tests.app.conftest import Tiny
from tests.app.conftest import title as film
from tests.app.test_bad_input import assert_clear
from tests.commands import Result, command

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with both scripts' files, and tiny checkpoints."""
    folder = tmp_path_factory.mktemp("published")
    for kind in ("llama", "qwen"):
        published.write_checkpoint(folder, kind)
    published.write_checkpoint(folder / "old", "llama", old=True)
    published.write_bigrec(folder)
    published.write_d3(folder)
    return folder


@pytest.fixture
def ask(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Result, Rows]]:
    """Return a function that types a command in the checkout and returns what it wrote."""
    monkeypatch.chdir(shutil.copytree(checkout, tmp_path / "checkout"))

    def asked(*words: object) -> tuple[Result, Rows]:
        out = Path("results/out.json")
        told = command("inference", *words, "--result_json_data", out)
        rows = json.loads(out.read_text(encoding="utf-8")) if told.code == 0 else []
        return told, rows

    return asked


BIGREC = ("--base_model", "llama", "--test_data_path", "./data/movie/test.json")
D3 = ("--info_file", "info/Books.txt", "--category", "Books", "--test_data_path", "test/Books.csv")


def d3_rows(checkout: Path) -> list[dict[str, str]]:
    with (checkout / "test" / "Books.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def histories(checkout: Path) -> list[list[str]]:
    import ast

    return [ast.literal_eval(row["history_item_title"]) for row in d3_rows(checkout)]


@pytest.mark.parametrize("adapters", ["llama-lora", "old/llama-lora"])
def test_bigrecs_texts_are_those_of_peft_and_generate(
    checkout: Path, ask: Callable[..., tuple[Result, Rows]], adapters: str
) -> None:
    told, rows = ask(*BIGREC, "--lora_weights", adapters, "--batch_size", 3)
    assert told.code == 0, told.err
    given = json.loads((checkout / "data/movie/test.json").read_text(encoding="utf-8"))
    base = checkout / "llama"
    truth = published.bigrec_texts(base, checkout / "llama-lora", given)
    assert [row.pop("predict") for row in rows] == truth
    assert rows == given
    assert "those of ./inference.py" in told.err


def test_d3s_lists_are_those_of_constrained_generate(
    checkout: Path, ask: Callable[..., tuple[Result, Rows]]
) -> None:
    told, rows = ask("--base_model", '["./qwen"]', *D3, "--train_file", "train.csv", "--K=0")
    assert told.code == 0, told.err
    truth = published.d3_lists(checkout / "qwen", histories(checkout))
    assert [row["predict"] for row in rows] == truth
    assert [row["output"] for row in rows] == [f'"{r["item_title"]}"\n' for r in d3_rows(checkout)]
    assert rows[0]["input"].startswith('The volumess so far: "')
    assert "not used, as in D3's evaluate.py: --train_file, --K" in told.err


def test_d3s_signal_takes_part_row_by_row_in_parts_of_a_file_too(
    checkout: Path, ask: Callable[..., tuple[Result, Rows]]
) -> None:
    signal = np.random.default_rng(0).normal(size=(published.ROWS, published.ITEMS))
    np.save("signal.npy", signal.astype(np.float32))
    rows = d3_rows(checkout)
    with Path("test/part.csv").open("w", encoding="utf-8", newline="") as out:
        # As pandas writes a part of a file: the row's number first, without a name.
        writer = csv.writer(out)
        writer.writerow(["", *rows[0]])
        writer.writerows([number, *rows[number].values()] for number in range(12, 16))
    weighed = ("--logits_file", "signal.npy", "--guidance_scale", 0.6, "--length_penalty", "0.0")
    words = [*D3[:-1], "test/part.csv", *weighed, "--batch_size", 3]
    told, found = ask("--base_model", "llama", *words)
    assert told.code == 0, told.err
    truth = published.d3_lists(
        checkout / "llama", histories(checkout)[12:16], signal[12:16], 0.6, 0.0
    )
    assert [row["predict"] for row in found] == truth
    told, _ = ask("--base_model", "llama", *words[:8])
    assert "--logits_file changes nothing while --guidance_scale is 1" in told.err


@pytest.mark.parametrize("script", ["bigrec", "d3"])
def test_constrained_is_the_exact_best_of_the_catalogue(
    checkout: Path, ask: Callable[..., tuple[Result, Rows]], script: str
) -> None:
    words = (
        (*BIGREC, "--lora_weights", "None", "--num_beams", 10)
        if script == "bigrec"
        else ("--base_model", "llama", *D3)
    )
    told, rows = ask(*words, "--constrained")
    assert told.code == 0, told.err
    tokenizer = AutoTokenizer.from_pretrained("llama")
    model = AutoModelForCausalLM.from_pretrained("llama").eval()
    for row, titles in zip(rows[:4], histories(checkout), strict=False):
        if script == "bigrec":
            text = published.bigrec_prompt(row)
            answers = [f'"{title}"' for title in published.TITLES]
        else:
            text = published.d3_prompt(titles)
            answers = [f'"{title}"\n' for title in published.TITLES]
        prompt = tokenizer(text)["input_ids"]
        prompt = prompt if script == "bigrec" else [1, *prompt]
        scores = [log_p(model, prompt, [*tokenizer(a)["input_ids"], 2]) for a in answers]
        best = sorted(range(len(answers)), key=lambda i: -scores[i])[:10]
        assert row["predict"] == [answers[i] for i in best]
        assert row["predict_score"] == pytest.approx([scores[i] for i in best], abs=1e-3)


def log_p(model: Any, prompt: list[int], answer: list[int]) -> float:
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
    return sum(float(logits[len(prompt) + i - 1, token]) for i, token in enumerate(answer))


def test_a_killed_inference_resumes_and_a_repeated_one_asks_nothing(
    ask: Callable[..., tuple[Result, Rows]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("groundrec.app.stages.inference.SHARD", 8)
    asked: list[int] = []
    whole = Writer._rank

    def counted(writer: Writer, queries: Any) -> Any:
        if len(asked) == 8:
            raise KeyboardInterrupt
        asked.extend(queries.ids.tolist())
        return whole(writer, queries)

    words = ("--base_model", "qwen", *D3)
    monkeypatch.setattr(Writer, "_rank", counted)
    assert ask(*words)[0].code != 0
    assert not Path("results/out.json").exists()

    def resumed(writer: Writer, queries: Any) -> Any:
        asked.extend(queries.ids.tolist())
        return whole(writer, queries)

    monkeypatch.setattr(Writer, "_rank", resumed)
    told, rows = ask(*words)
    assert "inference: resumed" in told.err
    assert sorted(asked) == list(range(published.ROWS))
    again, same = ask(*words)
    assert "inference: skipped" in again.err
    assert (same, len(asked)) == (rows, published.ROWS)
    Path("results/out.json").unlink()
    assert ask(*words)[1] == rows
    assert ask(*words, "--length_penalty", "0.0")[1] != rows
    assert len(asked) == 2 * published.ROWS
    assert ask(*words)[1] == rows
    assert len(asked) == 2 * published.ROWS


def test_a_run_knows_the_words_it_was_trained_with(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    starts = range(0, 20, 2)
    with Path("test.csv").open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["history_item_title", "item_title"])
        for start in starts:
            writer.writerow([[film(start + i) for i in range(8)], film(start + 8)])
    Path("info.txt").write_text("".join(f"{film(i)}\t{i}\n" for i in range(30)), encoding="utf-8")
    told = command(
        *("inference", "--base_model", tiny.run, "--info_file", "info.txt"),
        *("--test_data_path", "test.csv", "--result_json_data", "out.json"),
    )
    assert told.code == 0, told.err
    assert "was trained with" in told.err
    rows = json.loads(Path("out.json").read_text(encoding="utf-8"))
    right = sum(row["predict"][0].strip() == row["output"].strip(' "\n') for row in rows)
    assert right > len(rows) / 2
    listed = command("evaluate", "--path", "out.json", "--item_path", "info.txt", "--json")
    assert json.loads(listed.out)["out.json"]["not in the catalogue"] == 0


def test_an_empty_part_has_an_empty_result(ask: Callable[..., tuple[Result, Rows]]) -> None:
    header = Path("test/Books.csv").read_text(encoding="utf-8").splitlines()[0]
    Path("test/empty.csv").write_text(header + "\n", encoding="utf-8")
    told, rows = ask("--base_model", "llama", *D3[:-1], "test/empty.csv")
    assert (told.code, rows) == (0, [])


LORA = ("--lora_weights", "llama-lora")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "is this BIGRec's inference.py or D3's evaluate.py?"),
        (BIGREC, "no adapters; the script's own default is not a recommender"),
        ((*BIGREC, "--lora_weights", "gone"), "adapters not found: gone"),
        ((*BIGREC, "--lora_weights", "qwen-lora"), "these adapters do not fit the base model"),
        ((*BIGREC, "--lora_weights", "qwen"), "no adapters in this folder"),
        ((*BIGREC, *LORA, "--share_gradio", "False"), "there is no web page"),
        ((*BIGREC, *LORA, "--prompt_template", "x"), "accepted: --template"),
        ((*BIGREC, *LORA, "--batch_sise", 4), "did you mean 'batch_size'"),
        ((*BIGREC, *LORA, "--batch_size", "four"), "accepted: a whole number"),
        ((*BIGREC, *LORA, "--batch_size", 0), "too small: --batch_size 0"),
        ((*BIGREC, *LORA, "--load_8bit", "maybe"), "accepted: True or False"),
        ((*BIGREC, *LORA, "--load_8bit", "--category", "Books"), "words of two scripts"),
        ((*BIGREC, "--category", "Books", "--info_file", "info/Books.txt"), "test file of the"),
        ((*BIGREC, *LORA, "--words_from", "code/dataset.py"), "no words of a prompt"),
        ((*BIGREC, *LORA, "--template", "alpacca"), "no such template"),
        ((*BIGREC[:-1], "gone.json", *LORA), "test file not found: gone.json"),
        (("--base_model", "gone", *D3), "no such model: gone"),
        (("--base_model", "qwen", *D3[2:]), "--info_file FILE"),
        (("--base_model", "qwen", *D3[:2], *D3[4:]), "has no words for this category"),
        (("--base_model", "qwen", *D3, "--guidance_scale", 0.5), "no signal to give weight to"),
        (("--base_model", "qwen", *D3, "--logits_file", "a.pt"), "accepted: a .npy file"),
        (("--base_model", "qwen", *D3, "--constrained", "--length_penalty", 1), "exact search"),
        (("--base_model", "qwen", *D3, "--max_new_tokens", 9), "titles are never cut"),
        (("--base_model", "qwen", *D3, "--temperature", 0), "not a temperature"),
    ],
)
def test_what_cannot_be_done_is_told(
    ask: Callable[..., tuple[Result, Rows]], words: tuple[object, ...], message: str
) -> None:
    told, _ = ask(*words)
    assert_clear(told)
    assert message in told.err


def test_words_that_nobody_knows_are_asked_for(
    ask: Callable[..., tuple[Result, Rows]],
) -> None:
    Path("inference.py").unlink()
    told, _ = ask(*BIGREC, *LORA)
    assert_clear(told)
    assert "the words around a history are not known" in told.err
    assert "--words_from PATH/inference.py" in told.err
    assert ask(*BIGREC, *LORA, "--template", "bigrec")[0].code == 0


def test_pickled_objects_are_refused(ask: Callable[..., tuple[Result, Rows]]) -> None:
    bad = Path("old/llama-lora/adapter_model.bin")
    torch.save({"a": Path("x")}, bad)
    told, _ = ask(*BIGREC, "--lora_weights", "old/llama-lora")
    assert_clear(told)
    assert "damaged, or contain more than tensors" in told.err


def test_d3s_evaluate_py_as_typed_is_the_inference_it_is(
    checkout: Path, ask: Callable[..., tuple[Result, Rows]]
) -> None:
    words = ("--base_model", "qwen", "--train_file", "x.csv", *D3)
    _, rows = ask(*words)
    Path("results/out.json").unlink()
    told = command("evaluate", *words, "--result_json_data", "results/out.json")
    assert told.code == 0, told.err
    assert json.loads(Path("results/out.json").read_text(encoding="utf-8")) == rows
    wrong = command("evaluate", "--input_dri", "results")
    assert_clear(wrong)
    assert "no such option (did you mean '--input_dir'" in wrong.err
    assert_clear(command("evaluate", "a", "b"))
    assert_clear(command("evaluate", "--bootstrap", 0, "--wrong"))
    assert "no such option" in command("evaluate", "--wrong").err
