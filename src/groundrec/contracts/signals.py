"""What every collaborative signal promises. Knows nothing about which signals there are."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np

from groundrec.contracts.rules import check_rules
from groundrec.contracts.shop import planted_shop
from groundrec.core.config import Section
from groundrec.core.errors import ArtifactError
from groundrec.core.recipe import Recipe
from groundrec.core.recipe import settings as recipe_settings
from groundrec.core.types import PreparedDataset, Queries, Ragged
from groundrec.signals.counts import Signal

__all__ = ["RECIPE", "RULES", "Fitted", "check_signal"]

SHOP = planted_shop()
ITEMS = len(SHOP.catalogue)
RECIPE = Recipe.of(
    {
        "sequential": {
            "hidden": 16,
            "layers": 1,
            "epochs": 30,
            "batch_size": 8,
            "learning_rate": 0.01,
            "dropout": 0,
        }
    }
)
FILES = {".npz", ".safetensors", ".json", ".parquet"}


@dataclass(frozen=True)
class Fitted:
    """A signal fitted on the shop, and what is expected of it."""

    kind: type[Signal]
    signal: Signal
    recipe: Recipe
    folder: Path
    """Where rules may write."""
    finds_among: int
    """The planted item must be among this many best unseen ones."""
    is_blind: bool
    """Whether it ignores the order of a history, as popularity does."""

    @classmethod
    def of(
        cls, kind: type[Signal], folder: Path, recipe: Recipe, finds_among: int, *, is_blind: bool
    ) -> Fitted:
        """Return a signal of that kind, fitted."""
        return cls(kind, fitted(kind, SHOP, recipe, folder), recipe, folder, finds_among, is_blind)

    def again(self, shop: PreparedDataset) -> Signal:
        """Return another one, fitted on another shop."""
        return fitted(self.kind, shop, self.recipe, Path(tempfile.mkdtemp(dir=self.folder)))


def fitted(kind: type[Signal], shop: PreparedDataset, recipe: Recipe, folder: Path) -> Signal:
    """Return a signal fitted on a shop."""
    signal = kind(recipe)
    signal.fit(shop, folder)
    return signal


def check_signal(
    kind: type[Signal], recipe: Recipe = RECIPE, *, finds_among: int = ITEMS, is_blind: bool = False
) -> None:
    """Raise `AssertionError` at the first rule that a signal breaks.

    Item i + 1 always follows item i in the shop that it is fitted on: `finds_among` says how well
    it has to see that.
    """
    with tempfile.TemporaryDirectory() as folder:
        check_rules(Fitted.of(kind, Path(folder), recipe, finds_among, is_blind=is_blind), RULES)


def scores_every_item(case: Fitted) -> None:
    """Scores are finite float32, one per item, whatever the history: none, short, long, the same
    item again.
    """
    scores = case.signal.scores(_asking([], [3], [1, 2, 1], list(range(ITEMS)) * 20))
    assert (scores.shape, scores.dtype) == (
        (4, ITEMS),
        np.float32,
    ), f"{scores.dtype} {scores.shape}"
    assert np.isfinite(scores).all(), scores
    nobody = case.signal.scores(SHOP.test.take(np.arange(0))).shape
    assert nobody == (0, ITEMS), f"no queries: {nobody}"


def finds_what_is_planted(case: Fitted) -> None:
    """Higher is better: the planted item is among the best unseen ones."""
    for query, row in zip(SHOP.test, case.signal.scores(SHOP.test), strict=True):
        unseen = np.setdiff1d(np.arange(ITEMS), query.history)
        better = np.count_nonzero(row[unseen] > row[query.targets[0]])
        assert better < case.finds_among, (
            f"after {query.history}, {better} items are before {query.targets[0]}"
        )


def does_not_see_the_future(case: Fitted) -> None:
    """Neither the test split nor a query's targets, number and time change a score."""
    rng = np.random.default_rng(3)
    test = SHOP.test
    shuffled = dataclasses.replace(
        test,
        times=test.times + 10**6,
        history=Ragged.of(rng.permutation(ITEMS)[:7] for _ in range(len(test))),
        targets=Ragged.of(rng.permutation(ITEMS)[:2] for _ in range(len(test))),
    )
    expected = case.signal.scores(test)
    np.testing.assert_array_equal(
        case.again(dataclasses.replace(SHOP, test=shuffled)).scores(test), expected
    )
    blind = dataclasses.replace(
        test, targets=shuffled.targets, ids=test.ids + 7, times=test.times + 1
    )
    np.testing.assert_array_equal(case.signal.scores(blind), expected)


def is_saved_whole(case: Fitted) -> None:
    """A saved signal scores the same; where none was saved, `load` raises `ArtifactError`."""
    try:
        case.kind.load(case.folder / "nothing", case.recipe)
    except ArtifactError:
        pass
    else:
        raise AssertionError("a signal was loaded from an empty place")
    case.signal.save(case.folder / "saved")
    again = case.kind.load(case.folder / "saved", case.recipe)
    np.testing.assert_array_equal(again.scores(SHOP.test), case.signal.scores(SHOP.test))


def saves_no_pickles(case: Fitted) -> None:
    """What is saved is arrays, safetensors, JSON or Parquet, and never a pickled object."""
    folder = case.folder / "files"
    case.signal.save(folder)
    assert {file.suffix for file in folder.iterdir()} <= FILES, sorted(folder.iterdir())
    for file in folder.glob("*.npz"):
        with np.load(file, allow_pickle=False) as arrays:
            assert all(arrays[key].dtype != object for key in arrays), file.name


def scores_a_batch_like_its_rows(case: Fitted) -> None:
    """A query gets the same scores alone, in a batch and in another order."""
    queries = _asking([], [3], [1, 2, 1], list(range(ITEMS)) * 6, [5, 4])
    singles = np.concatenate(
        [case.signal.scores(queries.take(np.array([i]))) for i in range(len(queries))]
    )
    np.testing.assert_allclose(case.signal.scores(queries), singles, rtol=1e-4, atol=1e-5)
    turned = case.signal.scores(queries.take(np.arange(len(queries))[::-1]))
    np.testing.assert_allclose(turned[::-1], singles, rtol=1e-4, atol=1e-5)


def is_fitted_the_same_twice(case: Fitted) -> None:
    """The same data and seed give the same signal."""
    np.testing.assert_array_equal(case.again(SHOP).scores(SHOP.test), case.signal.scores(SHOP.test))


def minds_the_order(case: Fitted) -> None:
    """The order of a history matters, unless the signal says that it is blind to it."""
    forward, backward = case.signal.scores(_asking([2, 3, 4, 8], [8, 4, 3, 2]))
    assert np.array_equal(forward, backward) == case.is_blind, (
        "the same" if not case.is_blind else "not the same"
    )


def reads_only_its_settings(case: Fitted) -> None:
    """No setting but those that the class names in `settings`, and the seed, changes a score."""
    settings = getattr(case.kind, "settings", None)
    if settings is None:  # then all sections of signals are taken to be read
        return
    other = _changed_elsewhere(case.recipe, settings)
    folder = Path(tempfile.mkdtemp(dir=case.folder))
    scores = fitted(case.kind, SHOP, other, folder).scores(SHOP.test)
    np.testing.assert_array_equal(scores, case.signal.scores(SHOP.test))


RULES = (
    scores_every_item,
    finds_what_is_planted,
    does_not_see_the_future,
    is_saved_whole,
    saves_no_pickles,
    scores_a_batch_like_its_rows,
    is_fitted_the_same_twice,
    minds_the_order,
    reads_only_its_settings,
)


def _changed_elsewhere(recipe: Recipe, settings: tuple[str, ...]) -> Recipe:
    """Return the recipe with every number, switch and choice changed that is not in `settings`."""
    names = {name for name, *_ in recipe_settings(recipe)}
    sections = {name.partition(".")[0] for name in names}
    unknown = [name for name in settings if name not in names | sections]
    assert not unknown, f"no such settings: {unknown}"
    found = {}
    for section in sections - set(settings):
        values = getattr(recipe, section)
        if isinstance(values, Section):
            kinds = type(values).model_fields
            changed = {
                name: _another(getattr(values, name), kinds[name].annotation)
                for name in kinds
                if f"{section}.{name}" not in settings
            }
            found[section] = values.model_copy(update=changed)
    return recipe.model_copy(update=found)


def _another(value: Any, kind: Any) -> Any:
    """Return another value of a setting; the same one of text, lists and sections."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if get_origin(kind) is Literal:
        return next(choice for choice in (*get_args(kind)[::-1], value) if choice != value)
    return value


def _asking(*histories: list[int]) -> Queries:
    some = SHOP.test.take(np.arange(len(histories)))
    return dataclasses.replace(some, history=Ragged.of(histories))
