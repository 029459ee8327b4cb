"""Numbers a model is trained in: what they are, what they change, and what a machine without CUDA
refuses.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from groundrec.core import config_learn, config_model
from groundrec.core.errors import ConfigError
from groundrec.models.language import LanguageModel, load, open_base
from groundrec.train import precision
from groundrec.train.precision import resolve_precision, set_precision
from groundrec.train.start import last_complete_checkpoint
from tests.shops import planted_shop
from tests.train.curves import curve
from tests.train.test_finetune import QUICK, TINY, training


class Cuda:
    """Stands for a CUDA device, with bfloat16 or without."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, bf16: bool | None) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bf16 is not None)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bool(bf16))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a device")


@pytest.mark.parametrize(
    ("bf16", "asked", "found"),
    [
        (None, "auto", "fp32"), (None, "fp32", "fp32"), (None, "bf16", "bf16"), (None, "fp16", ""),
        (True, "auto", "bf16"), (True, "fp32", "fp32"), (True, "fp16", "fp16"),
        (False, "auto", "fp32"), (False, "bf16", ""), (False, "fp16", "fp16"),
    ],
)  # fmt: skip
def test_what_a_machine_computes_in(
    monkeypatch: pytest.MonkeyPatch, bf16: bool | None, asked: str, found: str
) -> None:
    Cuda(monkeypatch, bf16)
    section = config_learn.Train.model_validate({"precision": asked})
    if found:
        assert resolve_precision(section) == found
        return
    with pytest.raises(ConfigError, match=f"train.precision = {asked} is not possible"):
        resolve_precision(section)


def test_bfloat16_gives_nearly_the_same_losses_and_saves_float32(tmp_path: Path) -> None:
    exact, found = (curve(tmp_path / name, precision=name) for name in ("fp32", "bf16"))
    assert [value for _, value in found] == pytest.approx([value for _, value in exact], rel=2e-2)
    assert [value for _, value in found] != pytest.approx([value for _, value in exact], rel=1e-5)
    saved = load_file(tmp_path / "bf16" / "weights-0.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.float32}


@pytest.mark.parametrize(("method", "base"), [("full", torch.float32), ("lora", torch.bfloat16)])
def test_trained_weights_are_float32_and_frozen_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, base: torch.dtype
) -> None:
    held: list[torch.nn.Module] = []
    monkeypatch.setattr(
        precision,
        "set_precision",
        lambda model, how: (set_precision(model, how), held.append(model)),
    )
    monkeypatch.setattr("groundrec.train.finetune.set_precision", precision.set_precision)
    shop, section = (
        planted_shop(),
        QUICK.model_copy(update={"method": method, "precision": "bf16", "epochs": 1}),
    )
    tuned = training(shop, tmp_path, section)
    assert {p.dtype for p in held[0].parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for n, p in held[0].named_parameters() if "lora" not in n} == {base}
    assert all(value.isfinite().all() for value in tuned.model.state_dict().values())
    last = last_complete_checkpoint(tmp_path / "checkpoints")
    assert last
    file = last / ("model.safetensors" if method == "full" else "adapter_model.safetensors")
    assert {value.dtype for value in load_file(file).values()} == {torch.float32}


def test_a_model_kept_in_bfloat16_is_trained_and_saved_in_float32(tmp_path: Path) -> None:
    shop = planted_shop()
    lm = open_base(TINY, shop.catalogue.titles, seed=3)
    LanguageModel(lm.model.to(torch.bfloat16), lm.tokenizer).save(tmp_path / "base")
    assert load(tmp_path / "base").model.dtype == torch.bfloat16
    model = config_model.Model(base_model=str(tmp_path / "base"))
    training(shop, tmp_path / "run", QUICK.model_copy(update={"epochs": 1}), model=model).save(
        tmp_path / "tuned"
    )
    assert load(tmp_path / "tuned").model.dtype == torch.float32
