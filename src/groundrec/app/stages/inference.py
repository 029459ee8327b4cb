"""Recommendations of an existing checkpoint for an existing test file, as a file of results.

The work is kept in a folder of its own, by a digest of everything that decides it: a repeated
command skips what is done, a killed one resumes after its last shard, several processes divide the
shards. Knows nothing about command lines.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from groundrec.app.stages.inference_words import Inference, PromptWords, weights_folder
from groundrec.app.stages.made_from import files_of
from groundrec.core.alive import lock_folder
from groundrec.core.config_rank import Recommend
from groundrec.core.errors import ConfigError, DataError
from groundrec.core.files import atomic_write, digest
from groundrec.core.inputs import AFTER, Inputs
from groundrec.core.processes import Processes
from groundrec.core.runs import Run
from groundrec.core.track import log
from groundrec.core.types import NO_ITEM, Queries, Ragged, Scores
from groundrec.data.exchange.test_files import Form, TestFile, read_test_file

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from groundrec.models.language import LanguageModel
    from groundrec.rank.groundings import Answerer
    from groundrec.text.row_prompts import RowPrompts

__all__ = ["ROOT", "compute_dtype", "run_inference"]

ROOT = Path("runs") / "inference"
STEP = "inference"
SHARD = 64
"""Rows per shard: the most that a kill loses."""


def run_inference(asked: Inference) -> None:
    """Write the results that are asked for; what an earlier call has done is not done again."""
    from groundrec.models.checkpoints import model_folder

    base = weights_folder(model_folder(asked.base_model))
    adapters = weights_folder(asked.adapters) if asked.adapters else None
    titles = asked.titles
    test = read_test_file(asked.test_file, titles)
    if test.form != asked.script:
        raise ConfigError(
            "these words are of one script and the test file of the other",
            value=asked.test_file,
            accepted="BIGRec's words with test.json, D3's words with test/….csv",
        )
    words = PromptWords.of(asked)
    log.info(f"words of the prompts: {words.source}")
    job = _Job(asked, base, adapters, titles, test, words)
    with _opened(job) as run:
        if test.rows:
            run.step(STEP, job.inputs, lambda folder: job.write(run, folder), together=True)
        if run.processes.is_main:
            _write_results(asked.result, job.results(run.folder(STEP)))


@dataclass(frozen=True)
class _Job:
    """An inference with everything it reads."""

    asked: Inference
    base: Path
    adapters: Path | None
    titles: list[str]
    test: TestFile
    words: PromptWords

    @property
    def inputs(self) -> Inputs:
        """Everything that decides the results; the folder of the work is named by its digest."""
        from groundrec.models.checkpoints import model_files

        own = {
            key: value
            for key, value in asdict(self.asked).items()
            if key not in ("batch_size", "result", "test_file", "words_from")
        }
        contents = {
            "rows": digest([row.fields for row in self.test.rows]),
            "numbers": digest([row.number for row in self.test.rows]),
            "titles": digest(self.titles),
            "words": digest(self.words.contents()),
        }
        models = [model_files(path) for path in (self.base, self.adapters) if path]
        read = [*(file for files in models for file in files), self.asked.signal]
        files = [stamp for path in read for stamp in files_of(path)]
        return {AFTER: {}, "asked": own, **contents, "files": files}

    @property
    def folder(self) -> Path:
        """Where the work is kept."""
        result = self.asked.result
        return ROOT / f"{result.stem}-{digest(str(result.resolve()), self.inputs)}"

    @property
    def distinct(self) -> list[str]:
        """The titles of the catalogue, each once."""
        return list(dict.fromkeys(self.titles))

    def write(self, run: Run, folder: Path) -> dict[str, object]:
        """Write the shards that are not there yet."""
        from groundrec.models.checkpoints import open_tokenizer
        from groundrec.rank.recommend import recommend
        from groundrec.rank.slates import work_of

        prompts = self._prompts(open_tokenizer(self.base))
        tokens = [prompts.tokens(row) for row in self.test.rows]
        ranker = self._ranker(prompts, tokens)
        recommend(ranker, Queries.of(Ragged.of(tokens), 0), folder, run.processes)
        return {"rows": len(tokens), **vars(work_of(folder))}

    def results(self, folder: Path) -> list[dict[str, object]]:
        """Return the rows with what was recommended for each."""
        if not self.test.rows:
            return []
        from groundrec.models.checkpoints import open_tokenizer
        from groundrec.rank.prompted import TEXTS
        from groundrec.rank.slates import SavedSlates

        prompts = self._prompts(open_tokenizer(self.base))
        saved = SavedSlates(folder)
        queries = Queries.of(Ragged.of([[]] * len(self.test.rows)), 0)
        rows = [{**row.fields, "input": prompts.input(row)} for row in self.test.rows]
        if not self.asked.searches:
            texts = saved.column(TEXTS, queries)
            return [{**row, "predict": list(t)} for row, t in zip(rows, texts, strict=True)]
        slates = saved.slates(queries)
        answers = [prompts.answer_text(title) for title in self.distinct]
        found = []
        for row, items, scores in zip(rows, slates.items, slates.scores, strict=True):
            kept = items != NO_ITEM
            predict = [answers[item] for item in items[kept]]
            found.append({**row, "predict": predict, "predict_score": scores[kept].tolist()})
        return found

    def _prompts(self, tokenizer: PreTrainedTokenizerBase) -> RowPrompts:
        histories = (title for row in self.test.rows for title in row.history)
        return self.words.prompts(self.asked, tokenizer, tuple(dict.fromkeys(histories)))

    def _ranker(self, prompts: RowPrompts, tokens: Sequence[list[int]]) -> Answerer:
        from groundrec.models.checkpoints import open_checkpoint
        from groundrec.rank.ground.generate import GenerationSettings
        from groundrec.rank.prompted import FreeWriter, ListSearch
        from groundrec.text.trie import Trie

        asked = self.asked
        dtype = compute_dtype(asked.script)
        section = Recommend(
            mode="exact" if asked.constrained else "beam",
            k=asked.num_beams,
            beams=asked.num_beams,
            temperature=asked.temperature,
            length_penalty=asked.length_penalty,
            batch_size=asked.batch_size,
            shard_size=max(SHARD, asked.batch_size),
        )

        def load() -> LanguageModel:
            return open_checkpoint(self.base, self.adapters, dtype, in_8bit=asked.load_8bit)

        if not asked.searches:
            settings = GenerationSettings(asked.num_beams, asked.max_new_tokens)
            return FreeWriter(section, load=load, settings=settings)
        return ListSearch(
            section,
            load=load,
            trie=Trie.compile(prompts.answers(self.distinct)),
            signal=self._signal() if asked.signal and asked.guidance_scale != 1 else None,
            alpha=asked.guidance_scale,
            instruction=_common_prefix(tokens),
        )

    def _signal(self) -> Callable[[np.ndarray], Scores]:
        """Return what gives the scores of the distinct titles for query numbers. [q] → [q, U]."""
        assert self.asked.signal
        table = _read_scores(self.asked.signal, self.test, len(self.titles))
        number = {title: place for place, title in enumerate(self.distinct)}
        of_item = np.array([number[title] for title in self.titles])
        order = np.argsort(of_item, kind="stable")
        first = np.flatnonzero(np.diff(of_item[order], prepend=-1))
        rows = np.array([row.number for row in self.test.rows])

        def scores(ids: np.ndarray) -> Scores:
            # Items of one title count together: [q, I] in the order of titles → [q, U].
            found = np.asarray(table[rows[ids]], np.float64)[:, order]
            return np.logaddexp.reduceat(found, first, axis=1).astype(np.float32)

        return scores


def _read_scores(file: Path, test: TestFile, items: int) -> np.ndarray:
    """Return D3's array of scores, a row per row of the whole test file. Shape: [rows, I]."""
    accepted = f"a .npy of numbers: a row for each of the test file, {items:,} columns"
    try:
        table = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(
            "the scores cannot be read", value=f"{file}: {error}", accepted=accepted
        ) from None
    last = max((row.number for row in test.rows), default=0)
    if table.ndim != 2 or table.shape[1] != items or len(table) <= last:
        raise DataError(
            "the scores do not fit the test file and the list of titles",
            value=f"{file}: {table.shape}, and row {last} is needed",
            accepted=accepted,
        )
    return table


def _common_prefix(rows: Sequence[list[int]]) -> list[int]:
    """Return the tokens with which every prompt begins, less than a whole prompt."""
    first = min(rows)
    last = max(rows)
    shared = [token for i, token in enumerate(first) if first[: i + 1] == last[: i + 1]]
    return shared[: min(map(len, rows)) - 1]


def compute_dtype(script: Form) -> torch.dtype:
    """Return the precision that the script computes in; on a CPU, which is slow in it, float32."""
    import torch

    from groundrec.models.language import default_device

    device = default_device()
    dtype = torch.float16 if script == "bigrec" else torch.bfloat16
    dtype = torch.float32 if device.type == "cpu" else dtype
    log.info(f"{str(dtype).removeprefix('torch.')} on {device.type}")
    return dtype


@contextlib.contextmanager
def _opened(job: _Job) -> Iterator[Run]:
    """Yield the folder of the work as a run of all processes that were started together."""
    processes = Processes.of()
    with contextlib.ExitStack() as stack:
        if processes.is_main:
            job.folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock_folder(job.folder))
        here, _ = stack.enter_context(processes.rendezvous(job.folder / "processes"))
        yield Run(job.folder, here)


def _write_results(file: Path, rows: list[dict[str, object]]) -> None:
    """Write results as the scripts do, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as part, part.open("w", encoding="utf-8") as out:
        json.dump(rows, out, indent=4)
    log.info(f"{file}: {len(rows):,} rows")
