"""The data of the error plot, and the picture: well formed, complete, true to the numbers, to be told apart."""

import html
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


def plot(dtype="float32", *subjects):
    results = sample.results(*(subjects or (sample.good, sample.bad, sample.partial)))
    return figure.error_plot(figure.series(results, dtype), dtype), figure.series(results, dtype)


def lines_of(svg, title):
    """The drawn lines of that label: their points, one list a panel; the legend's last."""
    root = ET.fromstring(svg)
    groups = [group for group in root.iter(f"{SVG}g") if group.findtext(f"{SVG}title") == title]
    return [group.find(f"{SVG}path") for group in groups]


def shown(label):
    """A label as it reads, once what cannot be shown is replaced."""
    return html.unescape(figure.text(label))


def points_of(path):
    return [tuple(map(float, point.split())) for point in re.split("[ML]", path.get("d")) if point]


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_the_picture_is_well_formed_and_stands_alone(dtype):
    svg, _ = plot(dtype)
    root = ET.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert root.get("viewBox").startswith("0 0 ")
    assert root.get("width") is None
    assert root.get("role") == "img"
    assert dtype in root.get("aria-label")
    assert "prefers-color-scheme:dark" in svg
    assert "href" not in svg
    assert "url(" not in svg
    assert "<script" not in svg
    assert svg.count("http") == 1
    assert "id=" not in svg  # several stand on one page


def test_every_line_is_drawn_and_named():
    svg, lines = plot()
    assert len({line.label for line in lines}) == 9
    labels = [element.text for element in ET.fromstring(svg).iter(f"{SVG}text")]
    for line in lines:
        panels = 1 if line.subject.startswith("optax") else 2
        assert len(lines_of(svg, shown(line.label))) == panels + 1
    assert "crossent · numpy" in labels
    assert "crossent · array-api-strict" in labels


def test_lines_differ_by_more_than_colour():
    svg, lines = plot()
    drawn = {line.label: lines_of(svg, shown(line.label))[-1].get("style") for line in lines}
    dashes = {label: re.search("stroke-dasharray:([^;]*)", style).group(1) for label, style in drawn.items()}
    of_crossent = [dash for label, dash in dashes.items() if label.startswith("crossent")]
    assert len(set(of_crossent)) == 7
    looks = {(line.colour % 8, line.number % 7, line.number % 5) for line in lines}
    assert len(looks) == len({line.label for line in lines})


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


def test_points_stand_where_their_numbers_say():
    gaps, errors = [-40, 0, 20, 80], [1e-8, 0.0, 1e-4, "inf"]
    svg = figure.error_plot([figure.Series("s", "b", "loss", gaps, errors)], "float32")
    points = points_of(lines_of(svg, "s · b")[0])
    (left, bottom), (_, zero), (x, middle), (right, top) = points
    assert bottom == zero
    assert middle == pytest.approx((top + bottom) / 2, abs=0.1)
    assert x == pytest.approx((left + right) / 2, abs=0.1)
    assert bottom - top == pytest.approx(figure.PANEL, abs=0.1)


def test_what_is_unknown_is_a_gap_and_what_is_absurd_stays_inside():
    errors = [1e-3, None, "nan", 1e30, 1e-30]
    svg = figure.error_plot([figure.Series("s", "b", "loss", [0, 1, 2, 3, 4], errors)], "float64")
    path = lines_of(svg, "s · b")[0]
    assert path.get("d").count("M") == 2
    heights = [y for _, y in points_of(path)]
    assert len(heights) == 4
    assert heights[1] == heights[2] == min(heights)
    assert max(heights) - min(heights) == pytest.approx(figure.PANEL, abs=0.1)


def test_a_line_within_the_allowance_lies_in_the_shade():
    svg, _ = plot("float32", sample.good)
    shade = next(path for path in ET.fromstring(svg).iter(f"{SVG}path") if path.get("class") == "allowed")
    limits = dict(points_of(ET.Element("path", d=shade.get("d").partition("V")[0])))
    for x, y in points_of(lines_of(svg, "crossent · torch")[0]):
        assert y >= limits[x]
    high, _ = plot("float32", sample.partial)
    optax = points_of(lines_of(high, "optax.softmax_cross_entropy_with_integer_labels · jax")[0])
    assert any(y < limits[x] for x, y in optax)


def test_names_are_escaped():
    svg, _ = plot("float32", sample.bad)
    assert "<script" not in svg
    assert "&lt;script&gt;" in svg
    assert "\x1b" not in svg
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
    for ground in (figure.BACKGROUND[scheme], figure._INK["shade"][scheme]):
        assert all(contrast(pair[scheme], ground) >= 3 for pair in figure.COLOURS), ground
    assert contrast(figure._INK["soft"][scheme], figure.BACKGROUND[scheme]) >= 4.5
    assert len({pair[scheme] for pair in figure.COLOURS}) == len(figure.COLOURS)
