"""The data of the error plot, and what is drawn of it: complete, true to the numbers, to be told apart."""

import re
import warnings
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import numpy as np
import pytest
from tests import sample_results as sample

from crossent_conformance import backends, figure, oracle, sweep, units
from crossent_conformance.subject import DoesNotApply

SVG = "{http://www.w3.org/2000/svg}"
NUMPY = backends.load("numpy")


def textbook(logits, targets, *, reduction):
    assert reduction == "none"
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rows = np.arange(len(targets))
    loss = -np.log(p[rows, targets])
    p[rows, targets] -= 1
    return loss, p


def lacking(*_args, **_options):
    raise DoesNotApply("the gradient")


def implementation(loss_and_grad, loss=None):
    return SimpleNamespace(loss_and_grad=loss_and_grad, loss=loss or (lambda *a, **k: loss_and_grad(*a, **k)[0]))


# ---- the data


def test_curves_are_the_relative_errors():
    loss, gradient = sweep.curves(implementation(textbook), NUMPY, ["float32"])
    assert (loss["what"], gradient["what"]) == ("loss", "target gradient")
    assert loss["gaps"] == list(range(-40, 81))
    assert (loss["backend"], loss["dtype"]) == ("numpy", "float32")
    # Ahead by 10, float32 holds 1 - p to about three digits; ahead by 40, not at all.
    at = dict(zip(loss["gaps"], zip(loss["errors"], gradient["errors"], strict=True), strict=True))
    assert 1e-5 < at[10][0] < 1e-2
    assert at[40] == (1.0, 1.0)
    assert all(error < 1e-6 for error in loss["errors"][:40])


def test_an_error_is_measured_below_the_precision_of_float64():
    exact, _ = oracle.cross_entropy(*sweep.inputs(), reduction="none")
    (loss,) = sweep.curves(implementation(lacking, lambda *_, **__: exact.high), NUMPY, ["float64"])
    assert 0 < max(loss["errors"]) < 2.0**-52


def test_values_that_are_no_numbers_are_infinite_errors():
    def broken(logits, targets, *, reduction):
        loss, gradient = textbook(logits, targets, reduction=reduction)
        loss[0], loss[1], gradient[2] = np.nan, -np.inf, np.nan
        return loss, gradient

    loss, gradient = sweep.curves(implementation(broken), NUMPY, ["float64"])
    assert loss["errors"][:2] == ["inf", "inf"]
    assert gradient["errors"][2] == "inf"
    assert isinstance(loss["errors"][2], float)


def test_a_loss_alone_gives_its_curve():
    found = sweep.curves(implementation(lacking, lambda *a, **k: textbook(*a, **k)[0]), NUMPY, ["float64", "float32"])
    assert [(curve["dtype"], curve["what"]) for curve in found] == [("float64", "loss"), ("float32", "loss")]


@pytest.mark.parametrize(
    "answer",
    [None, "loss", np.zeros(3), (np.zeros(121), np.zeros(121), 0), np.zeros((121, 8))],
    ids=["none", "text", "few", "three", "wide"],
)
def test_what_is_no_loss_gives_no_curve(answer):
    def given(*_args, **_options):
        return answer

    assert sweep.curves(implementation(given, given), NUMPY, ["float64"]) == []


def test_no_exception_and_no_warning_comes_out():
    def raising(*_args, **_options):
        raise SystemError("whatever")

    assert sweep.curves(implementation(raising, raising), NUMPY, ["float64", "bfloat16", "no such"]) == []

    def warning(logits, targets, *, reduction):
        np.log(np.zeros(1))
        warnings.warn("on the way out", DeprecationWarning, stacklevel=1)
        return textbook(logits, targets, reduction=reduction)

    assert len(sweep.curves(implementation(warning), NUMPY, ["float64"])) == 2


def test_a_gradient_of_another_shape_leaves_the_loss():
    found = sweep.curves(implementation(lambda *a, **k: (textbook(*a, **k)[0], np.zeros((121, 1)))), NUMPY, ["float64"])
    assert [curve["what"] for curve in found] == ["loss"]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_allowed_is_what_the_oracle_allows(dtype):
    loss, gradient = oracle.cross_entropy(*sweep.inputs(), reduction="none")
    for what, exact in (("loss", loss), ("target gradient", gradient[:, 0])):
        given = np.array(sweep.allowed(sweep.GAPS, what, dtype))
        asked = np.abs(exact.high) >= units.FLOOR[dtype]
        assert asked.any()
        np.testing.assert_allclose(
            given[asked], exact.allowed[asked] / np.abs(exact.high[asked]) * units.EPS[dtype], rtol=1e-12
        )
        assert np.isinf(given[~asked]).all()


def test_allowed_to_a_gradient_in_half_precision_is_its_rounding_besides():
    wide, half = (sweep.allowed([0, 10, 25], "target gradient", dtype) for dtype in ("float32", "float16"))
    # 7/8 lies between 1/2 and 1, where float16 has a half ulp of 2**-12; 25 ahead is below its smallest number.
    assert half[0] == pytest.approx(wide[0] + 2.0**-12 / (7 / 8))
    assert half[2] > 1
    assert sweep.allowed([10], "loss", "float16") == sweep.allowed([10], "loss", "float32")


# ---- the picture


def lines_of(dtype="float32", *subjects):
    return figure.series(sample.results(*(subjects or (sample.good, sample.bad, sample.partial))), dtype)


def drawn(lines, dtype="float32"):
    """By label, what is drawn of each panel, and the samples of the legend."""
    picture = figure.drawing(lines, dtype)
    legend = dict(
        zip([text.get_text() for text in picture.legends[0].get_texts()], picture.legends[0].get_lines(), strict=True)
    )
    panels = [axes.get_lines()[1:] for axes in picture.axes]
    return panels, legend, picture


def one(errors, dtype):
    (panel,), _, _ = drawn([figure.Series("s", "b", "loss", range(len(errors)), errors)], dtype)
    return panel[0].get_ydata()


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_the_picture_is_well_formed_and_stands_alone(dtype):
    svg = figure.error_plot(lines_of(dtype), dtype)
    root = ET.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert root.get("viewBox").startswith("0 0 ")
    assert root.get("width") is None
    assert root.get("role") == "img"
    assert dtype in root.get("aria-label")
    assert "prefers-color-scheme:dark" in svg
    assert not re.search(r"(href=\"|url\()[^#]|<script|<style type|://(?!www\.w3\.org/(2000/svg|1999/xlink))", svg)
    # What is drawn has the colours of the reader's scheme, and none of its own.
    assert not set(re.findall(r"#[0-9a-f]{6}", svg.partition("</style>")[2]))


def test_names_in_two_pictures_are_not_the_same():
    first, second = (
        set(re.findall(r' id="([^"]+)"', figure.error_plot(lines_of(d), d))) for d in ("float64", "float32")
    )
    assert first
    assert not first & second


def test_every_line_is_drawn_and_named_and_differs_by_more_than_colour():
    lines = lines_of()
    (losses, gradients), legend, _ = drawn(lines)
    assert len(legend) == len(losses) == 9
    assert len(gradients) == 8  # one has no gradient
    assert {"crossent · numpy", "crossent · array-api-strict"} <= legend.keys()
    of_crossent = [line for label, line in legend.items() if label.startswith("crossent")]
    assert len({str(line._unscaled_dash_pattern) for line in of_crossent}) == 7
    looks = {(line.get_color(), str(line._unscaled_dash_pattern), line.get_marker()) for line in legend.values()}
    assert len(looks) == 9
    widths = [line.get_linewidth() for line in losses]
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) == 9


@pytest.mark.parametrize("listed", [True, False])
def test_a_line_looks_the_same_for_every_dtype_and_whatever_backend_was_done_first(listed):
    results, shuffled = (sample.results(sample.good, sample.bad) for _ in range(2))
    if not listed:
        for subject in results["subjects"] + shuffled["subjects"]:
            del subject["backends"]
    shuffled["subjects"][0]["curves"].reverse()
    look = {line.label: (line.number, line.colour) for line in figure.series(results, "float32")}
    for dtype in ("float64", "float32"):
        assert {line.label: (line.number, line.colour) for line in figure.series(shuffled, dtype)} == look


def test_what_is_unknown_is_a_gap_and_what_is_absurd_stays_inside():
    np.testing.assert_array_equal(one([1e-3, None, "nan", 1e30, 1e-30], "float64"), [1e-3, np.nan, 1, 1, 1e-17])
    np.testing.assert_array_equal(one([0.0, "inf", 1e-4], "float32"), [1e-8, 1, 1e-4])


def test_the_shade_is_what_is_allowed():
    _, _, picture = drawn(lines_of("float32", sample.good))
    for axes, what in zip(picture.axes, sweep.KINDS, strict=True):
        limits = axes.get_lines()[0].get_ydata()
        np.testing.assert_array_equal(limits, np.minimum(sweep.allowed(sweep.GAPS, what, "float32"), 1))
        top = axes.collections[0].get_paths()[0].vertices[:, 1]
        assert set(limits) <= set(top)
        assert all((line.get_ydata() <= limits).all() for line in axes.get_lines()[1:])
    _, _, picture = drawn(lines_of("float32", sample.partial))
    assert (picture.axes[0].get_lines()[1].get_ydata() > picture.axes[0].get_lines()[0].get_ydata()).any()


def test_names_are_escaped():
    hostile = figure.Series("_$x^2 <script>\x1b\ud800 名", "b", "loss", [0], [1.0])
    svg = figure.error_plot([hostile], "float32")
    assert r"_$x^2 &lt;script&gt;\x1b\ud800 名 · b" in svg
    assert "<script" not in svg
    svg.encode()


def test_nothing_to_draw_is_still_a_picture():
    ET.fromstring(figure.error_plot([], "float32"))
    assert figure.series({"subjects": [{"name": "x"}, {"name": "y", "curves": None}]}, "float32") == []


def contrast(one, other):
    def light(colour):
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot((0.2126, 0.7152, 0.0722), linear))

    lighter, darker = sorted((light(one), light(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_lines_stand_out_from_ground_and_shade(scheme):
    for ground in (figure.INK["ground"][scheme], figure.INK["shade"][scheme]):
        assert all(contrast(pair[scheme], ground) >= 3 for pair in figure.COLOURS), ground
    assert contrast(figure.INK["soft"][scheme], figure.INK["ground"][scheme]) >= 4.5
    assert len({pair[scheme] for pair in [*figure.COLOURS, *figure.INK.values()]}) == 13
