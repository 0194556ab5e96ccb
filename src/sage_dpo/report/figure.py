"""Drawing surface: matplotlib figures as small inline SVG panels that follow the page's light or dark colours.

A plot is a list of panels about 380 px wide which the page lays out side by side or, on a narrow screen, one below
the other; so text keeps its size everywhere. Every colour is a CSS variable with the light value as its fallback.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

INK, GRID = "#1b1f24", "#d9dde3"
KEPT, DROPPED = "#0b62a8", "#c2570c"
NEUTRAL = "#6b7280"
STRATUM_COLOURS = {"easy": "#8fc1e3", "medium": "#3d8fc4", "hard": "#15507f"}
UNUSABLE_COLOURS = {"never solved": "#4a4f57", "always solved": "#c9ced6"}

_ARM_COLOURS = ("#0072b2", "#d55e00", "#00805e", "#b0508a", "#9a6b00", "#5b4fc9", "#a83232", "#2f7f8f")
_ARM_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
_GLYPHS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖", "p": "⬟"}

DARK = {
    INK: "#e6e9ee", GRID: "#3a4048", KEPT: "#6cb6f0", DROPPED: "#f0944d", NEUTRAL: "#a3abb8",
    "#8fc1e3": "#c3e0f5", "#3d8fc4": "#62ade0", "#15507f": "#2f74ad",
    "#4a4f57": "#6d7580", "#c9ced6": "#d5d9e0",
    "#0072b2": "#5aaeea", "#d55e00": "#ff8f4d", "#00805e": "#35c79d", "#b0508a": "#e38fc3", "#9a6b00": "#e0b040",
    "#5b4fc9": "#a49bf5", "#a83232": "#f08080", "#2f7f8f": "#66c2d0",
}  # fmt: skip
"""Light colour -> dark colour; the light one also names the CSS variable."""

_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # an arm may be called `lr_$1$`
    "font.size": 9.5,
    "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.linewidth": 0.7, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.6, "axes.axisbelow": True,
    "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "lines.linewidth": 1.5, "path.simplify": True,
}  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """One drawing: inline SVG, and in words what it shows (read aloud instead of it)."""

    svg: str
    alt: str


@dataclass(frozen=True)
class Key:
    """One legend entry: label, colour (a light colour of this module) and glyph."""

    label: str
    colour: str
    glyph: str = "●"

    @property
    def css(self) -> str:
        return css_colour(self.colour)


@dataclass(frozen=True)
class Plot:
    """A group of panels with one heading, one explanation and one legend."""

    title: str
    reading: str
    panels: list[Panel]
    keys: list[Key] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def arm_keys(arms: Iterable[str], untuned: Collection[str] = ()) -> dict[str, Key]:
    """Give every arm its colour and marker, the same in all plots: the untuned policy grey, the others in order."""
    keys: dict[str, Key] = {}
    for name in arms:
        if name in untuned:
            keys[name] = Key(name, NEUTRAL, "★")
            continue
        index = sum(1 for other in keys if other not in untuned)
        turn, place = divmod(index, len(_ARM_COLOURS))  # from the ninth arm on, the same colour with another marker
        keys[name] = Key(name, _ARM_COLOURS[place], _GLYPHS[_ARM_MARKERS[(place + turn) % len(_ARM_MARKERS)]])
    return keys


def marker(key: Key) -> str:
    """The matplotlib marker of a legend glyph."""
    return {"★": "*", **{glyph: name for name, glyph in _GLYPHS.items()}}[key.glyph]


def css_colour(colour: str) -> str:
    return f"var(--c-{colour[1:]}, {colour})"


def css_variables(*, dark: bool) -> str:
    """Declarations of every colour variable for the light or the dark page."""
    return " ".join(f"--c-{light[1:]}: {night if dark else light};" for light, night in DARK.items())


@contextmanager
def drawing() -> Iterator[None]:
    """Apply the report's style, and only within the block."""
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        yield


def new_axes(width: float = 3.9, height: float = 2.75) -> tuple[Figure, Axes]:
    """Return a figure of `width` x `height` inches (72 px each) and its axes; no pyplot, so no global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def to_panel(figure: Figure, *, salt: str, alt: str) -> Panel:
    """Render as inline SVG: no metadata, no namespaces, no repeated ids, two decimals, colours as CSS variables.

    Args:
        figure: made by `new_axes`.
        salt: unique within the page; keeps the ids of one panel from meeting those of another.
        alt: what the drawing shows, in words.
    """
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    body = text[text.index("<g id=") : text.rindex("</svg>")]
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"<[^>]*>", lambda tag: _compact(tag[0]), body)
    width, height = (float(size) for size in figure.get_size_inches())
    box = f'viewBox="0 0 {72 * width:g} {72 * height:g}" width="{96 * width:.0f}" height="{96 * height:.0f}"'
    return Panel(f'<svg class="panel" role="img" aria-label="{html.escape(alt)}" {box}>\n{body}</svg>', alt)


def _compact(tag: str) -> str:
    tag = re.sub(r'<g id="[^"]*"', "<g", tag).replace("xlink:href", "href")
    tag = re.sub(r"font-family: [^;]*; ", "", tag)
    tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)
    return re.sub(r"#[0-9a-f]{6}\b", lambda match: css_colour(match[0]) if match[0] in DARK else match[0], tag)


def plain_ticks(axes: Axes) -> None:
    """Few ticks, and thousands as k or M instead of an offset."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(_short_number)


def _short_number(value: float, _position: float | None = None) -> str:
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g} {suffix}".replace("-", "−")
    return f"{value:.4g}".replace("-", "−") if abs(value) > 1e-12 else "0"


def present(plots: Iterable[Plot | None]) -> list[Plot]:
    """Return the plots that there was something to draw for."""
    return [plot for plot in plots if plot is not None]


def varies(values: NDArray[np.float64]) -> bool:
    """Whether there are values, all finite, and not all the same."""
    return values.size > 0 and bool(np.isfinite(values).all()) and bool(np.ptp(values) > 1e-9)


def thin_line(
    steps: NDArray[np.float64], values: NDArray[np.float64], limit: int = 300
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average neighbouring points down to at most `limit`, for long runs."""
    if steps.size <= limit:
        return steps, values
    groups = np.array_split(np.arange(steps.size), limit)
    return np.array([steps[g].mean() for g in groups]), np.array([values[g].mean() for g in groups])


def evenly(items: Sequence[int], limit: int) -> list[int]:
    """Choose at most `limit` of the items, first and last included, evenly spaced."""
    if len(items) <= limit:
        return list(items)
    return [items[round(index)] for index in np.linspace(0, len(items) - 1, limit)]
