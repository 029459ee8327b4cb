"""Export a finished data set in the file formats `bigrec`, `minionerec` and `recbole`.

    bigrec        train|valid|test.json         lists of instruction, input, output
                  valid_5000|test_5000.json     random samples of them
                  id2name.txt                   title, tab, item number
    minionerec    train|valid|test/<name>.csv   like `d3`, with fewer columns and semantic ids
                  info/<name>.txt
    recbole       <name>.inter, <name>.item     atomic files: every interaction, no splits

`bigrec` and `minionerec` have one row per target, also for queries without a history. A sample is
the one pandas draws with `sample(5000, random_state=42)`. Semantic ids are not learned here: that
of an item is a single token, its number. A target that pandas reads as a missing value, `NA` or
`None`, is kept, where the public notebook for games writes `nan`. Knows nothing about how the data
set was made.
"""

from __future__ import annotations

import contextlib
import csv
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, ValidationError, field_validator

from groundrec.core.config import Section
from groundrec.core.errors import ConfigError, DataError
from groundrec.core.files import atomic_write
from groundrec.core.track import log
from groundrec.data.arrays import as_arrow, as_texts, bytes_of
from groundrec.data.dataset import DatasetReader
from groundrec.data.events import Events
from groundrec.data.exchange.write_d3 import name_of
from groundrec.data.protocols.windows import SPLITS

__all__ = ["InstructionTemplate", "bigrec", "minionerec", "recbole"]

SAMPLED = 5000
SAMPLE_SEED = 42
TITLES = "{titles}"
LINES = 1 << 16
BREAKS = re.compile(r"[\t\r\n]")
"""Characters that end a cell or a line of an atomic file, which has no quoting."""


class InstructionTemplate(Section):
    """The wording of the rows of `bigrec`; a TOML file can replace it."""

    instruction: str = Field(
        default=(
            "Here is what a person chose, from the earliest to the latest. Name one more thing they"
            " will like."
        ),
        description="The instruction of every row.",
    )
    input: str = Field(
        default="So far, this person chose: {titles}\n ",
        description="The input; `{titles}` becomes the history, each title in quotation marks.",
    )

    @field_validator("input")
    @classmethod
    def _has_titles(cls, text: str) -> str:
        if text.count(TITLES) != 1 or '"' in text:
            raise ValueError(
                f"must contain {TITLES} exactly once and no quotation mark, which only titles have"
            )
        return text


def bigrec(reader: DatasetReader, folder: Path, template: Path | None = None) -> list[Path]:
    """Write BIGRec's files, worded by a template; a small split is sampled whole, shuffled."""
    words = _words(template)
    names = [
        *(f"{split}.json" for split in SPLITS),
        *(f"{split}_{SAMPLED}.json" for split in SPLITS[1:]),
    ]
    files = [folder / name for name in (*names, "id2name.txt")]
    with _together(files) as parts:
        for split, part in zip(SPLITS, parts, strict=False):
            sample = _sample(reader, split) if split != "train" else []
            sampled_rows: dict[int, str] = {}
            rows = _collect(_instructions(reader, split, words), set(sample), sampled_rows)
            _write(part, _as_json(rows))
            if split != "train":
                sample_part = parts[names.index(f"{split}_{SAMPLED}.json")]
                _write(sample_part, _as_json(sampled_rows[number] for number in sample))
        _write(
            parts[-1], (f"{title}\t{item}\n" for item, title in enumerate(reader.catalogue.titles))
        )
        reader.check()
    return files


def minionerec(reader: DatasetReader, folder: Path) -> list[Path]:
    """Write MiniOneRec's files."""
    name = name_of(reader)
    titles = reader.catalogue.titles
    files = [folder / split / f"{name}.csv" for split in SPLITS] + [folder / "info" / f"{name}.txt"]
    with _together(files) as parts:
        for split, part in zip(SPLITS, parts, strict=False):
            with part.open("w", encoding="utf-8", newline="") as out:
                csv.writer(out).writerows(_titled_rows(reader, split))
        _write(
            parts[-1],
            (f"{_semantic_id(item)}\t{title}\t{item}\n" for item, title in enumerate(titles)),
        )
        reader.check()
    return files


def recbole(reader: DatasetReader, folder: Path) -> list[Path]:
    """Write RecBole's atomic files, by user and time, titles without tabs and line breaks."""
    events, _ = reader.events()
    for _ in chain.from_iterable(map(reader.blocks, SPLITS)):
        pass
    reader.check()
    ids = reader.catalogue.item_ids
    titles = reader.catalogue.titles
    _refuse_breaks("user", events.users.tolist())
    _refuse_breaks("item id", ids)
    files = [folder / f"{name_of(reader)}.{kind}" for kind in ("inter", "item")]
    with _together(files) as (inter, item):
        with inter.open("wb") as out:
            out.writelines(_interactions(events, ids))
        rows = (
            f"{item_id}\t{BREAKS.sub(' ', title)}\n"
            for item_id, title in zip(ids, titles, strict=True)
        )
        _write(item, chain(["item_id:token\ttitle:token_seq\n"], rows))
    if changed := sum(bool(BREAKS.search(title)) for title in titles):
        log.warning(
            f"{changed:,} titles had tabs or line breaks, which an atomic file cannot contain: they"
            " are now blanks"
        )
    return files


@contextlib.contextmanager
def _together(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield a temporary path for each file; they are moved into place if the block succeeds."""
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(atomic_write(file)) for file in files]


def _write(file: Path, texts: Iterable[str]) -> None:
    with file.open("w", encoding="utf-8", newline="") as out:
        out.writelines(texts)


def _words(template: Path | None) -> InstructionTemplate:
    if template is None:
        return InstructionTemplate()
    try:
        return InstructionTemplate.model_validate(
            tomllib.loads(template.read_text(encoding="utf-8"))
        )
    except OSError as error:
        what = "the template cannot be read"
        value = error.filename
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        what = f"template {template} is not valid TOML"
        value = error
    except ValidationError as error:
        first = error.errors()[0]
        what = f"template {template}: {first['msg']}"
        value = ".".join(map(str, first["loc"]))
    raise ConfigError(
        what,
        value=value,
        accepted='a TOML file with instruction = "…" and input = "… {titles} …"',
        next_step="leave --template out to use the default wording",
    ) from None


def _sample(reader: DatasetReader, split: str) -> list[int]:
    """Return the row numbers of a split's sample, in the order of the sample."""
    rows = sum(len(block.targets.values) for block in reader.blocks(split))
    return (
        np.random.RandomState(SAMPLE_SEED).choice(rows, min(SAMPLED, rows), replace=False).tolist()
    )


def _collect(rows: Iterable[str], numbers: set[int], into: dict[int, str]) -> Iterator[str]:
    """Yield all rows; put those with the given numbers into a dictionary."""
    for number, row in enumerate(rows):
        if number in numbers:
            into[number] = row
        yield row


def _as_json(rows: Iterable[str]) -> Iterator[str]:
    """Yield a JSON list of the rows, formatted like `json.dump` with an indent of 4."""
    separator = "[\n"
    for row in rows:
        yield separator
        yield row
        separator = ",\n"
    yield "[]" if separator == "[\n" else "\n]"


def _instructions(reader: DatasetReader, split: str, words: InstructionTemplate) -> Iterator[str]:
    titles = [_escaped(f'"{title}"') for title in reader.catalogue.titles]
    prefix, suffix = map(_escaped, words.input.split(TITLES))
    instruction = json.dumps(words.instruction)
    before = f'    {{\n        "instruction": {instruction},\n        "input": "{prefix}'
    between = f'{suffix}",\n        "output": "'
    for _, history, target in _rows(reader, split):
        yield (
            f'{before}{", ".join([titles[item] for item in history])}{between}{titles[target]}"\n '
            "   }"
        )


def _escaped(text: str) -> str:
    return json.dumps(text)[1:-1]


def _titled_rows(reader: DatasetReader, split: str) -> Iterator[Sequence[object]]:
    """Yield the header of MiniOneRec's files, then one row per target; lists as in Python."""
    values = ("item_title", "item_id", "item_sid")
    yield ("user_id", *chain.from_iterable((f"history_{value}", value) for value in values))
    titles = reader.catalogue.titles
    sids = [_semantic_id(item) for item in range(len(reader.catalogue))]
    shown = [[repr(value) for value in column] for column in (titles, range(len(titles)), sids)]
    for user, history, target in _rows(reader, split):
        lists = (f"[{', '.join([column[item] for item in history])}]" for column in shown)
        yield (
            user,
            *chain.from_iterable(zip(lists, (titles[target], target, sids[target]), strict=True)),
        )


def _semantic_id(item: int) -> str:
    return f"<a_{item}>"


def _rows(reader: DatasetReader, split: str) -> Iterator[tuple[str, list[int], int]]:
    """Yield user, history and target, one row per target."""
    for block in reader.blocks(split):
        users = block.users.tolist()
        for user, history, targets in zip(users, block.history, block.targets, strict=True):
            items = history.tolist()
            for target in targets.tolist():
                yield user, items, target


def _interactions(events: Events, item_ids: Sequence[str]) -> Iterator[memoryview | bytes]:
    """Yield the lines of an `.inter` file in chunks; without a rating column if there are none."""
    rated = any(events.ratings)
    names = ["user_id:token", "item_id:token", *["rating:float"] * rated, "timestamp:float"]
    yield "\t".join(names).encode() + b"\n"
    users = as_texts(events.users.tolist())
    items = as_texts(item_ids)
    ratings = as_texts(events.ratings)
    for first in range(0, len(events), LINES):
        chunk = slice(first, first + LINES)
        columns = [
            users.take(as_arrow(events.user[chunk])),
            items.take(as_arrow(events.items[chunk])),
        ]
        columns += [ratings.take(as_arrow(events.rating[chunk]))] * rated
        columns.append(as_arrow(events.time[chunk]).cast(pa.string()))
        lines = _joined([_joined(columns, "\t"), ""], "\n")
        yield bytes_of(lines)


def _joined(texts: Sequence[pa.StringArray | str], between: str) -> pa.StringArray:
    return pc.call_function("binary_join_element_wise", [*texts, between])


def _refuse_breaks(what: str, texts: Iterable[str]) -> None:
    if bad := next((text for text in texts if BREAKS.search(text)), None):
        raise DataError(
            f"a {what} contains a tab or a line break",
            value=repr(bad),
            accepted="names without them: an atomic file has no quoting",
            next_step="export to another format, or fix the raw data",
        )
