"""groundrec turns a language model into a recommender whose every answer is a real catalogue item.

The names below are the door for notebooks and scripts. Each is imported when first asked for:
`import groundrec` alone loads nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groundrec.app.pipeline import Pipeline
    from groundrec.app.recommender import Explained, Recommendation, Recommender
    from groundrec.core.errors import GroundrecError
    from groundrec.core.recipe import Recipe
    from groundrec.core.registry import register
    from groundrec.core.track import log_to

__version__ = "0.2.0"
__all__ = [
    "Explained",
    "GroundrecError",
    "Pipeline",
    "Recipe",
    "Recommendation",
    "Recommender",
    "log_to",
    "register",
]

_HOMES = {
    "Explained": "app.recommender",
    "GroundrecError": "core.errors",
    "Pipeline": "app.pipeline",
    "Recipe": "core.recipe",
    "Recommendation": "app.recommender",
    "Recommender": "app.recommender",
    "log_to": "core.track",
    "register": "core.registry",
}


def __getattr__(name: str) -> Any:
    """Return what the door offers under `name`."""
    if name not in _HOMES:
        raise AttributeError(f"module 'groundrec' has no attribute {name!r}")
    return getattr(importlib.import_module(f"groundrec.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
