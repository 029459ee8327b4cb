"""What a step of a run was made from: inputs that were recorded, compared with the present ones.

Inputs hold the settings that decide the output, nested as in a recipe, the fingerprints of the
steps whose output is read (`after`), and digests of files. Version 0.1 called the folders of steps
by other names and recorded whole sections; both are still understood. Knows nothing about stages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from groundrec.core.aliases import upgrade
from groundrec.core.recipe import Recipe

__all__ = ["AFTER", "Inputs", "Outcome", "as_recorded", "difference", "plain", "step_folder"]

Inputs: TypeAlias = dict[str, Any]
AFTER = "after"
"""Key of inputs: the fingerprint of each step whose output is read."""

FOLDERS_0_1 = {
    "prepare": "dataset",
    "train": "model",
    "recommend/alpha": "assistant",
    "recommend": "slates",
    "fuse": "fusion",
    "evaluate": "eval",
}
"""Folder of each step, or of all steps of a stage, as version 0.1 named it."""


@dataclass(frozen=True)
class Outcome:
    """What becomes of a step, and why; as text, its line in the log."""

    step: str
    kind: Literal["skip", "resume", "redo", "restart", "start"]
    reason: str = ""
    """What differs; the fingerprint of a step that is skipped."""

    def __str__(self) -> str:
        return {
            "skip": f"▪ {self.step}: skipped, finished with the same inputs ({self.reason})",
            "resume": f"▸ {self.step}: resumed, started with the same inputs",
            "redo": f"▸ {self.step}: redone, because {self.reason}",
            "restart": f"▸ {self.step}: restarted, because {self.reason}",
            "start": f"▸ {self.step}",
        }[self.kind]


def step_folder(run: Path, step: str) -> Path:
    """Return where the output of a step is, or will be: in the folder of its name, unless
    version 0.1 wrote it in another one.
    """
    folder = run / step
    former = run / _folder_0_1(step)
    return former if not folder.exists() and (former / "inputs.json").exists() else folder


def plain(inputs: Mapping[str, Any]) -> Inputs:
    """Return inputs as JSON would give them back."""
    return json.loads(json.dumps(inputs, default=str))


def as_recorded(before: Inputs, now: Inputs) -> Inputs:
    """Return inputs recorded `before` in the form of those of `now`, settings under their present
    names. A setting that did not exist then has its default: that is what was done.
    """
    before = upgrade(before)
    if AFTER in now and AFTER not in before:
        before = _from_0_1(before, now)
    return _completed(before, now, Recipe().model_dump(mode="json"))


def difference(before: Inputs, now: Inputs) -> str:
    """Return the first difference of recorded inputs from the present ones; empty for none."""
    now = plain(now)
    before = as_recorded(before, now)
    return _first_difference(before, now) if before != now else ""


def _folder_0_1(step: str) -> str:
    stage, _, name = step.partition("/")
    return FOLDERS_0_1.get(step) or "/".join(filter(None, (FOLDERS_0_1.get(stage, stage), name)))


def _from_0_1(before: Inputs, now: Inputs) -> Inputs:
    """Return inputs that version 0.1 recorded, reduced to the keys of `now`.

    It recorded each section whole and the fingerprints of other steps at the top, under the names
    of their folders, `signal` and `alpha`. A whole key that it lacks counts as unchanged.
    """
    fingerprints = {step: before.get(_folder_0_1(step)) for step in now[AFTER]}
    for step in fingerprints:
        if step.startswith("signals/") and "signal" in before:
            fingerprints[step] = before["signal"]
        elif step == "recommend/alpha":
            fingerprints[step] = before.get("alpha")
    renamed = {**before, AFTER: {s: f for s, f in fingerprints.items() if f is not None}}
    for name, former in (("start", "from"), ("files", "lists")):
        if former in before:
            renamed[name] = before[former]
    unrecorded = {key: value for key, value in now.items() if key not in renamed}
    return {**_restricted(renamed, now), **unrecorded}


def _restricted(before: Any, now: Any) -> Any:
    """Return `before` without keys that are not in `now`."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return before
    return {key: _restricted(value, now[key]) for key, value in before.items() if key in now}


def _completed(before: Any, now: Any, defaults: Any) -> Any:
    """Return `before` with each setting of `now` that it lacks and that has a default."""
    if not all(isinstance(values, dict) for values in (before, now, defaults)):
        return before
    new = {key: defaults[key] for key in now if key in defaults and key not in before}
    known = {
        key: _completed(value, now.get(key), defaults.get(key) or ())
        for key, value in before.items()
    }
    return {**known, **new}


def _first_difference(old: Inputs, new: Inputs, prefix: str = "") -> str:
    for key in [*new, *(k for k in old if k not in new)]:
        a = old.get(key)
        b = new.get(key)
        if isinstance(a, dict) and isinstance(b, dict) and a != b:
            return _first_difference(a, b, f"{prefix}{key}.")
        if a != b and prefix == f"{AFTER}.":
            return f"`{key}` was redone"
        if a != b:
            return f"{prefix}{key} was {a} and is {b}"
    return "nothing changed"
