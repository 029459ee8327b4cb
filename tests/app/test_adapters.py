"""Runs that begin at a folder of adapters: what they save is the sum of both."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from groundrec.models.language import load, open_base
from tests.app.conftest import title, write_shop
from tests.commands import Result, command
from tests.train.test_finetune import TINY

LORA = (
    *(
        "train.method=lora",
        "train.epochs=0.2",
        "train.loss_on=answer",
        "signals=[]",
        "fuse.signals=[]",
    ),
    *("recommend.valid_queries=2", "recommend.test_queries=2"),
)
SCALE = 16 / 8


def run(recipe: Path, folder: Path, *settings: object, until: str = "train") -> Result:
    words = [word for setting in (*LORA, *settings) for word in ("--set", setting)]
    return command("run", recipe, "--run-dir", folder, "--until", until, *words)


def delta(folder: Path) -> dict[str, torch.Tensor]:
    """Return what adapters add to each weight, by the weight's name."""
    found = load_file(folder / "train" / "adapter_model.safetensors")
    names = [name.removesuffix("lora_A.weight") for name in found if name.endswith("lora_A.weight")]
    sums = {n: SCALE * found[f"{n}lora_B.weight"] @ found[f"{n}lora_A.weight"] for n in names}
    return {f"{n.removeprefix('base_model.model.')}weight": value for n, value in sums.items()}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    open_base(TINY, [title(i) for i in range(30)], seed=3).save(tmp_path / "base")
    return tmp_path / "base"


def test_adapters_on_top_of_adapters_are_ranked_with_both(base: Path, tmp_path: Path) -> None:
    recipe, first, second, third = (
        write_shop(tmp_path),
        *(tmp_path / name for name in ("one", "two", "three")),
    )
    assert run(recipe, first, f"model.base_model={base}").code == 0
    made = run(recipe, second, f"model.base_model={first / 'train'}")
    assert made.code == 0, made.err
    ranked = (
        f"model.base_model={first / 'train'}",
        "train.method=none",
        f"train.resume_from={second}",
    )
    made = run(recipe, third, *ranked, until="recommend")
    assert made.code == 0, made.err
    plain, added = load(base).model.state_dict(), [delta(first), delta(second)]
    assert all(any(value.any() for value in each.values()) for each in added)
    for folder in (second, third):
        found = load(folder / "train").model.state_dict()
        for name, value in plain.items():
            wanted = value + sum(each.get(name, 0) for each in added)
            torch.testing.assert_close(found[name], wanted, atol=1e-5, rtol=1e-5)


def test_an_unfinished_run_has_no_weights_to_rank_with(base: Path, tmp_path: Path) -> None:
    recipe = write_shop(tmp_path)
    assert run(recipe, tmp_path / "run", f"model.base_model={base}").code == 0
    (tmp_path / "run" / "train" / "adapter_model.safetensors").unlink()
    settings = (
        f"model.base_model={base}",
        "train.method=none",
        f"train.resume_from={tmp_path / 'run'}",
    )
    found = run(recipe, tmp_path / "on", *settings)
    assert (found.code, "names nothing to start from" in found.err) == (2, True)
    assert not (tmp_path / "on").exists()
