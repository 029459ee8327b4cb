"""Adapters beside weights in few bits, computed by bitsandbytes on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from groundrec.core import config_learn
from groundrec.core.errors import ConfigError, MissingDependency
from groundrec.core.track import Metrics
from groundrec.models import language
from groundrec.models.language import LanguageModel, in_bits, load, open_base, require_bits
from groundrec.text.prompts import load_template
from groundrec.text.tokens import Encoder
from groundrec.train.finetune import finetune
from groundrec.train.rows import Domain
from groundrec.train.start import StartPoint, find_start
from tests.shops import planted_shop
from tests.train.test_finetune import WIDER

SECTION = config_learn.Train(
    method="qlora",
    epochs=2,
    learning_rate=1e-2,
    warmup_steps=0,
    batch_size=4,
    micro_batch_size=4,
    cutoff_len=96,
    lora_target_modules=["q_proj", "v_proj", "dense"],
)


def tuned(
    base: Path, folder: Path, bits: int | None, start: StartPoint | None = None
) -> tuple[LanguageModel, list[float]]:
    """Return the model trained in so few bits, or in all, and each epoch's validation loss."""
    shop, lm = planted_shop(), load(base)
    lm = in_bits(lm, bits, torch.float32) if bits else lm
    section = SECTION if bits else SECTION.model_copy(update={"method": "lora"})
    encoder = Encoder(
        load_template("list"), lm.tokenizer, shop.catalogue.titles, section.cutoff_len
    )
    metrics = Metrics(folder / "m.jsonl", "model")
    found = finetune(lm, [Domain(shop, encoder)], section, 3, folder / "c", metrics, start)
    return found, [
        row["eval_loss"] for row in Metrics.read(folder / "m.jsonl") if "eval_loss" in row
    ]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    open_base(WIDER, planted_shop().catalogue.titles, seed=3).save(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "kind"), [(4, torch.uint8), (8, torch.int8)])
def test_adapters_beside_few_bits_learn_nearly_what_others_do(
    base: Path, tmp_path: Path, bits: int, kind: torch.dtype
) -> None:
    pytest.importorskip("bitsandbytes", reason="groundrec[qlora] is not installed")
    _, exact = tuned(base, tmp_path / "lora", None)
    lm, losses = tuned(base, tmp_path / "qlora", bits)
    held = {name: p.dtype for name, p in lm.model.named_parameters()}
    assert {held[name] for name in held if "q_proj.base_layer.weight" in name} == {kind}
    assert {held[name] for name in held if "lora_" in name} == {torch.float32}
    assert losses == pytest.approx(exact, rel=0.05)
    assert losses[-1] < losses[0]
    lm.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    ids = torch.tensor([[1, 5, 9, 7]])
    with torch.no_grad():
        torch.testing.assert_close(
            again.model(ids).logits, lm.model(ids).logits, atol=0.2, rtol=0.1
        )
    assert {p.dtype for p in again.model.parameters()} == {torch.float32}
    on = find_start(tmp_path / "saved")
    assert tuned(base, tmp_path / "on", bits, on)[1][0] < losses[0]


def test_without_bitsandbytes_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "find_spec", lambda _: None)
    with pytest.raises(MissingDependency, match=r"pip install 'groundrec\[qlora\]'"):
        require_bits()


def test_a_device_that_has_no_few_bits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "find_spec", lambda _: True)
    monkeypatch.setattr(language, "default_device", lambda: torch.device("mps"))
    with pytest.raises(ConfigError, match="quantised weights need CUDA"):
        require_bits()


def test_a_model_that_came_from_no_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "require_bits", lambda: None)
    with pytest.raises(ConfigError, match="no such base model folder"):
        in_bits(open_base(WIDER, planted_shop().catalogue.titles, seed=3), 4, torch.float32)


def test_a_model_with_adapters_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(language, "require_bits", lambda: None)
    lm = open_base(WIDER, planted_shop().catalogue.titles, seed=3)
    (tmp_path / "adapter_config.json").write_text("{}")
    lm.model.name_or_path = str(tmp_path)
    with pytest.raises(ConfigError, match=f"train.resume_from={tmp_path}"):
        in_bits(lm, 4, torch.float32)
