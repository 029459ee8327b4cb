"""Scores made elsewhere: taken by query id, refused where they are somebody else's."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from groundrec.core.errors import ArtifactError, ConfigError, DataError
from groundrec.core.recipe import Recipe
from groundrec.signals.external import External
from tests.shops import planted_shop

SHOP = planted_shop()
IDS = np.concatenate([SHOP.valid.ids, SHOP.test.ids])
SCORES = np.random.default_rng(2).normal(size=(len(IDS), 12)).astype(np.float32)


def external(path: Path | None, **given: object) -> External:
    return External(Recipe.model_validate({"external": {"path": path, **given}}))


def written(path: Path, **changes: np.ndarray | str) -> Path:
    np.savez(path, **{"query_ids": IDS, "scores": SCORES, **changes})
    return path


def test_rows_are_found_by_query_id_in_whatever_order_they_come(tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(len(IDS))
    signal = external(
        written(tmp_path / "s.npz", query_ids=IDS[order], scores=SCORES[order]), temperature=2.0
    )
    signal.fit(SHOP, tmp_path)
    some = SHOP.test.take(np.array([5, 0, 5]))
    expected = SCORES[len(SHOP.valid) + np.array([5, 0, 5])] / 2
    np.testing.assert_array_equal(signal.scores(some), expected)
    signal.save(tmp_path / "saved")
    loaded = External.load(tmp_path / "saved", signal.recipe)
    np.testing.assert_array_equal(loaded.scores(some), expected)
    assert loaded.scores(some.take(np.arange(0))).shape == (0, 12)
    with pytest.raises(DataError, match="a query has no scores"):
        loaded.scores(SHOP.train)


def test_columns_can_be_in_another_order(tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(12)
    names = np.array(SHOP.catalogue.item_ids)[order]
    signal = external(written(tmp_path / "s.npz", scores=SCORES[:, order], item_ids=names))
    signal.fit(SHOP, tmp_path)
    np.testing.assert_array_equal(signal.scores(SHOP.valid), SCORES[: len(SHOP.valid)])
    with pytest.raises(DataError, match="items of the catalogue are missing"):
        external(written(tmp_path / "t.npz", scores=SCORES[:, :11], item_ids=names[:11])).fit(
            SHOP, tmp_path
        )


def test_parquet_and_a_bare_array_whose_order_is_stated_are_read_too(tmp_path: Path) -> None:
    pq.write_table(pa.table({"query_id": IDS, "scores": SCORES.tolist()}), tmp_path / "s.parquet")
    np.save(tmp_path / "s.npy", SCORES)
    for signal in (
        external(tmp_path / "s.parquet"),
        external(tmp_path / "s.npy", rows=["valid", "test"]),
    ):
        signal.fit(SHOP, tmp_path)
        np.testing.assert_array_equal(signal.scores(SHOP.test), SCORES[len(SHOP.valid) :])


@pytest.mark.parametrize("rows", [[], ["test"], ["train", "test"]])
def test_a_bare_array_without_its_order_is_refused(tmp_path: Path, rows: list[str]) -> None:
    np.save(tmp_path / "s.npy", SCORES)
    with pytest.raises(DataError, match="does not tell which row is which query") as refused:
        external(tmp_path / "s.npy", rows=rows).fit(SHOP, tmp_path)
    assert "train (144) + valid (24) + test (24)" in str(refused.value)


NOT_A_NUMBER = SCORES.copy()
NOT_A_NUMBER[3, 3] = np.nan


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"dataset": "another"}, "made for another data set"),
        ({"scores": SCORES[:, :9]}, "the wrong shape"),
        ({"scores": SCORES[:-1]}, "the wrong shape"),
        ({"query_ids": np.append(IDS[:-1], IDS[0])}, "two rows for one query"),
        ({"query_ids": IDS + 1}, "queries without scores"),
        ({"scores": NOT_A_NUMBER}, "not finite"),
        ({"scores": np.full_like(SCORES, 0.5)}, "the same score"),
        ({"scores": np.array(["a"])}, "no table of scores"),
        ({"query_ids": np.array([{}], dtype=object)}, "cannot be read"),
    ],
)
def test_somebody_elses_scores_are_refused(
    tmp_path: Path, changes: dict[str, np.ndarray | str], what: str
) -> None:
    with pytest.raises(DataError, match=what):
        external(written(tmp_path / "s.npz", **changes)).fit(SHOP, tmp_path)


def test_no_file_and_no_fit_are_clear_errors(tmp_path: Path) -> None:
    for path in (None, tmp_path / "nowhere.npz"):
        with pytest.raises(ConfigError, match="needs a file of scores"):
            external(path).fit(SHOP, tmp_path)
    (tmp_path / "s.npz").write_text("no archive")
    with pytest.raises(DataError, match="cannot be read"):
        external(tmp_path / "s.npz").fit(SHOP, tmp_path)
    with pytest.raises(ArtifactError, match="not fitted"):
        external(None).save(tmp_path)
    with pytest.raises(ArtifactError):
        External.load(tmp_path, Recipe())


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_tensor_saved_by_torch_is_read_as_a_tensor(
    dtype: torch.dtype, old_format: bool, tmp_path: Path
) -> None:
    tensor = torch.from_numpy(SCORES).to(dtype)
    path = tmp_path / "val.pt"
    torch.save(tensor, path, _use_new_zipfile_serialization=not old_format)
    signal = external(path, rows=["valid", "test"])
    signal.fit(SHOP, tmp_path)
    expected = tensor.float().numpy()[: len(SHOP.valid)]
    np.testing.assert_array_equal(signal.scores(SHOP.valid), expected)


class Pickled:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("code was run",))


@pytest.mark.parametrize(
    ("saved", "says"),
    [
        ({"scores": torch.zeros(3)}, "a dict with 'scores'"),
        ([torch.zeros(3), torch.zeros(3)], "a list of 2"),
        (torch.zeros(3), r"a tensor \[3\] of float32"),
        (torch.zeros(2, 3, dtype=torch.complex64), r"a tensor \[2, 3\] of complex64"),
        (torch.zeros(2, 3, dtype=torch.bool), r"a tensor \[2, 3\] of bool"),
        (Pickled(), "objects other than tensors"),
    ],
)
def test_anything_else_saved_by_torch_is_named(
    saved: object, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(saved, tmp_path / "val.pt")
    with pytest.raises(DataError, match=says) as caught:
        external(tmp_path / "val.pt", rows=["valid", "test"]).fit(SHOP, tmp_path)
    assert "val.pt" in str(caught.value)
    assert caught.value.accepted
    assert "code was run" not in capsys.readouterr().out


def test_a_column_too_many_may_be_padding(tmp_path: Path) -> None:
    path = tmp_path / "val.pt"
    torch.save(torch.from_numpy(np.pad(SCORES, ((0, 0), (0, 1)))), path)
    with pytest.raises(DataError, match=r"one column more than items[\s\S]*padding"):
        external(path, rows=["valid", "test"]).fit(SHOP, tmp_path)


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        (np.array([["a"] * 12] * len(IDS)), r"an array \[\d+, 12\] of <U1"),
        (np.zeros(len(IDS)), r"an array \[\d+\] of float64"),
    ],
)
def test_arrays_that_are_no_scores_are_named(scores: np.ndarray, says: str, tmp_path: Path) -> None:
    names = np.array(SHOP.catalogue.item_ids)
    path = written(tmp_path / "s.npz", scores=scores, item_ids=names)
    with pytest.raises(DataError, match=says):
        external(path).fit(SHOP, tmp_path)
    np.save(tmp_path / "s.npy", scores)
    with pytest.raises(DataError, match=says):
        external(tmp_path / "s.npy", rows=["valid", "test"]).fit(SHOP, tmp_path)


def test_a_zip_of_other_things_and_arrays_under_another_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "val.pt", "w") as file:
        file.writestr("readme.txt", "no scores")
    with pytest.raises(DataError, match=r"a zip archive with readme\.txt"):
        external(tmp_path / "val.pt").fit(SHOP, tmp_path)
    written(tmp_path / "s.npz").rename(tmp_path / "s.npy")
    external(tmp_path / "s.npy").fit(SHOP, tmp_path)
