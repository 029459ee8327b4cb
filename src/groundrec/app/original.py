"""The originals' training command in their own words, as a recipe of ours.

Every word becomes a setting by the glossary's names; the data files are imported once. Knows nothing about training.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from groundrec.core.errors import ConfigError
from groundrec.core.glossary import find
from groundrec.core.recipe import load_recipe
from groundrec.core.runs import atomic_write

__all__ = ["Asked", "recipe_file", "understood"]

FILES = ("train_data_path", "val_data_path", "test_data_path", "train_file", "eval_file")
ALWAYS = ("group_by_length",)
"""What is done here whatever is said."""
UNSET = ("", "None", "none")


@dataclass(frozen=True)
class Asked:
    """What the words ask for: settings as TOML texts, the training data, where to write, whether to go on there."""

    settings: dict[str, str]
    data: Path
    out: Path
    resume: bool


def understood(words: Sequence[str]) -> Asked:
    """Return what `--word value …` asks for; raise `ConfigError` for a word that means nothing here."""
    given = _pairs(words)
    files = [_only(name, given[name]) for name in FILES if given.get(name, "") not in UNSET]
    if not files:
        raise ConfigError(
            "no training data", value="--train_data_path", accepted="BIGRec's train.json, or D3's train/….csv"
        )
    plain = {k: v for k, v in given.items() if k not in (*FILES, *ALWAYS, "output_dir", "resume_from_checkpoint")}
    settings = {_setting(word): _value(value) for word, value in plain.items() if not _is_unset(word, value)}
    lora = (
        {} if "train.method" in settings or not any("lora" in key for key in settings) else {"train.method": '"lora"'}
    )
    out, checkpoint = Path(given.get("output_dir") or "runs/train"), given.get("resume_from_checkpoint", "")
    if checkpoint in (*UNSET, "False"):
        return Asked({**settings, **lora}, files[0], out, resume=False)
    if checkpoint.lower() == "true" or out.resolve() in (
        Path(checkpoint).resolve(),
        *Path(checkpoint).resolve().parents,
    ):
        return Asked({**settings, **lora}, files[0], out, resume=True)
    return Asked({**settings, **lora, "train.resume_from": json.dumps(checkpoint)}, files[0], out, resume=False)


def recipe_file(asked: Asked) -> Path:
    """Return the recipe of what is asked, written beside its run directory, its data imported there first."""
    out = asked.out
    data, file = out.with_name(f"{out.name}-data"), out.with_name(f"{out.name}.toml")
    if not asked.data.is_file():
        raise ConfigError(
            "no such training data", value=asked.data, accepted="BIGRec's train.json, or D3's train/….csv"
        )
    d3 = asked.data.suffix == ".csv"
    settings = {"name": json.dumps(out.name), "data.dataset": json.dumps(str(data))}
    settings |= {"signals": "[]", "fuse.signals": "[]"}  # the originals train nothing beside the language model
    settings |= {"model.template": '"d3"' if d3 else '"bigrec"', **asked.settings}
    load_recipe(None, [f"{key}={value}" for key, value in settings.items()])
    if not (data / "dataset.json").exists():
        from groundrec.app.datasets import bring

        folder = asked.data.parent.parent if d3 else asked.data.parent
        bring(folder, "d3" if d3 else "bigrec", data, "")
    with atomic_write(file) as part:
        part.write_text("".join(f"{key} = {value}\n" for key, value in settings.items()), encoding="utf-8")
    return file


def _pairs(words: Sequence[str]) -> dict[str, str]:
    """Return values by word: `--word value`, `--word=value`, or `--word` alone, which is true."""
    found, rest = {}, list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise ConfigError("a value without its word", value=word, accepted="--word value")
        name, equals, value = word[2:].partition("=")
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        found[name.replace("-", "_")] = value
    return found


def _only(word: str, text: str) -> Path:
    """Return the file a word names; raise `ConfigError` where it names several, which would be several domains."""
    paths = json.loads(_listed(text))
    if len(paths) != 1:
        raise ConfigError(
            "training on several domains at once is not possible",
            value=f"--{word} {text}",
            accepted="one file",
            next_step="a run for each",
        )
    return Path(paths[0])


def _setting(word: str) -> str:
    """Return the setting a word means; raise `ConfigError` with what to do instead where it means none."""
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
