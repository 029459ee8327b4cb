"""What a finished run recommends, as result files of the published code.

Knows nothing about how such files are scored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from groundrec.app.stages.artefacts import Artefacts, open_run
from groundrec.app.stages.gather import slates_by_method
from groundrec.core.errors import ConfigError, did_you_mean
from groundrec.core.files import atomic_write
from groundrec.core.types import NO_ITEM, Queries, Slates
from groundrec.data.exchange.test_files import quoted_list

__all__ = ["export_results"]


def export_results(run: Path, out: Path, methods: Sequence[str] = ()) -> list[Path]:
    """Write the test slates of each method of a finished run to a file of its own in `out`.

    A row per target: `input` and `output` hold titles in quotation marks, `predict` the slate. A
    place without an item is an empty text. Raises `ConfigError` for a method that the run has not.
    """
    x = open_run(run)
    x.run.manifest("evaluate")
    slates = slates_by_method(x)
    for method in methods:
        if method not in slates:
            raise ConfigError(
                f"this run has no such method{did_you_mean(method, slates)}",
                value=f"--method {method}",
                accepted=", ".join(slates),
            )
    out.mkdir(parents=True, exist_ok=True)
    return [_write(x, out, name, slates[name]) for name in methods or slates]


def _write(x: Artefacts, out: Path, method: str, slates: Slates) -> Path:
    file = out / f"{re.sub(r'[^0-9A-Za-z.-]+', '-', method).strip('-')}.json"
    with atomic_write(file) as part, part.open("w", encoding="utf-8") as text:
        rows = list(_rows(x.queries("test"), slates, x.dataset.catalogue.titles))
        json.dump(rows, text, indent=4)
    return file


def _rows(queries: Queries, slates: Slates, titles: Sequence[str]) -> Iterator[dict[str, object]]:
    for query, items, scores in zip(queries, slates.items, slates.scores, strict=True):
        predict = [f'"{titles[item]}"' if item != NO_ITEM else "" for item in items]
        found = scores[items != NO_ITEM].tolist()
        for target in query.targets:
            yield {
                "input": quoted_list(_named(query.history, titles)),
                "output": f'"{titles[target]}"',
                "predict": predict,
                "predict_score": [*found, *[None] * (len(predict) - len(found))],
            }


def _named(items: Iterable[int], titles: Sequence[str]) -> list[str]:
    return [titles[item] for item in items]
