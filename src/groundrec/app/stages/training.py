"""The stage `train`: a language model fine-tuned on a data set, and the catalogue's trie for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

from groundrec.app.stages.artefacts import EMBEDDINGS, TRIE, Artefacts
from groundrec.app.stages.domains import main_domain
from groundrec.app.stages.validation_ndcg import validation_ndcg
from groundrec.core.errors import ConfigError, DataError
from groundrec.core.recipe import Recipe
from groundrec.core.registry import resolve
from groundrec.core.track import Metrics, log
from groundrec.core.types import PreparedDataset
from groundrec.text.answers import answers_of
from groundrec.text.prompts import (
    AUTO,
    FRAME,
    OWN,
    kept_words,
    template_named,
    template_of,
)
from groundrec.train.start import StartPoint

if TYPE_CHECKING:
    from groundrec.models.language import LanguageModel
    from groundrec.text.tokens import Encoder
    from groundrec.text.trie import Trie

__all__ = ["answers_by_popularity", "refuse_without_validation", "train"]


def train(x: Artefacts, start: StartPoint | None, folder: Path) -> None:
    """Fine-tune the language model from `start`, or its base model, and compile the trie."""
    from groundrec.models import language
    from groundrec.text.trie import Trie
    from groundrec.train.adapters import load_adapters, with_lora

    section = x.recipe.train
    others = x.others()
    if start:
        log.info(f"  train.resume_from: {start.kind} in {start.path}")
    lm = _starting_model(x, others, start, folder)
    encoder = x.encoder(lm.tokenizer)
    trie = Trie.compile(encoder.answers, x.dataset.popularity())
    if section.method != "none":
        lm = _finetuned(x, lm, encoder, trie, others, start, folder)
    elif start and start.kind == "adapters":
        lm = language.LanguageModel(with_lora(lm.model, section), lm.tokenizer)
        load_adapters(lm.model, start.path, section, start.weights)
    if x.run.processes.is_main:
        trie.save(folder / TRIE)
        lm.save(folder)


def refuse_without_validation(recipe: Recipe, dataset: PreparedDataset) -> None:
    """Raise `DataError` if something must be chosen on validation queries and there are none."""
    if len(dataset.valid):
        return
    if recipe.fuse.signals:
        raise DataError(
            "no validation queries to choose the weight of a signal on",
            value=f"fuse.signals = {', '.join(recipe.fuse.signals)}",
            accepted=(
                "a data set with a validation split: a weight chosen on test would flatter the"
                " result"
            ),
            next_step="--set fuse.signals=[]",
        )
    if recipe.train.method != "none":
        raise DataError(
            "no validation queries to choose the epoch on",
            value=f"train.method = {recipe.train.method}",
            accepted="a data set with a validation split, or train.method = none",
            next_step="--set train.method=none",
        )


def _finetuned(
    x: Artefacts,
    lm: LanguageModel,
    encoder: Encoder,
    trie: Trie,
    others: Mapping[str, PreparedDataset],
    start: StartPoint | None,
    folder: Path,
) -> LanguageModel:
    from groundrec.rank.groundings import GroundingInputs, LoadedModel
    from groundrec.train.finetune import finetune
    from groundrec.train.rows import Domain

    section = x.recipe.train
    if x.run.processes.is_main:
        _log_words(x.recipe, {None: x.dataset, **others})
    judge = None
    if section.select == "ndcg":
        allow, deny = x.lists()
        inputs = GroundingInputs(
            x.recipe,
            encoder.texts,
            x.dataset.popularity(),
            x.run.path / EMBEDDINGS,
            lambda: LoadedModel(lm, encoder, trie),
            allow=allow,
            deny=deny,
        )
        limit = section.validation_queries
        judge = validation_ndcg(
            inputs,
            x.dataset.valid.sample(None if limit == "all" else limit, x.recipe.seed),
            x.run.processes.local_world_size,
        )
    domains = [Domain(x.dataset, encoder, main_domain(x.recipe))]
    domains += [
        Domain(other, x.encoder(lm.tokenizer, name, other), name) for name, other in others.items()
    ]
    metrics = Metrics(x.run.path / "metrics.jsonl", "train")
    checkpoints = folder / "checkpoints"
    objective = resolve("objectives", x.recipe.objective.kind)(x.recipe.objective)
    return finetune(
        lm, domains, section, x.recipe.seed, checkpoints, metrics, start, judge, objective
    )


def _starting_model(
    x: Artefacts, others: Mapping[str, PreparedDataset], start: StartPoint | None, folder: Path
) -> LanguageModel:
    """Return the language model that a training in `folder` begins with, without adapters."""
    from groundrec.models import language
    from groundrec.train.precision import DTYPES, resolve_precision

    section = x.recipe.train
    if start and start.kind == "model":
        lm = language.load(start.path, start.weights)
    else:
        answers = answers_by_popularity(x.recipe, x.dataset, others)
        lm = language.open_base(x.recipe.model, answers, x.recipe.seed)
    lm = language.with_tokens(lm, _tokens_to_add(x.recipe, (x.dataset, *others.values())))
    if section.method == "qlora":
        return language.in_bits(lm, section.bits, DTYPES[resolve_precision(section)])
    if section.method == "lora" or (start and start.kind == "adapters"):
        language.keep_merged(lm, folder / "base", write=x.run.processes.is_main)
    return lm


def _log_words(recipe: Recipe, datasets: Mapping[str | None, PreparedDataset]) -> None:
    """Log whose words the prompts of imported data sets use, where they have words of their own."""
    for domain, dataset in datasets.items():
        words = kept_words(recipe, domain, dataset.card)
        if not words:
            continue
        name = template_named(recipe, domain, dataset.card)
        theirs = f"{words.instructions[0]!r} … {words.before!r}"
        if name == OWN:
            log.info(f"prompts: {OWN} words, {theirs}, in the blocks of the template {FRAME}")
        else:
            log.warning(
                f"prompts: the words of the template {name} replace {OWN}, {theirs}; model.template"
                f" = {AUTO} keeps them"
            )


def answers_by_popularity(
    recipe: Recipe, dataset: PreparedDataset, others: Mapping[str, PreparedDataset]
) -> Iterator[str]:
    """Yield each item's answer as often as it was taken: what a new tokenizer is learned from."""
    for domain, one in ((None, dataset), *others.items()):
        template = template_of(recipe, domain, one.card)
        texts = answers_of(recipe).texts(one.catalogue)
        for text, count in zip(texts, one.popularity(), strict=True):
            yield from repeat(template.answer_text(text), max(1, int(count)))


def _tokens_to_add(recipe: Recipe, datasets: Iterable[PreparedDataset]) -> list[str]:
    """Return the tokens that writing the items of all data sets needs, each once."""
    answers = answers_of(recipe)
    tokens = list(dict.fromkeys(t for d in datasets for t in answers.tokens_to_add(d.catalogue)))
    if tokens and recipe.train.method != "full":
        raise ConfigError(
            "these answers add tokens, whose embeddings only full fine-tuning learns",
            value=f"answers.kind = {recipe.answers.kind}, train.method = {recipe.train.method}",
            accepted="train.method = full",
            next_step="--set train.method=full",
        )
    return tokens
