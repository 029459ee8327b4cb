"""What every objective of the language model promises. Knows nothing about which there are."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from groundrec.contracts.rules import check_rules
from groundrec.contracts.shop import planted_shop
from groundrec.core import config_learn, config_model
from groundrec.core.errors import ConfigError
from groundrec.models.language import LanguageModel, scratch
from groundrec.text.prompts import load_template
from groundrec.text.tokens import IGNORED, Encoder, Example
from groundrec.train.objectives import Objective
from groundrec.train.rows import Domain, Row

__all__ = ["RULES", "Learner", "check_objective"]

SHOP = planted_shop(users=4, length=4)
SIZE = config_model.Scratch(vocabulary=300, hidden=16, layers=1, heads=2, dropout=0.0)
Summed: TypeAlias = tuple[float, int, list[torch.Tensor]]
"""The loss of a batch, the number of its learned tokens, and the gradients of all weights."""
Packing: TypeAlias = Literal["rows", "tree"]
KINDS: tuple[tuple[str, Packing], ...] = (
    ("list", "rows"),
    ("d3", "rows"),
    ("list", "tree"),
    ("d3", "tree"),
)
"""Prompt templates and ways to pack: whole lists, a row per example, and prefix trees of both."""
CLOSE = 1e-9


@dataclass(frozen=True)
class Learner:
    """An objective, and a small model in double precision that learns by it."""

    objective: Objective
    lm: LanguageModel

    @classmethod
    def of(cls, build: Callable[[config_learn.Objective], Objective]) -> Learner:
        """Return a learner with the objective of the recipe's defaults."""
        torch.manual_seed(3)
        lm = scratch(config_model.Model(scratch=SIZE), SHOP.catalogue.titles)
        lm.model.double().eval()
        return cls(build(config_learn.Objective()), lm)

    def rows(self, template: str, packing: Packing) -> list[Row]:
        """Return the rows of the shop's training split; none where the objective has no trees."""
        titles = SHOP.catalogue.titles
        encoder = Encoder(load_template(template), self.lm.tokenizer, titles, 400)
        # Learned prompts are shared, so that some tokens of a tree are learned by several examples.
        section = config_learn.Train(
            packing=packing, tree_targets=3, train_on_inputs=template == "d3"
        )
        try:
            rows = self.objective.training_rows([Domain(SHOP, encoder)], section, 0)
        except ConfigError:
            if packing == "rows":
                raise
            return []
        return [rows[i] for i in range(len(rows))]

    def gradients(self, rows: Sequence[Row]) -> Summed:
        """Return the summed loss of a batch, its learned tokens, and all gradients."""
        batch = self.objective.collate(rows)
        self.lm.model.zero_grad()
        loss = self.objective.summed_loss(self.lm.model, batch)
        loss.backward()
        weights = self.lm.model.parameters()
        found = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in weights]
        return float(loss.detach()), int(batch.learned_tokens()), found


def check_objective(build: Callable[[config_learn.Objective], Objective]) -> None:
    """Raise `AssertionError` at the first rule that an objective breaks."""
    check_rules(Learner.of(build), RULES)


def falls_when_the_answer_is_likelier(case: Learner) -> None:
    """The loss of a row is one finite number, and falls when the right answer becomes likelier."""
    for template in ("list", "d3"):
        row = case.rows(template, "rows")[0]
        assert isinstance(row, Example), type(row)
        model = copy.deepcopy(case.lm.model)
        batch = case.objective.collate([row])
        before = case.objective.summed_loss(model, batch).detach()
        assert before.shape == (), f"shape {tuple(before.shape)}"
        assert before.isfinite(), before
        _log_likelihood(model, row).backward()
        with torch.no_grad():
            for weight in model.parameters():
                weight += 1e-4 * weight.grad  # type: ignore[operator]
        after = case.objective.summed_loss(model, batch).detach()
        assert after < before, f"{after} after {before}, template {template}"


def learns_nothing_from_a_filler(case: Learner) -> None:
    """A filler, and a row without a learned token, has no loss, no learned token, no gradient."""
    for kind in KINDS:
        for row in case.rows(*kind)[:1]:
            some = [case.objective.filler(row)]
            if isinstance(row, Example):
                some.append(Example(row.input_ids, np.full_like(row.labels, IGNORED)))
            for one in some:
                loss, learned, gradients = case.gradients([one])
                assert (loss, learned) == (0, 0), f"loss {loss}, {learned} tokens learned, {kind}"
                assert not any(g.any() for g in gradients), f"a gradient, {kind}"


def sums_over_the_batch(case: Learner) -> None:
    """Padding and the other rows of a batch change nothing: its loss is the sum of theirs."""
    for kind in KINDS:
        rows = case.rows(*kind)
        if rows:
            together = case.gradients([*rows, case.objective.filler(rows[0])])
            _require_same(together, _total([case.gradients([row]) for row in rows]), kind)


def gives_trees_the_loss_of_rows(case: Learner) -> None:
    """Prefix trees have the loss and the gradients of a row for each example."""
    trees = case.rows("d3", "tree")
    if trees:
        rows = case.rows("d3", "rows")
        _require_same(case.gradients(trees), case.gradients(rows), "trees and rows")


def repeats_its_rows(case: Learner) -> None:
    """Row i of an epoch is always the same."""
    for kind in KINDS:
        first = case.rows(*kind)
        again = case.rows(*kind)
        assert len(first) == len(again), kind
        for one, other in zip(first, again, strict=True):
            assert type(one) is type(other), kind
            for name, values in vars(one).items():
                np.testing.assert_array_equal(values, vars(other)[name], f"{name}, {kind}")


def moves_a_batch_whole(case: Learner) -> None:
    """A batch on another device is a batch of the same kind, all of it there."""
    for kind in KINDS:
        rows = case.rows(*kind)
        if rows:
            batch = case.objective.collate(rows)
            moved = batch.to("meta")
            assert type(moved) is type(batch), type(moved)
            devices = {name: value.device.type for name, value in moved.items()}
            assert devices == dict.fromkeys(batch, "meta"), devices


RULES = (
    falls_when_the_answer_is_likelier,
    learns_nothing_from_a_filler,
    sums_over_the_batch,
    gives_trees_the_loss_of_rows,
    repeats_its_rows,
    moves_a_batch_whole,
)


def _log_likelihood(model: Any, row: Example) -> torch.Tensor:
    """Return the log-probability of the learned tokens of a row, as the model itself has it."""
    ids = torch.from_numpy(row.input_ids).long()
    labels = torch.from_numpy(row.labels[1:]).long()
    log_p = model(ids[None]).logits[0, :-1].log_softmax(1)
    learned = labels != IGNORED
    return log_p[learned].gather(1, labels[learned][:, None]).sum()


def _total(parts: list[Summed]) -> Summed:
    losses, counts, gradients = zip(*parts, strict=True)
    return sum(losses), sum(counts), [torch.stack(g).sum(0) for g in zip(*gradients, strict=True)]


def _require_same(one: Summed, other: Summed, what: object) -> None:
    assert one[1] == other[1], f"{one[1]} learned tokens, not {other[1]}: {what}"
    assert abs(one[0] - other[0]) < CLOSE * max(1, abs(other[0])), (
        f"{one[0]}, not {other[0]}: {what}"
    )
    for gradient, expected in zip(one[2], other[2], strict=True):
        torch.testing.assert_close(gradient, expected, atol=CLOSE, rtol=CLOSE, msg=f"{what}")
