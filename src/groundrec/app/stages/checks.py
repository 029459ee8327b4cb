"""What a recipe names must be there: checked before anything is written or loaded.

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


def check_paths(recipe: Recipe) -> None:
    """Raise `DataError` where the raw data is not there, `ConfigError` where the base model's
    folder is not.

    An engine that is not installed raises `MissingDependency`.
    """
    if recipe.recommend.engine == "ray" and find_spec("ray") is None:
        raise MissingDependency("ray", "ray")
    if (
        "ground" in recipe.recommend.methods
        and recipe.ground.index == "faiss"
        and find_spec("faiss") is None
    ):
        raise MissingDependency("faiss", "faiss")
    main = ""
    if recipe.data.dataset:
        from groundrec.data.dataset import DatasetReader

        main = DatasetReader(recipe.data.dataset).fingerprint
    else:
        if recipe.prepare.engine == "spark":
            from groundrec.data.engines import check_spark

            check_spark()
        resolve("sources", recipe.data.source)(recipe.data)
    fingerprints(recipe, main)
    for name in ("allow", "deny"):
        path = getattr(recipe.recommend, name)
        if path and not path.is_file():
            raise ConfigError(
                f"recommend.{name} is no file",
                value=path,
                accepted="a text file with an item id or a title per line",
                next_step=f"--set recommend.{name}=PATH, or leave it out",
            )
    _check_base(recipe.model.base_model)
    if recipe.train.resume_from:
        from groundrec.train.start import find_start, find_weights

        (find_weights if recipe.train.method == "none" else find_start)(recipe.train.resume_from)
    if recipe.train.method == "qlora":
        from groundrec.models.language import require_bits

        require_bits()
    if recipe.train.precision != "auto" and recipe.train.method != "none":
        from groundrec.train.precision import resolve_precision

        resolve_precision(recipe.train)
    if recipe.train.tree_attention != "sdpa" and recipe.train.method != "none":
        from groundrec.train.packing import check_attention

        check_attention(recipe.train)


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
