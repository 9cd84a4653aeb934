"""The picture of a comparison: all loss curves over each other, and their differences below. Needs matplotlib."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crossent.train.loop import Results

# The curves coincide: each is narrower than the one before it and drawn over it, so that all of them show. Those
# without logits are dashes over those with them, which take turns along the way.
_WIDTHS = (6.0, 3.5, 1.6, 0.8)
_DASH, _DASH_WIDTH = 1.5, 2.4
_MARKERS = "os^DvP"


def draw(results: Results, path: Path) -> None:
    """Write the picture."""
    compared = results.reference is not None and len(results.runs) > 1
    figure = Figure(figsize=(9, 7 if compared else 5), layout="constrained", dpi=130)
    heights = (3, 1) if compared else (1,)
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    _draw_curves(axes[0], results)
    if compared:
        _draw_differences(axes[1], results)
    for one in axes:
        one.grid(alpha=0.25)
    axes[-1].set_xlabel(f"training step ({results.settings.batch} × {results.settings.seq} tokens each)")
    axes[-1].set_xlim(0, results.settings.steps)
    figure.suptitle(f"One cross-entropy on every backend, learning from {results.corpus.source}", parse_math=False)
    figure.savefig(path)


def _draw_curves(axes: Axes, results: Results) -> None:
    unigram = np.log(results.corpus.unigram_perplexity())
    levels = (("log V, nothing learnt", results.initial_loss, "--"), ("unigram model", unigram, ":"))
    for name, level, style in levels:
        axes.axhline(level, color="black", linewidth=1, linestyle=style, zorder=1)
        axes.annotate(
            f"{name}: {level:.2f}", (1, level), xycoords=("axes fraction", "data"), xytext=(-4, 3),
            textcoords="offset points", ha="right", va="bottom", fontsize=9,
        )  # fmt: skip
    linear = [run for run in results.runs if run.linear]
    widths = iter((*_WIDTHS, *itertools.repeat(_WIDTHS[-1], len(results.runs))))
    for index, run in enumerate(results.runs):
        dashes: tuple[float, tuple[float, ...]] = (0, ())
        if run.linear:
            dashes = (_DASH * linear.index(run), (_DASH, _DASH * len(linear)))
        axes.plot(
            run.losses, f"C{index}", linewidth=_DASH_WIDTH if run.linear else next(widths), linestyle=dashes,
            label=f"{run.label}, training", zorder=(10 if run.linear else 2) + index,
        )  # fmt: skip
    for index, (run, marker) in enumerate(zip(results.runs, itertools.cycle(_MARKERS), strict=False)):
        axes.plot(
            *zip(*run.validation, strict=True), f"C{index}{marker}", markeredgecolor="black", markeredgewidth=0.7,
            markersize=max(4, 11 - 3 * index), label=f"{run.label}, validation", clip_on=False, zorder=20 + index,
        )  # fmt: skip
    axes.set_ylabel("loss (nats per token)")
    axes.margins(y=0.08)
    # A curve falls from the left above to the right below: many lines have room at the side.
    axes.legend(ncols=2, loc="center right" if linear else "lower left", fontsize=9)


def _draw_differences(axes: Axes, results: Results) -> None:
    """Points, as rounding errors have no trend between steps; a difference of zero lies on the axis."""
    assert results.reference is not None
    reference = np.asarray(results.reference.losses)
    for index, (run, marker) in enumerate(zip(results.runs, itertools.cycle(_MARKERS), strict=False)):
        if run is not results.reference:
            difference = np.abs(np.asarray(run.losses) - reference)
            axes.plot(difference, f"C{index}{marker}", markersize=3, label=run.label, clip_on=False, zorder=3)
    axes.plot(np.spacing(reference.astype(np.float32)), "black", linewidth=1, label="float32 spacing at the loss")
    axes.set_yscale("symlog", linthresh=1e-7, linscale=0.3)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("|difference\nfrom NumPy|")
    axes.legend(ncols=min(len(results.runs), 4), loc="upper left", fontsize=9)
