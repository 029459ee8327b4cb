"""What pydantic says of a bad setting, as an error with four parts.

Knows nothing about which settings there are.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import get_args

from pydantic import BaseModel, ValidationError

from groundrec.core.errors import ConfigError

__all__ = ["readable"]


def readable(error: ValidationError, schema: type[BaseModel], known: Sequence[str]) -> ConfigError:
    """Return the first of pydantic's errors; `known` are all `section.setting`s of the schema."""
    first = error.errors()[0]
    path = [str(p) for p in first["loc"]]
    if first["type"] != "extra_forbidden":
        return ConfigError(
            f"bad value for {'.'.join(path)}",
            value=json.dumps(first["input"], default=str),
            accepted=first["msg"],
            next_step="groundrec settings",
        )
    siblings = _siblings(schema, path[:-1])
    elsewhere = [key for key in known if key.split(".")[-1] == path[-1]]
    near = difflib.get_close_matches(path[-1], siblings, n=1, cutoff=0.5)
    meant = elsewhere or [".".join([*path[:-1], name]) for name in near]
    return ConfigError(
        "unknown setting" + (f" (did you mean {' or '.join(map(repr, meant))}?)" if meant else ""),
        value=".".join(path),
        accepted=", ".join(siblings),
        next_step="groundrec settings",
    )


def _siblings(section: type[BaseModel], path: Sequence[str]) -> list[str]:
    """Return the names of the settings in the section that `path` leads to."""
    for name in path:
        annotation = section.model_fields[name].annotation
        section = next(
            a
            for a in (annotation, *get_args(annotation))
            if isinstance(a, type) and issubclass(a, BaseModel)
        )
    return list(section.model_fields)
