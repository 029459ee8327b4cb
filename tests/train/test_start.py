"""Where a training starts: behind another's checkpoint as if it were its own, or with its weights
alone.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from groundrec.core.errors import ConfigError
from groundrec.core.files import read_json, write_json
from groundrec.core.track import Metrics
from groundrec.models.language import open_base
from groundrec.train.adapters import load_adapters, with_lora
from groundrec.train.start import find_start, find_weights, last_complete_checkpoint
from tests.shops import planted_shop
from tests.train.test_finetune import QUICK, TINY, training, weights
from tests.train.test_stopping import STEPS, same

CONSTANT = QUICK.model_copy(update={"schedule": "constant", "epochs": 2})
LORA = CONSTANT.model_copy(update={"method": "lora"})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of two epochs at a constant rate; as much of it as a start looks at."""
    folder = tmp_path_factory.mktemp("run")
    training(planted_shop(), folder / "train", CONSTANT)
    write_json(folder / "train" / "inputs.json", {})
    return folder


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of trained adapters."""
    folder = tmp_path_factory.mktemp("adapters")
    training(planted_shop(), folder / "run", LORA).save(folder / "saved")
    return folder / "saved"


def pickled(adapters: Path, folder: Path) -> Path:
    """Return a folder in PEFT's older layout."""
    shutil.copytree(adapters, folder)
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    return folder


def rates(folder: Path) -> list[tuple[int, float]]:
    return [
        (row["step"], row["learning_rate"])
        for row in Metrics.read(folder / "m.jsonl")
        if "learning_rate" in row
    ]


def test_one_more_epoch_behind_two_is_three(run: Path, tmp_path: Path) -> None:
    shop, three = planted_shop(), CONSTANT.model_copy(update={"epochs": 3})
    whole = weights(training(shop, tmp_path / "whole", three))
    on = weights(training(shop, tmp_path / "on", three, start=find_start(run)))
    same(whole, on)
    last = [last_complete_checkpoint(tmp_path / name / "checkpoints") for name in ("whole", "on")]
    assert [path and path.name for path in last] == [f"checkpoint-{3 * STEPS}"] * 2
    same(*(load_file(path / "model.safetensors") for path in last if path))
    assert [step for step, _ in rates(tmp_path / "on")] == [30], (
        "the steps before are not trained again"
    )


def test_the_best_of_both_is_kept_where_the_new_run_is_complete_without_the_old(
    run: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(run, tmp_path / "run")
    ruinous = CONSTANT.model_copy(update={"epochs": 3, "learning_rate": 10.0})
    found = weights(training(planted_shop(), tmp_path / "on", ruinous, start=find_start(source)))
    state = read_json(
        tmp_path / "on" / "checkpoints" / f"checkpoint-{3 * STEPS}" / "trainer_state.json"
    )
    best = Path(state["best_model_checkpoint"])
    assert best == tmp_path / "on" / "checkpoints" / f"checkpoint-{2 * STEPS}"
    saved = load_file(best / "model.safetensors")
    same({name: found[name] for name in saved}, saved)


def test_a_changed_learning_rate_and_schedule_are_used(run: Path, tmp_path: Path) -> None:
    changed = CONSTANT.model_copy(
        update={"epochs": 4, "learning_rate": 1e-4, "schedule": "linear", "warmup_steps": 0}
    )
    training(planted_shop(), tmp_path, changed, start=find_start(run))
    share = {step: 1 - (step - 1) / (4 * STEPS) for step in (30, 40)}
    assert rates(tmp_path) == [(step, pytest.approx(1e-4 * share[step])) for step in (30, 40)]


def test_the_checkpoint_itself_is_a_start_and_a_half_written_one_is_none(
    run: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    checkpoints = copy / "train" / "checkpoints"
    first, last = (checkpoints / f"checkpoint-{n * STEPS}" for n in (1, 2))
    assert (find_start(first).path, find_start(copy).path) == (first, last)
    (last / "whole.json").unlink()
    assert find_start(copy).path == first
    assert last.exists(), "another run's files are not touched"


@pytest.mark.parametrize("old", [False, True], ids=["safetensors", "pickled"])
def test_adapters_alone_are_where_training_begins(
    adapters: Path, tmp_path: Path, old: bool
) -> None:
    folder = pickled(adapters, tmp_path / "old") if old else adapters
    start, before = find_start(folder, "any"), load_file(adapters / "adapter_model.safetensors")
    assert start.kind == "adapters"
    hardly = LORA.model_copy(update={"learning_rate": 1e-12, "epochs": 1})
    training(planted_shop(), tmp_path / "on", hardly, start=start).save(tmp_path / "tuned")
    found = load_file(tmp_path / "tuned" / "adapter_model.safetensors")
    assert found.keys() == before.keys()
    for name, value in before.items():
        torch.testing.assert_close(found[name], value, atol=1e-8, rtol=0)
    assert any(value.abs().max() > 1e-4 for name, value in before.items() if "lora_B" in name), (
        "B begins at zero"
    )


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("lora_r", 4, "train.lora_r=8"),
        ("lora_alpha", 32, "train.lora_alpha=16"),
        ("lora_target_modules", ["k_proj"], """train.lora_target_modules='["q_proj", "v_proj"]'"""),
    ],
)
def test_adapters_of_another_shape_are_refused(
    adapters: Path, setting: str, value: object, says: str
) -> None:
    section = LORA.model_copy(update={setting: value})
    model = with_lora(open_base(TINY, planted_shop().catalogue.titles, seed=3).model, section)
    with pytest.raises(ConfigError) as refused:
        load_adapters(model, adapters, section, "safetensors")
    assert says in refused.value.next_step


def test_pickled_adapters_are_read_only_when_told_and_only_as_numbers(
    adapters: Path, tmp_path: Path
) -> None:
    folder = pickled(adapters, tmp_path / "old")
    model = with_lora(open_base(TINY, planted_shop().catalogue.titles, seed=3).model, LORA)
    with pytest.raises(ConfigError, match="these adapters are pickled"):
        load_adapters(model, folder, LORA, "safetensors")
    torch.save({"base_model.model.x.lora_A.weight": Path("anything")}, folder / "adapter_model.bin")
    with pytest.raises(ConfigError, match="contain more than tensors"):
        load_adapters(model, folder, LORA, "any")


def test_what_is_no_start_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to start from"):
        find_start(tmp_path)
    with pytest.raises(ConfigError, match="nothing to start from"):
        find_start(tmp_path / "nowhere")


def test_contents_tell_starts_apart_by_what_is_in_them(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "moved")
    assert find_start(run).contents() == find_start(copy).contents()
    file = copy / "train" / "checkpoints" / f"checkpoint-{2 * STEPS}" / "optimizer.pt"
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    assert find_start(run).contents() != find_start(copy).contents()


def test_weights_alone_are_those_of_the_trained_model(
    run: Path, adapters: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"nothing to start from: {run / 'train'}"):
        find_weights(run)  # it has checkpoints, and has not finished
    copy = shutil.copytree(run, tmp_path / "run")
    for file in adapters.iterdir():
        shutil.copyfile(file, copy / "train" / file.name)
    for place in (copy, copy / "train"):
        assert (find_weights(place).kind, find_weights(place).path) == ("adapters", copy / "train")
    assert find_start(copy).kind == "checkpoint"
    last = find_start(copy).path
    assert (find_weights(last).kind, find_weights(last).path) == ("model", last)
