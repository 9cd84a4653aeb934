"""The pictures of a run on a GPU: achieved GB/s against V, and against the logits' bytes, under the copy's line."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from benchmarks.gpu import SIZES, VOCABULARY
from benchmarks.gpu_contenders import COPY, FORWARD, GRADIENT
from benchmarks.plots import COPY_LINE, PEER_LINES, SETTINGS, save

Figures = list[dict[str, Any]]

PICTURES = (
    ("size", SIZES, "logits_bytes", "bytes of the logits", "Achieved GB/s against the bytes of the logits, V = {V}"),
    ("vocabulary", VOCABULARY, "V", "V, the vocabulary", "Achieved GB/s against V, {bytes} of logits"),
)
"""The end of the file's name, the series, what it runs over, and the words for that and for the whole."""
_OURS = {"torch-cuda": ("#0072b2", "o", "-"), "cupy": ("#009e73", "^", "-")}
_PORTABLE = {"torch-cuda": ("#56b4e9", "P", (0, (5, 1))), "cupy": ("#8fd3b6", "<", (0, (5, 1)))}
_COPIES = {"torch-cuda": COPY_LINE, "cupy": ("#8c959f", ".", "--")}
_TEXTBOOK = ("#7f7f7f", "X", (0, (1, 1)))
_BITS = {"16 bits": ("bfloat16", "float16"), "32 bits": ("float32",)}


def draw(figures: Figures, folder: Path, name: str) -> list[tuple[Path, str]]:
    """Write the pictures that the figures are enough for; their paths, with a line that says what is seen."""
    folder.mkdir(parents=True, exist_ok=True)
    unchecked = {one["contender"].split(",")[0] for one in figures if "unchecked" in one["contender"]}
    written = []
    for ending, series, over, label, words in PICTURES:
        chosen = [one for one in figures if one["series"] == series and "ms" in one]
        chosen += _same_as_swept(figures, chosen) if series == SIZES else []
        chosen = [one for one in chosen if _is_drawn(one, unchecked)]
        if len({one[over] for one in chosen}) > 1:
            sentence = words.format(V=chosen[0]["V"], bytes=_bytes(min(one["logits_bytes"] for one in chosen)))
            path = folder / f"{name}-{ending}.svg"
            save(_panels(chosen, over, label), path, sentence)
            written.append((path, sentence))
    return written


def _same_as_swept(figures: Figures, swept: Figures) -> Figures:
    """What was measured over vocabularies at the vocabulary of the sweep belongs to the sweep as well."""
    keys = ("backend", "dtype", "question", "contender", "V")
    wanted = {tuple(one[key] for key in keys) for one in swept}
    return [
        one
        for one in figures
        if one["series"] == VOCABULARY and "ms" in one and tuple(one[key] for key in keys) in wanted
    ]


def _bytes(count: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


def _panels(figures: Figures, over: str, label: str) -> Figure:
    """A panel for each question and width of the logits."""
    styles = _styles(figures)
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(10, 7.5), layout="constrained")
        all_axes = figure.subplots(2, 2, sharex=True, sharey=True, squeeze=False)
        seen: dict[str, Any] = {}
        for row, question in zip(all_axes, (FORWARD, GRADIENT), strict=True):
            for axes, (bits, dtypes) in zip(row, _BITS.items(), strict=True):
                of_dtype = [one for one in figures if one["dtype"] in dtypes]
                seen |= _panel(axes, [one for one in of_dtype if one["question"] in (question, "copy")], over, styles)
                axes.set_title(f"{question}, {bits}", loc="left", fontsize=10.5, fontweight="bold")
        for axes in all_axes[-1]:
            axes.set_xlabel(label)
        for axes in all_axes[:, 0]:
            axes.set_ylabel("GB/s")
        ordered = sorted(seen, key=lambda name: (COPY not in name, "crossent" not in name, name))
        figure.legend(
            [seen[name] for name in ordered], ordered, loc="outside lower center", ncols=2, frameon=False,
            handlelength=4, fontsize=9,
        )  # fmt: skip
    return figure


def _panel(axes: Axes, figures: Figures, over: str, styles: dict[str, Any]) -> dict[str, Any]:
    """The lines of one panel, by the names that the legend gives them."""
    drawn = {}
    for name in dict.fromkeys(map(_line, figures)):
        points = sorted((one[over], one["gigabytes_per_second"]) for one in figures if _line(one) == name)
        colour, marker, dash = styles[name]
        (drawn[name],) = axes.plot(
            *zip(*points, strict=True), color=colour, marker=marker, linestyle=dash, linewidth=1.8, markersize=6,
            markeredgecolor="white", markeredgewidth=0.7, zorder=1 if COPY in name else 2,
        )  # fmt: skip
    places = sorted({one[over] for one in figures})
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    # Two vocabularies that lie beside each other share a mark, or their numbers would lie on each other.
    marks = [at for i, at in enumerate(places) if i == 0 or at > 1.5 * places[i - 1]]
    axes.xaxis.set_major_locator(FixedLocator(marks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(lambda at, _: f"{at:,.0f}" if over == "V" else _bytes(at))
    axes.tick_params(axis="x", labelrotation=30)
    axes.grid(color="#e3e6ea")
    axes.set_axisbelow(True)
    return drawn


def _line(one: dict[str, Any]) -> str:
    """The legend's name; the library is part of it."""
    name = one["contender"].split(",")[0] if one["ours"] else one["contender"]
    return f"{name}, {one['backend']}"


def _is_drawn(one: dict[str, Any], unchecked: set[str]) -> bool:
    """Of what is ours, one way for each engine: unchecked where it was asked so, and into memory that is there."""
    if not one["ours"]:
        return True
    name, _, way = one["contender"].partition(", ")
    if name in unchecked:
        return "unchecked" in way
    return way == ("" if one["question"] == FORWARD else "out=")


def _styles(figures: Figures) -> dict[str, Any]:
    """Colour, marker and dash of every line."""
    peers: Iterator[Any] = itertools.cycle(PEER_LINES)
    found: dict[str, Any] = {}
    for one in figures:
        name, backend = _line(one), one["backend"]
        if name in found:
            continue
        if one["contender"] == COPY:
            found[name] = _COPIES.get(backend, COPY_LINE)
        elif one["contender"] == "textbook":
            found[name] = _TEXTBOOK
        elif not one["ours"]:
            found[name] = next(peers)
        elif "array_api" in name:
            found[name] = _PORTABLE.get(backend, _PORTABLE["cupy"])
        else:
            found[name] = _OURS[backend]
    return found
