"""Whether `train.cutoff_len` leaves room for histories, found out before anything is fitted.

Where the tokenizer is not on this machine yet, nothing is known and nothing is said. Knows nothing
about training.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from groundrec.app.stages.artefacts import Artefacts
from groundrec.app.stages.training import answers_by_popularity
from groundrec.core.errors import ConfigError
from groundrec.core.recipe import Recipe
from groundrec.core.track import log
from groundrec.text.answers import answers_of
from groundrec.text.prompts import template_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["check_room"]

SAMPLED = 1000
"""Number of training queries whose prompts are measured."""

WHOLE = 0.95
"""Share of histories that should fit whole; where fewer do, the recipe's user is told."""


def check_room(x: Artefacts) -> None:
    """Say how many histories do not fit, and at which `train.cutoff_len` nearly all would.

    Raises `ConfigError` if the longest answer does not fit after the instruction. Running lists
    are cut into pieces that fit, so nothing is checked for them.
    """
    template = template_of(x.recipe, card=x.dataset.card)
    if template.running or (x.run.folder("train") / "manifest.json").exists():
        return
    titles = answers_of(x.recipe).texts(x.dataset.catalogue)
    tokenizer = _tokenizer(x)
    if tokenizer is None:
        return
    from groundrec.text.tokens import UNLIMITED, Encoder

    wide = Encoder(template, tokenizer, x.dataset.catalogue.titles, UNLIMITED, texts=titles)
    train = x.dataset.train
    some = train.take(np.flatnonzero(train.history.lengths > 0)).sample(SAMPLED, x.recipe.seed)
    # For each query, the tokens of its whole prompt and of its first answer, and without history.
    whole = np.array(
        [len(wide.prompt(q.history)) + len(wide.answers[int(q.targets[0])]) for q in some]
    )
    empty = len(wide.prompt([]))
    least = empty + int(wide.answers.lengths.max())
    if len(whole):
        _report(x.recipe, whole, least)


def _report(recipe: Recipe, whole: np.ndarray, least: int) -> None:
    """Raise where `least` tokens do not fit, and warn where less than `WHOLE` of the rows do."""
    limit = recipe.train.cutoff_len
    enough = max(least, int(np.quantile(whole, WHOLE, method="higher")))
    if least > limit:
        raise ConfigError(
            "the longest answer does not fit after the instruction",
            value=f"train.cutoff_len = {limit}; they take {least} tokens",
            accepted=f"at least {least}; at {enough}, {WHOLE:.0%} of the histories fit whole",
            next_step=f"--set train.cutoff_len={enough}",
        )
    short = float((whole > limit).mean())
    if short > 1 - WHOLE:
        log.warning(
            f"train.cutoff_len = {limit}: {short:.0%} of the training histories lose their oldest"
            f" items; {WHOLE:.0%} fit whole at {enough}\n"
            f"  next: --set train.cutoff_len={enough}, or keep it to save time and memory"
        )


def _tokenizer(x: Artefacts) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer that the model will have, None where it has to be downloaded first."""
    base = x.recipe.model.base_model
    if base == "scratch":
        from groundrec.text.tokens import train_tokenizer

        answers = answers_by_popularity(x.recipe, x.dataset, x.others())
        return train_tokenizer(answers, x.recipe.model.scratch.vocabulary)
    from groundrec.models import hubs

    downloaded = [Path(model.path) for model in hubs.pinned() if model.name == base]
    for folder in (*downloaded, Path(base)):
        if (folder / "tokenizer.json").is_file():
            from transformers import AutoTokenizer

            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return None
