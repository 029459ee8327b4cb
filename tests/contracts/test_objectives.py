"""Rules for every registered objective, also of other packages: found through the registry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from groundrec.app.pipeline import Pipeline
from groundrec.app.stages.checks import check_names
from groundrec.contracts.objectives import RULES, Learner, check_objective
from groundrec.core import config_learn, registry
from groundrec.core.errors import ConfigError
from groundrec.core.recipe import Recipe
from groundrec.core.registry import names, register, resolve
from groundrec.core.track import Metrics
from groundrec.train.objectives import Batch, CrossEntropy, collate, learned_logits
from groundrec.train.rows import Domain, Row, Rows, training_rows


@pytest.fixture(scope="module", params=names("objectives"))
def case(request: pytest.FixtureRequest) -> Learner:
    return Learner.of(resolve("objectives", request.param))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_registered_objective_keeps_the_rule(case: Learner, rule: Any) -> None:
    rule(case)


class Worse(CrossEntropy):
    def token_losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return -super().token_losses(logits, labels)


class Mean(CrossEntropy):
    def summed_loss(self, model: Any, batch: Batch, unwrapped: Any = None) -> torch.Tensor:
        return super().summed_loss(model, batch, unwrapped) / batch.size


class Padded(CrossEntropy):
    def summed_loss(self, model: Any, batch: Batch, unwrapped: Any = None) -> torch.Tensor:
        logits = learned_logits(model, batch, unwrapped)
        return self.token_losses(logits, batch.labels.flatten()).sum()


class Once(CrossEntropy):
    """A token of a tree counts once, however many examples learn it."""

    def summed_loss(self, model: Any, batch: Batch, unwrapped: Any = None) -> torch.Tensor:
        losses = self.token_losses(learned_logits(model, batch, unwrapped), batch.labels.flatten())
        return losses @ (batch.weights.flatten() > 0).to(losses.dtype)


class Biased(CrossEntropy):
    def summed_loss(self, model: Any, batch: Batch, unwrapped: Any = None) -> torch.Tensor:
        decay = sum(weight.square().sum() for weight in model.parameters())
        return super().summed_loss(model, batch, unwrapped) + decay * batch.size


class Drifting(CrossEntropy):
    calls = count()

    @staticmethod
    def training_rows(domains: Sequence[Domain], section: config_learn.Train, seed: int) -> Rows:
        rows = training_rows(domains, section, seed)
        n = next(Drifting.calls)
        return Rows(len(rows), lambda i, _: rows[(i + n) % len(rows)])


class Stuck(CrossEntropy):
    @staticmethod
    def collate(rows: Sequence[Row]) -> Batch:
        @dataclass(frozen=True, eq=False)
        class Here(type(collate(rows))):
            def to(self, device: Any, non_blocking: bool = False) -> Any:
                return self

        return Here(**collate(rows))


BAD = {
    "falls when the right answer": Worse,
    "Padding and the other rows": Mean,
    "its loss is the sum of theirs": Padded,
    "a row without a learned token": Biased,
    "Prefix trees have the loss": Once,
    "always the same": Drifting,
    "on another device": Stuck,
}


@pytest.mark.parametrize(("words", "kind"), BAD.items(), ids=list(BAD))
def test_an_objective_that_breaks_a_rule_is_told_which(words: str, kind: Any) -> None:
    with pytest.raises(AssertionError, match=words):
        check_objective(kind)


class WithoutTrees(CrossEntropy):
    @staticmethod
    def training_rows(domains: Sequence[Domain], section: config_learn.Train, seed: int) -> Rows:
        if section.packing == "tree":
            raise ConfigError("this objective has no trees", value="tree", accepted="rows")
        return training_rows(domains, section, seed)


def test_an_objective_may_have_no_trees() -> None:
    check_objective(WithoutTrees)


def test_an_unknown_objective_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"objective\.kind \(did you mean 'cross-entropy'") as no:
        check_names(Recipe.of({"objective.kind": "cross-entropi"}))
    assert no.value.accepted == ", ".join(names("objectives"))


def test_a_recipe_trains_by_the_objective_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Doubled(CrossEntropy):
        def token_losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return 2 * super().token_losses(logits, labels)

    monkeypatch.setattr(registry, "_registered", {seam: {} for seam in registry.BUILT_IN})
    register("objectives", "doubled", Doubled)
    events = [(u, i, 1000 * i + u) for u in range(9) for i in range(u, u + 6)]
    lines = [f"{user},Vol. {item % 9},{time}\n" for user, item, time in events]
    (tmp_path / "events.csv").write_text("user,item,time\n" + "".join(lines), encoding="utf-8")
    settings = {
        "data": {"source": "table", "path": str(tmp_path / "events.csv")},
        "prepare": {"protocol": "leave-one-out", "k_core": 0},
        "model.scratch": {"vocabulary": 300, "hidden": 16, "layers": 1, "heads": 2, "dropout": 0.0},
        "train": {"epochs": 1, "batch_size": 9, "micro_batch_size": 9, "learning_rate": 1e-9},
        "signals": [],
        "fuse.signals": [],
    }
    losses = []
    for kind in ("cross-entropy", "doubled"):
        run = Pipeline(Recipe.of({**settings, "objective.kind": kind}), tmp_path / kind)
        run.train()
        rows = Metrics.read(run.path / "metrics.jsonl")
        losses.append([row["eval_loss"] for row in rows if "eval_loss" in row])
    assert losses[1] == pytest.approx([2 * loss for loss in losses[0]])
