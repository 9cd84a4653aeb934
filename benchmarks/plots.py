"""The pictures of a run, as SVG: achieved GB/s beside the copy's, time against V, memory. Needs matplotlib.

The same run gives the same bytes: no dates, no random names. The ground is white, for readers with a dark one; text
stays text; what a colour says (Okabe and Ito's) a marker, a dash or the name beside a bar says too.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.contenders import COPY
from benchmarks.measurement import Measurement

ROOFLINE, VOCABULARY, MEMORY = "benchmarks-roofline.svg", "benchmarks-vocabulary.svg", "benchmarks-memory.svg"

SETTINGS = {
    "svg.hashsalt": "crossent",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#57606a",
    "text.color": "#1b1f24",
    "axes.labelcolor": "#1b1f24",
    "xtick.color": "#1b1f24",
    "ytick.color": "#1b1f24",
}
_KINDS = (
    ("crossent, engine numba", "#0072b2"),
    ("crossent, engine array_api", "#56b4e9"),
    ("crossent, other libraries", "#009e73"),
    ("peers", "#e69f00"),
)
_ENGINE_COLOURS = {"numba": _KINDS[0][1], "array_api": _KINDS[1][1], "": _KINDS[2][1]}
_BACKEND_MARKS = {"numpy": ("o", "-"), "torch": ("^", (0, (5, 1))), "jax": ("X", "-")}
PEER_LINES = (("#d55e00", "s", "--"), ("#cc79a7", "D", "-."), ("#8f7500", "v", (0, (5, 1, 1, 1, 1, 1))))
COPY_LINE = ("#1b1f24", ".", ":")
_BAR, _PANEL = 0.28, 0.9
"""Inches: of a bar and its gap, and of a panel beside its bars."""


def draw(measurements: Iterable[Measurement], folder: Path) -> list[tuple[Path, str]]:
    """Write the pictures that the measurements are enough for; their paths, with a line that says what is seen."""
    found = list(measurements)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = (
        (ROOFLINE, _roofline(found), "Achieved GB/s of each contender; the line is the copy of the logits"),
        (VOCABULARY, _vocabulary(found), "Time per logit against V, as many logits in every call"),
        (MEMORY, _memory(found), "Extra memory of each contender; the line is the size of the logits"),
    )
    written = []
    for name, figure, words in pictures:
        if figure is not None:
            save(figure, folder / name, words)
            written.append((folder / name, words))
    return written


def save(figure: Figure, path: Path, title: str) -> None:
    """Write a figure; the title is for those who hear it."""
    # Room for viewers whose letters are wider than those that the figure was laid out with.
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.1)
    text = io.StringIO()
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(text, format="svg", facecolor="white", metadata={"Date": None, "Creator": None, "Title": title})
    path.write_text("\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n", encoding="utf-8")


def _first_size(found: list[Measurement], question: str) -> list[Measurement]:
    """A question's measurements on the first of its problems."""
    asked = [one for one in found if one.question == question]
    return [one for one in asked if one.size == asked[0].size]


def _engine(name: str) -> str:
    return next((engine for engine in ("numba", "array_api") if engine in name), "")


def _kind(name: str) -> int:
    if not name.startswith("crossent"):
        return 3
    return ("numba", "array_api", "").index(_engine(name))


def _roofline(found: list[Measurement]) -> Figure | None:
    panels = []
    for question, words in (("gradient", "forward and gradient"), ("forward", "forward")):
        group = _first_size(found, question)
        copy = next((one for one in group if one.contender == COPY), None)
        bars = [(one.contender, one.gigabytes_per_second) for one in group if one is not copy]
        if copy is not None and bars:
            rate = copy.gigabytes_per_second
            title = f"{words}, {copy.problem.title}"
            panels.append((title, sorted(bars, key=lambda bar: -bar[1]), rate, f"copy: {rate:.1f} GB/s"))
    return _bars(panels, "GB/s; counted are one read of the logits and, with a gradient, one write")


def _memory(found: list[Measurement]) -> Figure | None:
    panels = []
    for question, words in (("memory-gradient", "forward and gradient"), ("memory-forward", "forward")):
        group = _first_size(found, question)
        if group:
            problem = group[0].problem
            size = problem.nbytes / 2**20
            bars = sorted(((one.contender, one.peak_bytes / 2**20) for one in group), key=lambda bar: bar[1])
            panels.append((f"{words}, {problem.title}", bars, size, f"the logits: {size:.0f} MiB"))
    return _bars(panels, "MiB beyond what was there before the call")


def _bars(panels: Sequence[tuple[str, Sequence[tuple[str, float]], float, str]], unit: str) -> Figure | None:
    """A panel for each title, with its bars, and a line across them."""
    if not panels:
        return None
    heights = [_BAR * len(bars) + _PANEL for _, bars, _, _ in panels]
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(8.5, sum(heights) + 0.5), layout="constrained")
        all_axes = figure.subplots(len(panels), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
        for axes, panel in zip(all_axes, panels, strict=True):
            _bar_panel(axes, *panel)
        all_axes[-1].set_xlabel(unit)
        kinds = sorted({_kind(name) for _, bars, _, _ in panels for name, _ in bars})
        figure.legend(
            handles=[Patch(color=_KINDS[kind][1], label=_KINDS[kind][0]) for kind in kinds],
            loc="outside lower center", ncols=len(kinds), frameon=False,
        )  # fmt: skip
    return figure


def _bar_panel(axes: Axes, title: str, bars: Sequence[tuple[str, float]], line: float, line_label: str) -> None:
    names, values = zip(*bars, strict=True)
    drawn = axes.barh(range(len(bars)), values, height=0.72, color=[_KINDS[_kind(name)][1] for name in names])
    labels = axes.bar_label(drawn, [f"{value:.1f}" for value in values], padding=4, fontsize=9, zorder=3)
    for label in labels:
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8})
    axes.set_yticks(range(len(bars)), names)
    axes.set_ylim(len(bars) - 0.4, -1.3)
    axes.tick_params(axis="y", length=0)
    axes.axvline(line, color="#1b1f24", linewidth=1.2, linestyle="--", zorder=0)
    axes.annotate(line_label, (line, -0.85), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_xlim(0, max(axes.get_xlim()[1], 1.28 * line, 1.12 * max(values)))
    axes.grid(axis="x", color="#e3e6ea")
    axes.set_axisbelow(True)
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold")


def _vocabulary(found: list[Measurement]) -> Figure | None:
    asked = [one for one in found if one.question == "scaling-v"]
    if not asked:
        return None
    peers = itertools.cycle(PEER_LINES)
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(8.5, 5.5), layout="constrained")
        axes = figure.subplots()
        for name in dict.fromkeys(one.contender for one in asked):
            points = sorted((one.problem.v, one.ns_per_logit) for one in asked if one.contender == name)
            colour, marker, dash = _line_style(name, peers)
            axes.plot(
                *zip(*points, strict=True), color=colour, marker=marker, linestyle=dash, label=name, linewidth=1.8,
                markersize=6, markeredgecolor="white", markeredgewidth=0.7,
            )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="V, the vocabulary")
        axes.set_ylabel("ns per logit, forward and gradient")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(color="#e3e6ea")
        problem = asked[0].problem
        title = f"{problem.n * problem.v / 1e6:.3g} million logits in every call, {problem.dtype}"
        axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold")
        figure.legend(loc="outside lower center", ncols=2, frameon=False, handlelength=4)
    return figure


def _line_style(name: str, peers: Iterator[tuple]) -> tuple:
    """Colour, marker and dash."""
    if name == COPY:
        return COPY_LINE
    if not name.startswith("crossent "):
        return next(peers)
    marker, dash = _BACKEND_MARKS.get(name.split()[1].rstrip(","), ("P", "-"))
    return _ENGINE_COLOURS[_engine(name)], marker, dash
