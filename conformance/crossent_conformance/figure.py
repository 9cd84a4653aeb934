"""The error plot as SVG: how wrong loss and gradient get as the prediction gets surer, all subjects over each other.

    error_plot(series(results, "float32"), "float32")     an <svg>, for a page or for a file of its own

Matplotlib draws it, in colours that the SVG then takes from the reader's light or dark scheme. It scales to whatever
width it is given, and no line is known by its colour alone: dash and marker differ too, earlier lines are wider, and
markers stand at other gaps, so that lines that lie on each other still show.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from markupsafe import escape
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from crossent_conformance import sweep
from crossent_conformance.escaped import escaped

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
INK = {
    "ink": ("#1b1f24", "#e8eaed"),
    "soft": ("#57606a", "#a3abb5"),
    "grid": ("#e3e6ea", "#2b3036"),
    "shade": ("#e4ede6", "#22302a"),
    "ground": ("#fefefe", "#16191d"),
}
"""Each in light and dark; no two of the light ones are the same, by which the SVG finds what they are for."""
_NAMES = {**INK, **{f"c{place}": pair for place, pair in enumerate(COLOURS)}}
DASHES = ("-", (0, (5, 2)), (0, (1.3, 1.6)), (0, (5, 2, 1, 2)), (0, (9, 2)), (0, (3, 1)), (0, (7, 1.5, 1, 1.5, 1, 1.5)))
MARKERS = "os^Dv"
MARKER_EVERY = 15
_SHARED = re.compile(r' id="[A-Za-z0-9.]+_\d+"|<defs>\s*<style.*?</style>\s*</defs>', re.DOTALL)
"""Names as figure_1, which every plot has, and a style for all that is drawn on the page."""


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

    def values(self) -> list[float]:
        """The errors as numbers: NaN where none is known; "inf" and "nan" are as wrong as can be."""
        numbers = [math.nan if error is None else float(error) for error in self.errors]
        return [math.inf if error == "nan" else number for error, number in zip(self.errors, numbers, strict=True)]


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


def error_plot(lines: Sequence[Series], dtype: str) -> str:
    """The SVG: a panel for the loss, one for the target's gradient entry, and the legend."""
    title = f"Relative error of loss and target gradient against the confidence gap, {dtype}"
    file = io.StringIO()
    # Text stays text; the salt makes names that no other plot of the page has.
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": dtype, "text.parse_math": False, "font.size": 11}
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that a font has not, which the reader's may have
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        drawing(lines, dtype).savefig(file, format="svg", metadata=nothing)
    svg = _SHARED.sub("", file.getvalue().partition("<svg")[2])
    for name, (light, _) in _NAMES.items():
        svg = svg.replace(light, f"var(--xp-{name})")
    head, _, rest = svg.partition(">")
    head = re.sub(r' (width|height|version)="[^"]*"', "", head)
    said = escape(escaped(title))
    return f'<svg{head} class="xp" role="img" aria-label="{said}"><title>{said}</title><style>{_style()}</style>{rest}'


def _style() -> str:
    light, dark = (";".join(f"--xp-{name}:{pair[scheme]}" for name, pair in _NAMES.items()) for scheme in (0, 1))
    return f".xp{{{light}}}@media(prefers-color-scheme:dark){{.xp{{{dark}}}}}"


def drawing(lines: Sequence[Series], dtype: str) -> Figure:
    """What is drawn, in the colours of the light scheme."""
    ink = {name: light for name, (light, _) in INK.items()}
    panels = [what for what in sweep.KINDS if any(line.what == what for line in lines)]
    looks = {line.number: line for line in lines}
    size = 7, 0.7 + 3 * len(panels) + 0.24 * len(looks)
    figure = Figure(figsize=size, layout="constrained", facecolor=ink["ground"])
    axes: list[Any] = [*figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]] if panels else []
    floor = lowest(dtype)
    for axis, what in zip(axes, panels, strict=True):
        axis.set_facecolor(ink["ground"])
        heading = f"Relative error of the {what}, {dtype}"
        axis.set_title(heading, loc="left", fontsize=11, fontweight="bold", color=ink["ink"])
        limits = [_within(limit, floor) for limit in sweep.allowed(sweep.GAPS, what, dtype)]
        axis.fill_between(sweep.GAPS, floor, limits, color=ink["shade"], linewidth=0)
        axis.plot(sweep.GAPS, limits, color=ink["soft"], linewidth=0.8)
        axis.annotate(
            "allowed by the contract", (sweep.GAPS[0], limits[0]), (4, 5), textcoords="offset points",
            color=ink["soft"], fontsize=10,
        )  # fmt: skip
        of_panel = [line for line in lines if line.what == what]
        for place, line in enumerate(of_panel):
            wide = 1.4 + (1.9 * (1 - place / (len(of_panel) - 1)) if len(of_panel) > 1 else 0.0)
            every = (2 + (4 * line.number) % MARKER_EVERY, MARKER_EVERY)
            errors = [_within(error, floor) for error in line.values()]
            axis.plot(line.gaps, errors, linewidth=wide, markevery=every, clip_on=False, **_look(line))
        axis.set_yscale("log")
        axis.set_ylim(floor, 1)
        ticks = [10.0**decade for decade in range(round(math.log10(floor)), -1, 4 if floor < 1e-8 else 2)] + [1.0]
        axis.set_yticks(ticks, [_tick(tick, floor) for tick in ticks])
        axis.set_yticks([], minor=True)
        axis.set_xlim(sweep.GAPS[0], sweep.GAPS[-1])
        axis.grid(color=ink["grid"], linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(colors=ink["soft"], length=0, pad=6)
        axis.spines[:].set_visible(False)
    if panels:
        axes[-1].set_xlabel("confidence gap: the target’s logit less the seven others", color=ink["ink"])
        handles = [Line2D([], [], linewidth=1.8, **_look(line)) for _, line in sorted(looks.items())]
        shown = [_legend(line.label) for _, line in sorted(looks.items())]
        below: dict[str, Any] = {"loc": "outside lower left", "frameon": False, "handlelength": 5}
        figure.legend(handles, shown, labelcolor=ink["ink"], **below)
    return figure


def lowest(dtype: str) -> float:
    """Where the plot ends below, some tenth of the compute dtype's eps; smaller errors, 0 too, are drawn there."""
    return 1e-17 if dtype == "float64" else 1e-8


def _within(error: float, floor: float) -> float:
    return error if math.isnan(error) else min(max(error, floor), 1.0)


def _tick(value: float, floor: float) -> str:
    return "1" if value == 1 else f"{'≤' if value <= floor else ''}1e{round(math.log10(value))}"


def _look(line: Series) -> dict[str, Any]:
    return {
        "color": COLOURS[line.colour % len(COLOURS)][0],
        "linestyle": DASHES[line.number % len(DASHES)],
        "marker": MARKERS[line.number % len(MARKERS)],
        "markersize": 6,
        "markeredgewidth": 0.7,
        "markeredgecolor": INK["ground"][0],
    }


def _legend(label: str) -> str:
    """The label, in few enough letters; matplotlib leaves out those that begin with an underscore."""
    label = escaped(label)
    label = label if len(label) <= 70 else f"{label[:50]}…{label[-19:]}"
    return f"\N{HAIR SPACE}{label}" if label.startswith("_") else label
