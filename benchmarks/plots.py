"""The pictures of a run, as SVG: achieved GB/s beside the copy's, against V and N, memory. Needs matplotlib.

The same run gives the same bytes: no dates, no random names. The ground is white, for readers with a dark one; text
stays text; what a colour says (Okabe and Ito's) a marker, a dash or the name beside a bar says too.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.contenders import COPY
from benchmarks.measurement import Measurement

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
    ("crossent, engine cuda", "#0072b2"),
    ("crossent, other libraries", "#009e73"),
    ("peers", "#e69f00"),
)
_ENGINES = ("numba", "array_api", "cuda", "")
"""In the order of the kinds."""
_BACKEND_MARKS = {"numpy": ("o", "-"), "torch": ("^", (0, (5, 1))), "jax": ("X", "-"), "torch-cuda": ("o", "-")}
_PEER_LINES = (
    ("#d55e00", "s", "--"), ("#cc79a7", "D", "-."), ("#8f7500", "v", (0, (5, 1, 1, 1, 1, 1))),
    ("#7f7f7f", "X", (0, (1, 1))), ("#e69f00", "<", "--"), ("#d55e00", "p", "-."), ("#cc79a7", "h", (0, (1, 1))),
)  # fmt: skip
_COPY_LINE = ("#1b1f24", ".", ":")
_BAR, _PANEL = 0.28, 0.9
"""Inches: of a bar and its gap, and of a panel beside its bars."""


def draw(measurements: Iterable[Measurement], folder: Path, name: str = "benchmarks") -> list[tuple[Path, str]]:
    """Write the pictures that the measurements are enough for; their paths, with a line that says what is seen."""
    found = list(measurements)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = (
        ("roofline", _roofline(found), "Achieved GB/s of each contender; the line is the copy of the logits"),
        ("vocabulary", _vocabulary(found), "Time per logit against V, as many logits in every call"),
        ("memory", _memory(found), "Extra memory of each contender; the line is the size of the logits"),
        ("gpu-vocabulary", _gpu_vocabulary(found), "Achieved GB/s on a GPU against V, as many bytes in every call"),
        ("gpu-bytes", _gpu_bytes(found), "Achieved GB/s on a GPU against the bytes of the logits"),
    )
    written = []
    for ending, figure, words in pictures:
        if figure is not None:
            path = folder / f"{name}-{ending}.svg"
            save(figure, path, words)
            written.append((path, words))
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
    found = re.search(r", (numba|array_api|cuda)\b", name)
    return found[1] if found else ""


def _kind(name: str) -> int:
    return _ENGINES.index(_engine(name)) if name.startswith("crossent") else len(_ENGINES)


def _roofline(found: list[Measurement]) -> Figure | None:
    panels = []
    for question, words in (
        ("gradient", "forward and gradient"), ("forward", "forward"), ("gpu-gradient", "forward and gradient on a GPU"),
        ("gpu-forward", "forward on a GPU"),
    ):  # fmt: skip
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
    axes = _lines(asked, lambda one: one.problem.v, lambda one: one.ns_per_logit)
    if axes is None:
        return None
    axes.set(yscale="log", xlabel="V, the vocabulary", ylabel="ns per logit, forward and gradient")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    problem = asked[0].problem
    return _titled(axes, f"{problem.n * problem.v / 1e6:.3g} million logits in every call, {problem.dtype}")


def _gpu_vocabulary(found: list[Measurement]) -> Figure | None:
    # Of what is ours, one way for each engine: into memory that is there, unchecked where it was asked so.
    ways = (", cuda, out=, unchecked", ", array_api, out=")
    asked = [
        one
        for one in _first_dtype(found, "gpu-gradient")
        if one.contender.endswith(ways) or not one.contender.startswith("crossent")
    ]
    axes = _lines(asked, lambda one: one.problem.v, lambda one: one.gigabytes_per_second)
    if axes is None:
        return None
    axes.set(xlabel="V, the vocabulary", ylabel="GB/s, forward and gradient")
    return _titled(axes, f"{asked[0].problem.nbytes / 2**20:.0f} MiB of logits or more, {asked[0].problem.dtype}")


def _gpu_bytes(found: list[Measurement]) -> Figure | None:
    asked = _first_dtype(found, "gpu-bytes")
    axes = _lines(asked, lambda one: one.problem.nbytes / 2**20, lambda one: one.gigabytes_per_second)
    if axes is None:
        return None
    axes.set(xlabel="MiB of logits", ylabel="GB/s, forward and gradient")
    return _titled(axes, f"V = {asked[0].problem.v}, {asked[0].problem.dtype}")


def _first_dtype(found: list[Measurement], question: str) -> list[Measurement]:
    asked = [one for one in found if one.question == question]
    return [one for one in asked if one.problem.dtype == asked[0].problem.dtype]


def _lines(
    asked: list[Measurement], x: Callable[[Measurement], float], y: Callable[[Measurement], float]
) -> Axes | None:
    """A line for each contender, on a logarithmic x axis."""
    if not asked:
        return None
    peers = itertools.cycle(_PEER_LINES)
    with matplotlib.rc_context(SETTINGS):
        axes = Figure(figsize=(8.5, 5.5), layout="constrained").subplots()
        for name in dict.fromkeys(one.contender for one in asked):
            points = sorted((x(one), y(one)) for one in asked if one.contender == name)
            colour, marker, dash = _line_style(name, peers)
            axes.plot(
                *zip(*points, strict=True), color=colour, marker=marker, linestyle=dash, label=name, linewidth=1.8,
                markersize=6, markeredgecolor="white", markeredgewidth=0.7,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(color="#e3e6ea")
    return axes


def _titled(axes: Axes, title: str) -> Figure:
    with matplotlib.rc_context(SETTINGS):
        axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold")
        axes.figure.legend(loc="outside lower center", ncols=2, frameon=False, handlelength=4)
    return axes.figure


def _line_style(name: str, peers: Iterator[tuple]) -> tuple:
    """Colour, marker and dash."""
    if name == COPY:
        return _COPY_LINE
    if not name.startswith("crossent "):
        return next(peers)
    marker, dash = _BACKEND_MARKS.get(name.split()[1].rstrip(","), ("P", "-"))
    return _KINDS[_kind(name)][1], marker, dash
