"""Result files grounded by a model's embeddings, scored and printed.

Knows nothing about embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from groundrec.app.commands.score_files import KS, FileScores, print_files, summarised
from groundrec.app.stages.grounding_files import (
    POPULARITY,
    Embedder,
    Reweighting,
    validation_of,
)
from groundrec.core.errors import ConfigError
from groundrec.core.inputs import step_folder
from groundrec.data import dataset
from groundrec.data.exchange.title_lists import read_titles, titles_beside
from groundrec.evaluate.grounded_results import best_gamma
from groundrec.evaluate.result_files import find_result_files, read_result_file, strip_title

__all__ = ["GroundingOptions", "print_grounded"]

CHOSEN_BY = 10
"""The cut-off of the NDCG by which gamma is chosen."""


@dataclass(frozen=True)
class GroundingOptions:
    """How texts become items."""

    base_model: str
    reweight: str | None = None
    gamma: float | None = None


def print_grounded(
    folder: Path,
    catalogue: Path | None,
    ks: Sequence[int],
    options: GroundingOptions,
    *,
    samples: int = 1000,
    as_json: bool = False,
) -> None:
    """Ground the first text of each row of every result file in `folder`; print the scores."""
    titles, popularity = _catalogue(catalogue)
    embedder = Embedder(options.base_model, tuple(map(strip_title, titles)))
    cut_offs = [k for k in ks or KS if ks or k <= len(titles)]
    files = find_result_files(folder)
    weighting = _weighting(options, popularity)
    scores = {
        str(file): _score(file, files, embedder, weighting, cut_offs, samples) for file in files
    }
    print_files(scores, as_json=as_json)


def _score(
    file: Path,
    files: Sequence[Path],
    embedder: Embedder,
    weighting: Reweighting | None,
    ks: Sequence[int],
    samples: int,
) -> FileScores:
    result = read_result_file(file)
    facts: dict[str, int | float] = {"queries": len(result.targets)}
    rows = embedder.rows(result)
    readings = {"grounded": rows.metrics(ks)}
    validation = validation_of(file, files)
    is_validation = any(validation_of(other, files) == file for other in files)
    if weighting and not is_validation:
        gamma = weighting.gamma
        if gamma is None:
            gamma = _chosen(file, validation, embedder, weighting)
        shape = rows.scores.shape
        rows = replace(rows, signal=weighting.signal(file, "test", shape))
        readings[f"re-weighted, gamma = {gamma:g}"] = rows.metrics(ks, gamma)
    return summarised(facts, readings, samples)


def _chosen(
    file: Path, validation: Path | None, embedder: Embedder, weighting: Reweighting
) -> float:
    """Return the gamma that is best on the validation results of a file."""
    if validation is None:
        raise ConfigError(
            "no validation results to choose gamma on",
            value=file,
            accepted=f"valid_{file.name} beside it, or a gamma",
            next_step="--gamma 1",
        )
    result = read_result_file(validation)
    shape = (len(result.targets), len(embedder.titles))
    rows = embedder.rows(result, weighting.signal(validation, "valid", shape))
    return best_gamma(rows, weighting.gammas, f"ndcg@{CHOSEN_BY}")


def _catalogue(path: Path | None) -> tuple[Sequence[str], NDArray[np.float32] | None]:
    """Return the titles, by default those of a list in this folder, and how often each item was
    taken in training, where that is known.
    """
    path = path or titles_beside(Path.cwd() / "results")
    if path is None:
        raise ConfigError(
            "no list of titles to ground texts in",
            value=Path.cwd(),
            accepted="movies.dat or id2name.txt in this folder, or --catalogue",
            next_step="--catalogue FILE",
        )
    if path.is_file():
        return read_titles(path), None
    of_run = step_folder(path, "prepare")
    data = dataset.load(of_run if of_run.is_dir() else path)
    return data.catalogue.titles, data.popularity().astype(np.float32)


def _weighting(
    options: GroundingOptions, popularity: NDArray[np.float32] | None
) -> Reweighting | None:
    if options.reweight is None:
        return None
    if options.reweight == POPULARITY and popularity is None:
        raise ConfigError(
            "the popularity of items is not known",
            value="--catalogue with a list of titles",
            accepted="a data set or a run, whose training interactions are counted",
            next_step="--catalogue RUN",
        )
    if options.reweight != POPULARITY and not Path(options.reweight).is_dir():
        raise ConfigError(
            "nothing to re-weight by",
            value=f"--reweight {options.reweight}",
            accepted="popularity, or a folder with a signal's val.pt and test.pt (or .npy)",
            next_step="--reweight popularity",
        )
    return Reweighting(options.reweight, popularity, options.gamma)
