"""The flags of the published training commands, as a recipe.

The glossary says which setting each flag means; the data files are imported once. Knows nothing
about training.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from groundrec.app.commands.flag_values import flag_values
from groundrec.core.errors import ConfigError
from groundrec.core.files import atomic_write
from groundrec.core.glossary import find
from groundrec.core.recipe import load_recipe
from groundrec.text.prompts import has_words

__all__ = ["ParsedFlags", "parse_flags", "write_recipe"]

FILES = ("train_data_path", "val_data_path", "test_data_path", "train_file", "eval_file")
ALWAYS_ON = ("group_by_length",)
"""What is done here whatever its flag says."""
UNSET = ("", "None", "none")
TRAINING_FILES = "BIGRec's train.json, or D3's train/….csv"


@dataclass(frozen=True)
class ParsedFlags:
    """What the flags ask for: settings as TOML texts, training data by domain, where to write.

    The main domain comes first. `resume` continues the run that is already there.
    """

    given: dict[str, str]
    data: dict[str, Path]
    out: Path
    resume: bool

    @property
    def settings(self) -> dict[str, str]:
        """The whole recipe."""
        main, *others = self.data
        # BIGRec's files hold their own words, which `auto` keeps; D3's hold titles alone.
        of_data = '"d3"' if _is_d3(self.data[main]) else '"auto"'
        template = self.given.get("model.template", of_data)
        recipe = {
            "name": json.dumps(self.out.name),
            "data.dataset": json.dumps(str(self.imported(main))),
            # The published code trains nothing but the language model.
            "signals": "[]",
            "fuse.signals": "[]",
            "model.template": template,
        }
        if others or has_words(json.loads(template), main):
            recipe["model.domain"] = json.dumps(main)
        if others:
            also = (f"{_quote(domain)} = {_quote(self.imported(domain))}" for domain in others)
            recipe["train.extra_datasets"] = f"{{{', '.join(also)}}}"
        return {**recipe, **self.given}

    def imported(self, domain: str) -> Path:
        """Return where the data set of a domain is written."""
        main = next(iter(self.data))
        suffix = "" if domain == main else f"-{domain}"
        return self.out.with_name(f"{self.out.name}-data{suffix}")


def parse_flags(arguments: Sequence[str]) -> ParsedFlags:
    """Return what `--flag value …` asks for; raise `ConfigError` for an unknown flag."""
    given = flag_values(arguments, "train")
    files = {flag: given[flag] for flag in FILES if given.get(flag, "") not in UNSET}
    data = _domains({flag: _paths(text) for flag, text in files.items()})
    elsewhere = (*FILES, *ALWAYS_ON, "output_dir", "resume_from_checkpoint")
    settings = {
        _setting(flag): _toml(value)
        for flag, value in given.items()
        if flag not in elsewhere and not _is_unset(flag, value)
    }
    if "train.method" not in settings and any("lora" in key for key in settings):
        settings["train.method"] = '"lora"'
    out = Path(given.get("output_dir") or "runs/train")
    checkpoint = given.get("resume_from_checkpoint", "")
    if checkpoint in (*UNSET, "False"):
        return ParsedFlags(settings, data, out, resume=False)
    if checkpoint.lower() == "true" or _is_within(Path(checkpoint), out):
        return ParsedFlags(settings, data, out, resume=True)
    settings["train.resume_from"] = json.dumps(checkpoint)
    return ParsedFlags(settings, data, out, resume=False)


def write_recipe(parsed: ParsedFlags) -> Path:
    """Import the data and write the recipe, both next to the run directory; return the recipe."""
    file = parsed.out.with_name(f"{parsed.out.name}.toml")
    for data in parsed.data.values():
        if not data.is_file():
            raise ConfigError(
                "training data not found",
                value=data,
                accepted=TRAINING_FILES,
                next_step="--train_data_path with the path of such a file",
            )
    # Checked before importing, which takes long and writes files.
    load_recipe(None, [f"{key}={value}" for key, value in parsed.settings.items()])
    for domain, data in parsed.data.items():
        imported = parsed.imported(domain)
        if not (imported / "dataset.json").exists():
            from groundrec.app.commands.datasets import import_dataset

            import_dataset(_folder(data), "d3" if _is_d3(data) else "bigrec", imported, "")
    text = "".join(f"{key} = {value}\n" for key, value in parsed.settings.items())
    with atomic_write(file) as part:
        part.write_text(text, encoding="utf-8")
    return file


def _domains(files: dict[str, list[Path]]) -> dict[str, Path]:
    """Return the training file of each domain, which is named after its folder.

    `files` are those given with each flag.
    """
    if not any(files.values()):
        raise ConfigError(
            "no training data",
            value="--train_data_path",
            accepted=TRAINING_FILES,
            next_step="groundrec train --help",
        )
    flag, training = next((flag, paths) for flag, paths in files.items() if paths)
    domains = {re.sub(r"[^\w-]", "_", _folder(file).name): file for file in training}
    if len(domains) < len(training) or (len(domains) > 1 and any(map(_is_d3, training))):
        raise ConfigError(
            "several training files are several domains, each in a folder with its name",
            value=f"--{flag} {', '.join(map(str, training))}",
            accepted="BIGRec's train.json of several folders, or one file of D3",
        )
    for other, paths in files.items():
        if {_folder(file) for file in paths} != {_folder(file) for file in training}:
            raise ConfigError(
                "the splits of a domain must be files of one folder",
                value=f"--{other} {', '.join(map(str, paths))}",
                accepted=f"files next to {', '.join(map(str, training))}",
                next_step=(
                    "groundrec import FOLDER --format bigrec --out OUT, with a folder per domain"
                ),
            )
    return domains


def _paths(text: str) -> list[Path]:
    return [Path(path) for path in json.loads(_json_list(text))]


def _is_within(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _is_d3(file: Path) -> bool:
    return file.suffix == ".csv"


def _folder(file: Path) -> Path:
    """Return the folder that is imported for a training file."""
    return file.resolve().parent.parent if _is_d3(file) else file.resolve().parent


def _quote(value: object) -> str:
    return json.dumps(str(value), ensure_ascii=False)


def _setting(flag: str) -> str:
    """Return the setting a flag means; raise `ConfigError` unless it is exactly one."""
    settings, without = find(flag)
    chosen = [name for name in settings if name.startswith(("train.", "model."))] or settings
    if without or len(chosen) != 1:
        raise ConfigError(
            "no setting corresponds to this flag"
            if without
            else "this flag may mean several settings",
            value=f"--{flag}",
            accepted=", ".join(chosen) or "another way, which the next command explains",
            next_step=f"groundrec explain {flag}",
        )
    return chosen[0]


def _is_unset(flag: str, value: str) -> bool:
    return value in UNSET or (flag == "sample" and value == "-1")


def _toml(text: str) -> str:
    """Return a value as TOML: numbers, booleans and lists as they are, else a string."""
    if text in ("True", "False"):
        return text.lower()
    if text.startswith("["):
        return _json_list(text)
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


def _json_list(text: str) -> str:
    """Return a list as a shell leaves it, `[q_proj,v_proj]`, as JSON; one word is a list of one."""
    parts = text.strip().removeprefix("[").removesuffix("]").split(",")
    return json.dumps([part.strip().strip("'\"") for part in parts if part.strip()])
