"""Base models from Hugging Face, ModelScope and wandb, by name.

`hf:ORG/NAME[@REVISION]` and `modelscope:ORG/NAME[@REVISION]` are downloaded by the hubs' own
clients into their caches, which can resume and are shared with other tools; an artifact,
`wandb:ENTITY/PROJECT/NAME:vN`, goes into groundrec's cache. Downloads are checked against the hub's
checksums and recorded with their revision; from then on the name is pinned to these files, and no
connection is needed. Knows nothing about what a model is used for.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from groundrec.core import config_model
from groundrec.core.errors import ConfigError, DataError, MissingDependency
from groundrec.core.files import digest, read_json, write_json
from groundrec.core.track import log
from groundrec.data.raw.download import cache_folder
from groundrec.data.raw.fetch import download_error, modelscope_client, sha256_of
from groundrec.models.language import LanguageModel, load

__all__ = ["HUBS", "Pinned", "base", "fetch", "is_of_hub", "parse", "pinned"]

FORM = re.compile(r"(hf|modelscope):([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
ARTIFACT = re.compile(r"(wandb):([\w.-]+/[\w.-]+/[\w.-]+):(v\d+)")
"""Only a numbered version is immutable; `latest` is not."""
WANTED = re.compile(r"[^/]+\.(?:json|txt|model|jinja|safetensors)|LICENSE[^/]*")
PICKLED = re.compile(r"pytorch_model[^/]*\.bin")
"""Weights that are read only with `model.weights = "any"`."""
DOUBLED = re.compile(r"consolidated[^/]*")
"""The same weights in a layout that transformers does not use."""
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


class Name(NamedTuple):
    """The parts of a model's name; without a revision it means the newest."""

    hub: str
    repository: str
    revision: str | None


class Listed(NamedTuple):
    """Size and checksum of a file on the hub: `sha256:…`, Git's `blob:…`, or empty."""

    size: int
    checksum: str


@dataclass(frozen=True)
class Pinned:
    """A downloaded model: its path, revision, and the size and sha256 of each file."""

    name: str
    revision: str
    path: str
    files: dict[str, list[Any]]

    @property
    def size(self) -> int:
        """Total size in bytes."""
        return sum(size for size, _ in self.files.values())

    @property
    def contents(self) -> str:
        """Digest of all files, which does not depend on the model's name or hub."""
        return digest(sorted((name, sha256) for name, (_, sha256) in self.files.items()))

    def is_whole(self) -> bool:
        """Return whether every file exists with its size; the contents are not read."""
        files = ((Path(self.path) / name, size) for name, (size, _) in self.files.items())
        return all(file.is_file() and file.stat().st_size == size for file, size in files)

    def drop_broken(self, *, thorough: bool) -> None:
        """Remove files whose size, or if `thorough` whose checksum, has changed."""
        for name, (size, sha256) in self.files.items():
            file = Path(self.path) / name
            if file.is_file() and (
                file.stat().st_size != size or (thorough and sha256_of(file) != sha256)
            ):
                _remove(file)

    def faults(self) -> Iterator[str]:
        """Yield what is wrong with the files; all of them are read."""
        for name, (size, sha256) in self.files.items():
            file = Path(self.path) / name
            if not file.is_file():
                yield f"{name} is missing"
            elif file.stat().st_size != size:
                yield f"{name} has {file.stat().st_size:,} bytes instead of {size:,}"
            elif sha256_of(file) != sha256:
                yield f"{name} has another checksum than when it was fetched"
        if "config.json" not in self.files:
            yield "config.json is not among the files"
        if not self.files.keys() & set(TOKENIZERS):
            yield f"no tokenizer: none of {', '.join(TOKENIZERS)}"
        if not any(name.endswith(".safetensors") for name in self.files):
            yield "no safetensors: only --set model.weights=any loads it"


def is_of_hub(name: str) -> bool:
    """Return whether the name of a base model refers to a hub."""
    return name.partition(":")[0] in HUBS and ":" in name


def parse(name: str) -> Name:
    """Return the parts of a name; raise `ConfigError` if it is malformed."""
    parts = FORM.fullmatch(name) or ARTIFACT.fullmatch(name)
    if not parts:
        raise ConfigError(
            "not the name of a model on a hub",
            value=name,
            accepted=(
                "hf:ORG/NAME, modelscope:ORG/NAME, either with @REVISION; or"
                " wandb:ENTITY/PROJECT/NAME:vN"
            ),
            next_step="--set model.base_model=hf:HuggingFaceTB/SmolLM2-135M",
        )
    return Name(*parts.groups())


def base(section: config_model.Model, texts: Iterable[str] = ()) -> LanguageModel:
    """Return the model `section.base_model`, downloading it on first use."""
    del texts
    return load(Path(fetch(section.base_model, section.weights).path), section.weights)


def pinned() -> list[Pinned]:
    """Return the downloaded models, sorted by name."""
    records = [read_json(file) for file in sorted(_records().glob("*.json"))]
    return sorted((Pinned(**record) for record in records if record), key=lambda model: model.name)


def fetch(
    name: str, weights: str = "safetensors", *, newest: bool = False, thorough: bool = False
) -> Pinned:
    """Return the model `name`, downloading it if files are missing or `newest` is set.

    With `thorough`, checksums of existing files are checked too. Raises `DataError` if the download
    fails or differs from the hub's checksums, or if no weights in it may be loaded.
    """
    parts = parse(name)
    record = _records() / f"{digest(name)}.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(record.with_suffix(".lock")):
        known = read_json(record)
        here = Pinned(**known) if known else None
        if here:
            here.drop_broken(thorough=thorough)
        if here and not newest and here.is_whole():
            _chosen({file: Listed(0, "") for file in here.files}, name, weights)
            return here
        # Repair broken files from the revision they came from, not from the newest.
        asked = (
            parts
            if newest or not here or parts.hub != "hf"
            else parts._replace(revision=here.revision)
        )
        log.info(f"fetching {name}")
        model = HUBS[parts.hub](name, asked, partial(_chosen, name=name, weights=weights))
        write_json(record, asdict(model))
    log.info(f"{name}: revision {model.revision}, {model.size:,} bytes, {model.path}")
    return model


def _records() -> Path:
    return cache_folder() / "models"


def _chosen(listed: dict[str, Listed], name: str, weights: str) -> dict[str, Listed]:
    """Return which files to download; raise `DataError` if there are no usable weights."""
    wanted = {
        file: entry
        for file, entry in listed.items()
        if WANTED.fullmatch(file) and not DOUBLED.match(file)
    }
    if any(file.endswith(".safetensors") for file in wanted):
        return wanted
    pickled = {file: entry for file, entry in listed.items() if PICKLED.fullmatch(file)}
    if pickled and weights == "any":
        return wanted | pickled
    raise DataError(
        "the model has no safetensors",
        value=f"{name}: {', '.join(sorted(pickled or listed)[:8])}",
        accepted="*.safetensors, which cannot hold code",
        next_step="choose another revision or model"
        + (", or --set model.weights=any to load pickled weights" if pickled else ""),
    )


Choose = Callable[[dict[str, Listed]], dict[str, Listed]]


def _of_hugging_face(name: str, asked: Name, choose: Choose) -> Pinned:
    from huggingface_hub import HfApi, RepoFile

    hub = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        # Only this call distinguishes a missing model, a missing login and a broken connection.
        first = Path(hub.hf_hub_download(asked.repository, "config.json", revision=asked.revision))
        commit = first.parent.name
        tree = hub.list_repo_tree(asked.repository, revision=commit)
        listed = {
            f.path: Listed(f.size, f"sha256:{f.lfs.sha256}" if f.lfs else f"blob:{f.blob_id}")
            for f in tree
            if isinstance(f, RepoFile)
        }
        files = choose(listed)
        path = Path(
            hub.snapshot_download(asked.repository, revision=commit, allow_patterns=list(files))
        )
    except (OSError, ValueError) as error:
        raise download_error(name, error) from None
    return Pinned(name, commit, str(path), _checked(name, path, files))


def _of_modelscope(name: str, asked: Name, choose: Choose) -> Pinned:
    hub, failed = modelscope_client()
    revision = asked.revision or "master"
    try:
        tree = hub.list_repo_files(asked.repository, "model", revision=revision, recursive=False)
        listed = {
            f.path: Listed(f.size, f"sha256:{f.sha256}" if f.sha256 else "")
            for f in tree
            if f.type != "tree"
        }
        files = choose(listed)
        entries = [
            {"Path": file, "Size": entry.size, "Sha256": entry.checksum.partition(":")[2]}
            for file, entry in files.items()
        ]
        path = hub.download_repo(asked.repository, "model", revision=revision, file_list=entries)
    except (OSError, ValueError, failed) as error:
        raise download_error(name, error) from None
    return Pinned(name, revision, str(path), _checked(name, path, files))


def _checked(name: str, path: Path, files: dict[str, Listed]) -> dict[str, list[Any]]:
    """Return size and sha256 of each file.

    A file whose checksum is not the hub's is removed, and `DataError` raised.
    """
    checked = {}
    for file, listed in files.items():
        local = path / file
        kind, _, expected = listed.checksum.partition(":")
        sha256 = sha256_of(local)
        checksum = _blob(local) if kind == "blob" else sha256
        if expected and checksum != expected:
            _remove(local)
            raise DataError(
                f"{file} of {name} has a wrong checksum",
                value=checksum,
                accepted=expected,
                next_step="run the same command again to download this file again",
            )
        checked[file] = [local.stat().st_size, sha256]
    return checked


def _of_wandb(name: str, asked: Name, choose: Choose) -> Pinned:
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingDependency("wandb", "wandb") from None
    path = _records() / "wandb" / digest(name)
    try:
        artifact = wandb.Api().artifact(f"{asked.repository}:{asked.revision}")
        listed = {
            file: Listed(entry.size or 0, "") for file, entry in artifact.manifest.entries.items()
        }
        files = choose(listed)
        for file in files:
            artifact.get_entry(file).download(root=str(path))
    except (OSError, ValueError, wandb.Error) as error:
        raise _no_artifact(name, error) from None
    return Pinned(name, str(asked.revision), str(path), _checked(name, path, files))


def _no_artifact(name: str, error: Exception) -> DataError:
    return DataError(
        f"the artifact cannot be downloaded: {error}",
        value=name,
        accepted="an artifact on a reachable server, and a login there",
        next_step="wandb login; for your own server first export WANDB_BASE_URL=https://…",
    )


def _remove(file: Path) -> None:
    """Remove a file and the target of its link: the clients' caches link names to contents."""
    file.resolve().unlink()
    file.unlink(missing_ok=True)


def _blob(file: Path) -> str:
    """Return the Git object id of a file's contents."""
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


HUBS: dict[str, Callable[[str, Name, Choose], Pinned]] = {
    "hf": _of_hugging_face,
    "modelscope": _of_modelscope,
    "wandb": _of_wandb,
}
"""The function that downloads a model, by the hub in its name."""
