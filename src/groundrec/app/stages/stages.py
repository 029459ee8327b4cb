"""The stages of a run, each a function of artefacts, chained by `run_recipe`.

    prepare → signals → train → recommend → fuse → evaluate

A stage reads what earlier ones wrote and writes its own directory; `core.runs` decides whether it
has to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

from groundrec.app.stages.artefacts import (
    ASSISTANT,
    SEARCH,
    TRIE,
    Experiment,
    files_of,
    model_inputs,
    slates_at,
)
from groundrec.app.stages.choose_alpha import choose_assistant
from groundrec.app.stages.domains import fingerprints, main_domain
from groundrec.app.stages.resume_from import begun_at
from groundrec.app.stages.validation_ndcg import judge_of
from groundrec.core import config_learn
from groundrec.core.errors import ConfigError, DataError
from groundrec.core.recipe import Recipe
from groundrec.core.registry import resolve
from groundrec.core.runs import Run, digest
from groundrec.core.track import Metrics, log
from groundrec.core.types import PreparedDataset
from groundrec.data import dataset as datasets
from groundrec.data.prepare import prepare
from groundrec.models import hubs
from groundrec.text.answers import answers_of
from groundrec.text.prompts import template_of
from groundrec.train.start import StartPoint

__all__ = ["STAGES", "run_recipe"]

SIGNAL_SECTIONS = ("sequential", "item_knn", "co_occurrence", "recent_popularity", "external")


def run_recipe(recipe: Recipe, run: Run, until: str | None = None) -> Experiment:
    """Run every stage in order, skipping what is finished; stop behind the stage `until`."""
    experiment = Experiment(recipe, run)
    for name, stage in STAGES.items():
        stage(experiment)
        if name == until:
            break
    run.status(stage="", state="finished")
    return experiment


def prepare_stage(x: Experiment) -> None:
    """Raw interactions to a data set."""

    def work(folder: Path) -> dict[str, Any]:
        card = prepare(x.recipe.data, x.recipe.prepare, x.recipe.seed, folder)
        return {"dataset": datasets.DatasetReader(folder).fingerprint, "card": card}

    data = x.recipe.data
    files = [file for path in (data.path, data.items, data.dataset) for file in files_of(path)]
    x.run.stage("dataset", {**x.section("data", "prepare"), "files": files}, work)


def signals_stage(x: Experiment) -> None:
    """Fit every collaborative signal, where the data set has what is asked of it."""
    _refuse_unchosen(x)
    fingerprints(x.recipe, x.dataset.fingerprint)
    for name in x.recipe.signals:

        def work(folder: Path, name: str = name) -> None:
            signal = resolve("signals", name)(x.recipe)
            signal.fit(x.dataset, folder)
            signal.save(folder)

        inputs = {"dataset": x.dataset.fingerprint, **x.section(*SIGNAL_SECTIONS)}
        if name == "external":
            inputs["files"] = files_of(x.recipe.external.path)
        x.run.stage(f"signals/{name}", inputs, work)


def _refuse_unchosen(x: Experiment) -> None:
    """Raise `DataError` where something is to be chosen on validation queries and there are none."""
    if len(x.dataset.valid):
        return
    if x.recipe.fuse.signals:
        raise DataError(
            "no validation queries to choose the weight of a signal on",
            value=f"fuse.signals = {', '.join(x.recipe.fuse.signals)}",
            accepted=(
                "a data set with a validation split: a weight chosen on test would flatter the"
                " result"
            ),
            next_step="--set fuse.signals=[]",
        )
    if x.recipe.train.method != "none":
        raise DataError(
            "no validation queries to choose the epoch on",
            value=f"train.method = {x.recipe.train.method}",
            accepted="a data set with a validation split, or train.method = none",
            next_step="--set train.method=none",
        )


def train_stage(x: Experiment) -> None:
    """Fine-tune the language model, and compile the catalogue's trie for it."""

    def work(folder: Path) -> None:
        from groundrec.models import language
        from groundrec.text.trie import Trie
        from groundrec.train.adapters import load_adapters, with_lora
        from groundrec.train.finetune import finetune
        from groundrec.train.rows import Domain

        popularity = x.dataset.popularity()
        others = x.others()
        lm = _begun(x, others, start, folder)
        encoder = x.encoder(lm.tokenizer)
        trie = Trie.compile(encoder.answers, popularity)
        metrics = Metrics(x.run.path / "metrics.jsonl", "model")
        if x.recipe.train.method != "none":
            place = folder / "checkpoints"
            judge = judge_of(x, lm.tokenizer, trie) if x.recipe.train.select == "ndcg" else None
            domains = [Domain(x.dataset, encoder, main_domain(x.recipe))]
            domains += [
                Domain(other, x.encoder(lm.tokenizer, name, other), name)
                for name, other in others.items()
            ]
            lm = finetune(lm, domains, x.recipe.train, x.recipe.seed, place, metrics, start, judge)
        elif start and start.kind == "adapters":
            lm = language.LanguageModel(with_lora(lm.model, x.recipe.train), lm.tokenizer)
            load_adapters(lm.model, start.path, x.recipe.train, start.weights)
        if x.run.processes.is_main:
            trie.save(folder / TRIE)
            lm.save(folder)

    inputs = {**model_inputs(x), "base": _base(x.recipe.model), **_other_inputs(x)}
    if start := begun_at(x, inputs):
        log.info(f"  train.resume_from: {start.kind} in {start.path}")
        inputs["from"] = digest(start.contents())
    x.run.stage("model", inputs, work, together=True)


def _begun(
    x: Experiment, others: dict[str, PreparedDataset], start: StartPoint | None, folder: Path
) -> Any:
    """Return the language model that a training in `folder` begins with, without adapters."""
    from groundrec.models import language
    from groundrec.train.precision import DTYPES, resolve_precision

    section = x.recipe.train
    if start and start.kind == "model":
        lm = language.load(start.path, start.weights)
    else:
        lm = language.open_base(x.recipe.model, _answers_by_popularity(x, others), x.recipe.seed)
    lm = language.with_tokens(lm, _tokens_to_add(x, others))
    if section.method == "qlora":
        return language.in_bits(lm, section.bits, DTYPES[resolve_precision(section)])
    if section.method == "lora" or (start and start.kind == "adapters"):
        language.keep_merged(lm, folder / "base", write=x.run.processes.is_main)
    return lm


def recommend_stage(x: Experiment) -> None:
    """Search the catalogue for every query, on validation and on test."""
    for method in x.recipe.recommend.methods:
        if method == SEARCH:
            choose_assistant(x)
        for split in ("valid", "test"):
            _rank(x, method, split)


def _rank(x: Experiment, method: str, split: str) -> None:
    by_ray = x.recipe.recommend.engine == "ray"
    stage = slates_at(method, split)

    def work(folder: Path) -> dict[str, Any]:
        from groundrec.rank.slates import work_of

        (_by_ray if by_ray else _by_processes)(x, method, split, folder)
        result = {"queries": len(x.queries(split)), **vars(work_of(folder))}
        _tell(x, method, stage, result)
        return result

    inputs = {"model": x.run.fingerprint("model"), "cutoff_len": x.recipe.train.cutoff_len}
    inputs |= _assistant(x) if method == SEARCH else {"method": method, **x.section("ground")}
    inputs["lists"] = files_of(x.recipe.recommend.allow) + files_of(x.recipe.recommend.deny)
    x.run.stage(stage, {**inputs, **x.section("recommend")}, work, together=not by_ray)


def fuse_stage(x: Experiment) -> None:
    """Choose one weight per signal on validation, then mix on test."""

    def work(folder: Path) -> dict[str, Any]:
        from groundrec.app.stages.fusion import fuse

        return fuse(x, folder)

    metrics = {"ks": x.recipe.evaluate.ks} if x.recipe.fuse.per_metric else {}
    x.run.stage("fusion", {**_ranked(x), **metrics, **x.section("fuse", "recommend")}, work)


def evaluate_stage(x: Experiment) -> None:
    """Measure every method on test, and write the page."""

    def work(folder: Path) -> None:
        from groundrec.app.stages.results import evaluate_run

        evaluate_run(x, folder)

    x.run.stage(
        "eval",
        {"fusion": x.run.fingerprint("fusion"), **_ranked(x), **x.section("evaluate", "signals")},
        work,
    )


STAGES: dict[str, Callable[[Experiment], None]] = {
    "prepare": prepare_stage,
    "signals": signals_stage,
    "train": train_stage,
    "recommend": recommend_stage,
    "fuse": fuse_stage,
    "evaluate": evaluate_stage,
}


def _tell(x: Experiment, method: str, stage: str, work: dict[str, int]) -> None:
    """Say what the search asked of the model, in the log and in the run's metrics."""
    if not x.run.processes.is_main:
        return
    Metrics(x.run.path / "metrics.jsonl", stage).write(**work)
    queries = max(work["queries"], 1)
    proved = f", {1 - work['unproved'] / queries:.1%} proved" if _proves(x, method) else ""
    silent = f", nothing was written for {work['silent']}" if work["silent"] else ""
    log.info(
        f"  {work['tokens'] / queries:.0f} model tokens a query, {work['passes']:,} passes in"
        f" all{proved}{silent}"
    )


def _proves(x: Experiment, method: str) -> bool:
    from groundrec.rank.groundings import find_grounding

    return find_grounding(method).can_prove and x.recipe.recommend.mode == "exact"


def _by_processes(x: Experiment, method: str, split: str, folder: Path) -> None:
    from groundrec.rank.recommend import recommend

    recommend(x.recommender(method), x.queries(split), folder, x.run.processes)


def _by_ray(x: Experiment, method: str, split: str, folder: Path) -> None:
    from groundrec.rank.cluster import write_shards
    from groundrec.rank.slates import Shards

    section = x.recipe.recommend
    missing = Shards(folder, len(x.queries(split)), section.shard_size).missing()
    write_shards(
        partial(_writer, Path.cwd(), x.recipe, x.run.path, method, split, folder),
        missing,
        section.workers,
    )


def _writer(
    place: Path, recipe: Recipe, path: Path, method: str, split: str, folder: Path, sharing: int
) -> Any:
    """Return what writes shards in another process; paths are meant as seen from `place`."""
    from groundrec.rank.recommend import Writer

    os.chdir(place)
    x = Experiment(recipe, Run(path))
    return Writer(x.recommender(method), x.queries(split), folder, sharing)


def _assistant(x: Experiment) -> dict[str, Any]:
    """Return fingerprints of what guides the search."""
    section = x.recipe.recommend
    if section.assistant is None:
        return {}
    signal = {"signal": x.run.fingerprint(f"signals/{section.assistant}")}
    return (
        signal if section.alpha is not None else {**signal, "alpha": x.run.fingerprint(ASSISTANT)}
    )


def _ranked(x: Experiment) -> dict[str, Any]:
    """Return fingerprints of everything that ranks."""
    stages = [
        slates_at(method, split)
        for method in x.recipe.recommend.methods
        for split in ("valid", "test")
    ]
    stages += [f"signals/{name}" for name in x.recipe.signals]
    return {stage: x.run.fingerprint(stage) for stage in stages}


def _answers_by_popularity(x: Experiment, others: dict[str, PreparedDataset]) -> Iterator[str]:
    """Yield each item's answer as often as it was taken: what a new tokenizer learns its words
    from.
    """
    for domain, dataset in ((None, x.dataset), *others.items()):
        template = template_of(x.recipe, domain)
        texts = answers_of(x.recipe).texts(dataset.catalogue)
        for text, count in zip(texts, dataset.popularity(), strict=True):
            yield from repeat(template.answer_text(text), max(1, int(count)))


def _tokens_to_add(x: Experiment, others: dict[str, PreparedDataset]) -> list[str]:
    """Return the tokens that writing the items of all data sets needs, each once."""
    answers = answers_of(x.recipe)
    catalogues = [dataset.catalogue for dataset in (x.dataset, *others.values())]
    found = list(dict.fromkeys(t for c in catalogues for t in answers.tokens_to_add(c)))
    if found and x.recipe.train.method != "full":
        raise ConfigError(
            "these answers add tokens, whose embeddings only full fine-tuning learns",
            value=f"answers.kind = {x.recipe.answers.kind}, train.method = {x.recipe.train.method}",
            accepted="train.method = full",
            next_step="--set train.method=full",
        )
    return found


def _other_inputs(x: Experiment) -> dict[str, Any]:
    """Return the data and the words of other domains, where some are trained on; their data are not
    the main one's.
    """
    found = fingerprints(x.recipe, x.dataset.fingerprint)
    domains = {
        d: {"dataset": f, "template": template_of(x.recipe, d).model_dump()}
        for d, f in found.items()
    }
    return {"domains": domains} if domains else {}


def _base(section: config_learn.Model) -> list[list[Any]]:
    """Return what tells a base model from others of its name: a folder's files; of a hub's,
    revision and contents.
    """
    if hubs.is_of_hub(section.base_model):
        model = hubs.fetch(section.base_model, section.weights)
        return [[model.name, model.revision, model.contents]]
    folder = Path(section.base_model)
    return files_of(folder) if folder.is_dir() else []
