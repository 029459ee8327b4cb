"""Checks that what a recipe names exists, before anything is written or loaded.

Knows nothing about what the named things do.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from groundrec.app.stages.domains import fingerprints
from groundrec.core.errors import ConfigError, MissingDependency, did_you_mean
from groundrec.core.recipe import Recipe
from groundrec.core.registry import BUILT_IN, names, resolve
from groundrec.text.prompts import template_of

__all__ = ["check_names", "check_paths"]


def check_names(recipe: Recipe) -> None:
    """Raise `ConfigError` where a setting names what no registry has, or a metric that is not
    measured.
    """
    _known("data.source", "sources", recipe.data.source)
    _known("prepare.protocol", "protocols", recipe.prepare.protocol)
    _known("prepare.engine", "engines", recipe.prepare.engine)
    _known("answers.kind", "answers", recipe.answers.kind)
    _known("objective.kind", "objectives", recipe.objective.kind)
    for signal in recipe.signals:
        _known("signals", "signals", signal)
    for method in recipe.recommend.methods:
        _known("recommend.methods", "groundings", method)
    template_of(recipe)
    _check_metric(recipe)


def check_paths(recipe: Recipe, *, with_data: bool = True) -> None:
    """Raise `DataError` for missing raw data, `ConfigError` for a missing file, model or device.

    A package that is not installed raises `MissingDependency`. Data sets that have yet to be
    imported are left out unless `with_data`.
    """
    _check_packages(recipe)
    if with_data:
        fingerprints(recipe, _check_data(recipe))
    for name in ("allow", "deny"):
        path = getattr(recipe.recommend, name)
        if path and not path.is_file():
            raise ConfigError(
                f"recommend.{name}: file not found",
                value=path,
                accepted="a text file with an item id or a title per line",
                next_step=f"--set recommend.{name}=PATH, or leave it out",
            )
    _check_base(recipe.model.base_model)
    _check_training(recipe)


def _check_packages(recipe: Recipe) -> None:
    if recipe.recommend.engine == "ray" and find_spec("ray") is None:
        raise MissingDependency("ray", "ray")
    grounds = "ground" in recipe.recommend.methods
    if grounds and recipe.ground.index == "faiss" and find_spec("faiss") is None:
        raise MissingDependency("faiss", "faiss")


def _check_data(recipe: Recipe) -> str:
    """Return the fingerprint of a finished data set; empty where the run has to prepare one."""
    if recipe.data.dataset:
        from groundrec.data.dataset import DatasetReader

        return DatasetReader(recipe.data.dataset).fingerprint
    if recipe.prepare.engine == "spark":
        from groundrec.data.engines import check_spark

        check_spark()
    resolve("sources", recipe.data.source)(recipe.data)
    return ""


def _check_training(recipe: Recipe) -> None:
    """Check what training starts from, and that this machine can compute as it is asked to."""
    section = recipe.train
    if section.resume_from:
        from groundrec.train.start import find_start, find_weights

        find = find_weights if section.method == "none" else find_start
        find(section.resume_from)
    if section.method == "none":
        return
    if section.method == "qlora":
        from groundrec.models.language import require_bits

        require_bits()
    if section.precision != "auto":
        from groundrec.train.precision import resolve_precision

        resolve_precision(section)
    if section.tree_attention != "sdpa":
        from groundrec.train.packing import check_attention

        check_attention(section)


def _check_base(base: str) -> None:
    from groundrec.models.hubs import HUBS, is_of_hub, parse

    known = [name for name in names("base_models") if name not in ("folder", *HUBS)]
    if is_of_hub(base):
        parse(base)
    elif base not in known and not Path(base).is_dir():
        raise ConfigError(
            f"no such base model{did_you_mean(base, known)}",
            value=base,
            accepted=(
                f"{', '.join(known)}, hf:ORG/NAME, modelscope:ORG/NAME,"
                " wandb:ENTITY/PROJECT/NAME:vN, or a folder with config.json, tokenizer.json and"
                " *.safetensors"
            ),
            next_step="--set model.base_model=scratch",
        )


def _known(setting: str, seam: str, name: str) -> None:
    if name not in BUILT_IN[seam] and name not in (known := names(seam)):
        raise ConfigError(
            f"unknown name in {setting}{did_you_mean(name, known)}",
            value=name,
            accepted=", ".join(known),
            next_step=f"groundrec list {seam}",
        )


def _check_metric(recipe: Recipe) -> None:
    """Raise `ConfigError` unless `fuse.metric` is a known metric at one of `evaluate.ks`."""
    metric, _, k = recipe.fuse.metric.partition("@")
    _known("fuse.metric", "metrics", metric)
    if k not in (ks := [str(k) for k in recipe.evaluate.ks]):
        raise ConfigError(
            "fuse.metric is not among what is measured",
            value=recipe.fuse.metric,
            accepted=", ".join(f"{metric}@{k}" for k in ks),
            next_step=f"--set fuse.metric={metric}@{ks[-1]}",
        )
