"""Several domains in one training: rows of each as by itself, drawn from each, and one model of
all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundrec.core import config_learn, config_model
from groundrec.core.errors import TrainingError
from groundrec.core.stop import Stopped, stop_on_sigterm
from groundrec.core.track import Metrics
from groundrec.core.types import Catalogue, PreparedDataset, Ragged
from groundrec.models.language import LanguageModel, open_base
from groundrec.text.prompts import load_template
from groundrec.text.tokens import IGNORED, Encoder, Example, train_tokenizer
from groundrec.train.finetune import finetune
from groundrec.train.objectives import CrossEntropy
from groundrec.train.packing import Tree
from groundrec.train.rows import Domain, Row, Rows, training_rows, validation_rows
from groundrec.train.start import last_complete_checkpoint
from tests.shops import planted_shop, queries_of
from tests.train.test_finetune import QUICK, TINY, WIDER, share_right, weights
from tests.train.test_stopping import same, stop_behind

DOMAINS = {"movie": "Film", "game": "Game", "book": "The Book of"}
TOKENIZER = train_tokenizer([f"{word} {i}" for word in DOMAINS.values() for i in range(12)], 400)


def shop_of(
    domain: str, items: int = 8, users: int = 6, length: int = 4, seed: int = 0
) -> PreparedDataset:
    """Return a shop whose titles say what it sells."""
    shop = planted_shop(items, users, length, seed)
    titles = tuple(f"{DOMAINS[domain]} {i}" for i in range(items))
    return replace(shop, catalogue=Catalogue(shop.catalogue.item_ids, titles))


def domain_of(
    name: str, template: str, dataset: PreparedDataset, tokenizer: object = TOKENIZER
) -> Domain:
    encoder = Encoder(load_template(template, name), tokenizer, dataset.catalogue.titles, 300)  # type: ignore[arg-type]
    return Domain(dataset, encoder, name)


def listed(rows: Rows) -> list[Row]:
    return [rows[i] for i in range(len(rows))]


def assert_equal(found: Sequence[Row], wanted: Sequence[Row]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert type(one) is type(other)
        for field in fields(Tree if isinstance(one, Tree) else Example):
            assert np.array_equal(getattr(one, field.name), getattr(other, field.name))


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    template=st.sampled_from(["list", "bigrec", "d3"]),
    packing=st.sampled_from(["rows", "tree"]),
    limit=st.none() | st.integers(1, 30),
    seed=st.integers(0, 3),
)
@settings(max_examples=40, deadline=None)
def test_rows_are_those_of_each_domain_by_itself(
    sizes: list[int], template: str, packing: str, limit: int | None, seed: int
) -> None:
    section = config_learn.Train(packing=packing, max_examples=limit)  # type: ignore[arg-type]
    domains = [
        domain_of(name, template, shop_of(name, users=users, seed=seed))
        for name, users in zip(DOMAINS, sizes, strict=False)
    ]
    together = training_rows(domains, section, seed)
    each = [training_rows([domain], section, seed) for domain in domains]
    for epoch in (0, 1, 4):
        for rows in (together, *each):
            rows.set_epoch(epoch)
        assert_equal(listed(together), [row for rows in each for row in listed(rows)])
    valid = [
        row for domain in domains for row in listed(validation_rows([domain], limit or 99, seed))
    ]
    assert_equal(listed(validation_rows(domains, limit or 99, seed)), valid)
    with pytest.raises(IndexError):
        together[len(together)]


@pytest.mark.parametrize(("limit", "counts"), [(5, [5, 5]), (12, [12, 9]), (None, [18, 9])])
def test_so_many_examples_are_drawn_from_each_in_its_own_words(
    limit: int | None, counts: list[int]
) -> None:
    sizes = {"movie": 6, "game": 3}  # three training queries of each user have a history
    domains = [
        domain_of(name, "bigrec", shop_of(name, users=users)) for name, users in sizes.items()
    ]
    section = config_learn.Train(max_examples=limit)
    texts = [TOKENIZER.decode(row.input_ids) for row in listed(training_rows(domains, section, 7))]
    films, games = (
        [t for t in texts if f"### Instruction:\nHere are {things} a person" in t]
        for things in ("films", "video games")
    )
    assert [len(films), len(games)] == counts
    assert texts == films + games
    assert all("Film" in text and "Game" not in text for text in films)
    assert all("Game" in text and "Film" not in text for text in games)
    again = [TOKENIZER.decode(row.input_ids) for row in listed(training_rows(domains, section, 7))]
    other = [TOKENIZER.decode(row.input_ids) for row in listed(training_rows(domains, section, 8))]
    assert texts == again
    assert (texts != other) == (limit is not None)


def test_a_domain_without_examples_is_named() -> None:
    nothing = replace(shop_of("game"), train=queries_of([("u", 1, [], [2])]))
    domains = [domain_of("movie", "bigrec", shop_of("movie")), domain_of("game", "bigrec", nothing)]
    with pytest.raises(TrainingError, match="no training examples: game"):
        training_rows(domains, config_learn.Train(), 0)


def test_a_domain_without_validation_queries_only_trains() -> None:
    no_valid = replace(shop_of("movie"), valid=queries_of([]))
    domains = [domain_of("movie", "d3", no_valid), domain_of("game", "d3", shop_of("game"))]
    found = validation_rows(domains, 99, 0)
    assert_equal(listed(found), listed(validation_rows(domains[1:], 99, 0)))
    assert len(found) == 6


def trained(
    folder: Path,
    section: config_learn.Train,
    template: str = "list",
    size: config_model.Model = TINY,
    users: int = 6,
) -> tuple[LanguageModel, list[Domain]]:
    """Return a model trained on two shops, and the domains."""
    shops = {"movie": shop_of("movie", 12, users, 5), "game": shop_of("game", 9, users, 5, seed=1)}
    titles = [title for shop in shops.values() for title in shop.catalogue.titles]
    lm = open_base(size, [f"{title}\n" for title in titles], seed=3)
    domains = [domain_of(name, template, shop, lm.tokenizer) for name, shop in shops.items()]
    folder.mkdir(parents=True, exist_ok=True)
    metrics = Metrics(folder / "m.jsonl", "model")
    return finetune(lm, domains, section, 3, folder / "checkpoints", metrics), domains


@pytest.mark.slow
def test_one_model_learns_what_follows_in_both_shops(tmp_path: Path) -> None:
    section = QUICK.model_copy(update={"epochs": 60, "schedule": "linear"})
    lm, domains = trained(tmp_path, section, size=WIDER, users=16)
    for domain in domains:
        assert (
            share_right(lm, domain.dataset, domain.dataset.test, "list", section.cutoff_len) > 0.8
        ), domain.name


@pytest.mark.parametrize(
    "settings",
    [
        {},
        *(pytest.param(s, marks=pytest.mark.slow) for s in ({"packing": "tree"}, {"average": 0.6})),
    ],
    ids=str,
)
def test_a_stopped_training_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object]
) -> None:
    section = QUICK.model_copy(update={"epochs": 2, **settings})
    whole = weights(trained(tmp_path / "whole", section)[0])
    for batches in (2, 3):
        with monkeypatch.context() as patched, pytest.raises(Stopped), stop_on_sigterm():  # noqa: PT012
            stop_behind(patched, batches)
            trained(tmp_path / "stopped", section)
        assert last_complete_checkpoint(tmp_path / "stopped" / "checkpoints")
    same(whole, weights(trained(tmp_path / "stopped", section)[0]))


def choices_by_hand(answers: Ragged) -> list[list[bool]]:
    """Return for each token of each answer whether others that begin alike go on otherwise."""
    rows = [row.tolist() for row in answers]
    return [
        [
            len({tuple(o[: i + 1]) for o in rows if o[:i] == row[:i] and len(o) > i}) > 1
            for i in range(len(row))
        ]
        for row in rows
    ]


@pytest.mark.parametrize("packing", ["rows", "tree"])
def test_choices_are_those_of_each_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: str
) -> None:
    seen: list[Domain] = []

    def looked_at(domains: Sequence[Domain], *rest: object) -> Rows:
        seen[:] = domains
        return training_rows(domains, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(CrossEntropy, "training_rows", staticmethod(looked_at))
    section = QUICK.model_copy(update={"epochs": 0.2, "loss_on": "branching", "packing": packing})
    domains = trained(tmp_path, section, "bigrec")[1]
    for domain, plain in zip(seen, domains, strict=True):
        answers, wanted = plain.encoder.answers, choices_by_hand(plain.encoder.answers)
        for item, right in enumerate(wanted):
            labels = domain.encoder.running(np.array([item])).labels[-len(answers[item]) :]
            assert ((labels != IGNORED) == right).all(), domain.name
        assert {True, False} == {learned for row in wanted for learned in row}
