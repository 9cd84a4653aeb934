"""Clause R6: what `grad_output` does to the gradient."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from crossent_conformance import agree, cases, depth, oracle
from crossent_conformance.backends import DIRECT, NOT_DOUBLED, ONCE
from crossent_conformance.drawn import UNCOMPILED, filled, problems


def _gradient_with_oracle(place, subject, logits, targets, **options):
    """As agree.with_oracle; but without a gradient there is nothing to scale."""
    _, d_logits = agree.with_oracle(place, subject, logits, targets, **options)
    agree.same(d_logits.shape, logits.shape, "the shape of the gradient")


@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
@pytest.mark.parametrize("reduction", cases.REDUCTIONS)
def test_R6_grad_output_scales_the_gradient(place, subject, reduction):
    options = {"reduction": reduction, "grad_output": cases.scale(reduction)}
    _gradient_with_oracle(place, subject, *cases.random((2, 3), 5), **options)


@pytest.mark.places(modes=DIRECT, sparse=True)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_R6_grad_output_may_be_a_number(place, subject, reduction):
    _gradient_with_oracle(place, subject, *cases.random((2, 3), 5), reduction=reduction, grad_output=-1.5)


@pytest.mark.clause("R6", "V7", "V8", "V9", "V10", "R2")
@pytest.mark.places(
    modes=ONCE,
    dtypes=("float32",),
    when=lambda place, soft, algorithm: not depth.spares(place) or algorithm == "stable",
)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("algorithm", ["stable", "explicit"])
def test_R6_with_other_options(place, subject, soft, algorithm):
    agree.serves_soft(place, subject, soft)
    problem = cases.small(soft)
    requests = [
        {**options, "grad_output": cases.scale(options["reduction"], low=16)}
        for options in depth.part(cases.covering(soft, algorithm), place)
    ]
    agree.each(requests, lambda options: _gradient_with_oracle(place, subject, *problem, **options))


@pytest.mark.places(modes=DIRECT, sparse=True)
@pytest.mark.parametrize("reduction", cases.REDUCTIONS)
def test_R6_backward_of_the_loss_object(place, subject, reduction):
    logits, targets = cases.random((2, 3), 5)
    rounded = place.round(logits)

    def forward_and_backward(logits, targets, grad_output):
        loss_fn = subject.loss_object(reduction=reduction)
        loss = loss_fn.forward(logits, targets)
        return loss, loss_fn.backward(grad_output)

    for scale in (None, cases.scale(reduction, low=1)):
        exact_loss, exact = oracle.cross_entropy(rounded, targets, reduction=reduction, grad_output=scale)
        loss, d_logits = place.evaluate(forward_and_backward, rounded, targets, grad_output=scale)
        agree.loss(place, loss, exact_loss)
        agree.gradient(place, d_logits, exact)


@pytest.mark.places(modes=UNCOMPILED, sparse=True)
@depth.examples(problems(), st.data(), count=30)
def test_R6_any_grad_output(place, subject, problem, data):
    logits, targets = problem
    tokens = logits.shape[:-1]
    reduction = data.draw(st.sampled_from(["none", "sum", "mean", "sequence"] if tokens else ["none", "sum", "mean"]))
    scale = filled(data.draw, cases.loss_shape(reduction, tokens), st.sampled_from([0.5, 1.0, 1.5, -2.0, 0.0]))
    _gradient_with_oracle(place, subject, logits, targets, reduction=reduction, grad_output=scale)
