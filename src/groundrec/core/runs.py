"""Run directories: what was asked, what was done, and which of it is still true.

    runs/<name>/
      recipe.toml · recipe-given.toml · config.json · job.json
      status.json · progress.json · run.lock · log.txt · metrics.jsonl
      <step>/manifest.json     written last and atomically: output without it does not count

A step is a stage (`train`) or a part of one (`recommend/test`); its folder has its name. It is
finished when its manifest holds the present inputs, and resumed when `inputs.json`, written before
any work, holds them. Otherwise its folder is emptied first. Where several processes were started,
the main one does all of this and the others follow. Knows nothing about what stages do.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from groundrec.core.affects import deciding
from groundrec.core.alive import LOCK, Identity, lock_folder, peak_bytes
from groundrec.core.environment import environment
from groundrec.core.errors import ArtifactError
from groundrec.core.files import digest, read_json, write_json
from groundrec.core.inputs import (
    AFTER,
    Inputs,
    Outcome,
    as_recorded,
    difference,
    plain,
    step_folder,
)
from groundrec.core.processes import MAIN, SINGLE_PROCESS, Processes
from groundrec.core.recipe import Recipe, as_toml, load_recipe, whole_text
from groundrec.core.stop import Stopped
from groundrec.core.track import log

__all__ = ["RECIPE", "IfExists", "Run"]

IfExists = Literal["resume", "new", "fail"]
RECIPE = "recipe.toml"
RECIPE_GIVEN = "recipe-given.toml"
"""The recipe as given, where `--set` or a grid changed what was run."""


@dataclass(frozen=True)
class Run:
    """One run directory, and the processes at work in it."""

    path: Path
    processes: Processes = SINGLE_PROCESS

    @classmethod
    @contextlib.contextmanager
    def shared(
        cls,
        path: Path,
        recipe: Recipe,
        recipe_file: Path | None,
        if_exists: IfExists,
        processes: Processes,
    ) -> Iterator[Run]:
        """Yield the run that the main process opens, in every process; all show signs of life
        within the block.
        """
        with contextlib.ExitStack() as stack:
            opened = ""
            if processes.is_main:
                opened = str(cls.place(path, recipe, if_exists))
                _refuse_supervised(Path(opened))
                stack.enter_context(lock_folder(Path(opened)))
                cls(Path(opened)).write(recipe, recipe_file)
            here, place = stack.enter_context(processes.rendezvous(path / "processes", opened))
            run = cls(Path(place), here)
            run.status(stage="", state="starting")
            try:
                yield run
            except BaseException as error:
                if (read_json(run.path / "status.json") or {}).get("state") not in (
                    "failed",
                    "stopped",
                ):
                    run._ended("", error)
                raise

    @classmethod
    def open(cls, path: Path, recipe: Recipe, recipe_file: Path | None, if_exists: IfExists) -> Run:
        """Create the directory, or reuse it if the user said so; never silently."""
        run = cls(cls.place(path, recipe, if_exists))
        run.write(recipe, recipe_file)
        return run

    @staticmethod
    def place(path: Path, recipe: Recipe, if_exists: IfExists) -> Path:
        """Return where a run may be written; raise `ArtifactError` where it may not. Nothing is
        written.
        """
        if _is_run(path):
            if if_exists == "fail":
                raise ArtifactError(
                    "this run directory is in use",
                    value=path,
                    accepted="a new --run-dir, or --if-exists resume|new",
                    next_step="add --if-exists resume to continue it",
                )
            if if_exists == "new":
                path = _free_name(path)
            _refuse_other_data(path, recipe)
        elif path.exists() and (path.is_file() or any(map(_is_foreign, path.iterdir()))):
            raise ArtifactError(
                "not a run directory, and not empty",
                value=path,
                accepted="an empty or new directory",
                next_step="choose another --run-dir",
            )
        return path

    def write(self, recipe: Recipe, recipe_file: Path | None) -> None:
        """Write the recipe that is run, and every setting as it is used.

        `recipe.toml` is the text given, with what it extends, if that says it all. Otherwise it
        has every setting that is not a default, and the text given stays beside it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        # First: a process that is killed right here leaves a run directory, which can be resumed.
        write_json(self.path / "config.json", recipe.model_dump(mode="json"))
        own = self.path / RECIPE
        given = self.path / RECIPE_GIVEN
        source = recipe_file or (own if own.exists() else None)
        is_own = source is not None and source.resolve() == own.resolve()
        text = whole_text(source) if source else b""
        if source and load_recipe(source)[0] == recipe:
            if not is_own:
                own.write_bytes(text)
                given.unlink(missing_ok=True)
        else:
            if source and not (is_own and given.exists()):
                given.write_bytes(text)
            own.write_text(as_toml(recipe), encoding="utf-8")

    def step(
        self,
        name: str,
        inputs: Inputs,
        work: Callable[[Path], dict[str, Any] | None],
        *,
        together: bool = False,
    ) -> Path:
        """Run `work(directory)` unless it was done with the same inputs; log which, and why. Return
        the directory.

        `name` is a stage, or `STAGE/…` for one of its steps. `inputs` must name everything that
        decides the output. `work` may find its own earlier partial output. Whatever `work` returns
        goes into the manifest as `result`. Of several processes only the main one works, as if
        alone, and the others return when it has finished; all work where it is to be done
        `together`.
        """
        inputs = plain(inputs)
        if not self.processes.is_main:
            return self._follow(name, inputs, work if together else None)
        outcome = self.outcome(name, inputs)
        log.info(str(outcome))
        if outcome.kind == "skip":
            return self.folder(name)
        folder = self._prepare_folder(name, inputs, outcome)
        started = time.time()
        self.status(stage=name, state="running")
        try:
            with contextlib.nullcontext() if together else self.processes.as_single_process():
                result = work(folder)
        except BaseException as error:
            self._ended(name, error)
            raise
        self._finish(name, folder, inputs, result or {}, time.time() - started)
        return folder

    def folder(self, step: str) -> Path:
        """Return where the output of a step is, or will be."""
        return step_folder(self.path, step)

    def outcome(self, name: str, inputs: Inputs) -> Outcome:
        """Return what `step` would do with these inputs, and why."""
        folder = self.folder(name)
        if manifest := read_json(folder / "manifest.json"):
            reason = difference(manifest["inputs"], inputs)
            return Outcome(name, "redo" if reason else "skip", reason or manifest["fingerprint"])
        if started := read_json(folder / "inputs.json"):
            reason = difference(started, inputs)
            return Outcome(name, "restart" if reason else "resume", reason)
        return Outcome(name, "start")

    def _follow(
        self,
        name: str,
        inputs: Inputs,
        work: Callable[[Path], dict[str, Any] | None] | None,
    ) -> Path:
        """Return when the main process has finished a step; take part in its `work` where there is
        some.
        """

        def finished() -> bool:
            return self.outcome(name, inputs).kind == "skip"

        def started() -> bool:
            return self.outcome(name, inputs).kind == "resume"

        if work:
            self.processes.wait(lambda: finished() or started(), name, [MAIN])
            if not finished():
                work(self.folder(name))
        self.processes.wait(finished, name, [MAIN])
        return self.folder(name)

    def _finish(
        self, name: str, folder: Path, inputs: Inputs, result: dict[str, Any], seconds: float
    ) -> None:
        manifest = {
            "stage": name,
            "fingerprint": digest(name, inputs),
            "inputs": inputs,
            "result": result,
            "seconds": round(seconds, 1),
            **environment(),
        }
        write_json(folder / "manifest.json", manifest)
        self.status(stage=name, state="finished")
        log.info(f"  {name} finished in {seconds:.1f} s")

    def _prepare_folder(self, name: str, inputs: Inputs, outcome: Outcome) -> Path:
        """Return the folder to work in, emptied unless the step is resumed."""
        former = self.folder(name)
        if outcome.kind == "resume":
            return former
        # The two files first: a removal cut short must not look finished.
        for file in ("manifest.json", "inputs.json"):
            (former / file).unlink(missing_ok=True)
        shutil.rmtree(former, ignore_errors=True)
        folder = self.path / name
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "inputs.json", inputs)
        return folder

    def manifest(self, step: str) -> dict[str, Any]:
        """Return the manifest of a finished step, or raise `ArtifactError`."""
        manifest = read_json(self.folder(step) / "manifest.json")
        if not manifest:
            raise ArtifactError(
                f"this run has not finished `{step}`",
                value=self.folder(step),
                accepted="a run whose stages are finished",
                next_step="groundrec run RECIPE.toml --if-exists resume",
            )
        return manifest

    def fingerprint(self, step: str) -> str:
        """Return the fingerprint of a finished step, or raise `ArtifactError`."""
        return self.manifest(step)["fingerprint"]

    def require(self, step: str, inputs: Inputs) -> None:
        """Raise `ArtifactError` unless the step is finished, and was made from these inputs among
        others.
        """
        inputs = plain(inputs)
        before = as_recorded(self.manifest(step)["inputs"], inputs)
        before = {key: value for key, value in before.items() if key in inputs}
        if reason := difference(before, inputs):
            raise ArtifactError(
                f"`{step}` of this run was made from other settings: {reason}",
                value=self.path,
                accepted="a run that was finished after its settings changed",
                next_step="groundrec run RECIPE.toml --if-exists resume",
            )

    def status(self, **values: Any) -> None:
        """Write `status.json`: what the run is doing now, and which process does it; only the main
        process writes.
        """
        if self.processes.is_main:
            process = {**Identity.of().to_json(), "peak": peak_bytes(), "updated": time.time()}
            write_json(self.path / "status.json", {**process, **values})

    def _ended(self, stage: str, error: BaseException) -> None:
        if isinstance(error, Stopped | KeyboardInterrupt):
            self.status(stage=stage, state="stopped")
        else:
            self.status(stage=stage, state="failed", error=f"{type(error).__name__}: {error}")


def _is_foreign(file: Path) -> bool:
    """Return whether a file is none that a run killed at its very start leaves behind."""
    return file.name != LOCK and not file.name.endswith(".part")


def _is_run(path: Path) -> bool:
    """Return whether a run is in `path`; the folder of a model has a `config.json` too."""
    config = read_json(path / "config.json")
    is_recipe = isinstance(config, dict) and config.keys() >= {"data", "train"}
    return is_recipe or (path / "job.json").exists()


def _refuse_supervised(path: Path) -> None:
    """Raise `ArtifactError` where a detached run waits or works in `path`, unless this is its own
    process.
    """
    keeper = Identity.from_json((read_json(path / "supervisor.json") or {}).get("supervisor"))
    if keeper and keeper.is_alive() and keeper.pid not in (os.getppid(), os.getpid()):
        raise ArtifactError(
            "a detached run waits or works in this run directory",
            value=path,
            accepted="one run at a time",
            next_step=f"groundrec runs show {path}, or groundrec runs stop {path}",
        )


def _refuse_other_data(path: Path, recipe: Recipe) -> None:
    """Raise `ArtifactError` where the run in `path` has prepared another data set: its work would
    be thrown away.
    """
    manifest = read_json(step_folder(path, "prepare") / "manifest.json")
    if not manifest:
        return
    now = {AFTER: {}, **deciding(recipe, "prepare")}
    before = as_recorded(manifest["inputs"], now)
    sections = ("data", "prepare")
    reason = difference(
        {section: before[section] for section in sections if section in before},
        {section: now[section] for section in sections},
    )
    if reason:
        raise ArtifactError(
            f"this run directory holds another data set: {reason}",
            value=path,
            accepted="the same [data] and [prepare] sections, or another directory",
            next_step="--run-dir runs/OTHER, or --if-exists new",
        )


def _free_name(path: Path) -> Path:
    number = 2
    while (candidate := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return candidate
