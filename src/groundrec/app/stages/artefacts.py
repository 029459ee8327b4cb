"""What the stages of a run have made, loaded when first asked for.

Only modules of this folder take `Artefacts`; everything else takes the plain data they return.
Knows nothing about the order of stages, nor about metrics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from groundrec.app.stages.domains import other_domains
from groundrec.app.stages.item_names import ItemNames
from groundrec.app.stages.made_from import ALPHA, SEARCH, files_of, signal_step, slates_step
from groundrec.core.errors import ArtifactError
from groundrec.core.files import digest, read_json
from groundrec.core.recipe import Recipe
from groundrec.core.registry import resolve
from groundrec.core.runs import Run
from groundrec.core.types import PreparedDataset, Queries, Scores
from groundrec.data import dataset as datasets
from groundrec.text.answers import answers_of
from groundrec.text.prompts import template_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from groundrec.models.language import LanguageModel
    from groundrec.rank.groundings import Assistant, LoadedModel, Ranker
    from groundrec.rank.recommend import SearchRanker
    from groundrec.signals.counts import Signal
    from groundrec.text.tokens import Encoder

__all__ = ["EMBEDDINGS", "TRIE", "Artefacts", "Scorer", "batch_size", "open_run"]

Scorer: TypeAlias = Callable[[Queries], Scores]
"""Returns the score of every item for each query, -inf where it may not be recommended. [q, I]."""

MAX_BATCH = 256
"""Most queries whose items are scored together."""
MAX_CELLS = 2**24
"""Most scores of one ranker that are held at once: 64 MB."""

TRIE = "trie.npz"
EMBEDDINGS = "embeddings"

SAMPLE_SEED = 0
"""Draws the sample of queries. Not the recipe's seed, so that runs that differ in that one are
compared query by query.
"""


@dataclass(frozen=True)
class Artefacts:
    """What one recipe has made in one run directory."""

    recipe: Recipe
    run: Run

    @cached_property
    def dataset(self) -> PreparedDataset:
        """The prepared data set."""
        return datasets.load(self.run.folder("prepare"))

    @cached_property
    def item_names(self) -> ItemNames:
        """The catalogue by titles and ids."""
        return ItemNames(self.dataset.catalogue)

    def queries(self, split: str) -> Queries:
        """Return the queries of `valid` or `test` that are ranked: the recipe's sample, the same
        for every seed.
        """
        size = getattr(self.recipe.recommend, f"{split}_queries")
        return self.dataset.split(split).sample(size, SAMPLE_SEED)

    def signal(self, name: str) -> Signal:
        """Return a fitted signal."""
        return resolve("signals", name).load(self.run.folder(signal_step(name)), self.recipe)

    def encoder(
        self,
        tokenizer: PreTrainedTokenizerBase,
        domain: str | None = None,
        dataset: PreparedDataset | None = None,
    ) -> Encoder:
        """Return what turns histories and titles into tokens: this data set's, or another one's of
        a domain.
        """
        from groundrec.text.tokens import Encoder

        dataset = dataset or self.dataset
        template = template_of(self.recipe, domain, dataset.card)
        catalogue = dataset.catalogue
        return Encoder(
            template,
            tokenizer,
            catalogue.titles,
            self.recipe.train.cutoff_len,
            self.recipe.seed,
            texts=answers_of(self.recipe).texts(catalogue),
        )

    def ranker(self, method: str = SEARCH, *, guided: bool = True) -> Ranker:
        """Return a grounding of the trained language model, which is loaded when first used;
        `guided` by its assistant.
        """
        from groundrec.rank.groundings import GroundingInputs, find_grounding

        allow, deny = self.lists()
        inputs = GroundingInputs(
            self.recipe,
            answers_of(self.recipe).texts(self.dataset.catalogue),
            self.dataset.popularity(),
            self.run.path / EMBEDDINGS,
            self._load_model,
            self._load_base,
            self.identity,
            self._assistant() if guided else None,
            allow,
            deny,
        )
        return find_grounding(method)(inputs)

    def search_ranker(self, *, guided: bool = True) -> SearchRanker:
        """Return the grounding `search`, `guided` by its assistant."""
        from groundrec.rank.recommend import SearchRanker

        ranker = self.ranker(SEARCH, guided=guided)
        assert isinstance(ranker, SearchRanker), "built-in groundings cannot be replaced"
        return ranker

    def scorer(self, name: str, split: str) -> Scorer:
        """Return the scores of a signal, or of a grounding by its saved slates of a split."""
        if name in self.recipe.signals:
            return self._masked(self.signal(name).scores)
        from groundrec.rank.slates import SavedSlates

        ranker = self.ranker(name, guided=False)
        saved = SavedSlates(self.run.folder(slates_step(name, split)))
        return self._masked(lambda queries: ranker.scores(queries, saved))

    def others(self) -> dict[str, PreparedDataset]:
        """Return the data sets of other domains that training reads too."""
        return {d: datasets.load(path) for d, path in other_domains(self.recipe).items()}

    def lists(self) -> tuple[NDArray[np.int32] | None, NDArray[np.int32] | None]:
        """Return the items of `recommend.allow` and of `recommend.deny`, None for no list."""
        section = self.recipe.recommend
        return self.item_names.listed(section.allow), self.item_names.listed(section.deny)

    @property
    def identity(self) -> str:
        """Digest of what embeddings of this catalogue depend on: weights, base model, titles."""
        base = files_of(Path(self.recipe.model.base_model))
        return digest(self.run.fingerprint("train"), base, self.dataset.fingerprint)

    def _load_model(self) -> LoadedModel:
        from groundrec.models import language
        from groundrec.rank.groundings import LoadedModel
        from groundrec.text.trie import Trie

        folder = self.run.folder("train")
        lm = _ready(language.load(folder))
        return LoadedModel(lm, self.encoder(lm.tokenizer), Trie.load(folder / TRIE))

    def _load_base(self) -> LanguageModel:
        from groundrec.models import language

        return _ready(language.open_base(self.recipe.model, (), self.recipe.seed))

    def _assistant(self) -> Assistant | None:
        from groundrec.rank.groundings import Assistant

        section = self.recipe.recommend
        if section.assistant is None:
            return None
        alpha = section.alpha
        if alpha is None:
            alpha = self.run.manifest(ALPHA)["result"]["alpha"]
        return Assistant(self.signal(section.assistant), alpha, section.assistant_mass)

    def _recommendable(self) -> NDArray[np.bool_]:
        """Return which items the recipe's lists leave. Shape: [I]."""
        allow, deny = self.lists()
        left = np.full(len(self.dataset.catalogue), allow is None)
        if allow is not None:
            left[allow] = True
        if deny is not None:
            left[deny] = False
        return left

    def _masked(self, scores: Scorer) -> Scorer:
        """Return `scores` with -inf for items that the recipe does not let be recommended."""
        from groundrec.rank.fuse import exclude

        section = self.recipe.recommend
        left = self._recommendable() if section.allow or section.deny else None

        def masked(queries: Queries) -> Scores:
            found = scores(queries)
            if section.exclude_seen:
                found = exclude(found, queries.history)
            return found if left is None else np.where(left, found, np.float32(-np.inf))

        return masked


def batch_size(item_count: int) -> int:
    """Return how many queries are scored together, so that memory does not grow with either."""
    return max(1, min(MAX_BATCH, MAX_CELLS // max(item_count, 1)))


def open_run(path: Path) -> Artefacts:
    """Return what the run in a directory has made; raise `ArtifactError` where it holds no run."""
    config = read_json(path / "config.json")
    if config is None:
        raise ArtifactError(
            "not a run directory",
            value=path,
            accepted="a directory that `groundrec run` made",
            next_step="groundrec run demo",
        )
    return Artefacts(Recipe.model_validate(config), Run(path))


def _ready(lm: LanguageModel) -> LanguageModel:
    """Return the model on the device that this process uses, for inference."""
    from groundrec.models import language

    lm.model.to(language.default_device()).eval()  # type: ignore[arg-type]
    return lm
