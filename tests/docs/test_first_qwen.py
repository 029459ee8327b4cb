"""The page from nothing to a first own Qwen: its commands, run as it shows them.

Only addresses, folders, a title and the sizes of a training for a real card are replaced.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import Qwen2Config, Qwen2ForCausalLM

from groundrec.core.track import Metrics
from groundrec.data import dataset
from groundrec.text.tokens import train_tokenizer
from tests.data.amazon import Shape, write_amazon
from tests.data.servers import serving
from tests.docs.test_documents import ROOT, blocks

PAGE = ROOT / "docs" / "first-qwen.md"
MODEL = "Qwen/Qwen1.5-0.5B"
PATIENCE = 600


def shown(page: Path) -> list[list[str]]:
    """Return the words of each command in the page's shell blocks, in order."""
    return [
        shlex.split(line) for block in blocks(page) if block.language == "sh" for line in block.code
    ]


def test_both_languages_show_the_same_commands() -> None:
    assert shown(PAGE) == shown(PAGE.with_name("first-qwen.zh-CN.md"))
    assert [words[:2] for words in shown(PAGE)].count(["groundrec", "run"]) == 3


def tiny_qwen(folder: Path, titles: list[str]) -> dict[str, bytes]:
    """Return the files of a Qwen2 with random weights."""
    tokenizer = train_tokenizer(titles, 500)
    shape = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=1024,
    )
    Qwen2ForCausalLM(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


class Shell:
    """A folder in which commands of the page are run, with the addresses of the test."""

    def __init__(self, folder: Path, hub: str) -> None:
        self.folder = folder
        hidden = ("HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES", "HTTP_PROXY", "http_proxy", "all_proxy")
        self.environment = {name: v for name, v in os.environ.items() if name not in hidden}
        self.environment |= {"GROUNDREC_STATE": str(folder / "state"), "NO_PROXY": "127.0.0.1"}
        self.hub = hub

    def export(self, assignment: str) -> None:
        name, _, value = assignment.partition("=")
        is_address = value.startswith("https://")
        self.environment[name] = self.hub if is_address else str(self.folder / Path(value).name)

    def call(self, words: list[str], code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == code, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


@pytest.mark.slow
def test_the_commands_of_the_page_lead_to_recommendations(tmp_path: Path) -> None:
    write_amazon(
        tmp_path / "data" / "amazon", "Video_Games", Shape(users=150, items=60, reviews=3000)
    )
    files = tiny_qwen(tmp_path / "qwen", ["user game bought list of titles"] * 5)
    done: list[str] = []
    with serving() as hub:
        hub.files |= {f"{MODEL}/{name}": content for name, content in files.items()}
        shell = Shell(tmp_path, hub.address)
        for words in shown(PAGE):
            if words[0] == "export":
                shell.export(words[1])
            elif words[0] == "groundrec":
                if "TITLE" in words:
                    prepared = dataset.load(tmp_path / "runs" / "my-qwen" / "prepare")
                    words[words.index("TITLE")] = prepared.catalogue.titles[0]
                # The run is finished when the page comes to what continues one.
                finished = words[1:3] == ["runs", "resume"]
                shown_by_it = shell.call(words, code=2 if finished else 0)
                done.append(f"{' '.join(words)}\n{shown_by_it}")
    run = tmp_path / "runs" / "my-qwen"
    assert (run / "report.html").is_file()
    assert [row for row in Metrics.read(run / "metrics.jsonl") if "loss" in row]
    assert (tmp_path / "groundrec" / "models").exists() or (tmp_path / "huggingface").exists()
    assert len(done[-2].splitlines()) >= 6, done[-2]
    assert "this run has finished" in done[-1]
