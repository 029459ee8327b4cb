"""The words of the originals' training commands, as a recipe.

Which script is meant decides the defaults of the words that are left out. Knows nothing about
training.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import cast

from groundrec.app.commands.flag_values import NONE, Values, flag_values, only_one, typed
from groundrec.app.commands.published_data import DataFiles, find_data
from groundrec.app.commands.published_defaults import SCRIPTS, SETTINGS, Script, ScriptName
from groundrec.core.errors import ConfigError
from groundrec.core.files import read_json
from groundrec.core.glossary import find
from groundrec.text.prompts import has_words

__all__ = ["OWN", "ParsedFlags", "parse_flags"]

OWN = ("script", "test_data_path", "info_file", "allow_leaks")
"""Words of neither script: whose defaults are meant, files that are not where they are looked for,
and whether rows of validation or test may stand in train.
"""
LAUNCHERS = "local_rank"
"""A word that launchers add by themselves, to either script."""
PLACEHOLDER = "XXX"
"""What BIGRec's README gives as a checkpoint, which its script does not find and ignores."""
WATCHED = 100
"""Steps between the gradients that wandb's `watch` shows in transformers."""


@dataclass(frozen=True)
class ParsedFlags:
    """What the words ask for."""

    script: Script
    given: Mapping[str, str]
    """The words on the command line, as texts."""
    values: Values
    """Every word of the script: as given, or its default."""
    others: Values
    """Settings that words of neither script name."""
    out: Path

    @property
    def checkpoint(self) -> str:
        """What to resume from: empty for nothing, `True` for the run in `out`."""
        text = only_one(str(self.values["resume_from_checkpoint"]))
        if text.lower() in ("", "false", PLACEHOLDER.lower()):
            return ""
        return "True" if text.lower() == "true" else text

    @property
    def resolved(self) -> Values:
        """The settings that the words and the script's defaults decide, without the data."""
        found = dict(self.script.fixed)
        for word, value in self.values.items():
            if word in SETTINGS and SETTINGS[word] not in self.script.fixed:
                found[SETTINGS[word]] = value
        found["model.base_model"] = only_one(str(found["model.base_model"]))
        found |= _of_sample(self.values["sample"], self.script)
        found |= _of_wandb(self.values, self.out.name)
        if self.script.name == "bigrec":
            found["train.precision"] = _half_precision()
        if self.script.name == "d3" and any("lora" in setting for setting in self.others):
            found["train.method"] = "lora"
        found |= self.others
        found["train.resume_from"] = self.checkpoint if self.is_elsewhere else None
        return {setting: value for setting, value in found.items() if value not in (None, "")}

    @property
    def is_elsewhere(self) -> bool:
        """Whether the checkpoint is not one of the run in `out`."""
        if self.checkpoint in ("", "True"):
            return False
        return not Path(self.checkpoint).resolve().is_relative_to(self.out.resolve())

    @cached_property
    def data(self) -> list[DataFiles]:
        """The data files, the main domain's first; raises `ConfigError` for a missing one."""
        named = {
            word: value if isinstance(value, list) else [value]
            for word in self.script.files
            for value in [self.values[word]]
        }
        of_own = {word: only_one(self.given.get(word, "")) for word in OWN}
        leaks = typed("allow_leaks", self.given.get("allow_leaks", "False"), default=False)
        found = find_data(self.script, named, of_own["test_data_path"], of_own["info_file"])
        return [replace(files, allow_leaks=leaks) for files in found]

    @property
    def settings(self) -> dict[str, str]:
        """The whole recipe, as TOML texts by setting."""
        main, *others = self.data
        found: Values = {
            "name": self.out.name,
            "data.dataset": str(main.imported),
            # The published code trains nothing but the language model.
            "signals": [],
            "fuse.signals": [],
            "model.template": self._template(main),
            **self.resolved,
        }
        template = found["model.template"]
        known = (others and template == "auto") or has_words(template, main.domain)
        if "model.domain" not in found and known:
            found["model.domain"] = main.domain
        texts = {key: json.dumps(value, ensure_ascii=False) for key, value in found.items()}
        if others:
            also = (
                f"{json.dumps(one.domain, ensure_ascii=False)} = {json.dumps(str(one.imported))}"
                for one in others
            )
            texts["train.extra_datasets"] = f"{{{', '.join(also)}}}"
        return texts

    def _template(self, data: DataFiles) -> str:
        """Return the template: BIGRec's files hold their own words, which `auto` keeps.

        D3's hold titles alone, and some files of BIGRec's form have no words in common.
        """
        record = read_json(data.imported / "dataset.json")
        if self.script.name == "d3" or (record and not record["card"].get("words")):
            return self.script.name
        return "auto"

    def at(self, out: Path) -> ParsedFlags:
        """Return the same words for another run directory."""
        return replace(self, out=out)


def parse_flags(arguments: Sequence[str]) -> ParsedFlags:
    """Return what `--word value …` asks for; raise `ConfigError` for an unknown word."""
    given = _without_no(flag_values(arguments, "train"))
    script = _script(given)
    values: Values = {}
    for word, default in script.words.items():
        values[word] = typed(word, given[word], default) if word in given else default
    if values.get("lora_target_modules") == ["all-linear"]:
        values["lora_target_modules"] = "all-linear"
    others = {
        _setting(word, script): _plain(text)
        for word, text in given.items()
        if word not in script.words and word not in (*OWN, LAUNCHERS)
    }
    _check(values, script)
    return ParsedFlags(script, given, values, others, Path(str(values["output_dir"])))


def _without_no(given: Mapping[str, str]) -> dict[str, str]:
    """Return the words with `--notrain_on_inputs` as fire reads it: train_on_inputs is False."""
    known = {word for script in SCRIPTS.values() for word in script.words}
    found = {}
    for word, text in given.items():
        negated = word.removeprefix("no").removeprefix("_")
        if word.startswith("no") and word not in known and negated in known and text == "true":
            found[negated] = "False"
        else:
            found[word] = text
    return found


def _script(given: Mapping[str, str]) -> Script:
    """Return the script whose words are given; raise `ConfigError` where that is not certain."""
    named = given.get("script", "")
    if named:
        if named not in SCRIPTS:
            raise ConfigError(
                "no such script", value=f"--script {named}", accepted=", ".join(SCRIPTS)
            )
        return SCRIPTS[cast(ScriptName, named)]
    only = {name: list(_only(script, given)) for name, script in SCRIPTS.items()}
    meant = [name for name, words in only.items() if words]
    suffixes = {path.rpartition(".")[2] for path in _files(given)}
    fits = {"bigrec": suffixes <= {"json"}, "d3": suffixes <= {"csv"}}
    if len(meant) == 1 and fits[meant[0]]:
        return SCRIPTS[cast(ScriptName, meant[0])]
    words = " ".join(f"--{word}" for words in only.values() for word in words)
    files = ", ".join(_files(given))
    raise ConfigError(
        "is this BIGRec's train.py or D3's? Their defaults differ",
        value=" with ".join(filter(None, (words, files))) or "words that both have",
        accepted=(
            "BIGRec: --train_data_path and --val_data_path with .json files; D3: --train_file and"
            " --eval_file with .csv files"
        ),
        next_step="add --script bigrec, or --script d3",
    )


def _only(script: Script, given: Mapping[str, str]) -> Iterator[str]:
    """Yield the words given that this script alone has."""
    others = {word for other in SCRIPTS.values() if other is not script for word in other.words}
    return (word for word in given if word in script.words and word not in {*others, LAUNCHERS})


def _files(given: Mapping[str, str]) -> list[str]:
    """Return the files named by either script's words."""
    words = [word for script in SCRIPTS.values() for word in script.files]
    return [
        path for word in words if word in given for path in typed(word, given[word], []) if path
    ]


def _setting(word: str, script: Script) -> str:
    """Return the setting a word of neither script means; raise `ConfigError` unless it is one."""
    for other in SCRIPTS.values():
        if word in other.words and word not in SETTINGS:
            raise ConfigError(
                f"{script.title} has no such word; {other.title} has",
                value=f"--{word}",
                accepted=", ".join(f"--{known}" for known in script.words),
                next_step=f"leave it out, or add --script {other.name}",
            )
    settings, without = find(word)
    chosen = [name for name in settings if name.startswith(("train.", "model."))] or settings
    if without or len(chosen) != 1:
        raise ConfigError(
            "no setting corresponds to this flag"
            if without
            else "this flag may mean several settings",
            value=f"--{word}",
            accepted=", ".join(chosen) or "another way, which the next command explains",
            next_step=f"groundrec explain {word}",
        )
    return chosen[0]


def _plain(text: str) -> object:
    """Return the value of a setting that no script's default gives a type."""
    if text.startswith("["):
        return typed("", text, [])
    if text in ("True", "False"):
        return text == "True"
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return None if text in NONE else text


def _of_sample(sample: int, script: Script) -> Values:
    """Return what a number of rows decides; a negative one stands for all of them."""
    if sample < 0:
        return {"train.max_examples": None}
    found: Values = {"train.max_examples": sample}
    if script.name == "d3":  # which samples its validation file alike
        found["train.validation_queries"] = sample
    return found


def _of_wandb(values: Values, run: str) -> Values:
    """Return what the words for wandb decide: nothing, unless they name a project."""
    project = values["wandb_project"]
    if not project:
        return dict.fromkeys(("name", "track.project", "track.watch", "track.model"))
    return {
        "name": values["wandb_run_name"] or run,
        "track.board": "wandb",
        "track.project": project,
        "track.watch": WATCHED if values["wandb_watch"] in ("gradients", "all") else 0,
        "track.model": values["wandb_log_model"].lower() in ("true", "end", "1"),
    }


def _half_precision() -> str:
    """Return fp16, as BIGRec trains, where this machine can."""
    import torch

    return "fp16" if torch.cuda.is_available() else "fp32"


def _check(values: Values, script: Script) -> None:
    """Raise `ConfigError` for values that cannot be meant."""
    if values.get("K"):
        raise ConfigError(
            "K of D3's train.py is not the k-core, and has no counterpart",
            value=f"--K {values['K']}",
            accepted="0",
            next_step="leave it out; the k-core is groundrec prepare … --K",
        )
    if not values["base_model"] or not only_one(values["base_model"]):
        raise ConfigError(
            f"no model: {script.title} has no default either",
            value="--base_model",
            accepted="a folder, hf:ORG/NAME, modelscope:ORG/NAME, or scratch",
            next_step="--base_model FOLDER",
        )
    watch = values["wandb_watch"]
    log_model = values["wandb_log_model"].lower()
    for word, value, accepted in (
        ("wandb_watch", watch, ("", "false", "gradients", "all")),
        ("wandb_log_model", log_model, ("", "false", "true", "0", "1", "end")),
    ):
        if value not in accepted:
            raise ConfigError(
                "not a value of this word",
                value=f"--{word} {value}",
                accepted=", ".join(filter(None, accepted)),
                next_step=f"leave --{word} out",
            )
