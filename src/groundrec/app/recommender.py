"""A trained run as one object: histories in, titles out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from groundrec.app.experiment import Experiment, model_inputs
from groundrec.core.errors import ArtifactError, DataError, closest
from groundrec.core.recipe import Recipe
from groundrec.core.runs import Run, read_json
from groundrec.core.types import NO_ITEM, Ragged

__all__ = ["Recommendation", "Recommender"]


@dataclass(frozen=True)
class Recommendation:
    """One recommended item and its log-probability under the language model."""

    item_id: str
    title: str
    score: float


class Recommender:
    """Recommends real items of a run's catalogue to anyone whose history is in that catalogue."""

    def __init__(self, experiment: Experiment) -> None:
        self._catalogue = experiment.dataset.catalogue
        self._ranker = experiment.recommender()
        self._by_name: dict[str, int] = {}
        for names in (self._catalogue.titles, self._catalogue.item_ids):
            for item, name in enumerate(names):
                self._by_name.setdefault(name, item)

    @classmethod
    def load(cls, run: str | Path) -> Recommender:
        """Return the recommender of a run directory; raise `ArtifactError` unless its training has finished.

        A run whose settings changed since its model was trained is refused too.
        """
        path = Path(run)
        recipe = read_json(path / "config.json")
        if recipe is None:
            raise ArtifactError(
                "not a run directory",
                value=path,
                accepted="a directory that `groundrec run` made",
                next_step="groundrec run recipes/demo.toml",
            )
        experiment = Experiment(Recipe.model_validate(recipe), Run(path))
        experiment.run.require("model", model_inputs(experiment))
        return cls(experiment)

    def recommend(self, history: Sequence[str], k: int = 10) -> list[Recommendation]:
        """Return the `k` best items after `history`, titles or item ids, oldest first.

        Raises `DataError` for a name that is not in the catalogue.
        """
        items = [self._item(name) for name in history]
        slates = self._ranker.slates(np.zeros(1, np.int64), Ragged.of([items]), k)
        return [
            Recommendation(self._catalogue.item_ids[item], self._catalogue.titles[item], float(score))
            for item, score in zip(slates.items[0], slates.scores[0], strict=True)
            if item != NO_ITEM
        ]

    def _item(self, name: str) -> int:
        if name not in self._by_name:
            raise DataError(
                f"not in the catalogue{closest(name, self._by_name)}", value=name, accepted="a title or an item id"
            )
        return self._by_name[name]
