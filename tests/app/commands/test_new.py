"""`groundrec new`: a recipe from five answers that the same loader accepts as `run` does."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from groundrec.core.recipe import load_recipe
from tests.commands import command
from tests.data.amazon import Shape, write_amazon

FLAGS = {
    "--data": "data",
    "--category": "Books",
    "--model": "hf:Qwen/Qwen1.5-0.5B",
    "--examples": "all",
    "--gpu": "24",
}


def words(**changed: str) -> list[str]:
    given = FLAGS | {f"--{flag}": value for flag, value in changed.items()}
    return [word for pair in given.items() for word in pair]


@pytest.fixture(autouse=True)
def with_reviews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_amazon(tmp_path / "data", "Books", Shape(users=30, items=20, reviews=200))
    return tmp_path


def test_five_flags_make_a_recipe_and_its_next_command_works(with_reviews: Path) -> None:
    made = command("new", "mine", *words(examples="50"))
    assert made.code == 0, made.err
    assert tomllib.loads(Path("mine.toml").read_text(encoding="utf-8"))["extends"] == "d3/d3"
    recipe, origin = load_recipe("mine.toml")
    assert (recipe.name, recipe.data.category, recipe.train.max_examples) == ("mine", "Books", 50)
    assert origin["train.epochs"] == "without-assistant.toml"
    following = made.out.splitlines()[-1].removeprefix("next: groundrec ").split()
    assert command(*following).code == 0


def test_a_model_that_does_not_fit_is_trained_with_adapters() -> None:
    for number, (model, gpu, method) in enumerate(
        [
            ("0.5B", "12", "full"),
            ("0.5B", "8", "lora"),
            ("1.8B", "24", "lora"),
            ("1.8B", "40", "full"),
        ]
    ):
        made = command("new", f"r{number}", *words(model=f"hf:Qwen/Qwen1.5-{model}", gpu=gpu))
        assert made.code == 0, made.err
        assert load_recipe(f"r{number}.toml")[0].train.method == method


def test_without_a_terminal_the_missing_flags_are_named() -> None:
    refused = command("new", "mine", "--data", "data", "--gpu", "24")
    assert refused.code == 2
    assert "there is no terminal to ask on: --category, --model, --examples" in refused.err
    assert not Path("mine.toml").exists()


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_on_a_terminal_what_is_missing_is_asked() -> None:
    ours, theirs = os.openpty()
    os.write(ours, b"Books\n\n100\n0\n")
    asking = [sys.executable, "-m", "groundrec", "new", "mine", "--data", "data"]
    done = subprocess.run(
        asking, stdin=theirs, capture_output=True, text=True, timeout=120, check=False
    )
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 0, done.stderr
    assert "base model [hf:Qwen/Qwen1.5-0.5B]" in done.stdout
    recipe, _ = load_recipe("mine.toml")
    assert recipe.data.category == "Books"
    assert recipe.model.base_model == "hf:Qwen/Qwen1.5-0.5B"
    assert (recipe.train.max_examples, recipe.train.micro_batch_size) == (100, 1)


def test_nothing_is_replaced_unless_told() -> None:
    Path("mine.toml").write_text("mine\n", encoding="utf-8")
    assert command("new", "mine", *words()).code == 2
    assert Path("mine.toml").read_text(encoding="utf-8") == "mine\n"
    assert command("new", "mine", "--force", *words()).code == 0


@pytest.mark.parametrize(
    "changed", [{"data": "nowhere"}, {"category": "Toys"}, {"examples": "few"}, {"gpu": "big"}]
)
def test_what_run_would_refuse_is_refused_and_nothing_written(changed: dict[str, str]) -> None:
    refused = command("new", "mine", *words(**changed))
    assert refused.code == 2, refused.out
    assert not list(Path().glob("*mine*"))
