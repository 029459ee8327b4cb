"""The data files that a published training command names: found, and imported once.

A file that is named is read itself, never another one of its folder. Imports lie in
`imported-data/`, each under the name of its domain and a digest of the files: commands that name
the same files share one, and changed files are imported anew. Knows nothing about what importers
read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from filelock import FileLock, Timeout

from groundrec import __version__
from groundrec.app.commands.published_defaults import Script
from groundrec.core.errors import ConfigError
from groundrec.core.files import digest
from groundrec.core.track import log

__all__ = ["DATASETS", "DataFiles", "find_data"]

DATASETS = Path("imported-data")
"""Not `datasets`, which `python -m` would take for the package of that name."""
LISTS = ("movies.dat", "id2name.txt")
"""Lists of titles that BIGRec's importer reads beside the training file."""
CATEGORY = re.compile(r"_\d+_\d+-\d+-\d+-\d+$")
"""What follows the category in the names of D3's files."""
SPLITS = {"valid": ("valid.json", "valid_5000.json"), "test": ("test.json", "test_5000.json")}
TRAINING_FILES = {"bigrec": "BIGRec's train.json", "d3": "D3's train/….csv"}


@dataclass(frozen=True)
class DataFiles:
    """The files of one domain: by split, and D3's list of titles as `info`."""

    domain: str
    format: str
    files: Mapping[str, Path]
    allow_leaks: bool = False
    """Whether rows of validation or test may stand in train."""

    @cached_property
    def imported(self) -> Path:
        """Where these files are imported to."""
        beside = [self.files["train"].parent / name for name in LISTS]
        lists = [path for path in beside if self.format == "bigrec" and path.is_file()]
        contents = [[name, _sha256(path)] for name, path in sorted(self.files.items())]
        contents += [[path.name, _sha256(path)] for path in lists]
        contents += [["allow_leaks"]] * self.allow_leaks
        return DATASETS / f"{self.domain}-{digest(self.format, __version__, contents)[:12]}"

    def import_once(self) -> Path:
        """Return the imported data set, which the first process to ask for it makes."""
        out = self.imported
        DATASETS.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out.with_name(f".{out.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info(f"waiting for another process that imports {out}")
            lock.acquire()
        try:
            if not (out / "dataset.json").is_file():
                self._import(out)
        finally:
            lock.release()
        return out

    def _import(self, out: Path) -> None:
        from groundrec.app.commands.datasets import import_dataset

        listed = ", ".join(f"{split} {path}" for split, path in self.files.items())
        log.info(f"importing {listed} to {out}")
        import_dataset(
            self.files["train"].parent,
            self.format,
            out,
            "",
            self.files,
            allow_leaks=self.allow_leaks,
        )


def find_data(
    script: Script, named: Mapping[str, Sequence[str]], test: str = "", info: str = ""
) -> list[DataFiles]:
    """Return the files of each domain, the main one first.

    `named` are the paths given with each of the script's words for files, `test` and `info` those
    of the test split and of D3's titles; what is not named is looked for beside the training file.
    Raises `ConfigError` for a file that is missing.
    """
    word, valid_word = script.files
    training = [Path(path) for path in named[word] if path]
    if not training:
        raise ConfigError(
            "no training data",
            value=f"--{word}",
            accepted=TRAINING_FILES[script.name],
            next_step=f"--{word} with the path of such a file",
        )
    for path in training:
        _require(path, word, TRAINING_FILES[script.name])
    domains = [_domain(path, script) for path in training]
    if len(set(domains)) < len(training) or (len(training) > 1 and script.name == "d3"):
        raise ConfigError(
            "several training files are several domains, each in a folder with its name",
            value=f"--{word} {', '.join(map(str, training))}",
            accepted="BIGRec's train.json of several folders, or one file of D3",
        )
    valid = _by_domain(valid_word, named[valid_word], training)
    tests = _by_domain("test_data_path", [test] if test else [], training)
    found = []
    for domain, path in zip(domains, training, strict=True):
        files = {
            "train": path,
            "valid": valid.get(path) or _beside(path, "valid", script),
            "test": tests.get(path) or _beside(path, "test", script),
        }
        if script.name == "d3":
            files["info"] = _info(path, info)
        found.append(DataFiles(domain, script.name, files))
    return found


def _by_domain(word: str, paths: Sequence[str], training: Sequence[Path]) -> dict[Path, Path]:
    """Return the named file of each training file: the only one, or the one of its folder."""
    named = [Path(path) for path in paths if path]
    for path in named:
        _require(path, word, "a file that exists")
    if len(training) == 1 and len(named) == 1:
        return {training[0]: named[0]}
    folders = {path.resolve().parent: path for path in named}
    found = {path: folders[path.resolve().parent] for path in training if _in(path, folders)}
    if named and not len(named) == len(found) == len(training):
        raise ConfigError(
            "the files of several domains must lie beside their training files, one each",
            value=f"--{word} {', '.join(map(str, named))}",
            accepted=f"files of one folder with {', '.join(map(str, training))}",
            next_step=f"--{word} with such a list",
        )
    return found


def _in(path: Path, folders: Mapping[Path, Path]) -> bool:
    return path.resolve().parent in folders


def _beside(training: Path, split: str, script: Script) -> Path:
    """Return a split that the command does not name, as the published layouts have it."""
    folder = training.parent
    if script.name == "d3":
        candidates = [folder.parent / split / training.name]
    else:
        names = SPLITS[split]
        candidates = [place / name for place in (folder, folder / split) for name in names]
    found = next((path for path in candidates if path.is_file()), None)
    if found:
        log.info(f"no {split} file is named: {found} is used")
        return found
    word = script.files[1] if split == "valid" else "test_data_path"
    raise ConfigError(
        f"no {split} split",
        value=f"not there: {', '.join(map(str, candidates))}",
        accepted=f"such a file, or --{word}",
        next_step=f"--{word} FILE",
    )


def _info(training: Path, named: str) -> Path:
    """Return D3's list of titles for a training file, of whose name it may be the beginning."""
    if named:
        return _require(Path(named), "info_file", "a file of D3's info/")
    folder = training.parent.parent / "info"
    found = folder / f"{training.stem}.txt"
    return _require(found, "info_file", "D3's info/….txt with the training file's name")


def _require(path: Path, word: str, accepted: str) -> Path:
    if path.is_file():
        return path
    raise ConfigError(
        "file not found",
        value=f"--{word} {path}",
        accepted=accepted,
        next_step=f"--{word} with the path of such a file",
    )


def _domain(training: Path, script: Script) -> str:
    """Return the name of a domain: its folder's, or what D3's file names begin with."""
    whole = training.resolve()
    name = CATEGORY.sub("", whole.stem) if script.name == "d3" else whole.parent.name
    return re.sub(r"[^\w-]", "_", name)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
