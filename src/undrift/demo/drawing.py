"""Marks of a drawing and where they go: scales with round ticks, rows for things that must not overlap, line plots.

Only geometry in pixels; colours are classes of the report's style sheet, and the template writes the marks as SVG.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple

__all__ = ["Drawing", "Mark", "Packer", "bars", "box", "fit", "label", "line", "lines", "ticks", "width_of"]

EM: Final = 12.0
"""Size of the text in a drawing, in its own pixels; .small is 11."""
GLYPH: Final = 0.56
"""Width of a mean glyph of a sans-serif face, in em; a little wide, so that texts rather end early than overlap."""


class Mark(NamedTuple):
    """One thing drawn; what is not used stays at its default. ``tip`` is told when one points at it."""

    shape: Literal["box", "text", "path", "dot"]
    css: str
    x: float = 0.0
    y: float = 0.0
    w: float = 0.0
    h: float = 0.0
    text: str = ""
    d: str = ""
    anchor: str = "start"
    tip: str = ""


class Drawing(NamedTuple):
    """Marks on a canvas; ``title`` says what it shows to those who cannot see it."""

    title: str
    width: float
    height: float
    marks: tuple[Mark, ...]


def box(css: str, x: float, y: float, w: float, h: float, tip: str = "") -> Mark:
    """A rectangle at least one pixel wide."""
    return Mark("box", css, round(x, 1), round(y, 1), round(max(w, 1.0), 1), round(max(h, 0.0), 1), tip=tip)


def label(css: str, x: float, y: float, text: str, anchor: str = "start", tip: str = "") -> Mark:
    """A text; y is its base line."""
    return Mark("text", css, round(x, 1), round(y, 1), text=text, anchor=anchor, tip=tip)


def line(css: str, points: Sequence[tuple[float, float]]) -> Mark:
    """Straight lines from point to point."""
    return Mark("path", css, d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points))


def width_of(text: str, em: float = EM) -> float:
    """About how wide a text is; a proportional face has no exact answer without the face."""
    return len(text) * em * GLYPH


def fit(text: str, room: float, em: float = EM) -> str:
    """The text, or as much of it as there is room for, with an ellipsis; empty where not even six glyphs fit."""
    if width_of(text, em) <= room:
        return text
    most = int(room / (em * GLYPH)) - 1
    return f"{text[:most].rstrip(' ,;:')}…" if most >= 6 else ""


class Packer:
    """Rows for spans that must not overlap: each goes into the first row where it is free."""

    def __init__(self, gap: float = 10.0) -> None:
        self._gap = gap
        self._rows: list[list[tuple[float, float]]] = []

    def place(self, start: float, end: float) -> int:
        """The row of a span."""
        for number, taken in enumerate(self._rows):
            if all(end + self._gap <= low or start >= high + self._gap for low, high in taken):
                taken.append((start, end))
                return number
        self._rows.append([(start, end)])
        return len(self._rows) - 1

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self._rows)


def ticks(low: float, high: float, most: int = 6) -> tuple[float, ...]:
    """Round values that span [low, high], in steps of 1, 2 or 5 times a power of ten."""
    if not math.isfinite(low) or not math.isfinite(high):
        return (0.0, 1.0)
    if high <= low:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / max(most - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(round(i * step, 12) for i in range(first, last + 1))


WIDTH: Final = 540.0
HEIGHT: Final = 268.0
LEFT: Final = 52.0
TOP: Final = 34.0
BOTTOM: Final = 28.0


class _Frame(NamedTuple):
    """The plane of a plot: categories along x, a scale along y, and the marks of its axes."""

    right: float
    names: tuple[str, ...]
    scale: tuple[float, ...]
    marks: tuple[Mark, ...]

    def x(self, place: int) -> float:
        slot = (self.right - LEFT) / max(len(self.names), 1)
        return LEFT + slot * (place + 0.5)

    def y(self, value: float) -> float:
        low, high = self.scale[0], self.scale[-1]
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)


def _frame(
    names: Sequence[str], values: Sequence[float], unit: str, told: Callable[[float], str], right: float, zero: bool
) -> _Frame:
    known = [value for value in values if math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    scale = ticks(0.0 if zero else low, high)
    frame = _Frame(right, tuple(names), scale, ())
    marks = [label("axis small", 0, 14, unit)]
    for value in scale:
        marks.append(line("grid", [(LEFT, frame.y(value)), (right, frame.y(value))]))
        marks.append(label("axis small", LEFT - 8, frame.y(value) + 4, told(value), "end"))
    marks += [label("axis small", frame.x(i), HEIGHT - 8, name, "middle") for i, name in enumerate(names)]
    return frame._replace(marks=tuple(marks))


def lines(
    title: str,
    names: Sequence[str],
    series: Sequence[tuple[str, str, Sequence[float]]],
    unit: str,
    told: Callable[[float], str],
) -> Drawing:
    """Lines over categories, each named at its end; a value that is not a number leaves a gap.

    Parameters
    ----------
    series : class, name and one value per category, each.
    unit : what stands along y. ``told`` writes a value of it.
    """
    named = max((width_of(name, EM) for _, name, _ in series), default=0.0)
    frame = _frame(names, [v for _, _, values in series for v in values], unit, told, WIDTH - named - 14, zero=False)
    marks = list(frame.marks)
    ends: list[tuple[float, float, str, str]] = []
    for css, name, values in series:
        points = [(i, v) for i, v in enumerate(values) if math.isfinite(v)]
        runs: list[list[tuple[float, float]]] = []
        for place, (i, v) in enumerate(points):
            if not place or points[place - 1][0] != i - 1:
                runs.append([])
            runs[-1].append((frame.x(i), frame.y(v)))
        marks += [line(f"line {css}", run) for run in runs if len(run) > 1]
        marks += [Mark("dot", css, frame.x(i), frame.y(v), tip=f"{names[i]}, {name}: {told(v)}") for i, v in points]
        if points:
            ends.append((frame.x(points[-1][0]) + 9, frame.y(points[-1][1]) + 4, css, name))
    last = -math.inf
    for x, y, css, name in sorted(ends, key=lambda end: end[1]):
        last = max(y, last + EM + 3)
        marks.append(label(f"name {css}", x, last, name))
    return Drawing(title, WIDTH, HEIGHT, tuple(marks))


def bars(title: str, names: Sequence[str], values: Sequence[float], unit: str, told: Callable[[float], str]) -> Drawing:
    """One bar per category from zero, with its value above."""
    frame = _frame(names, values, unit, told, WIDTH, zero=True)
    slot = (frame.right - LEFT) / max(len(names), 1)
    marks = list(frame.marks)
    for i, value in enumerate(values):
        if math.isfinite(value):
            y = frame.y(value)
            marks.append(
                box("bar", frame.x(i) - slot * 0.32, y, slot * 0.64, frame.y(0.0) - y, f"{names[i]}: {told(value)}")
            )
            marks.append(label("value small", frame.x(i), y - 5, told(value), "middle"))
    return Drawing(title, WIDTH, HEIGHT, tuple(marks))
