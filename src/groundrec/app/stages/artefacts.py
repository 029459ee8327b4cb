"""One recipe in one run directory: its artefacts, loaded when first asked for, and the scores of
what it ranks.

Knows nothing about the order of stages, nor about metrics.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundrec.app.stages.domains import other_domains
from groundrec.core.errors import DataError, did_you_mean
from groundrec.core.recipe import Recipe
from groundrec.core.registry import resolve
from groundrec.core.runs import Run, digest, read_json
from groundrec.core.types import PreparedDataset, Queries, Scores
from groundrec.data import dataset as datasets
from groundrec.text.answers import answers_of
from groundrec.text.prompts import template_of

__all__ = [
    "ASSISTANT",
    "LM",
    "SEARCH",
    "TRIE",
    "Experiment",
    "files_of",
    "fused_name",
    "language_scores",
    "method_name",
    "model_inputs",
    "signal_scores",
    "slates_at",
]

SEARCH = "search"
LM = "language model"

TRIE = "trie.npz"
ASSISTANT = "assistant"

DRAW = 0
"""Draws the sample of queries. Not the recipe's seed: runs that differ in it are compared query by
query.
"""


@dataclass(frozen=True)
class Experiment:
    """One recipe in one run directory. Artefacts are loaded when first asked for."""

    recipe: Recipe
    run: Run

    @cached_property
    def dataset(self) -> PreparedDataset:
        """The prepared data set."""
        return datasets.load(self.run.path / "dataset")

    def queries(self, split: str) -> Queries:
        """Return the queries of `valid` or `test` that are ranked: the recipe's sample, whatever
        its seed.
        """
        size = getattr(self.recipe.recommend, f"{split}_queries")
        return self.dataset.split(split).sample(size, DRAW)

    def signal(self, name: str) -> Any:
        """Return a fitted signal."""
        return resolve("signals", name).load(self.run.path / "signals" / name, self.recipe)

    def recommender(self, method: str = SEARCH, *, guided: bool = True) -> Any:
        """Return a grounding of the trained language model, ready to answer; `guided` by its
        assistant.
        """
        from groundrec.rank.groundings import GroundingInputs, find_grounding

        section = self.recipe.recommend
        inputs = GroundingInputs(
            self.recipe,
            answers_of(self.recipe).texts(self.dataset.catalogue),
            self.dataset.popularity(),
            self.run.path / "embeddings",
            self._load_model,
            self._base,
            self.identity,
            self._assistant() if guided else None,
            self.listed(section.allow),
            self.listed(section.deny),
        )
        return find_grounding(method)(inputs)

    def _load_model(self) -> Any:
        from groundrec.models import language
        from groundrec.rank.groundings import LoadedModel
        from groundrec.text.trie import Trie

        folder = self.run.path / "model"
        lm = language.load(folder)
        lm.model.to(language.default_device()).eval()  # type: ignore[arg-type]
        return LoadedModel(lm, self.encoder(lm.tokenizer), Trie.load(folder / TRIE))

    @property
    def identity(self) -> str:
        """What embeddings of this catalogue depend on: the weights, tuned or not, and the titles."""
        base = files_of(Path(self.recipe.model.base_model))
        return digest(self.run.fingerprint("model"), base, self.dataset.fingerprint)

    def _base(self) -> Any:
        from groundrec.models import language

        lm = language.open_base(self.recipe.model, (), self.recipe.seed)
        lm.model.to(language.default_device()).eval()  # type: ignore[arg-type]
        return lm

    @cached_property
    def items_called(self) -> dict[str, list[int]]:
        """The items of each title and of each item id."""
        found: dict[str, list[int]] = {}
        for names in (self.dataset.catalogue.titles, self.dataset.catalogue.item_ids):
            for item, name in enumerate(names):
                found.setdefault(name, []).append(item)
        return found

    def items(self, name: str, where: object = "") -> list[int]:
        """Return the items with this title or item id; raise `DataError` for a name that is not in
        the catalogue.
        """
        if name not in self.items_called:
            raise DataError(
                f"not in the catalogue{did_you_mean(name, self.items_called)}",
                value=f"{name}{where}",
                accepted="a title or an item id",
            )
        return self.items_called[name]

    def listed(self, path: Path | None) -> NDArray[np.int32] | None:
        """Return the items listed in a text file, ascending; None for no file."""
        if path is None:
            return None
        lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        found = [
            self.items(line.strip(), f" ({path}, line {n})") for n, line in lines if line.strip()
        ]
        return np.unique([item for items in found for item in items]).astype(np.int32)

    def recommendable(self) -> NDArray[np.bool_]:
        """Return which items the recipe's lists leave. Shape: [I]."""
        allow, deny = (
            self.listed(path) for path in (self.recipe.recommend.allow, self.recipe.recommend.deny)
        )
        every = np.full(len(self.dataset.catalogue), allow is None)
        if allow is not None:
            every[allow] = True
        if deny is not None:
            every[deny] = False
        return every

    def _assistant(self) -> Any:
        from groundrec.rank.recommend import Assistant

        section = self.recipe.recommend
        if section.assistant is None:
            return None
        alpha = section.alpha
        if alpha is None:
            self.run.fingerprint(ASSISTANT)
            alpha = read_json(self.run.path / ASSISTANT / "manifest.json")["result"]["alpha"]
        return Assistant(self.signal(section.assistant), alpha, section.assistant_mass)

    def encoder(
        self, tokenizer: Any, domain: str | None = None, dataset: PreparedDataset | None = None
    ) -> Any:
        """Return what turns histories and titles into tokens: this data set's, or another one's of
        a domain.
        """
        from groundrec.text.tokens import Encoder

        template = template_of(self.recipe, domain)
        catalogue = (dataset or self.dataset).catalogue
        return Encoder(
            template,
            tokenizer,
            catalogue.titles,
            self.recipe.train.cutoff_len,
            self.recipe.seed,
            texts=answers_of(self.recipe).texts(catalogue),
        )

    def others(self) -> dict[str, PreparedDataset]:
        """Return the data sets of other domains that training reads too."""
        return {domain: datasets.load(path) for domain, path in other_domains(self.recipe).items()}

    def section(self, *names: str) -> dict[str, Any]:
        """Return sections of the recipe, and the seed, as stage inputs: what decides their output."""
        whole = self.recipe.model_dump(
            mode="json", exclude={"recommend": {"methods", "memory_limit", "engine", "workers"}}
        )
        return {"seed": self.recipe.seed, **{name: whole[name] for name in names}}


def model_inputs(x: Experiment) -> dict[str, Any]:
    """Return what the trained model depends on, besides the files of its base model and other
    domains' data.

    Those have the names of domains in `train.extra_datasets`: where the data sets lie changes nothing.
    """
    template = template_of(x.recipe).model_dump()
    found = {"dataset": x.dataset.fingerprint, "template": template, **x.section("model", "train")}
    found["train"].pop("extra_datasets")
    if others := list(other_domains(x.recipe)):
        found["train"]["extra_datasets"] = others
    return found


def files_of(path: Path | str | None) -> list[list[Any]]:
    """Return name, size and time of the files there, so that a changed file is noticed; a URL
    stands for itself.
    """
    if not isinstance(path, Path) or not path.exists():
        return []
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files]


def slates_at(method: str, split: str) -> str:
    """Return the stage of a grounding's slates."""
    return f"slates/{split}" if method == SEARCH else f"slates/{method}/{split}"


def method_name(method: str) -> str:
    """Return the name under which a grounding is reported."""
    from groundrec.rank.groundings import find_grounding

    return find_grounding(method).title


def fused_name(signal: str, method: str = SEARCH) -> str:
    """Return the name under which a grounding fused with a signal is reported."""
    from groundrec.rank.groundings import find_grounding

    return f"{find_grounding(method).short_title} + {signal}"


def language_scores(x: Experiment, split: str, method: str = SEARCH) -> Scores:
    """Return a grounding's scores of every item that may be recommended. Shape: [Q, I]."""
    from groundrec.rank.slates import SavedSlates

    queries = x.queries(split)
    saved = SavedSlates(x.run.path / slates_at(method, split))
    return _unseen(x, x.recommender(method, guided=False).scores(queries, saved), queries)


def signal_scores(x: Experiment, name: str, queries: Queries) -> Scores:
    """Return a signal's scores of every item that may be recommended. Shape: [Q, I]."""
    return _unseen(x, x.signal(name).scores(queries), queries)


def _unseen(x: Experiment, scores: Scores, queries: Queries) -> Scores:
    from groundrec.rank.fuse import exclude

    section = x.recipe.recommend
    scores = exclude(scores, queries.history) if section.exclude_seen else scores
    return (
        np.where(x.recommendable(), scores, np.float32(-np.inf))
        if section.allow or section.deny
        else scores
    )
