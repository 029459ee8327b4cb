"""Tables of text, as Markdown and as LaTeX.

Knows nothing about what is in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Sheet", "latex", "markdown"]

_LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
    "<": "$<$",
    "≥": r"$\geq$",
    "▲": r"$\blacktriangle$",
    "▼": r"$\blacktriangledown$",
}


@dataclass(frozen=True)
class Sheet:
    """One table: its caption, the names of its columns, its rows, the first cell of each a name."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def markdown(sheets: Sequence[Sheet]) -> str:
    """Return tables as Markdown, each followed by its caption."""
    return "\n\n".join(_markdown(sheet) for sheet in sheets)


def _markdown(sheet: Sheet) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = ["---", *["---:"] * (len(sheet.columns) - 1)]
    return "\n".join([line(sheet.columns), line(rule), *map(line, sheet.rows), "", sheet.caption])


def latex(sheets: Sequence[Sheet]) -> str:
    """Return tables as LaTeX; they need the packages `booktabs` and `amssymb`."""
    return "\n\n".join(_latex(sheet) for sheet in sheets)


def _latex(sheet: Sheet) -> str:
    def line(cells: Sequence[str]) -> str:
        return (
            " & ".join("".join(_LATEX.get(sign, sign) for sign in cell) for cell in cells) + r" \\"
        )

    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{l{'r' * (len(sheet.columns) - 1)}}}",
            r"\toprule",
            line(sheet.columns),
            r"\midrule",
            *map(line, sheet.rows),
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{''.join(_LATEX.get(sign, sign) for sign in sheet.caption)}}}",
            r"\end{table}",
        ]
    )
