"""The originals' training command in their own words, as a recipe of ours.

Every word becomes a setting by the glossary's names; the data files are imported once. Knows
nothing about training.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from groundrec.core.errors import ConfigError
from groundrec.core.glossary import find
from groundrec.core.recipe import load_recipe
from groundrec.core.runs import atomic_write
from groundrec.text.prompts import has_words

__all__ = ["Asked", "recipe_file", "understood"]

FILES = ("train_data_path", "val_data_path", "test_data_path", "train_file", "eval_file")
ALWAYS = ("group_by_length",)
"""What is done here whatever is said."""
UNSET = ("", "None", "none")


@dataclass(frozen=True)
class Asked:
    """What the words ask for: settings as TOML texts, training data by domain, where to write,
    whether to go on there.

    The main domain comes first.
    """

    given: dict[str, str]
    data: dict[str, Path]
    out: Path
    resume: bool

    @property
    def settings(self) -> dict[str, str]:
        """The whole recipe."""
        main, *others = self.data
        template = self.given.get(
            "model.template", '"d3"' if _is_d3(self.data[main]) else '"bigrec"'
        )
        found = {
            "name": json.dumps(self.out.name),
            "data.dataset": json.dumps(str(self.imported(main))),
        }
        found |= {
            "signals": "[]",
            "fuse.signals": "[]",
        }  # the originals train nothing beside the language model
        found["model.template"] = template
        if has_words(json.loads(template), main):
            found["model.domain"] = json.dumps(main)
        if others:
            also = (f"{_text(domain)} = {_text(self.imported(domain))}" for domain in others)
            found["train.also"] = f"{{{', '.join(also)}}}"
        return {**found, **self.given}

    def imported(self, domain: str) -> Path:
        """Return where the data set of a domain is written."""
        main = next(iter(self.data))
        return self.out.with_name(
            f"{self.out.name}-data" if domain == main else f"{self.out.name}-data-{domain}"
        )


def understood(words: Sequence[str]) -> Asked:
    """Return what `--word value …` asks for; raise `ConfigError` for a word that means nothing
    here.
    """
    given = _pairs(words)
    data = _domains(
        {word: _files(given[word]) for word in FILES if given.get(word, "") not in UNSET}
    )
    plain = {
        k: v
        for k, v in given.items()
        if k not in (*FILES, *ALWAYS, "output_dir", "resume_from_checkpoint")
    }
    settings = {
        _setting(word): _value(value) for word, value in plain.items() if not _is_unset(word, value)
    }
    lora = (
        {}
        if "train.method" in settings or not any("lora" in key for key in settings)
        else {"train.method": '"lora"'}
    )
    out = Path(given.get("output_dir") or "runs/train")
    checkpoint = given.get("resume_from_checkpoint", "")
    if checkpoint in (*UNSET, "False"):
        return Asked({**settings, **lora}, data, out, resume=False)
    if checkpoint.lower() == "true" or out.resolve() in (
        Path(checkpoint).resolve(),
        *Path(checkpoint).resolve().parents,
    ):
        return Asked({**settings, **lora}, data, out, resume=True)
    return Asked(
        {**settings, **lora, "train.resume_from": json.dumps(checkpoint)}, data, out, resume=False
    )


def recipe_file(asked: Asked) -> Path:
    """Return the recipe of what is asked, written beside its run directory, its data imported there
    first.
    """
    file = asked.out.with_name(f"{asked.out.name}.toml")
    for data in asked.data.values():
        if not data.is_file():
            raise ConfigError(
                "no such training data",
                value=data,
                accepted="BIGRec's train.json, or D3's train/….csv",
            )
    load_recipe(None, [f"{key}={value}" for key, value in asked.settings.items()])
    for domain, data in asked.data.items():
        if not (asked.imported(domain) / "dataset.json").exists():
            from groundrec.app.commands.datasets import bring

            bring(_folder(data), "d3" if _is_d3(data) else "bigrec", asked.imported(domain), "")
    with atomic_write(file) as part:
        part.write_text(
            "".join(f"{key} = {value}\n" for key, value in asked.settings.items()), encoding="utf-8"
        )
    return file


def _pairs(words: Sequence[str]) -> dict[str, str]:
    """Return values by word: `--word value`, `--word=value`, or `--word` alone, which is true."""
    found = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise ConfigError("a value without its word", value=word, accepted="--word value")
        name, equals, value = word[2:].partition("=")
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        found[name.replace("-", "_")] = value
    return found


def _domains(files: dict[str, list[Path]]) -> dict[str, Path]:
    """Return the training file of each domain, which is called as its folder is; `files` are those
    of each word.
    """
    if not any(files.values()):
        raise ConfigError(
            "no training data",
            value="--train_data_path",
            accepted="BIGRec's train.json, or D3's train/….csv",
        )
    word, training = next((word, named) for word, named in files.items() if named)
    found = {re.sub(r"[^\w-]", "_", _folder(file).name): file for file in training}
    if len(found) < len(training) or (len(found) > 1 and any(map(_is_d3, training))):
        raise ConfigError(
            "several files to train on are several domains, each in a folder that is called so",
            value=f"--{word} {', '.join(map(str, training))}",
            accepted="BIGRec's train.json of several folders, or one file of D3",
        )
    for other, named in files.items():
        if {_folder(file) for file in named} != {_folder(file) for file in training}:
            raise ConfigError(
                "the splits of a domain are files of one folder, and these are others than are"
                " trained on",
                value=f"--{other} {', '.join(map(str, named))}",
                accepted=f"files beside {', '.join(map(str, training))}",
                next_step=(
                    "groundrec import FOLDER --format bigrec --out OUT, a folder for each domain"
                ),
            )
    return found


def _files(text: str) -> list[Path]:
    return [Path(path) for path in json.loads(_listed(text))]


def _is_d3(file: Path) -> bool:
    return file.suffix == ".csv"


def _folder(file: Path) -> Path:
    """Return the folder that is imported for a training file."""
    return file.resolve().parent.parent if _is_d3(file) else file.resolve().parent


def _text(value: object) -> str:
    return json.dumps(str(value), ensure_ascii=False)


def _setting(word: str) -> str:
    """Return the setting a word means; raise `ConfigError` with what to do instead where it means
    none.
    """
    settings, without = find(word)
    chosen = [name for name in settings if name.startswith(("train.", "model."))] or settings
    if without or len(chosen) != 1:
        raise ConfigError(
            "this word is no setting here" if without else "this word may mean several settings",
            value=f"--{word}",
            accepted=", ".join(chosen) or "another way",
            next_step=f"groundrec explain {word}",
        )
    return chosen[0]


def _is_unset(word: str, value: str) -> bool:
    return value in UNSET or (word == "sample" and value == "-1")


def _value(text: str) -> str:
    """Return a value as TOML: numbers, truth and lists as they are, everything else as text."""
    if text in ("True", "False"):
        return text.lower()
    if text.startswith("["):
        return _listed(text)
    try:
        json.loads(text)
        return text
    except ValueError:
        return text if _is_number(text) else json.dumps(text, ensure_ascii=False)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _listed(text: str) -> str:
    """Return a list as a shell leaves it, `[q_proj,v_proj]`, as JSON; one word is a list of one."""
    parts = text.strip().removeprefix("[").removesuffix("]").split(",")
    return json.dumps([part.strip().strip("'\"") for part in parts if part.strip()])
