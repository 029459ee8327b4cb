"""Result files grounded by a language model's embeddings, and re-weighted by what else is known.

Embeddings of titles are kept, by what they depend on. Knows nothing about metrics.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from groundrec.app.stages.inference import ROOT, compute_dtype
from groundrec.app.stages.inference_words import weights_folder
from groundrec.app.stages.made_from import files_of
from groundrec.core.errors import ConfigError, DataError
from groundrec.core.files import atomic_write, digest
from groundrec.core.track import log
from groundrec.evaluate.result_files import ResultFile

if TYPE_CHECKING:
    from torch import Tensor

    from groundrec.evaluate.grounded_results import GroundedRows
    from groundrec.models.language import LanguageModel

__all__ = ["POPULARITY", "Embedder", "Reweighting", "read_scores", "validation_of"]

POPULARITY = "popularity"
VALID = re.compile(r"valid_?")
"""What the name of a file of validation results has, and that of the test results has not."""
SPLIT_NAMES = {"valid": ("val", "valid"), "test": ("test",)}


@dataclass(frozen=True)
class Embedder:
    """Texts and titles as embeddings of a model, and the distances between them."""

    base_model: str
    titles: tuple[str, ...]

    @cached_property
    def lm(self) -> LanguageModel:
        """The model, loaded when first used."""
        from groundrec.models.checkpoints import open_checkpoint

        return open_checkpoint(self._folder, None, compute_dtype("bigrec"))

    @cached_property
    def _folder(self) -> Path:
        from groundrec.models.checkpoints import model_folder

        return weights_folder(model_folder(self.base_model))

    @cached_property
    def _distinct(self) -> list[str]:
        return list(dict.fromkeys(self.titles))

    @cached_property
    def _of_item(self) -> NDArray[np.int64]:
        number = {title: place for place, title in enumerate(self._distinct)}
        return np.array([number[title] for title in self.titles])

    @cached_property
    def _table(self) -> Tensor:
        """Embeddings of the distinct titles. Shape: [U, D]."""
        import torch

        from groundrec.models.checkpoints import model_files

        files = [files_of(file) for file in model_files(self._folder)]
        identity = digest(files, self._distinct)
        file = ROOT / "embeddings" / f"{identity}.npy"
        if not file.is_file():
            log.info(f"embedding {len(self._distinct):,} titles")
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(file) as part, part.open("wb") as out:
                np.save(out, self._embed(self._distinct).numpy(), allow_pickle=False)
        return torch.from_numpy(np.load(file, allow_pickle=False))

    def rows(self, result: ResultFile, signal: NDArray[np.float32] | None = None) -> GroundedRows:
        """Return the rows of a file, each text's distance to every item as a score."""
        from groundrec.evaluate.grounded_results import GroundedRows
        from groundrec.rank.ground.nearest import distances

        texts = self._embed(result.texts)
        apart = distances(texts[:, None], self._table).numpy()
        return GroundedRows.of(-apart[:, self._of_item], result.targets, self.titles, signal)

    def _embed(self, texts: Sequence[str]) -> Tensor:
        """Return the embedding of each text, with the tokenizer's special tokens. [n, D]."""
        from groundrec.rank.ground.nearest import embed

        rows: Any = self.lm.tokenizer(list(texts))["input_ids"]
        start = self.lm.tokenizer.bos_token_id or self.lm.tokenizer.eos_token_id or 0
        tokens = cast("list[list[int]]", [row or [start] for row in rows])
        return embed(self.lm.model, tokens)


@dataclass(frozen=True)
class Reweighting:
    """What re-weights distances: `popularity`, or a folder with a signal's scores."""

    source: str
    popularity: NDArray[np.float32] | None
    """How often each item was taken. Shape: [I]."""
    gamma: float | None
    """The exponent; None: the best on validation results."""

    @property
    def gammas(self) -> list[float]:
        """The exponents that BIGRec's scripts try."""
        from groundrec.rank.fuse import published_gammas

        return published_gammas(self.source)

    def signal(self, file: Path, split: str, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Return the signal for the results in `file`, of a split. Shape: [I] or [Q, I].

        A folder may hold a folder for each file, by its name without an ending.
        """
        if self.source == POPULARITY:
            assert self.popularity is not None
            return self.popularity
        own = Path(self.source) / VALID.sub("", file.stem)
        folder = own if own.is_dir() else Path(self.source)
        names = [
            folder / f"{name}{ending}" for name in SPLIT_NAMES[split] for ending in (".pt", ".npy")
        ]
        found = next((path for path in names if path.is_file()), None)
        if found is None:
            raise ConfigError(
                f"no scores of the signal for {file.name}",
                value=folder,
                accepted=" or ".join(path.name for path in names),
                next_step="--reweight FOLDER",
            )
        return read_scores(found, shape)


def validation_of(file: Path, files: Sequence[Path]) -> Path | None:
    """Return the validation results beside test results, named like them with `valid_` in it."""
    others = (path for path in files if path != file and path.parent == file.parent)
    return next((path for path in others if VALID.sub("", path.name) == file.name), None)


def read_scores(file: Path, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return an array of scores, of torch's or NumPy's, as numbers only. Shape: [Q, I].

    A column more than items, a network's padding, is left out. Raises `DataError`.
    """
    import torch

    try:
        found: Any = (
            torch.load(file, map_location="cpu", weights_only=True)
            if file.suffix == ".pt"
            else torch.from_numpy(np.load(file, allow_pickle=False))
        )
        scores = found.float().numpy()
    except (UnpicklingError, AttributeError):
        raise _unusable(file, "more than one tensor of numbers", shape) from None
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise _unusable(file, str(error).partition("\n")[0], shape) from None
    if scores.ndim == 2 and scores.shape == (shape[0], shape[1] + 1):
        log.info(f"{file}: the last of {scores.shape[1]:,} columns is left out as padding")
        scores = scores[:, :-1]
    if scores.shape != shape:
        raise _unusable(file, scores.shape, shape)
    if not np.isfinite(scores).all():
        raise _unusable(file, "numbers that are not finite", shape)
    return scores


def _unusable(file: Path, value: object, shape: tuple[int, int]) -> DataError:
    return DataError(
        "not the signal's scores for these results",
        value=f"{file}: {value}",
        accepted=f"numbers, {shape[0]:,} rows of results and {shape[1]:,} items",
        next_step="--reweight FOLDER with val.pt and test.pt",
    )
