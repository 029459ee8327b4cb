"""Charts of the report: numbers in, inline SVG or an image file out, reproducible to the byte.

A chart uses the colours of `PALETTE`. Inside a page each colour becomes a CSS variable, so that one
drawing serves light and dark mode. Knows nothing about slates, users or pages.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from groundrec.core.errors import ConfigError
from groundrec.core.files import atomic_write
from groundrec.core.language import say
from groundrec.evaluate.statistics import Interval

__all__ = [
    "PALETTE",
    "Curve",
    "DotPlotRow",
    "FusionCurve",
    "Kind",
    "Series",
    "dots",
    "fusion",
    "inline",
    "lines",
    "matrix",
    "save",
    "tiles",
]

Kind = Literal["signal", "language", "fused"]
"""What a method ranks with: a collaborative signal, the language model, or both."""

PALETTE = {
    "paper": "#fbfaf6",
    "ink": "#24262b",
    "quiet": "#6a6d74",
    "line": "#dedbd2",
    "signal": "#8b8679",
    "language": "#2d6090",
    "fused": "#b4502f",
    "third": "#4d7a58",
}
"""Name → colour in light mode; a page may override each for dark mode."""

_MARKER: dict[Kind, str] = {"signal": "o", "language": "D", "fused": "s"}
_CYCLE = ("language", "fused", "third", "signal")
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "groundrec",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 11,
    "axes.edgecolor": PALETTE["line"],
    "axes.labelcolor": PALETTE["quiet"],
    "axes.labelsize": 11,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": PALETTE["ink"],
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.titlesize": 12,
    "grid.color": PALETTE["line"],
    "grid.linewidth": 0.7,
    "text.color": PALETTE["ink"],
    "xtick.color": PALETTE["line"],
    "xtick.labelcolor": PALETTE["quiet"],
    "ytick.color": PALETTE["line"],
    "ytick.labelcolor": PALETTE["quiet"],
    "ytick.left": False,
    "legend.frameon": False,
    "figure.facecolor": PALETTE["paper"],
    "axes.facecolor": "none",
}


@dataclass(frozen=True)
class Series:
    """One line of a curve: a name and its points."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Curve:
    """Lines over a common axis, such as the losses of a training; `kept` is the chosen x."""

    title: str
    x_label: str
    series: tuple[Series, ...]
    kept: float | None = None


@dataclass(frozen=True)
class FusionCurve:
    """A validation metric by fusion weight.

    Alpha runs from 0, the signal alone, to 1, the model alone; at gamma 0 the model is alone.
    """

    signal: str
    metric: str
    alphas: tuple[float, ...]
    means: tuple[float, ...]
    errors: tuple[float, ...]
    """Standard errors of the means."""
    chosen: float
    weight: str = "α"
    model: str = "language model"
    kind: str = ""
    """The fusion rule, where it is not a mix of log-probabilities."""


@dataclass(frozen=True)
class DotPlotRow:
    """One line of a dot plot."""

    name: str
    kind: Kind
    interval: Interval


def dots(axes: Axes, rows: Sequence[DotPlotRow], label: str) -> None:
    """Draw a dot plot, first row on top: the mean, as a dot and a number, on its interval."""
    for y, row in enumerate(rows):
        mean = row.interval.mean
        low = row.interval.low
        high = row.interval.high
        colour = PALETTE[row.kind]
        if math.isfinite(low):
            axes.plot(
                [low, high], [y, y], color=colour, linewidth=2.2, alpha=0.45, solid_capstyle="round"
            )
        axes.plot(
            [mean], [y], marker=_MARKER[row.kind], color=colour, markersize=7, linestyle="none"
        )
        axes.annotate(
            f"{mean:.3f}", (mean, y), (0, 7), textcoords="offset points", ha="center", fontsize=9
        )
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.tick_params(axis="y", labelcolor=PALETTE["ink"])
    axes.set_ylim(len(rows) - 0.4, -0.8)
    axes.set_xlim(0, 1.08 * max((e for row in rows for e in _ends(row.interval)), default=1) or 1)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.set_xlabel(label)


def lines(axes: Axes, curve: Curve) -> None:
    """Draw the series of a curve and mark the chosen point."""
    for number, series in enumerate(curve.series):
        colour = PALETTE[_CYCLE[number % len(_CYCLE)]]
        style = "-" if number < len(_CYCLE) else "--"
        axes.plot(
            series.x, series.y, color=colour, linewidth=1.8, linestyle=style, label=series.name
        )
    if curve.kept is not None:
        axes.axvline(
            curve.kept,
            color=PALETTE["quiet"],
            linewidth=1,
            linestyle=(0, (2, 3)),
            label=say("kept"),
        )
    axes.grid(axis="y")
    axes.set_xlabel(curve.x_label)
    axes.set_title(curve.title)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.legend(handlelength=1.4, borderaxespad=0.2)


def fusion(axes: Axes, curve: FusionCurve) -> None:
    """Draw a fusion curve with its 95% band, the chosen weight marked and both ends named."""
    colour = PALETTE["fused"]
    low, high = _band(curve)
    axes.fill_between(curve.alphas, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(curve.alphas, curve.means, color=colour, linewidth=1.8)
    nearest = min(range(len(curve.alphas)), key=lambda i: abs(curve.alphas[i] - curve.chosen))
    axes.axvline(curve.chosen, color=PALETTE["quiet"], linewidth=1, linestyle=(0, (2, 3)))
    axes.plot(
        [curve.chosen],
        [curve.means[nearest]],
        marker="s",
        markersize=7,
        color=colour,
        linestyle="none",
    )
    span = max(high) - min(low) or 1.0
    top = max(high) + 0.25 * span  # leaves space above the band for the weight's label
    axes.set_ylim(min(low) - 0.05 * span, top)
    side = "left" if curve.chosen <= curve.alphas[-1] / 2 else "right"
    axes.annotate(
        f"{curve.weight} = {curve.chosen:g}",
        (curve.chosen, top),
        (6 if side == "left" else -6, -4),
        textcoords="offset points",
        ha=side,
        va="top",
    )
    if curve.weight == "α":
        axes.set_xticks(
            [0, 0.25, 0.5, 0.75, 1], [f"0\n{curve.signal}", "", "0.5", "", f"1\n{curve.model}"]
        )
    else:
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xticks([0, 0.5, 1, 10, 99], [f"0\n{curve.model}", "0.5", "1", "10", "99"])
        axes.minorticks_off()
    axes.grid(axis="y")
    title = say("{0}, {1} with {2}", curve.metric, curve.model, curve.signal)
    axes.set_title(f"{title}\n{curve.kind}" if curve.kind else title)


def tiles(axes: Axes, rows: Sequence[tuple[str, Sequence[float]]], label: str) -> None:
    """Draw shares as tiles with their percentages, first row on top, darker for larger shares."""
    largest = max((share for _, shares in rows for share in shares), default=0) or 1
    for y, (_, shares) in enumerate(rows):
        for x, share in enumerate(shares):
            shade = 0.04 + 0.56 * share / largest
            axes.add_patch(
                Rectangle(
                    (x + 0.04, y - 0.44), 0.92, 0.88, color=PALETTE["language"], alpha=shade, lw=0
                )
            )
            axes.text(x + 0.5, y, f"{100 * share:.0f}", ha="center", va="center", fontsize=9)
    width = max((len(shares) for _, shares in rows), default=1)
    axes.set_xlim(0, width)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.tick_params(axis="y", labelcolor=PALETTE["ink"])
    axes.set_xticks([0.5, width - 0.5], [say("most popular"), say("rarest")])
    axes.tick_params(axis="x", length=0)
    axes.spines["bottom"].set_visible(False)
    axes.set_xlabel(label)


def matrix(axes: Axes, names: Sequence[str], shares: Sequence[Sequence[float]], label: str) -> None:
    """Draw a square matrix of shares, darker for larger ones, columns numbered like rows."""
    for y, row in enumerate(shares):
        for x, share in enumerate(row):
            shade = 0.04 + 0.56 * share
            axes.add_patch(
                Rectangle(
                    (x + 0.54, y - 0.46), 0.92, 0.92, color=PALETTE["language"], alpha=shade, lw=0
                )
            )
            axes.text(x + 1, y, f"{100 * share:.0f}", ha="center", va="center", fontsize=8)
    axes.set_xlim(0.5, len(names) + 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(
        range(len(names)), [f"{name}  {number}" for number, name in enumerate(names, 1)]
    )
    axes.tick_params(axis="y", labelcolor=PALETTE["ink"])
    axes.set_xticks(range(1, len(names) + 1))
    axes.tick_params(axis="x", length=0)
    axes.spines["bottom"].set_visible(False)
    axes.set_xlabel(label)


def inline(
    draw: Callable[[Axes], None], name: str, title: str, *, width: float = 420, height: float = 260
) -> str:
    """Return an `<svg>` element of `width` × `height` user units.

    Its colours are CSS variables, and its ids start with `name`, so that charts share a page.
    """
    with _figure(width, height) as figure, io.StringIO() as out:
        draw(figure.subplots())
        figure.savefig(
            out, format="svg", metadata={"Date": None, "Creator": None}, transparent=True
        )
        text = out.getvalue()
    return _for_page(text, name, title)


def save(
    path: Path, draws: Sequence[Callable[[Axes], None]], *, width: float = 460, height: float = 320
) -> None:
    """Write the drawings side by side as one PNG or SVG image, by the suffix of `path`."""
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("png", "svg"):
        accepted = "a name ending in .png or .svg"
        raise ConfigError("unknown image format", value=path.name, accepted=accepted)
    # matplotlib writes its version and the date unless told not to
    metadata = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}[kind]
    with _figure(width * len(draws), height) as figure, atomic_write(path) as part:
        grid = figure.subplots(1, len(draws), squeeze=False)
        for axes, draw in zip(grid.flat, draws, strict=True):
            draw(axes)
        figure.savefig(part, format=kind, dpi=160, metadata=metadata)


def _ends(interval: Interval) -> list[float]:
    return [end for end in (interval.mean, interval.high) if math.isfinite(end)]


def _band(curve: FusionCurve) -> tuple[list[float], list[float]]:
    """Return both ends of the 95% interval at each weight."""
    pairs = list(zip(curve.means, curve.errors, strict=True))
    low = [mean - 1.96 * error for mean, error in pairs]
    return low, [mean + 1.96 * error for mean, error in pairs]


@contextmanager
def _figure(width: float, height: float) -> Iterator[Figure]:
    """Yield a figure of `width` × `height` points in the report's style."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # a glyph that is missing here may exist in the font of whoever reads the SVG
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
        yield Figure(figsize=(width / 72, height / 72), layout=layout)


def _for_page(svg: str, name: str, title: str) -> str:
    """Return matplotlib's SVG as an element of a page, without its own styles and colours."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]+)"', body)
    body = re.sub(
        r"<svg[^>]*>",
        f'<svg class="chart" role="img" aria-label="{escape(title)}"'
        f' viewBox="{box[1] if box else ""}">',
        body,
        count=1,
    )
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r'xlink:href="#', f'href="#{name}-', body)
    for variable, colour in PALETTE.items():
        body = body.replace(colour, f"var(--{variable})")
    return body.strip()
