"""`groundrec tokenize`: texts, or a training example of a run, as a model sees them.

Knows nothing about weights: only a model's tokenizer is read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import numpy as np
import typer

from groundrec.app.commands.options import Json, check_choice
from groundrec.app.commands.tokens_shown import (
    ExampleTokens,
    Shown,
    TextTokens,
    TokenizerFacts,
    VocabularyEntry,
    print_tokens,
)
from groundrec.core.errors import DataError
from groundrec.core.files import read_json
from groundrec.core.inputs import step_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["tokenize"]

SIDES = ("left", "right")
Model = Annotated[
    str,
    typer.Argument(help="A run directory, a model's folder, hf:ORG/NAME or modelscope:ORG/NAME."),
]
Texts = Annotated[
    list[str] | None, typer.Argument(help="Texts. Default: the lines of standard input.")
]
Example = Annotated[
    int | None,
    typer.Option(
        min=0, help="Instead of texts: this training example of a run, as training reads it."
    ),
]
Special = Annotated[
    bool, typer.Option("--special", help="Add the special tokens that the tokenizer adds.")
]
Pad = Annotated[str, typer.Option(help="Pad all texts to one length: on the left or right.")]
Truncate = Annotated[
    int | None, typer.Option(min=1, help="Keep at most this many tokens of each text.")
]
Cut = Annotated[str, typer.Option(help="Which end --truncate cuts off: left or right.")]
LookUp = Annotated[
    list[str] | None,
    typer.Option(help="An id or a piece to look up in the vocabulary; repeatable."),
]
Decode = Annotated[
    list[int] | None,
    typer.Option(help="An id to decode, together with the others given; repeatable."),
]


@dataclass(frozen=True)
class Batching:
    """How texts become rows of a batch."""

    special: bool
    pad: str
    truncate: int | None
    cut: str


def tokenize(
    model: Model,
    text: Texts = None,
    example: Example = None,
    special: Special = False,
    pad: Pad = "",
    truncate: Truncate = None,
    cut: Cut = "right",
    look_up: LookUp = None,
    decode: Decode = None,
    as_json: Json = False,
) -> None:
    """Tokenize TEXT with the tokenizer of MODEL: ids, pieces, positions, masks, decoded text.

    With --example, show which tokens of a training example are learned.
    """
    check_choice("--pad", pad or "left", SIDES)
    check_choice("--cut", cut, SIDES)
    tokenizer = _load_tokenizer(model)
    shown: Shown = {"tokenizer": _facts(tokenizer)}
    if look_up:
        shown["vocabulary"] = [_look_up(tokenizer, word) for word in look_up]
    if decode:
        shown["decoded"] = _decode(tokenizer, _known_ids(tokenizer, decode))
    if example is not None:
        shown["example"] = _tokenize_example(Path(model), tokenizer, example)
    elif text or not (look_up or decode):
        lines = text or [line.rstrip("\n") for line in sys.stdin]
        shown["batch"] = _tokenize_batch(tokenizer, lines, Batching(special, pad, truncate, cut))
    if as_json:
        print(json.dumps(shown, ensure_ascii=False))
    else:
        print_tokens(shown)


def _load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    from groundrec.models.hubs import fetch, is_of_hub
    from groundrec.models.language import tokenizer_folder

    folder = Path(fetch(model).path) if is_of_hub(model) else Path(model)
    trained = step_folder(folder, "train")
    is_run = (folder / "config.json").is_file() and trained.is_dir()
    of_model = tokenizer_folder(trained if is_run else folder)
    return AutoTokenizer.from_pretrained(of_model, local_files_only=True)


def _facts(tokenizer: PreTrainedTokenizerBase) -> TokenizerFacts:
    special = {
        name: (token, _id_of(tokenizer, token))
        for name, token in tokenizer.special_tokens_map.items()
        if isinstance(token, str)
    }
    return {
        "vocabulary": len(tokenizer),
        "special": special,
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "chat_template": bool(getattr(tokenizer, "chat_template", None)),
    }


def _id_of(tokenizer: PreTrainedTokenizerBase, piece: str) -> int:
    return cast(int, tokenizer.convert_tokens_to_ids(piece))


def _pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    return [str(piece) for piece in tokenizer.convert_ids_to_tokens(list(ids))]


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids)))


def _look_up(tokenizer: PreTrainedTokenizerBase, word: str) -> VocabularyEntry:
    """Return an entry of the vocabulary by its id, its piece, or a text that is one piece."""
    if word.isdecimal():
        (number,) = _known_ids(tokenizer, [int(word)])
        return _entry(tokenizer, number)
    number = tokenizer.get_vocab().get(word)
    if number is None:
        ids = tokenizer(word, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            return {"id": None, "piece": word, "text": word, "made_of": _pieces(tokenizer, ids)}
        number = ids[0]
    return _entry(tokenizer, number)


def _entry(tokenizer: PreTrainedTokenizerBase, number: int) -> VocabularyEntry:
    (piece,) = _pieces(tokenizer, [number])
    return {"id": number, "piece": piece, "text": _decode(tokenizer, [number])}


def _known_ids(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[int]:
    for number in ids:
        if not 0 <= number < len(tokenizer):
            raise DataError(
                "no such id in the vocabulary",
                value=number,
                accepted=f"0 … {len(tokenizer) - 1}",
                next_step="give an id of this tokenizer",
            )
    return list(ids)


def _tokenize_batch(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], how: Batching
) -> list[TextTokens]:
    rows = [_tokenize_text(tokenizer, text, how) for text in texts]
    if how.pad:
        longest = max((len(row["ids"]) for row in rows), default=0)
        for row in rows:
            _pad(tokenizer, row, longest - len(row["ids"]), how.pad)
    return rows


def _tokenize_text(tokenizer: PreTrainedTokenizerBase, text: str, how: Batching) -> TextTokens:
    is_fast = bool(tokenizer.is_fast)
    made = tokenizer(text, add_special_tokens=how.special, return_offsets_mapping=is_fast)
    ids = made["input_ids"]
    # Only fast tokenizers know where in the text a token lies.
    places: list[list[int] | None] = [None] * len(ids)
    if is_fast:
        places = [list(place) for place in made["offset_mapping"]]
    dropped = max(0, len(ids) - how.truncate) if how.truncate else 0
    kept = slice(dropped, None) if how.cut == "left" else slice(0, len(ids) - dropped)
    comes_back = tokenizer.decode(ids, skip_special_tokens=True) == text
    ids = ids[kept]
    return {
        "text": text,
        "ids": ids,
        "pieces": _pieces(tokenizer, ids),
        "places": places[kept],
        "attention_mask": [1] * len(ids),
        "special": [int(i in tokenizer.all_special_ids) for i in ids],
        "decoded": _decode(tokenizer, ids),
        "comes_back": comes_back,
        "cut_off": dropped,
    }


def _pad(tokenizer: PreTrainedTokenizerBase, row: TextTokens, missing: int, side: str) -> None:
    """Pad a row to the length of its batch, on one side."""
    usable = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    number = next((int(token) for token in usable if isinstance(token, int)), None)
    if number is None:
        raise DataError(
            "the tokenizer has no token to pad with",
            value=tokenizer.name_or_path,
            accepted="a tokenizer with a padding token or an end-of-text token",
            next_step="leave out --pad",
        )
    before, after = (missing, 0) if side == "left" else (0, missing)
    (piece,) = _pieces(tokenizer, [number])
    row["ids"] = [number] * before + row["ids"] + [number] * after
    row["pieces"] = [piece] * before + row["pieces"] + [piece] * after
    row["places"] = [None] * before + row["places"] + [None] * after
    row["attention_mask"] = [0] * before + row["attention_mask"] + [0] * after
    row["special"] = [1] * before + row["special"] + [1] * after


def _tokenize_example(path: Path, tokenizer: PreTrainedTokenizerBase, number: int) -> ExampleTokens:
    from groundrec.app.stages.artefacts import open_run
    from groundrec.text.tokens import IGNORED

    config = read_json(path / "config.json")
    if not config or not (step_folder(path, "prepare") / "dataset.json").is_file():
        raise DataError(
            "--example needs a run whose data is prepared",
            value=path,
            accepted="a run directory",
            next_step="groundrec run RECIPE",
        )
    run = open_run(path)
    dataset = run.dataset
    if number >= len(dataset.train):
        raise DataError(
            "no such training example",
            value=number,
            accepted=f"0 … {len(dataset.train) - 1}",
            next_step="--example with one of these",
        )
    query = dataset.train[number]
    target = int(dataset.train.targets[number][0])
    encoder = run.encoder(tokenizer)
    left_out = len(query.history) - encoder.n_items_that_fit(query.history, target)
    if encoder.template.running:
        made = encoder.running(np.append(query.history[left_out:], target))
    else:
        learns_prompt = run.recipe.train.train_on_inputs
        made = encoder.example(query.history, target, train_on_inputs=learns_prompt, varied=True)
    ids = made.input_ids.tolist()
    return {
        "history": [dataset.catalogue.titles[item] for item in query.history],
        "target": dataset.catalogue.titles[target],
        "left_out": left_out,
        "text": _decode(tokenizer, ids),
        "ids": ids,
        "pieces": _pieces(tokenizer, ids),
        "learned": (made.labels != IGNORED).astype(int).tolist(),
    }
