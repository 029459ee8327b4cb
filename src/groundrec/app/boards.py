"""Boards that show a run's numbers: wandb, TensorBoard and Trackio, through their own clients.

What fails here is reported once and never stops a run. Knows nothing about what the numbers mean.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import operator
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Protocol

from groundrec.core.config_track import Track
from groundrec.core.errors import ConfigError, MissingDependency
from groundrec.core.files import read_json
from groundrec.core.inputs import step_folder
from groundrec.core.recipe import Recipe
from groundrec.core.track import Histogram, gradients_to, log, metrics_to

__all__ = ["require", "shown"]

PACKAGES = ("tensorboard", "trackio", "wandb")
SHOWN_ON = {"watch": PACKAGES, "model": ("wandb",)}

ELSEWHERE = ("TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID", "TRACKIO_SERVER_URL", "TRACKIO_SPACE_ID")
"""Where Trackio would upload a run to; here it stays in its directory."""


class Board(Protocol):
    """What shows numbers."""

    def write(self, stage: str, values: Mapping[str, object]) -> None:
        """Show values that a stage has logged together."""
        ...

    def gradients(self, step: int, found: dict[str, Histogram]) -> None:
        """Show the distribution of each weight's gradient."""
        ...

    def close(self, run: Path) -> None:
        """Show the final results of a run, and close the board."""
        ...


def require(section: Track) -> None:
    """Raise `MissingDependency` if the board's client is missing.

    Raises `ConfigError` for a setting that the board does not show.
    """
    package = section.board
    for name, boards in SHOWN_ON.items():
        if getattr(section, name) and package not in boards:
            raise ConfigError(
                f"track.{name} needs a board that shows it",
                value=f'track.board = "{package}"',
                accepted=f"track.board: {', '.join(boards)}",
                next_step=f"--set track.board={boards[-1]}, or leave out track.{name}",
            )
    if (
        package in PACKAGES
        and section.mode != "disabled"
        and importlib.util.find_spec(package) is None
    ):
        raise MissingDependency(package, package)


@contextlib.contextmanager
def shown(recipe: Recipe, run: Path) -> Iterator[None]:
    """Within the block, show on the recipe's board what is written to `metrics.jsonl`."""
    section = recipe.track
    if section.board == "none" or section.mode == "disabled":
        yield
        return
    kept: list[Board] = []

    def attempt(work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:
            kept.clear()
            log.warning(f"  {section.board} failed, and the run continues without it: {error}")

    attempt(lambda: kept.append(_open_board(recipe, run)))
    metrics_to(
        lambda stage, values: attempt(lambda: [board.write(stage, values) for board in kept])
    )
    gradients_to(
        lambda step, measure: attempt(lambda: [board.gradients(step, measure()) for board in kept]),
        section.watch,
    )
    try:
        yield
    finally:
        metrics_to(None)
        gradients_to(None)
        attempt(lambda: [board.close(run) for board in kept])


def _open_board(recipe: Recipe, run: Path) -> Board:
    boards: dict[str, Callable[[Recipe, Path], Board]] = {
        "tensorboard": _TensorBoard,
        "trackio": _Trackio,
    }
    return boards.get(recipe.track.board, _Wandb)(recipe, run)


class _Wandb:
    def __init__(self, recipe: Recipe, run: Path) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        section = recipe.track
        self._wandb = wandb
        self._with_model = section.model
        # The only characters that the name of an artifact may have.
        self._name = re.sub(r"[^\w.-]", "-", recipe.name)
        self._run = wandb.init(
            project=section.project,
            name=recipe.name,
            dir=run,
            mode=section.mode,  # type: ignore[arg-type]
            config=recipe.model_dump(mode="json"),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def write(self, stage: str, values: Mapping[str, object]) -> None:
        self._run.log({f"{stage}/{name}": value for name, value in values.items()})

    def gradients(self, step: int, found: dict[str, Histogram]) -> None:
        self._run.log(_histograms(found, self._wandb.Histogram))

    def close(self, run: Path) -> None:
        methods = _report(run)
        if methods:
            head, *rows = _table(methods)
            self._run.log({"report": self._wandb.Table(columns=head, data=rows)})
        if self._with_model and (step_folder(run, "train") / "manifest.json").is_file():
            model = self._wandb.Artifact(f"{self._name}-model", type="model")
            for file in sorted(p for p in step_folder(run, "train").iterdir() if p.is_file()):
                model.add_file(str(file))
            self._run.log_artifact(model)
        self._run.finish()


class _TensorBoard:
    def __init__(self, recipe: Recipe, run: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run / "tensorboard"))
        self._steps = 0
        self._writer.add_text("recipe", f"```json\n{recipe.model_dump_json(indent=2)}\n```")

    def write(self, stage: str, values: Mapping[str, object]) -> None:
        self._steps += 1
        for name, value in _numbers(values).items():
            self._writer.add_scalar(f"{stage}/{name}", value, _step(values, self._steps))
        for name, value in _load().items():
            self._writer.add_scalar(f"system/{name}", value, self._steps)

    def gradients(self, step: int, found: dict[str, Histogram]) -> None:
        for name, (counts, edges) in found.items():
            middles = [(a + b) / 2 for a, b in itertools.pairwise(edges)]
            self._writer.add_histogram_raw(
                f"gradients/{name}",
                min=edges[0],
                max=edges[-1],
                num=sum(counts),
                sum=sum(map(operator.mul, counts, middles)),
                sum_squares=sum(n * middle**2 for n, middle in zip(counts, middles, strict=True)),
                bucket_limits=edges[1:],
                bucket_counts=counts,
                global_step=step,
            )

    def close(self, run: Path) -> None:
        methods = _report(run)
        for method, values in methods.items():
            for name, value in values.items():
                self._writer.add_scalar(f"report/{method}/{name}", value, 0)
        if methods:
            head, *rows = _table(methods)
            lines = [head, ["---"] * len(head), *rows]
            self._writer.add_text(
                "report", "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)
            )
        self._writer.close()


class _Trackio:
    """Trackio; its client measures the machine itself and reports its own write errors once."""

    def __init__(self, recipe: Recipe, run: Path) -> None:
        folder = run.resolve() / "trackio"
        self._lines = 0
        folder.mkdir(parents=True, exist_ok=True)
        with _silent(), _trackio_in(folder) as self._trackio:
            self._run = self._trackio.init(
                project=recipe.track.project,
                name=recipe.name,
                config=recipe.model_dump(mode="json"),
                resume="allow",
                embed=False,
            )

    def write(self, stage: str, values: Mapping[str, object]) -> None:
        self._lines += 1
        shown = {f"{stage}/{name}": value for name, value in values.items()}
        self._run.log(shown, step=_step(values, self._lines))

    def gradients(self, step: int, found: dict[str, Histogram]) -> None:
        self._run.log(_histograms(found, self._trackio.Histogram), step=step)

    def close(self, run: Path) -> None:
        methods = _report(run)
        if methods:
            head, *rows = _table(methods)
            self._run.log({"report": self._trackio.Table(columns=head, data=rows)})
        with _silent():
            self._trackio.finish()


@contextlib.contextmanager
def _trackio_in(folder: Path) -> Iterator[ModuleType]:
    """Yield a client that keeps everything in `folder` and contacts no server.

    It reads its settings when it is imported and when a run starts.
    """
    # One that another run has imported would write to the folder of that run.
    for name in [name for name in sys.modules if name.partition(".")[0] == "trackio"]:
        del sys.modules[name]
    before = {name: os.environ.pop(name, None) for name in ("TRACKIO_DIR", *ELSEWHERE)}
    os.environ["TRACKIO_DIR"] = str(folder)
    try:
        trackio = importlib.import_module("trackio")
        # It would ask Hugging Face whose token this is.
        trackio.Run._get_username = lambda _: None
        yield trackio
    finally:
        del os.environ["TRACKIO_DIR"]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _histograms(found: dict[str, Histogram], make: Callable[..., object]) -> dict[str, object]:
    """Return a board's own histograms, which `make` makes."""
    return {f"gradients/{name}": make(np_histogram=histogram) for name, histogram in found.items()}


def _silent() -> contextlib.redirect_stdout[io.StringIO]:
    # Only results belong on the standard output.
    return contextlib.redirect_stdout(io.StringIO())


def _step(values: Mapping[str, object], otherwise: int) -> int:
    numbers = _numbers(values)
    return int(numbers.get("step", numbers.get("epoch", otherwise)))


def _report(run: Path) -> dict[str, dict[str, float]]:
    """Return each method's means on test; empty if the run is not evaluated yet."""
    methods = (read_json(step_folder(run, "evaluate") / "test.json") or {}).get("methods", {})
    return {
        method: {name: value["mean"] for name, value in row["metrics"].items()}
        for method, row in methods.items()
    }


def _table(methods: dict[str, dict[str, float]]) -> list[list[str | float | None]]:
    """Return the report as rows, the column names first."""
    names = sorted({name for values in methods.values() for name in values})
    return [
        ["method", *names],
        *([method, *map(values.get, names)] for method, values in methods.items()),
    ]


def _cell(value: str | float | None) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value or "")


def _load() -> dict[str, float]:
    """Return the load of the machine: CPU percent since the last call, GiB of process and GPU."""
    import psutil
    import torch

    busy = {
        "cpu_percent": psutil.cpu_percent(),
        "memory_gib": psutil.Process().memory_info().rss / 2**30,
    }
    if torch.cuda.is_available():
        busy["gpu_memory_gib"] = torch.cuda.memory_reserved() / 2**30
    return busy


def _numbers(values: Mapping[str, object]) -> dict[str, float]:
    return {name: value for name, value in values.items() if isinstance(value, int | float)}
