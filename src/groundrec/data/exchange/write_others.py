"""A finished data set in further file formats of published code: `bigrec`, `minionerec`, `recbole`.

    bigrec        train|valid|test.json, valid_5000|test_5000.json    lists of instruction, input, output
                  id2name.txt                                         title, tab, item number
    minionerec    train|valid|test/<name>.csv, info/<name>.txt        as `d3`, fewer columns, semantic ids
    recbole       <name>.inter, <name>.item                           atomic files: every interaction, no splits

`bigrec` and `minionerec` have one row per target, also of queries without a history. A sample is
drawn as pandas' `sample(5000, random_state=42)` draws it. Semantic ids are not learned here: each
item has one of a single token, its number. A target that pandas takes for a missing value, `NA` or
`None`, is written as it is, where the public notebook for games writes `nan`. Knows nothing about
how the data set was made.
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
from groundrec.core.runs import atomic_write
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
ENDS = re.compile(r"[\t\r\n]")
"""What ends a cell or a line of an atomic file, in which nothing can be quoted."""


class InstructionTemplate(Section):
    """What the rows of `bigrec` say, to the letter; a TOML file gives other words."""

    instruction: str = Field(
        default=(
            "Here is what a person chose, from the earliest to the latest. Name one more thing they"
            " will like."
        ),
        description="The instruction of every row.",
    )
    input: str = Field(
        default="So far, this person chose: {titles}\n ",
        description="The input; `{titles}` stands for the history, each title in quotation marks.",
    )

    @field_validator("input")
    @classmethod
    def _has_titles(cls, text: str) -> str:
        if text.count(TITLES) != 1 or '"' in text:
            raise ValueError(
                f"must hold {TITLES} exactly once, and no quotation mark: titles are found by"
                " theirs"
            )
        return text


def bigrec(reader: DatasetReader, folder: Path, template: Path | None = None) -> list[Path]:
    """Write BIGRec's files, in our words or those of a template; a small split's sample is all of
    it, shuffled.
    """
    words = _words(template)
    names = [
        *(f"{split}.json" for split in SPLITS),
        *(f"{split}_{SAMPLED}.json" for split in SPLITS[1:]),
    ]
    files = [folder / name for name in (*names, "id2name.txt")]
    with _together(files) as parts:
        for split, part in zip(SPLITS, parts, strict=False):
            sample = _sample(reader, split) if split != "train" else []
            found: dict[int, str] = {}
            _write(
                part, _as_json(_keeping(_instructions(reader, split, words), set(sample), found))
            )
            if split != "train":
                _write(
                    parts[names.index(f"{split}_{SAMPLED}.json")],
                    _as_json(found[n] for n in sample),
                )
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
    """Write RecBole's atomic files, by user, oldest first; tabs and line breaks in titles become
    blanks.
    """
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
            f"{item_id}\t{ENDS.sub(' ', title)}\n"
            for item_id, title in zip(ids, titles, strict=True)
        )
        _write(item, chain(["item_id:token\ttitle:token_seq\n"], rows))
    if changed := sum(bool(ENDS.search(title)) for title in titles):
        log.warning(
            f"{changed:,} titles had tabs or line breaks, which an atomic file cannot hold: they"
            " are blanks now"
        )
    return files


@contextlib.contextmanager
def _together(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield a path to write each file to; all are moved into place if the block ends well, else
    none.
    """
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
        what = "no such template"
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
        next_step="leave --template out for words of ours",
    ) from None


def _sample(reader: DatasetReader, split: str) -> list[int]:
    """Return the rows of a split that are in its sample, in the sample's order."""
    rows = sum(len(block.targets.values) for block in reader.blocks(split))
    return (
        np.random.RandomState(SAMPLE_SEED).choice(rows, min(SAMPLED, rows), replace=False).tolist()
    )


def _keeping(rows: Iterable[str], wanted: set[int], found: dict[int, str]) -> Iterator[str]:
    """Yield all rows, and keep the wanted ones."""
    for number, row in enumerate(rows):
        if number in wanted:
            found[number] = row
        yield row


def _as_json(rows: Iterable[str]) -> Iterator[str]:
    """Yield a JSON list of the rows, laid out as by `json.dump` with an indent of 4."""
    mark = "[\n"
    for row in rows:
        yield mark
        yield row
        mark = ",\n"
    yield "[]" if mark == "[\n" else "\n]"


def _instructions(reader: DatasetReader, split: str, words: InstructionTemplate) -> Iterator[str]:
    titles = [_escaped(f'"{title}"') for title in reader.catalogue.titles]
    head, tail = map(_escaped, words.input.split(TITLES))
    before = (
        f'    {{\n        "instruction": {json.dumps(words.instruction)},\n        "input": "{head}'
    )
    between = f'{tail}",\n        "output": "'
    for _, history, target in _rows(reader, split):
        yield (
            f'{before}{", ".join([titles[item] for item in history])}{between}{titles[target]}"\n '
            "   }"
        )


def _escaped(text: str) -> str:
    return json.dumps(text)[1:-1]


def _titled_rows(reader: DatasetReader, split: str) -> Iterator[Sequence[object]]:
    """Yield the header of MiniOneRec's files, then a row for each target; lists are as Python
    prints them.
    """
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
    """Yield user, history and target, a row for each target."""
    for block in reader.blocks(split):
        users = block.users.tolist()
        for user, history, targets in zip(users, block.history, block.targets, strict=True):
            items = history.tolist()
            for target in targets.tolist():
                yield user, items, target


def _interactions(events: Events, item_ids: Sequence[str]) -> Iterator[memoryview | bytes]:
    """Yield the lines of an `.inter` file, some at a time; without ratings where no interaction has
    one.
    """
    rated = any(events.ratings)
    names = ["user_id:token", "item_id:token", *["rating:float"] * rated, "timestamp:float"]
    yield "\t".join(names).encode() + b"\n"
    users = as_texts(events.users.tolist())
    items = as_texts(item_ids)
    ratings = as_texts(events.ratings)
    for first in range(0, len(events), LINES):
        some = slice(first, first + LINES)
        columns = [
            users.take(as_arrow(events.user[some])),
            items.take(as_arrow(events.items[some])),
        ]
        columns += [ratings.take(as_arrow(events.rating[some]))] * rated
        columns.append(as_arrow(events.time[some]).cast(pa.string()))
        lines = _joined([_joined(columns, "\t"), ""], "\n")
        yield bytes_of(lines)


def _joined(texts: Sequence[pa.StringArray | str], between: str) -> pa.StringArray:
    return pc.call_function("binary_join_element_wise", [*texts, between])


def _refuse_breaks(what: str, texts: Iterable[str]) -> None:
    if bad := next((text for text in texts if ENDS.search(text)), None):
        raise DataError(
            f"a {what} with a tab or a line break",
            value=repr(bad),
            accepted="names that an atomic file can hold: nothing can be quoted there",
            next_step="export to another format, or mend the raw data",
        )
