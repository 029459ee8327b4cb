"""Grounded result files beside the formulas of BIGRec's evaluate.py and adjust_ci.py."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from groundrec.core.errors import DataError
from groundrec.evaluate.grounded_results import GroundedRows, best_gamma
from groundrec.rank.fuse import published_gammas
from tests.app import published
from tests.app.conftest import Tiny
from tests.app.conftest import title as film
from tests.app.test_bad_input import assert_clear
from tests.commands import command

KS = (1, 3, 5, 10, 20)


def unit(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return each row from 0 to 1."""
    low, high = values.min(1, keepdims=True), values.max(1, keepdims=True)
    return (values - low) / (high - low)


def by_hand(ranks: list[int], ks: tuple[int, ...]) -> dict[str, list[float]]:
    """Return NDCG and HR of one target per row, as BIGRec's evaluate.py computes them."""
    gains = [[1 / math.log2(rank + 2) if rank < k else 0 for rank in ranks] for k in ks]
    hits = [[rank < k for rank in ranks] for k in ks]
    return {
        "ndcg": [sum(row) / len(ranks) for row in gains],
        "hr": [sum(row) / len(ranks) for row in hits],
    }


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 4.0]), st.integers(2, 30))
@settings(max_examples=40, deadline=None)
def test_places_are_those_of_the_published_formulas(seed: int, gamma: float, items: int) -> None:
    rng = np.random.default_rng(seed)
    distance = rng.random((7, items)).astype(np.float32)
    signal = rng.normal(size=(7, items)).astype(np.float32)
    titles = [f"t{item}" for item in range(items)]
    targets = rng.integers(items, size=7).tolist()
    rows = GroundedRows.of(-distance, [titles[target] for target in targets], titles, signal)
    weighed = (1 + unit(signal)) ** -gamma * unit(distance)
    assert rows.places(gamma).tolist() == published.grounded_ranks(weighed, targets)


def test_a_shared_title_is_found_where_its_first_item_is() -> None:
    scores = np.array([[-3, -1, -1, -2]], np.float32)
    rows = GroundedRows.of(scores, ["b"], ["a", "b", "b", "c"])
    assert rows.places().tolist() == [0]
    tied = GroundedRows.of(scores, ["c"], ["a", "b", "b", "c"])
    assert tied.places().tolist() == [2]


def test_a_target_that_nothing_is_called_is_named() -> None:
    with pytest.raises(DataError, match=r"not in the list of titles: row 2: z"):
        GroundedRows.of(np.zeros((2, 2), np.float32), ["a", "z"], ["a", "b"])


def written(base: Path, file: Path, rows: int, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(rows):
        target, near = rng.integers(published.ITEMS, size=2)
        words = published.title(int(near)).split()[: rng.integers(1, 6)]
        text = " ".join(words) + rng.choice(["", " ", "\n"])  # what is written may end in blanks
        found.append({"output": f'"{published.title(int(target))}"', "predict": [text]})
    file.write_text(json.dumps(found), encoding="utf-8")
    return found


def hidden(base: Path, texts: list[str]) -> NDArray[np.float32]:
    """Return the last layer's state of each text's last token, one text at a time."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    with torch.inference_mode():
        states = [
            model(**tokenizer([text], return_tensors="pt"), output_hidden_states=True)
            .hidden_states[-1][0, -1]
            .numpy()
            for text in texts
        ]
    return np.stack(states)


def test_the_command_gives_the_numbers_of_the_published_scripts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base, _ = published.write_checkpoint(tmp_path)
    (published.write_bigrec(tmp_path) / "movies.dat").rename("movies.dat")
    results = tmp_path / "movie_result"
    results.mkdir()
    splits = {"valid": "valid_0_1024.json", "test": "0_1024.json"}
    rows, signal, apart = {}, {}, {}
    signals = tmp_path / "sasrec" / "0_1024"
    signals.mkdir(parents=True)
    table = hidden(base, published.TITLES)
    for seed, (split, name) in enumerate(splits.items()):
        rows[split] = written(base, results / name, 60, seed)
        # With a last column of padding, as the published networks have it.
        scores = np.random.default_rng(seed).normal(size=(60, published.ITEMS + 1))
        for row, line in zip(scores, rows[split], strict=True):
            row[published.TITLES.index(line["output"].strip('"'))] += 1.5
        torch.save(torch.tensor(scores), signals / f"{'val' if seed == 0 else 'test'}.pt")
        signal[split] = scores[:, :-1]
        texts = hidden(base, [line["predict"][0] for line in rows[split]])
        apart[split] = np.linalg.norm(texts[:, None] - table[None], axis=2)
    targets = {
        split: [published.TITLES.index(line["output"].strip('"')) for line in lines]
        for split, lines in rows.items()
    }

    def ranks(split: str, gamma: float) -> list[int]:
        weighed = (1 + unit(signal[split])) ** -gamma * unit(apart[split])
        return published.grounded_ranks(weighed, targets[split])

    def ndcg(gamma: float) -> float:
        return by_hand(ranks("valid", gamma), (10,))["ndcg"][0]

    gamma = max(published_gammas("sasrec"), key=ndcg)
    assert gamma > 0
    asked = ("evaluate", "--input_dir", results, "--base_model", base, "--json")
    told = json.loads(command(*asked, "--reweight", "sasrec").out)
    metrics = told[str(results / splits["test"])]["metrics"]
    assert metrics.keys() == {"grounded", f"re-weighted, gamma = {gamma:g}"}
    for reading, used in zip(metrics.values(), (0.0, gamma), strict=True):
        for metric, values in by_hand(ranks("test", used), KS).items():
            found = [reading[f"{metric}@{k}"]["mean"] for k in KS]
            assert found == pytest.approx(values)
    assert told[str(results / splits["valid"])]["metrics"].keys() == {"grounded"}
    fixed = json.loads(command(*asked, "--reweight", "sasrec", "--gamma", 0.5).out)
    assert "re-weighted, gamma = 0.5" in fixed[str(results / splits["test"])]["metrics"]
    assert len(list(Path("runs/inference/embeddings").iterdir())) == 1
    (results / splits["valid"]).unlink()
    lonely = command(*asked, "--reweight", "sasrec")
    assert_clear(lonely)
    assert "no validation results to choose gamma on" in lonely.err
    torch.save(torch.zeros(3, published.ITEMS), signals / "test.pt")
    assert_clear(command(*asked, "--reweight", "sasrec", "--gamma", 1))
    torch.save({"a": tmp_path}, signals / "test.pt")
    assert_clear(command(*asked, "--reweight", "sasrec", "--gamma", 1))
    assert_clear(command(*asked, "--reweight", "popularity", "--gamma", 1))
    assert_clear(command(*asked, "--gamma", 1))
    assert_clear(command("evaluate", "--input_dir", results, "--reweight", "sasrec"))
    Path("movies.dat").unlink()
    assert_clear(command(*asked))


def test_a_runs_popularity_re_weighs_too(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base, _ = published.write_checkpoint(tmp_path)
    rows = [{"output": film(item), "predict": [film(item + 1)]} for item in range(12)]
    Path("results").mkdir()
    for name in ("valid_a.json", "a.json"):
        Path("results", name).write_text(json.dumps(rows), encoding="utf-8")
    asked = ("evaluate", "--input_dir", "results", "--base_model", base, "--catalogue", tiny.run)
    told = json.loads(command(*asked, "--reweight", "popularity", "--json").out)
    (weighed,) = (
        name for name in told["results/a.json"]["metrics"] if name.startswith("re-weighted")
    )
    gamma = float(weighed.rpartition(" ")[2])
    assert gamma == int(gamma)
    better = told["results/a.json"]["metrics"][weighed]["ndcg@10"]["mean"]
    assert better >= told["results/a.json"]["metrics"]["grounded"]["ndcg@10"]["mean"]


def test_the_first_of_the_best_gammas_is_taken() -> None:
    rows = GroundedRows.of(
        np.array([[-1.0, 0.0]], np.float32), ["a"], ["a", "b"], np.array([1.0, 0.0], np.float32)
    )
    assert best_gamma(rows, [0.0, 1.0, 2.0], "ndcg@1") == 0.0
