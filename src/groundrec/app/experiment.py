"""One recipe in one run directory: its artefacts, loaded when first asked for, and the scores of what it ranks.

Knows nothing about the order of stages, nor about metrics.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundrec.core.config_rank import Recommend
from groundrec.core.errors import DataError, closest
from groundrec.core.recipe import Recipe
from groundrec.core.registry import resolve
from groundrec.core.runs import Run, read_json
from groundrec.core.types import PreparedDataset, Queries, Scores
from groundrec.data import dataset as datasets
from groundrec.text.prompts import load_template

__all__ = ["ASSISTANT", "LM", "TRIE", "Experiment", "fused_name", "language_scores", "model_inputs", "signal_scores"]

LM = "language model"
TRIE = "trie.npz"
ASSISTANT = "assistant"


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
        """Return the queries of `valid` or `test` that are ranked: the recipe's sample."""
        size = getattr(self.recipe.recommend, f"{split}_queries")
        return self.dataset.split(split).sample(size, self.recipe.seed)

    def signal(self, name: str) -> Any:
        """Return a fitted signal."""
        return resolve("signals", name).load(self.run.path / "signals" / name, self.recipe)

    def recommender(self, *, guided: bool = True) -> Any:
        """Return the trained language model, its words and its trie, ready to answer; `guided` by its assistant."""
        from groundrec.models import language
        from groundrec.rank.recommend import Recommender
        from groundrec.rank.search import Search
        from groundrec.text.trie import Trie

        folder = self.run.path / "model"
        lm = language.load(folder)
        lm.model.to(language.default_device()).eval()  # type: ignore[arg-type]
        encoder, section = self.encoder(lm.tokenizer), self.recipe.recommend
        search = Search(
            lm.model,
            Trie.load(folder / TRIE),
            section.score,
            temperature=section.temperature,
            instruction=encoder.head,
        )
        return Recommender(
            search,
            encoder,
            section,
            self._assistant() if guided else None,
            self.listed(section.allow),
            self.listed(section.deny),
        )

    @cached_property
    def items_called(self) -> dict[str, list[int]]:
        """The items of each title and of each item id."""
        found: dict[str, list[int]] = {}
        for names in (self.dataset.catalogue.titles, self.dataset.catalogue.item_ids):
            for item, name in enumerate(names):
                found.setdefault(name, []).append(item)
        return found

    def items(self, name: str, where: object = "") -> list[int]:
        """Return the items with this title or item id; raise `DataError` for a name that is not in the catalogue."""
        if name not in self.items_called:
            raise DataError(
                f"not in the catalogue{closest(name, self.items_called)}",
                value=f"{name}{where}",
                accepted="a title or an item id",
            )
        return self.items_called[name]

    def listed(self, path: Path | None) -> NDArray[np.int32] | None:
        """Return the items listed in a text file, ascending; None for no file."""
        if path is None:
            return None
        lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        found = [self.items(line.strip(), f" ({path}, line {n})") for n, line in lines if line.strip()]
        return np.unique([item for items in found for item in items]).astype(np.int32)

    def recommendable(self) -> NDArray[np.bool_]:
        """Return which items the recipe's lists leave. Shape: [I]."""
        allow, deny = (self.listed(path) for path in (self.recipe.recommend.allow, self.recipe.recommend.deny))
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

    def encoder(self, tokenizer: Any) -> Any:
        """Return what turns this data set's histories and titles into tokens."""
        from groundrec.text.tokens import Encoder

        template = load_template(self.recipe.model.template)
        return Encoder(template, tokenizer, self.dataset.catalogue.titles, self.recipe.train.cutoff_len)

    def section(self, *names: str) -> dict[str, Any]:
        """Return sections of the recipe, and the seed, as stage inputs: what decides their output."""
        whole = self.recipe.model_dump(mode="json", exclude={"recommend": Recommend.MEANS})
        return {"seed": self.recipe.seed, **{name: whole[name] for name in names}}


def model_inputs(x: Experiment) -> dict[str, Any]:
    """Return what the trained model depends on, besides the files of its base model."""
    template = load_template(x.recipe.model.template).model_dump()
    return {"dataset": x.dataset.fingerprint, "template": template, **x.section("model", "train")}


def fused_name(signal: str) -> str:
    """Return the name under which the language model fused with a signal is reported."""
    return f"LM + {signal}"


def language_scores(x: Experiment, split: str) -> Scores:
    """Return the language model's scores of every item that may be recommended, from its slates. Shape: [Q, I]."""
    from groundrec.rank.fuse import dense
    from groundrec.rank.recommend import load_slates

    slates = load_slates(x.run.path / "slates" / split)
    return _unseen(x, dense(slates, len(x.dataset.catalogue)), x.queries(split))


def signal_scores(x: Experiment, name: str, queries: Queries) -> Scores:
    """Return a signal's scores of every item that may be recommended. Shape: [Q, I]."""
    return _unseen(x, x.signal(name).scores(queries), queries)


def _unseen(x: Experiment, scores: Scores, queries: Queries) -> Scores:
    from groundrec.rank.fuse import exclude

    section = x.recipe.recommend
    scores = exclude(scores, queries.history) if section.exclude_seen else scores
    return np.where(x.recommendable(), scores, np.float32(-np.inf)) if section.allow or section.deny else scores
