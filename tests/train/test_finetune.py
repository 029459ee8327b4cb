"""Fine-tuning: what is learned, what is not, and that an interrupted training ends where an
uninterrupted one does.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from transformers import TrainerCallback, TrainingArguments, masking_utils

from groundrec.core import config_learn, config_model
from groundrec.core.errors import ConfigError, TrainingError
from groundrec.core.track import Metrics, log
from groundrec.core.types import PreparedDataset, Queries, Ragged
from groundrec.models.language import LanguageModel, keep_merged, load, open_base
from groundrec.rank.search.search import Search
from groundrec.text.prompts import load_template
from groundrec.text.tokens import IGNORED, Encoder
from groundrec.text.trie import Trie
from groundrec.train import finetune as module
from groundrec.train import trainer
from groundrec.train.batch import explain_batch
from groundrec.train.finetune import finetune
from groundrec.train.rows import Domain, training_rows
from groundrec.train.start import StartPoint, last_complete_checkpoint
from tests.shops import planted_shop

TINY = config_model.Model(
    scratch=config_model.Scratch(vocabulary=300, hidden=32, layers=1, heads=2, dropout=0.1)
)
WIDER = config_model.Model(
    scratch=config_model.Scratch(vocabulary=300, hidden=64, layers=2, heads=2, dropout=0.0)
)
QUICK = config_learn.Train(
    epochs=4,
    learning_rate=5e-3,
    warmup_steps=2,
    batch_size=4,
    micro_batch_size=4,
    cutoff_len=96,
    patience=0,
)


class Crash(Exception):
    """Stands for the power going off."""


def training(
    dataset: PreparedDataset,
    folder: Path,
    section: config_learn.Train = QUICK,
    template: str = "list",
    model: config_model.Model = TINY,
    start: StartPoint | None = None,
    validation_ndcg: Callable[[Any], float] | None = None,
) -> LanguageModel:
    lm = open_base(model, dataset.catalogue.titles, seed=3)
    encoder = Encoder(
        load_template(template), lm.tokenizer, dataset.catalogue.titles, section.cutoff_len
    )
    folder.mkdir(parents=True, exist_ok=True)
    metrics = Metrics(folder / "m.jsonl", "model")
    return finetune(
        lm,
        [Domain(dataset, encoder)],
        section,
        3,
        folder / "checkpoints",
        metrics,
        start,
        validation_ndcg,
    )


def weights(lm: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in lm.model.state_dict().items()}


def share_right(
    lm: LanguageModel, shop: PreparedDataset, queries: Queries, template: str, cutoff_len: int
) -> float:
    """Return the share of queries whose target is ranked first among all items."""
    encoder = Encoder(load_template(template), lm.tokenizer, shop.catalogue.titles, cutoff_len)
    scores = Search(lm.model, Trie.compile(encoder.answers)).all(
        [encoder.prompt(row) for row in queries.history]
    )
    return float(
        np.mean(
            [row.argmax() in targets for row, targets in zip(scores, queries.targets, strict=True)]
        )
    )


def test_a_running_list_learns_the_planted_next_item(tmp_path: Path) -> None:
    shop = planted_shop()
    section = QUICK.model_copy(update={"epochs": 80, "schedule": "linear"})
    lm = training(shop, tmp_path, section, model=WIDER)
    assert share_right(lm, shop, shop.test, "list", section.cutoff_len) > 0.8


OWN = """
head = "Liked: "
item = "<{title}>"
separator = ", "
tail = "\\nNext: "
answer = "<{title}>"
end = true
"""


def test_a_template_of_ones_own_learns_the_planted_next_item(tmp_path: Path) -> None:
    shop = planted_shop()
    (tmp_path / "own.toml").write_text(OWN)
    settings = {
        "epochs": 25,
        "learning_rate": 3e-3,
        "batch_size": 8,
        "micro_batch_size": 8,
        "schedule": "linear",
    }
    section = QUICK.model_copy(update=settings)
    lm = training(shop, tmp_path, section, str(tmp_path / "own.toml"), WIDER)
    assert share_right(lm, shop, shop.test, str(tmp_path / "own.toml"), section.cutoff_len) > 0.8


@pytest.mark.parametrize("average", [0.0, 0.8])
def test_an_interrupted_training_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, average: float
) -> None:
    shop = planted_shop()
    section = QUICK.model_copy(update={"average": average})
    whole = weights(training(shop, tmp_path / "whole", section))
    steps = iter(range(10_000))

    def fail_at(self, *args, **kwargs):
        if next(steps) in (7, 23, 41):
            raise Crash
        return original(self, *args, **kwargs)

    original = module.ObjectiveTrainer.compute_loss
    for _ in range(3):
        monkeypatch.setattr(module.ObjectiveTrainer, "compute_loss", fail_at)
        with pytest.raises(Crash):
            training(shop, tmp_path / "broken", section)
    monkeypatch.setattr(module.ObjectiveTrainer, "compute_loss", original)
    resumed = weights(training(shop, tmp_path / "broken", section))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_last_epochs_are_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = module.arguments

    def keep_all(section: config_learn.Train, seed: int, folder: Path):
        found = kept(section, seed, folder)
        found.save_total_limit = None
        return found

    monkeypatch.setattr(module, "arguments", keep_all)
    mean = weights(training(planted_shop(), tmp_path, QUICK.model_copy(update={"average": 0.5})))
    folders = sorted(
        tmp_path.glob("checkpoints/checkpoint-*"), key=lambda p: int(p.name.split("-")[1])
    )
    assert len(folders) == 4
    last = [load_file(folder / "model.safetensors") for folder in folders[2:]]
    for name in last[0]:
        torch.testing.assert_close(mean[name], (last[0][name] + last[1][name]) / 2)
    assert not torch.equal(mean[name], last[1][name])


def test_a_half_written_checkpoint_is_left_out_and_said_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (10, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-10" / "whole.json").write_text("{}")
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert not (tmp_path / "checkpoint-20").exists()
    shutil.rmtree(tmp_path / "checkpoint-10")
    assert last_complete_checkpoint(tmp_path) is None


def test_micro_batches_change_nothing_but_memory(tmp_path: Path) -> None:
    shop = planted_shop()
    still = TINY.model_copy(update={"scratch": TINY.scratch.model_copy(update={"dropout": 0.0})})
    section = QUICK.model_copy(update={"epochs": 1})
    found = []
    for micro in (2, 8):
        lm = open_base(still, shop.catalogue.titles, seed=3)
        encoder = Encoder(load_template("list"), lm.tokenizer, shop.catalogue.titles, 96)
        one = section.model_copy(update={"batch_size": 8, "micro_batch_size": micro})
        folder = tmp_path / str(micro)
        folder.mkdir()
        found.append(
            weights(
                finetune(
                    lm, [Domain(shop, encoder)], one, 3, folder, Metrics(folder / "m", "model")
                )
            )
        )
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], atol=2e-3, rtol=0)


def test_lora_trains_adapters_and_is_loaded_with_its_base(tmp_path: Path) -> None:
    shop = planted_shop()
    open_base(TINY, shop.catalogue.titles, seed=3).save(tmp_path / "base")
    base = load(tmp_path / "base")
    before = weights(base)
    encoder = Encoder(load_template("list"), base.tokenizer, shop.catalogue.titles, 96)
    section = QUICK.model_copy(update={"method": "lora", "epochs": 2})
    domains, metrics = [Domain(shop, encoder)], Metrics(tmp_path / "m", "model")
    tuned = finetune(base, domains, section, 3, tmp_path / "c", metrics)
    tuned.save(tmp_path / "tuned")
    assert (tmp_path / "tuned" / "adapter_model.safetensors").exists()
    again = load(tmp_path / "tuned")
    ids = torch.tensor([[1, 5, 9, 7]])
    with torch.no_grad():
        torch.testing.assert_close(
            again.model(ids).logits, tuned.model(ids).logits, atol=1e-4, rtol=1e-4
        )
        assert not torch.allclose(
            again.model(ids).logits, load(tmp_path / "base").model(ids).logits
        )
    assert all(
        torch.equal(value, load(tmp_path / "base").model.state_dict()[name])
        for name, value in before.items()
    )


def test_adapters_on_adapters_keep_both(tmp_path: Path) -> None:
    shop, section = planted_shop(), QUICK.model_copy(update={"method": "lora", "epochs": 1})
    open_base(TINY, shop.catalogue.titles, seed=3).save(tmp_path / "base")
    ids, logits = torch.tensor([[1, 5, 9, 7]]), {}
    for before, name in (("base", "first"), ("first", "second"), ("second", "third")):
        lm = load(tmp_path / before)
        keep_merged(lm, tmp_path / f"{name}-base")
        assert (tmp_path / f"{name}-base").exists() == (before != "base")
        encoder = Encoder(load_template("list"), lm.tokenizer, shop.catalogue.titles, 96)
        metrics = Metrics(tmp_path / "m", "model")
        tuned = finetune(
            lm, [Domain(shop, encoder)], section, 3, tmp_path / f"{name}-checkpoints", metrics
        )
        tuned.save(tmp_path / name)
        with torch.no_grad():
            logits[name] = tuned.model(ids).logits
            torch.testing.assert_close(
                load(tmp_path / name).model(ids).logits, logits[name], atol=1e-4, rtol=1e-4
            )
    assert not torch.allclose(logits["first"], logits["second"])
    assert not torch.allclose(logits["second"], logits["third"])


def test_running_rows_hold_every_item_once_and_shuffle_only_within_a_moment() -> None:
    shop = planted_shop()
    lm = open_base(TINY, shop.catalogue.titles, seed=3)
    encoder = Encoder(load_template("list"), lm.tokenizer, shop.catalogue.titles, 96)
    queries = Queries(
        np.arange(3), np.array(["a", "a", "a"]), np.array([1, 2, 3]),
        Ragged.of([[], [0], [0, 1, 2, 3]]), Ragged.of([[0], [1, 2, 3], [4]]),
    )  # fmt: skip
    rows = training_rows([Domain(replace(shop, train=queries), encoder)], QUICK, seed=0)
    texts = set()
    for epoch in range(12):
        rows.set_epoch(epoch)
        texts.add("".join(lm.tokenizer.decode(rows[i].input_ids[1:]) for i in range(len(rows))))
    titles = shop.catalogue.titles
    for text in texts:
        lines = text.splitlines()
        assert lines[0] == titles[0]
        assert lines[4] == titles[4]
        assert sorted(lines[1:4]) == sorted(titles[1:4])
    assert len(texts) > 2


def test_learning_choices_leaves_out_forced_tokens() -> None:
    shop = planted_shop()
    lm = open_base(TINY, shop.catalogue.titles, seed=3)
    encoder = Encoder(load_template("list"), lm.tokenizer, shop.catalogue.titles, 96)
    trie = Trie.compile(encoder.answers)
    row = replace(encoder, learned=trie.choices(encoder.answers)).running(np.array([2]))
    learned = row.labels[row.labels != IGNORED].tolist()
    node, expected = 0, []
    for place, token in enumerate(encoder.answers[2].tolist()):
        options = {
            a[place]
            for a in encoder.answers
            if a[:place].tolist() == encoder.answers[2][:place].tolist()
        }
        expected += [token] if len(options) > 1 else []
    assert node == 0
    assert learned == expected


def test_batches_are_explained_or_refused() -> None:
    section = config_learn.Train(batch_size=128, micro_batch_size=4)
    assert explain_batch(section, 2) == "batch 128 = 4 per step × 16 accumulation × 2 processes"
    with pytest.raises(ConfigError, match="does not divide"):
        explain_batch(config_learn.Train(batch_size=10, micro_batch_size=4))


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "mended"),
    [
        (8, 8, 2, "micro_batch_size=4"),
        (10, 4, 1, "micro_batch_size=2"),
        (9, 4, 2, "batch_size=8"),
        (3, 4, 2, "batch_size=8"),
    ],
)
def test_the_next_step_makes_a_batch_divide(
    batch: int, micro: int, processes: int, mended: str
) -> None:
    with pytest.raises(ConfigError, match=f"train.{mended}") as refused:
        explain_batch(config_learn.Train(batch_size=batch, micro_batch_size=micro), processes)
    name, value = refused.value.next_step.split(",")[0].removeprefix("--set train.").split("=")
    settings = {"batch_size": batch, "micro_batch_size": micro, name: int(value)}
    assert explain_batch(config_learn.Train(**settings), processes)  # type: ignore[arg-type]


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    shop = planted_shop()
    empty = shop.train.take(np.array([], np.int64))
    with pytest.raises(TrainingError, match="no training examples"):
        training(replace(shop, train=empty), tmp_path)
    for wanted in (
        ["query"],
        ["q_proj", "query"],
    ):  # a list that fits in part would train less than it says
        with pytest.raises(
            ConfigError, match=r"none of the layers named by train\.lora_target_modules: query"
        ):
            training(
                shop,
                tmp_path,
                QUICK.model_copy(update={"method": "lora", "lora_target_modules": wanted}),
            )


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (15, r"the batch of step 16, epoch 1\.25"),  # seen at the next log
        (22, r"the batch of step 23, epoch 1\.83"),  # at the end of the epoch
        (24, r"a validation batch after step 24, epoch 2\.00"),
    ],
)
def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoints_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: int, named: str
) -> None:
    class Breaks(TrainerCallback):
        """Makes weights no numbers behind a step."""

        def on_step_end(self, args, state, control, model, **_):
            steps.append(state.global_step)
            if state.global_step == made:
                next(model.parameters()).data.fill_(float("nan"))

    steps, metrics = [], tmp_path / "m.jsonl"
    monkeypatch.setattr(module, "GradientHistograms", lambda **_: Breaks())
    with pytest.raises(TrainingError, match=f"became NaN or infinite: {named}"):
        training(planted_shop(), tmp_path)
    last = last_complete_checkpoint(tmp_path / "checkpoints")
    assert last
    assert last.name == "checkpoint-12"
    assert all(value.isfinite().all() for value in load_file(last / "model.safetensors").values())
    assert made <= steps[-1] < made + 10
    assert all(np.isfinite(row["loss"]) for row in Metrics.read(metrics) if "loss" in row)


class Waits(TorchDispatchMode):
    """Keeps what makes Python wait for a GPU: values that it reads, and shapes that depend on
    values.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, aten = func.overloadpacket.__name__, torch.ops.aten
        read = (
            func is aten._local_scalar_dense.default and args[0].dtype is not torch.int64
        )  # a loader's seeds are int64
        masked = func is aten.index.Tensor and any(
            x is not None and x.dtype is torch.bool for x in args[1]
        )
        if read or masked or name in ("nonzero", "masked_select", "unique"):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("packing", ["row", "tree"])
def test_no_batch_waits_for_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: str
) -> None:
    """Between two logs, that is: from one to the next, in transformers' own loop too."""
    waits, looks = Waits(), []

    def watched(run: Callable[..., Any]) -> Callable[..., Any]:
        def within(*args: Any, **kwargs: Any) -> Any:
            with waits:
                return run(*args, **kwargs)

        return within

    def unwatched(run: Callable[..., Any]) -> Callable[..., Any]:
        def within(*args: Any, **kwargs: Any) -> Any:
            looks.append(run.__name__)
            with _disable_current_modes():
                return run(*args, **kwargs)

        return within

    monkeypatch.setattr(trainer, "skipping", nullcontext)  # what only processors do
    monkeypatch.setattr(
        masking_utils, "find_packed_sequence_indices", lambda _: None
    )  # transformers' look at each pass
    own = module.ObjectiveTrainer
    monkeypatch.setattr(own, "_run_epoch", watched(own._run_epoch))
    monkeypatch.setattr(own, "_maybe_log_save_evaluate", unwatched(own._maybe_log_save_evaluate))
    monkeypatch.setattr(trainer.FiniteLoss, "_check", unwatched(trainer.FiniteLoss._check))
    section = QUICK.model_copy(
        update={"epochs": 1, "cutoff_len": 400, "packing": packing, "micro_batch_size": 2}
    )
    training(planted_shop(), tmp_path, section, "d3")
    assert looks.count("_maybe_log_save_evaluate") > looks.count("_check") > 0
    assert not waits.found


def test_a_process_trains_on_one_of_several_devices_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def seen(section: config_learn.Train, seed: int, folder: Path) -> TrainingArguments:
        found = trainer.arguments(section, seed, folder)
        found._n_gpu = 4  # as where a process sees four
        assert found.train_batch_size == section.micro_batch_size
        return found

    section = QUICK.model_copy(update={"epochs": 1})
    alone = weights(training(planted_shop(), tmp_path / "alone", section))
    monkeypatch.setattr(module, "arguments", seen)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    monkeypatch.setattr(log, "propagate", True)
    caplog.set_level("INFO")
    four = weights(training(planted_shop(), tmp_path / "four", section))
    assert all(torch.equal(four[name], value) for name, value in alone.items())
    assert "one of 4 GPUs; for all: torchrun --nproc_per_node 4 -m groundrec run" in caplog.text


@pytest.mark.parametrize("at", ["save_model", "_save_optimizer_and_scheduler"])
def test_a_full_disk_is_told_and_the_checkpoint_before_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    original = getattr(module.ObjectiveTrainer, at)
    whole = weights(training(planted_shop(), tmp_path / "whole"))

    def full(self, *args, **kwargs):
        if self.state.global_step == 24:
            (Path(self.args.output_dir) / "checkpoint-24").mkdir(exist_ok=True)
            raise OSError(28, "No space left on device")
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(module.ObjectiveTrainer, at, full)
        with pytest.raises(
            TrainingError, match=r"checkpoint-24 could not be written: .*No space left"
        ):
            training(planted_shop(), tmp_path / "full")
    assert [p.name for p in (tmp_path / "full").glob("checkpoints/*")] == ["checkpoint-12"]
    resumed = weights(training(planted_shop(), tmp_path / "full"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
