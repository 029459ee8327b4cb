"""What a setting does to a given data set: a few lines, in English or Chinese.

Looks at a prepared data set and the recipe it is used with. Knows nothing about what settings mean
in general.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from groundrec.app.stages.domains import other_domains
from groundrec.core.config_learn import Train
from groundrec.core.errors import ArtifactError, ConfigError
from groundrec.core.files import read_json
from groundrec.core.inputs import step_folder
from groundrec.core.recipe import Recipe
from groundrec.core.types import PreparedDataset, Queries
from groundrec.data.dataset import load
from groundrec.data.summary import filter_counts
from groundrec.text.answers import answers_of
from groundrec.text.prompts import Template, template_named, template_of
from groundrec.train.batch import explain_batch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["EXAMPLES", "ExampleData", "batch_lines"]

SAMPLE = 2000
"""How many test queries are looked at."""
PROCESSES = (1, 2, 4, 8)
BINS = 8
WIDTH = 30


@dataclass(frozen=True)
class ExampleData:
    """A run, or a data set with the default settings; loaded on first use."""

    place: Path
    recipe: Recipe
    folder: Path
    zh: bool = False

    @classmethod
    def at(cls, place: Path, language: str) -> ExampleData:
        """Return the data of a run directory, or of a prepared data set. Raises `ArtifactError`."""
        config = read_json(place / "config.json")
        folder = step_folder(place, "prepare") if config else place
        if not (folder / "dataset.json").is_file():
            raise ArtifactError(
                "no prepared data found",
                value=place,
                accepted="a run directory whose data is prepared, or a data set",
                next_step="groundrec run RECIPE --until prepare",
            )
        return cls(place, Recipe.model_validate(config or {}), folder, language == "zh")

    def say(self, en: str, zh: str) -> str:
        """Return the text in the language asked for."""
        return zh if self.zh else en

    @cached_property
    def dataset(self) -> PreparedDataset:
        """The prepared data set."""
        return load(self.folder)

    @property
    def trained_on(self) -> list[Queries]:
        """The training queries of the data set and of other domains."""
        return [
            self.dataset.train,
            *(load(path).train for path in other_domains(self.recipe).values()),
        ]

    @cached_property
    def histories(self) -> list[NDArray[np.integer]]:
        """The histories of test queries, or of a sample if there are many."""
        return [query.history for query in self.dataset.test.sample(SAMPLE, self.recipe.seed)]

    @cached_property
    def template(self) -> Template:
        """The template of the prompts."""
        return template_of(self.recipe, card=self.dataset.card)

    @cached_property
    def texts(self) -> Sequence[str]:
        """Return how each item is written in an answer."""
        return answers_of(self.recipe).texts(self.dataset.catalogue)

    def prompt_lengths(self) -> tuple[NDArray[np.int64], str]:
        """Return the tokens of each prompt, uncut, with the room it leaves for an answer, and whose
        tokens they are.
        """
        from groundrec.text.tokens import Encoder

        tokenizer, whose = self._tokenizer()
        template = self.template
        titles = self.dataset.catalogue.titles
        most = np.iinfo(np.int64).max
        encoder = Encoder(template, tokenizer, titles, cutoff_len=most, texts=self.texts)
        room = int(encoder.answers.lengths.max()) if template.running else 0
        return (
            np.array([len(encoder.prompt(history)) + room for history in self.histories]),
            whose,
        )

    def _tokenizer(self) -> tuple[PreTrainedTokenizerBase, str]:
        base = self.recipe.model.base_model
        for folder in (step_folder(self.place, "train"), Path(base)):
            if (folder / "tokenizer.json").is_file():
                from transformers import AutoTokenizer

                return AutoTokenizer.from_pretrained(folder, local_files_only=True), str(folder)
        if base != "scratch":
            raise ConfigError(
                "the tokenizer of this base model was not downloaded yet",
                value=base,
                accepted="a run that has trained, or a folder with tokenizer.json",
                next_step="groundrec run RECIPE --until train",
            )
        from groundrec.text.tokens import train_tokenizer

        size = self.recipe.model.scratch.vocabulary
        answer = self.template.answer_text
        learned = train_tokenizer((answer(text) for text in self.texts), size)
        return learned, self.say(
            f"{size:,} pieces learned from the titles", f"从标题学出的 {size:,} 个词片"
        )


def batch_lines(train: Train, language: str) -> Iterator[str]:
    """Yield how the batch is composed with 1, 2, 4 and 8 processes, if it can be."""
    for world in PROCESSES:
        try:
            line = explain_batch(train, world)
        except ConfigError:
            continue
        batch, micro, steps, _ = re.findall(r"\d+", line)
        yield (
            line
            if language == "en"
            else f"批次 {batch} = 每步 {micro} × 累积 {steps} × {world} 个进程"
        )


def _cutoff_len(x: ExampleData) -> Iterator[str]:
    lengths, whose = x.prompt_lengths()
    # A running list leaves room for an answer.
    part = x.say("prompt", "提示词")
    if x.template.running:
        part = x.say("prompt and longest answer", "提示词加最长的答案")
    yield x.say(
        f"{len(lengths):,} test queries, {part}, in tokens of {whose}:",
        f"{len(lengths):,} 个测试查询，{part}，token 数（{whose}）：",
    )
    yield from _distribution(x, lengths)
    limit = x.recipe.train.cutoff_len
    share = (lengths > limit).mean()
    yield x.say(
        f"{share:.1%} lose their oldest items at {limit}",
        f"取 {limit} 时，{share:.1%} 会丢掉最旧的物品",
    )


def _max_history(x: ExampleData) -> Iterator[str]:
    lengths = np.array([len(history) for history in x.histories])
    yield x.say(
        f"items in the histories of {len(lengths):,} test queries:",
        f"{len(lengths):,} 个测试查询的历史长度：",
    )
    yield from _distribution(x, lengths)


def _max_length(x: ExampleData) -> Iterator[str]:
    yield from _max_history(x)
    limit = x.recipe.sequential.max_length
    share = np.mean([len(history) > limit for history in x.histories])
    yield x.say(f"{share:.1%} are longer than {limit}", f"{share:.1%} 比 {limit} 长")


def _filters(x: ExampleData) -> Iterator[str]:
    rows = cast(dict[str, int], x.dataset.card.get("rows", {}))
    yield x.say(f"{rows.get('read', 0):,} rows read", f"读入 {rows.get('read', 0):,} 行")
    for name, taken, left in filter_counts(rows):
        plain = name.replace("_", " ")
        yield x.say(f"− {taken:,} {plain}, leaves {left:,}", f"− {taken:,}（{plain}），剩 {left:,}")


def _splits(x: ExampleData) -> Iterator[str]:
    for name in ("train", "valid", "test"):
        split = x.dataset.split(name)
        first, last = (
            str(np.datetime64(int(t), "s"))[:10] for t in (split.times.min(), split.times.max())
        )
        yield x.say(
            f"{name:<5} {len(split):>9,} queries, {first} to {last}",
            f"{name:<5} {len(split):>9,} 个查询，{first} 至 {last}",
        )


def _seen(x: ExampleData) -> Iterator[str]:
    queries = list(x.dataset.test.sample(SAMPLE, x.recipe.seed))
    again = sum(int(np.isin(query.targets, query.history).sum()) for query in queries)
    share = again / sum(len(query.targets) for query in queries)
    yield x.say(
        f"{share:.1%} of the test targets are in their own history: with it on, these can never"
        " be hit",
        f"{share:.1%} 的测试目标已在自己的历史里：开启时这部分永远不可能命中",
    )


def _shards(x: ExampleData) -> Iterator[str]:
    queries = len(x.dataset.test)
    size = x.recipe.recommend.shard_size
    yield x.say(
        f"{queries:,} test queries: {-(-queries // size):,} files",
        f"{queries:,} 个测试查询：{-(-queries // size):,} 个文件",
    )


def _examples(x: ExampleData) -> Iterator[str]:
    counts = [int(t.targets.lengths[t.history.lengths > 0].sum()) for t in x.trained_on]
    count = sum(counts)
    batch = x.recipe.train.batch_size
    used = sum(min(n, x.recipe.train.max_examples or n) for n in counts)
    yield x.say(f"{count:,} targets that have a history", f"有历史的目标共 {count:,} 个")
    if x.template.running:
        yield x.say("this template packs many of them into one row", "这个模板把许多目标排进同一行")
    else:
        steps = -(-used // batch)
        yield x.say(
            f"{used:,} rows, one for each: {steps:,} steps an epoch",
            f"每个一行，{used:,} 行：每轮 {steps:,} 步",
        )


def _batch(x: ExampleData) -> Iterator[str]:
    yield from batch_lines(x.recipe.train, "zh" if x.zh else "en")
    yield from _examples(x)


def _prompt(x: ExampleData) -> Iterator[str]:
    template = x.template
    titles = x.dataset.catalogue.titles
    query = next((q for q in x.dataset.test if len(q.history)), None)
    if query is None:
        return
    name = template_named(x.recipe, card=x.dataset.card)
    yield x.say(
        f"what `{name}` makes of a test query:",
        f"`{name}` 如何写一个测试查询：",
    )
    text = (
        template.text([titles[i] for i in query.history[-5:]])
        + "▸"
        + template.answer_text(x.texts[int(query.targets[0])])
    )
    yield from text.splitlines()


EXAMPLES: dict[str, Callable[[ExampleData], Iterator[str]]] = {
    "prepare.protocol": _splits,
    "prepare.valid_share": _splits,
    "prepare.test_share": _splits,
    "prepare.k_core": _filters,
    "prepare.min_rating": _filters,
    "prepare.bad_rows": _filters,
    "prepare.max_history": _max_history,
    "model.template": _prompt,
    "train.cutoff_len": _cutoff_len,
    "train.batch_size": _batch,
    "train.micro_batch_size": _batch,
    "train.epochs": _examples,
    "train.max_examples": _examples,
    "sequential.max_length": _max_length,
    "recommend.exclude_seen": _seen,
    "recommend.shard_size": _shards,
    "recommend.test_queries": _splits,
    "recommend.valid_queries": _splits,
}
"""The settings that have an example."""


def _distribution(x: ExampleData, values: NDArray[np.integer]) -> Iterator[str]:
    """Yield a histogram of integers, and their quantiles."""
    edges = np.unique(np.linspace(values.min(), values.max() + 1, BINS + 1).round().astype(int))
    counts, _ = np.histogram(values, edges)
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        bar = "█" * round(WIDTH * count / counts.max()) or ("▏" if count else "")
        yield f"{low:>7,} –{high - 1:>6,}  {bar} {count / len(values):.1%}"
    middle, most, longest = np.quantile(values, (0.5, 0.95, 1)).astype(int)
    yield x.say(
        f"median {middle:,}, 95% at most {most:,}, longest {longest:,}",
        f"中位数 {middle:,}，95% 不超过 {most:,}，最长 {longest:,}",
    )
