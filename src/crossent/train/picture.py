"""The picture of a comparison: all loss curves over each other, and their differences below. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crossent.info import UsageError
from crossent.train.results import REFERENCE, Results

# The curves coincide: each is narrower than the one before it and drawn over it, so that all of them show.
_WIDTHS = (6.0, 3.5, 1.6, 0.8)
_COLOURS = ("#9ecae1", "#fd8d3c", "#54278f", "#31a354", "#de2d26", "#636363")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_SMALLEST = 1e-7


def check_name(path: Path) -> None:
    """UsageError, before minutes of training, for a picture that could not be written after it."""
    accepted = sorted(Figure().canvas.get_supported_filetypes())
    if path.suffix[1:].lower() not in accepted:
        raise UsageError(f"cannot draw {path}: accepted are files ending in {', '.join(accepted)}")


def draw(results: Results, path: Path) -> None:
    """Write the picture."""
    compared = [run for run in results.runs if results.reference is not None and run.backend != REFERENCE]
    figure = Figure(figsize=(9, 7 if compared else 5), layout="constrained", dpi=130)
    if compared:
        curves, differences = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        _draw_differences(differences, results)
        lowest = differences
    else:
        curves = lowest = figure.subplots()
    _draw_curves(curves, results)
    lowest.set_xlabel(f"training step ({results.settings.batch} × {results.settings.seq} tokens each)")
    lowest.set_xlim(0, results.settings.steps)
    figure.suptitle(f"One cross-entropy on every backend, learning from {results.corpus.source}")
    figure.savefig(path)


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def _marker(index: int) -> str:
    return _MARKERS[index % len(_MARKERS)]


def _draw_curves(axes: Axes, results: Results) -> None:
    unigram = np.log(results.corpus.unigram_perplexity())
    levels = (("log V, nothing learnt", results.initial_loss, "--"), ("unigram model", unigram, ":"))
    for name, level, style in levels:
        axes.axhline(level, color="black", linewidth=1, linestyle=style, zorder=1)
        axes.annotate(
            f"{name}: {level:.2f}", (1, level), xycoords=("axes fraction", "data"), xytext=(-4, 3),
            textcoords="offset points", ha="right", va="bottom", fontsize=9,
        )  # fmt: skip
    for index, run in enumerate(results.runs):
        width = _WIDTHS[min(index, len(_WIDTHS) - 1)]
        axes.plot(
            np.arange(len(run.losses)), run.losses, color=_colour(index), linewidth=width,
            label=f"{run.backend}, training", zorder=2 + index,
        )  # fmt: skip
    for index, run in enumerate(results.runs):
        done, losses = zip(*run.validation, strict=True)
        axes.plot(
            done, losses, color=_colour(index), marker=_marker(index), linestyle="none", markeredgecolor="black",
            markersize=max(4, 11 - 3 * index), markeredgewidth=0.7, label=f"{run.backend}, validation",
            clip_on=False, zorder=20 + index,
        )  # fmt: skip
    axes.set_ylabel("loss (nats per token)")
    axes.margins(y=0.08)
    axes.grid(alpha=0.25)
    axes.legend(ncols=2, loc="lower left", fontsize=9)


def _draw_differences(axes: Axes, results: Results) -> None:
    """Points, as rounding errors have no trend between steps; a difference of zero lies on the axis."""
    assert results.reference is not None
    reference = np.asarray(results.reference.losses)
    for index, run in enumerate(results.runs):
        if run.backend == REFERENCE:
            continue
        difference = np.abs(np.asarray(run.losses) - reference)
        axes.plot(
            np.arange(len(difference)), difference, linestyle="none", marker=_marker(index),
            markersize=3, color=_colour(index), label=run.backend, clip_on=False, zorder=3,
        )  # fmt: skip
    spacing = np.spacing(reference.astype(np.float32))
    axes.plot(np.arange(len(spacing)), spacing, color="black", linewidth=1, label="float32 spacing at the loss")
    axes.set_yscale("symlog", linthresh=_SMALLEST, linscale=0.3)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("|difference\nfrom NumPy|")
    axes.grid(alpha=0.25)
    axes.legend(ncols=len(results.runs), loc="upper left", fontsize=9)
