"""Clause D1 under `torch.compile(fullgraph=True)`: no graph break, and the contract's loss and gradient.

The compiler sees the implementation's own function, and nothing of the suite.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from crossent_conformance import agree, cases, oracle
from crossent_conformance.backends import Mode
from crossent_conformance.clauses.test_derivatives import CONFIDENT, OPTIONS, TORCH
from crossent_conformance.subject import DoesNotApply

pytestmark = pytest.mark.filterwarnings("ignore")  # the compiler's own, which differ from version to version


@pytest.fixture
def fresh_compiler(place, tmp_path_factory, monkeypatch):
    """A compiler that has seen nothing, with its caches outside the project."""
    torch = place.backend.torch
    cache = tmp_path_factory.getbasetemp() / "inductor"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
    torch.compiler.reset()
    yield torch
    torch.compiler.reset()


def _check(place, subject, torch, backend, logits, targets, options, dynamic=None):
    """Loss and gradient of the sum of what comes back, through the compiled function."""
    agree.to_begin_with(place, subject, logits, targets, **options)
    (x, t), given = place.pair(logits, targets), place.options(options)
    x.requires_grad_()
    with subject.unassisted():
        subject.loss(x, t, **given)  # what it cannot be asked does not apply
    if subject.takes("reduction"):
        given = {"reduction": "mean", **given}
    compiled = torch.compile(partial(subject.plainly, **given), fullgraph=True, backend=backend, dynamic=dynamic)
    loss = compiled(x, t)
    loss.sum().backward()
    summed = {**options, "grad_output": np.ones(tuple(loss.shape))}
    exact_loss, exact = oracle.cross_entropy(place.round(logits), targets, **summed)
    agree.loss(place, place.to_numpy(loss), exact_loss)
    agree.gradient(place, place.to_numpy(x.grad), exact)


@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER,), dtypes=("float32",))
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 1e-3}], ids=["plain", "smoothed-z"])
@pytest.mark.long
def test_D1_compile_for_any_shape(place, subject, options, fresh_compiler):
    _check(place, subject, fresh_compiler, "aot_eager", *cases.random((6,), 5), options, dynamic=True)


@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER,), dtypes=("float32", "bfloat16"))
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_D1_compile_without_a_graph_break(place, subject, options, fresh_compiler):
    _check(place, subject, fresh_compiler, "aot_eager", *cases.small(), options)


@pytest.mark.clause("D1", "V1")
@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER,), dtypes=("float32",))
@pytest.mark.parametrize("gaps", [cases.MILD_GAPS, CONFIDENT], ids=["mild", "confident"])
def test_D1_compiled_rows_keep_their_digits(place, subject, fresh_compiler, gaps):
    _check(place, subject, fresh_compiler, "aot_eager", *cases.gaps(10, gaps), {})


@pytest.mark.extended
@pytest.mark.clause("D1", "V1")
@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER,), dtypes=("float32",))
def test_D1_compiled_to_machine_code(place, subject, fresh_compiler):
    """Rows of every kind, once: the first use of this compiler costs seconds."""
    _check(place, subject, fresh_compiler, "inductor", *cases.gaps(10, (-20.0, 0.0, 5.0, 15.0, 20.0, 40.0)), {})


@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER,), dtypes=("float32", "float64"))
def test_D1_compiled_loss_and_grad(place, subject, fresh_compiler):
    if not subject.gives_pairs:
        raise DoesNotApply("a function of its own for loss and gradient")
    x, t = place.pair(*cases.small())
    expected = subject.loss_and_grad(x, t)
    compiled = fresh_compiler.compile(subject.loss_and_grad, fullgraph=True, backend="aot_eager")
    agree.all_alike(place, compiled(x, t), expected)
