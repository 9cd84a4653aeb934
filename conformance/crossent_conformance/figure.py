"""The error plot as SVG: how wrong loss and gradient get as the prediction gets surer, all subjects over each other.

    error_plot(series(results, "float32"), "float32")     an <svg>, for a page or for a file of its own

Needs no library, no script and no font. It scales to whatever width it is given, follows the reader's light or dark
scheme, and no line is known by its colour alone: dash and marker differ too, earlier lines are wider, and markers stand
at other gaps, so that lines that lie on each other still show.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from crossent_conformance import sweep

COLOURS = (  # Okabe and Ito's, each made darker or lighter until it has a contrast of 3:1 to ground and shade
    ("#0072b2", "#4aa3df"),  # blue
    ("#d55e00", "#e8702a"),  # vermillion
    ("#00946c", "#1fb58a"),  # bluish green
    ("#b8588f", "#d98cb8"),  # reddish purple
    ("#b07400", "#e69f00"),  # orange
    ("#2488c4", "#7cc8f2"),  # sky blue
    ("#222222", "#e6e6e6"),  # black, or nearly white
    ("#8f8500", "#f0e442"),  # yellow
)
BACKGROUND = ("#ffffff", "#16191d")
DASHES = ("none", "9 4", "2.5 3", "9 3 2 3", "16 4", "5 2", "12 3 2 3 2 3")
MARKERS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "M-3.6 -3.6h7.2v7.2h-7.2z",
    "M0 -4.8L4.6 3.4H-4.6z",
    "M0 -5L5 0L0 5L-5 0z",
    "M0 4.8L4.6 -3.4H-4.6z",
)
WIDTH, LEFT, RIGHT, PANEL, HEADING, ROW = 560, 72, 14, 200, 42, 23
"""Sizes in units of the drawing: the whole, margins, the height of a panel, of its heading, of a line of the legend."""
MARKER_EVERY = 15
_UNSPEAKABLE = re.compile(r"[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_STYLE = """
.xp{%(light)s;font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;font-size:13px}
@media(prefers-color-scheme:dark){.xp{%(dark)s}}
.xp text{fill:var(--xp-ink)}.xp .soft{fill:var(--xp-soft)}.xp .ground{fill:var(--xp-ground)}
.xp .heading{font-weight:600}.xp .grid{stroke:var(--xp-grid);fill:none}.xp .axis{stroke:var(--xp-soft);fill:none}
.xp .allowed{fill:var(--xp-shade)}.xp .limit{stroke:var(--xp-soft);stroke-width:1;fill:none}
.xp .note{font-size:.9em;paint-order:stroke;stroke:var(--xp-ground);stroke-width:4px;stroke-linejoin:round}
.xp .line{fill:none;stroke-linejoin:round}.xp .marker{stroke:var(--xp-ground);stroke-width:1}
@media(max-width:500px){.xp{font-size:17px}}
"""
_INK = {
    "ink": ("#1b1f24", "#e8eaed"),
    "soft": ("#57606a", "#a3abb5"),
    "grid": ("#e3e6ea", "#2b3036"),
    "shade": ("#e4ede6", "#22302a"),
    "ground": BACKGROUND,
}


@dataclass(frozen=True)
class Series:
    """A line: the errors of a subject on a backend, in a panel named by `what`.

    `number` chooses dash and marker, `colour` the colour.
    """

    subject: str
    backend: str
    what: str
    gaps: Sequence[float]
    errors: Sequence[float | str | None]
    number: int = 0
    colour: int = 0

    @property
    def label(self) -> str:
        """How the legend calls it."""
        return f"{self.subject} · {self.backend}"

    def values(self) -> list[float | None]:
        """The errors as numbers; "inf" and "nan" are as wrong as can be."""
        numbers = [None if error is None else float(error) for error in self.errors]
        return [math.inf if number is not None and math.isnan(number) else number for number in numbers]


def series(results: dict[str, Any], dtype: str) -> list[Series]:
    """The lines of a dtype; a subject on a backend looks the same for every dtype of the same results."""
    found, before = [], 0
    for colour, subject in enumerate(results.get("subjects", ())):
        # A run finishes its backends in any order; the drawing must not depend on it.
        curves = [curve for curve in subject.get("curves") or () if curve.get("errors")]
        order = list(dict.fromkeys([*subject.get("backends", ()), *sorted(curve["backend"] for curve in curves)]))
        for curve in sorted(curves, key=lambda curve: order.index(curve["backend"])):
            if curve["dtype"] == dtype:
                number = before + order.index(curve["backend"])
                drawn = (curve["what"], curve["gaps"], curve["errors"], number, colour)
                found.append(Series(subject["name"], curve["backend"], *drawn))
        before += len(order)
    return found


def error_plot(lines: Sequence[Series], dtype: str, title: str | None = None) -> str:
    """The SVG: a panel for the loss, one for the target's gradient entry, and the legend."""
    title = title or f"Relative error of loss and target gradient against the confidence gap, {dtype}"
    panels = [what for what in sweep.KINDS if any(line.what == what for line in lines)]
    floor = lowest(dtype)
    parts, top = [], 0.0
    for what in panels:
        chosen = [line for line in lines if line.what == what]
        parts.append(_panel(what, dtype, chosen, top, floor, last=what == panels[-1]))
        top += HEADING + PANEL
    height = top + 66
    for _, line in sorted({line.number: line for line in lines}.items()):
        parts.append(_entry(line, height))
        height += ROW
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="xp" viewBox="0 0 {WIDTH} {height + 6:g}" role="img" '
        f'aria-label="{text(title)}"><title>{text(title)}</title><style>{_style()}</style>'
        f'<rect class="ground" width="{WIDTH}" height="{height + 6:g}" rx="8"/>{"".join(parts)}</svg>\n'
    )


def lowest(dtype: str) -> float:
    """Where the plot ends below, some tenth of the compute dtype's eps; smaller errors, 0 too, are drawn there."""
    return 1e-17 if dtype == "float64" else 1e-8


def text(value: Any) -> str:
    """Escaped for XML and for HTML, attributes included; what neither may hold (control characters) is shown as �."""
    return html.escape(_UNSPEAKABLE.sub("�", str(value)))


def _style() -> str:
    schemes = [
        ";".join(
            [f"--xp-{name}:{pair[scheme]}" for name, pair in _INK.items()]
            + [f"--xp-c{place}:{pair[scheme]}" for place, pair in enumerate(COLOURS)]
        )
        for scheme in (0, 1)
    ]
    return (_STYLE % {"light": schemes[0], "dark": schemes[1]}).replace("\n", "")


def _x(gap: float) -> float:
    low, high = sweep.GAPS[0], sweep.GAPS[-1]
    return LEFT + (min(max(gap, low), high) - low) / (high - low) * (WIDTH - LEFT - RIGHT)


def _y(error: float, top: float, floor: float) -> float:
    depth = math.log10(min(max(error, floor), 1.0)) / math.log10(floor)
    return top + HEADING + depth * PANEL


def _panel(what: str, dtype: str, lines: list[Series], top: float, floor: float, *, last: bool) -> str:
    bottom = top + HEADING + PANEL
    limit = _path([(_x(gap), _y(error, top, floor)) for gap, error in _limits(what, dtype)])
    parts = [
        f'<text class="heading" x="8" y="{top + HEADING - 13:g}">'
        f"Relative error of the {text(what)}, {text(dtype)}</text>",
        f'<path class="allowed" d="{limit}V{bottom:g}H{LEFT}z"/>',
    ]
    decades = round(-math.log10(floor))
    for decade in (*range(0, decades - 1, 4 if decades > 8 else 2), decades):
        y = _y(10.0**-decade, top, floor)
        tick = "1" if decade == 0 else f"≤1e-{decade}" if decade == decades else f"1e-{decade}"
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="soft" x="{LEFT - 6}" y="{y + 4.5:.1f}" text-anchor="end">{tick}</text>')
    for gap in range(-40, 81, 20):
        parts.append(f'<path class="grid" d="M{_x(gap):.1f} {top + HEADING:g}V{bottom:g}"/>')
        if last:
            parts.append(
                f'<text class="soft" x="{_x(gap):.1f}" y="{bottom + 18:g}" text-anchor="middle">{_signed(gap)}</text>'
            )
    parts.append(f'<path class="limit" d="{limit}"/>')
    parts.extend(_line(line, place, len(lines), top, floor) for place, line in enumerate(lines))
    above = _y(_limits(what, dtype)[0][1], top, floor) - 8
    parts.append(f'<text class="soft note" x="{LEFT + 6}" y="{above:.1f}">allowed by the contract</text>')
    if last:
        middle = (LEFT + WIDTH - RIGHT) / 2
        words = "confidence gap: the target&#8217;s logit less the seven others"
        parts.append(f'<text x="{middle:g}" y="{bottom + 40:g}" text-anchor="middle">{words}</text>')
    return "".join(parts)


def _limits(what: str, dtype: str) -> list[tuple[float, float]]:
    return list(zip(sweep.GAPS, sweep.allowed(sweep.GAPS, what, dtype), strict=True))


def _line(line: Series, place: int, count: int, top: float, floor: float) -> str:
    points = [
        None if error is None else (_x(gap), _y(error, top, floor))
        for gap, error in zip(line.gaps, line.values(), strict=True)
    ]
    runs: list[list[tuple[float, float]]] = [[]]
    for point in points:
        runs.append([]) if point is None else runs[-1].append(point)
    path = "".join(_path(run) for run in runs if run)
    first = 2 + (line.number * 4) % MARKER_EVERY
    at = "".join(_marker(line, *point) for point in points[first::MARKER_EVERY] if point is not None)
    stroke = _stroke(line, _wide(place, count))
    return f'<g><title>{text(line.label)}</title><path class="line" d="{path}" style="{stroke}"/>{at}</g>'


def _wide(place: int, count: int) -> float:
    return 2.0 + 2.5 * (1 - place / max(count - 1, 1)) if count > 1 else 2.0


def _stroke(line: Series, wide: float) -> str:
    dash = DASHES[line.number % len(DASHES)]
    return f"stroke:var(--xp-c{line.colour % len(COLOURS)});stroke-width:{wide:.1f};stroke-dasharray:{dash}"


def _marker(line: Series, x: float, y: float) -> str:
    shape = MARKERS[line.number % len(MARKERS)]
    colour = f"fill:var(--xp-c{line.colour % len(COLOURS)})"
    return f'<path class="marker" transform="translate({x:.1f} {y:.1f})" d="{shape}" style="{colour}"/>'


def _entry(line: Series, y: float) -> str:
    label = line.label if len(line.label) <= 54 else f"{line.label[:36]}…{line.label[-17:]}"
    return (
        f'<g><title>{text(line.label)}</title><path class="line" d="M12 {y:g}H68" style="{_stroke(line, 2.4)}"/>'
        f'{_marker(line, 40, y)}<text x="78" y="{y + 4.5:g}">{text(label)}</text></g>'
    )


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _signed(gap: int) -> str:
    return f"−{-gap}" if gap < 0 else str(gap)
