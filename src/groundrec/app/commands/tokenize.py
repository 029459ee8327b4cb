"""The command `groundrec tokenize`: texts, or an example of a run, as a model sees them.

Knows nothing about weights: only a model's tokenizer is read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape

from groundrec.core.errors import ConfigError, DataError
from groundrec.core.inputs import step_folder
from groundrec.core.runs import read_json

__all__ = ["tokenize"]

SIDES = ("left", "right")
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


def tokenize(
    model: Annotated[
        str,
        typer.Argument(
            help="A run directory, a model's folder, or hf:ORG/NAME, modelscope:ORG/NAME."
        ),
    ],
    text: Annotated[
        list[str] | None, typer.Argument(help="Texts; the lines of standard input without any.")
    ] = None,
    example: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Instead of a text: this training example of a run, as its training reads it.",
        ),
    ] = None,
    special: Annotated[
        bool, typer.Option("--special", help="Add the special tokens that the tokenizer adds.")
    ] = False,
    pad: Annotated[
        str, typer.Option(help="Where a batch is filled up to one length: left or right.")
    ] = "",
    truncate: Annotated[
        int | None, typer.Option(min=1, help="Keep so many tokens of each text.")
    ] = None,
    cut: Annotated[
        str, typer.Option(help="Which end --truncate cuts off: left or right.")
    ] = "right",
    look_up: Annotated[
        list[str] | None,
        typer.Option(help="An id or a piece of the vocabulary to find there; may be given again."),
    ] = None,
    decode: Annotated[
        list[int] | None,
        typer.Option(
            help="An id to turn back into text together with the others; may be given again."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show text as tokens: ids, pieces, places, masks, the way back; or which tokens of an example
    are learned.
    """
    for side, option in ((pad or "left", "--pad"), (cut, "--cut")):
        if side not in SIDES:
            raise ConfigError(f"no such side for {option}", value=side, accepted="left, right")
    tokenizer = _tokenizer(model)
    shown: dict[str, Any] = {"tokenizer": _facts(tokenizer)}
    if look_up:
        shown["vocabulary"] = [_looked_up(tokenizer, word) for word in look_up]
    if decode:
        shown["decoded"] = tokenizer.decode(_within(tokenizer, decode))
    if example is not None:
        shown["example"] = _example(Path(model), tokenizer, example)
    elif text or not (look_up or decode):
        lines = text or [line.rstrip("\n") for line in sys.stdin]
        shown["batch"] = _batch(
            tokenizer, lines, special=special, pad=pad, truncate=truncate, cut=cut
        )
    print(json.dumps(shown, ensure_ascii=False)) if as_json else _show(shown)


def _tokenizer(model: str) -> Any:
    from transformers import AutoTokenizer

    from groundrec.models.hubs import fetch, is_of_hub
    from groundrec.models.language import tokenizer_folder

    folder = Path(fetch(model).path) if is_of_hub(model) else Path(model)
    trained = step_folder(folder, "train")
    folder = trained if (folder / "config.json").is_file() and trained.is_dir() else folder
    return AutoTokenizer.from_pretrained(tokenizer_folder(folder), local_files_only=True)


def _facts(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocabulary": len(tokenizer),
        "special": {
            name: [str(token), tokenizer.convert_tokens_to_ids(str(token))]
            for name, token in _special(tokenizer)
        },
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "chat_template": bool(getattr(tokenizer, "chat_template", None)),
    }


def _special(tokenizer: Any) -> Iterable[tuple[str, Any]]:
    return (
        (name, token)
        for name, token in tokenizer.special_tokens_map.items()
        if isinstance(token, str)
    )


def _looked_up(tokenizer: Any, word: str) -> dict[str, Any]:
    """Return the id and piece of an entry of the vocabulary, named by either; a piece may be given
    as text.
    """
    if word.isdecimal():
        (number,) = _within(tokenizer, [int(word)])
        return {
            "id": number,
            "piece": tokenizer.convert_ids_to_tokens(number),
            "text": tokenizer.decode([number]),
        }
    vocabulary = tokenizer.get_vocab()
    found = vocabulary.get(word)
    if found is None:
        ids = tokenizer(word, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            pieces = tokenizer.convert_ids_to_tokens(ids)
            return {"id": None, "piece": word, "text": word, "made_of": pieces}
        found = ids[0]
    return {
        "id": found,
        "piece": tokenizer.convert_ids_to_tokens(found),
        "text": tokenizer.decode([found]),
    }


def _within(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    for number in ids:
        if not 0 <= number < len(tokenizer):
            raise DataError(
                "no such id in the vocabulary", value=number, accepted=f"0 … {len(tokenizer) - 1}"
            )
    return list(ids)


def _batch(
    tokenizer: Any, texts: Sequence[str], *, special: bool, pad: str, truncate: int | None, cut: str
) -> list[dict[str, Any]]:
    rows = [_row(tokenizer, text, special, truncate, cut) for text in texts]
    longest = max((len(row["ids"]) for row in rows), default=0)
    for row in rows if pad else []:
        _fill(tokenizer, row, longest - len(row["ids"]), pad)
    return rows


def _row(
    tokenizer: Any, text: str, special: bool, truncate: int | None, cut: str
) -> dict[str, Any]:
    found = tokenizer(text, add_special_tokens=special, return_offsets_mapping=tokenizer.is_fast)
    ids = found["input_ids"]
    places = (
        [list(place) for place in found["offset_mapping"]]
        if tokenizer.is_fast
        else [None] * len(ids)
    )
    dropped = max(0, len(ids) - truncate) if truncate else 0
    kept = slice(dropped, None) if cut == "left" else slice(0, len(ids) - dropped)
    whole = tokenizer.decode(ids, skip_special_tokens=True) == text
    ids = ids[kept]
    return {
        "text": text,
        "ids": ids,
        "pieces": tokenizer.convert_ids_to_tokens(ids),
        "places": places[kept],
        "attention_mask": [1] * len(ids),
        "special": [int(i in tokenizer.all_special_ids) for i in ids],
        "decoded": tokenizer.decode(ids),
        "comes_back": whole,
        "cut_off": dropped,
    }


def _fill(tokenizer: Any, row: dict[str, Any], missing: int, side: str) -> None:
    """Fill a row up to the length of its batch, on one side."""
    number = (
        tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    )
    if number is None:
        raise DataError(
            "the tokenizer has no token to pad with",
            value=tokenizer.name_or_path,
            next_step="leave out --pad",
        )
    fills = {
        "ids": number,
        "pieces": tokenizer.convert_ids_to_tokens(number),
        "places": None,
        "attention_mask": 0,
        "special": 1,
    }
    for key, fill in fills.items():
        more = [fill] * missing
        row[key] = more + row[key] if side == "left" else row[key] + more


def _example(path: Path, tokenizer: Any, number: int) -> dict[str, Any]:
    from groundrec.app.stages.artefacts import open_run
    from groundrec.text.tokens import IGNORED

    config = read_json(path / "config.json")
    if not config or not (step_folder(path, "prepare") / "dataset.json").is_file():
        raise DataError(
            "an example is one of a run's",
            value=path,
            accepted="a run directory",
            next_step="groundrec run RECIPE",
        )
    x = open_run(path)
    train = x.dataset.train
    encoder = x.encoder(tokenizer)
    if number >= len(train):
        raise DataError("no such example", value=number, accepted=f"0 … {len(train) - 1}")
    query = train[number]
    target = int(train.targets[number][0])
    if encoder.template.running:
        recent = query.history[len(query.history) - encoder.n_items_that_fit(query.history) :]
        made = encoder.running(np.append(recent, target))
    else:
        made = encoder.example(
            query.history, target, train_on_inputs=x.recipe.train.train_on_inputs, varied=True
        )
    ids = made.input_ids.tolist()
    return {
        "history": [x.dataset.catalogue.titles[item] for item in query.history],
        "target": x.dataset.catalogue.titles[target],
        "left_out": len(query.history) - encoder.n_items_that_fit(query.history),
        "text": tokenizer.decode(ids),
        "ids": ids,
        "pieces": tokenizer.convert_ids_to_tokens(ids),
        "learned": (made.labels != IGNORED).astype(int).tolist(),
    }


def _show(shown: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    facts = shown["tokenizer"]
    special = ", ".join(
        f"{name} {text} {number}" for name, (text, number) in facts["special"].items()
    )
    console.print(f"vocabulary {facts['vocabulary']:,}; {escape(special)}")
    console.print(
        f"pads on the {facts['padding_side']}, truncates on the {facts['truncation_side']}"
    )
    for entry in shown.get("vocabulary", []):
        made = (
            f" is no token; it is made of {entry['made_of']}"
            if "made_of" in entry
            else f" is {entry['id']}"
        )
        console.print(escape(f"{entry['piece']!r}{made}"))
    if "decoded" in shown:
        console.print(escape(repr(shown["decoded"])))
    for row in shown.get("batch", []):
        end = "" if row["comes_back"] else "; decoding does not give the text back"
        console.print(
            escape(
                f"\n{row['text']!r}: {sum(row['attention_mask'])} tokens, {row['cut_off']} cut"
                f" off{end}"
            )
        )
        for number, piece, place, mask in zip(
            *(row[k] for k in ("ids", "pieces", "places", "attention_mask")), strict=True
        ):
            console.print(
                escape(f"{number:>8}  {piece!r:<24} {place or ''}{'' if mask else ' padding'}")
            )
    if "example" in shown:
        _show_example(console, shown["example"])


def _show_example(console: Console, row: dict[str, Any]) -> None:
    learned = f"{sum(row['learned'])} of them learned (*)"
    console.print(
        f"\n{len(row['ids'])} tokens, {learned}; {row['left_out']} of the oldest items left out"
    )
    for number, piece, mark in zip(row["ids"], row["pieces"], row["learned"], strict=True):
        console.print(escape(f"{'*' if mark else ' '} {number:>8}  {piece!r}"))
