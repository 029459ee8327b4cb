"""Signals from sequential networks: SASRec, GRU4Rec and Caser, with or without DROS's objective.

All are fitted on the training split; the validation split chooses the epoch and the scale that
turns scores into log-probabilities. Knows nothing about language models, slates or reported
metrics.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, TypeVar

import torch
from safetensors.torch import load_file, save_file

from groundrec.core.errors import ArtifactError
from groundrec.core.files import atomic_write
from groundrec.core.recipe import Recipe
from groundrec.core.track import Metrics
from groundrec.core.types import PreparedDataset, Queries, Scores
from groundrec.signals.counts import existing
from groundrec.signals.fit import calibrate, fit, validator
from groundrec.signals.sequential import NETWORKS, NextItem

__all__ = ["Caser", "CaserDROS", "GRU4Rec", "GRU4RecDROS", "SASRec", "SASRecDROS"]

TRAINING = tuple(
    f"sequential.{name}"
    for name in (
        "hidden",
        "dropout",
        "max_length",
        "epochs",
        "batch_size",
        "learning_rate",
        "weight_decay",
        "patience",
    )
)
"""Settings that every network reads."""
OBJECTIVE = ("sequential.loss", "sequential.negatives", "sequential.calibration")
ROBUST = ("sequential.dros_weight", "sequential.dros_temperature")
ATTENTION = ("sequential.layers", "sequential.heads")
RECURRENCE = ("sequential.layers",)
CONVOLUTION = ("sequential.window", "sequential.horizontal", "sequential.vertical")
T = TypeVar("T", bound="SASRec")
VALIDATION = 1000
"""Number of validation queries for choosing the epoch and the scale."""


class SASRec:
    """Next-item scores of a transformer over item numbers."""

    settings: ClassVar[tuple[str, ...]] = (*TRAINING, *ATTENTION, *OBJECTIVE)
    network: ClassVar[str] = "sasrec"
    robust: ClassVar[bool] = False

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.model: NextItem | None = None

    @property
    def name(self) -> str:
        """The name of the signal."""
        return f"{self.network}-dros" if self.robust else self.network

    def fit(self, dataset: PreparedDataset, folder: Path) -> None:
        """Train on the training split and keep the best epoch; checkpoints stay in `folder`."""
        recipe = self.recipe
        self.model = fit(
            dataset.train.sequences(),
            len(dataset.catalogue),
            recipe.sequential,
            recipe.seed,
            folder,
            validator(dataset.valid, recipe.seed, VALIDATION),
            "cuda" if torch.cuda.is_available() else "cpu",
            network=self.network,
            robust=self.robust,
            moments=dataset.train.moments(),
            metrics=Metrics(folder / "metrics.jsonl", self.name),
        )
        # Only cross-entropy trains scores to be log-probabilities.
        if self.robust or recipe.sequential.loss != "cross-entropy":
            calibrate(self.model, dataset.valid.sample(VALIDATION, recipe.seed))

    def scores(self, queries: Queries) -> Scores:
        """Return the network's logits of every item for each query. Shape: [q, I]."""
        return self._fitted().scores(queries.history)

    def save(self, folder: Path) -> None:
        """Write `model.safetensors`."""
        weights = self._fitted().state_dict()
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / "model.safetensors") as part:
            save_file(weights, part)

    @classmethod
    def load(cls: type[T], folder: Path, recipe: Recipe) -> T:
        """Return the signal that `save` wrote; `recipe.sequential` must be the same as then."""
        weights = load_file(existing(folder / "model.safetensors"))
        signal = cls(recipe)
        signal.model = NETWORKS[cls.network](len(weights["bias"]), recipe.sequential).eval()
        signal.model.load_state_dict(weights)
        return signal

    def _fitted(self) -> NextItem:
        if self.model is None:
            raise ArtifactError(
                "this signal was not fitted", value=self.name, next_step="call fit or load first"
            )
        return self.model


class GRU4Rec(SASRec):
    """Next-item scores of a recurrent network over item numbers."""

    settings = (*TRAINING, *RECURRENCE, *OBJECTIVE)
    network = "gru4rec"


class Caser(SASRec):
    """Next-item scores of convolutions over the last few items."""

    settings = (*TRAINING, *CONVOLUTION, *OBJECTIVE)
    network = "caser"


class SASRecDROS(SASRec):
    """SASRec, trained to be robust against shifts in popularity."""

    settings = (*TRAINING, *ATTENTION, *ROBUST)
    robust = True


class GRU4RecDROS(GRU4Rec):
    """GRU4Rec, trained to be robust against shifts in popularity."""

    settings = (*TRAINING, *RECURRENCE, *ROBUST)
    robust = True


class CaserDROS(Caser):
    """Caser, trained to be robust against shifts in popularity."""

    settings = (*TRAINING, *CONVOLUTION, *ROBUST)
    robust = True
