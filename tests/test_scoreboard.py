"""The peers' adapters, and the page that is made of their results."""

import subprocess
import sys

import numpy as np
import pytest

from crossent_conformance import backends, oracle, probe, subject
from crossent_conformance.implementation import DoesNotApply
from crossent_conformance.peers import PEERS, Peer
from crossent_conformance.scoreboard import main, page

DEVELOPMENT = ("torch", "optax", "scipy", "")
PRESENT = {peer.label: peer for peer in PEERS if peer.package in DEVELOPMENT}


@pytest.mark.extended
@pytest.mark.parametrize("label", PRESENT)
def test_an_adapter_gives_the_contracts_values(label):
    peer = PRESENT[label]
    backend = backends.load(peer.backends[-1])
    asked = subject.load(peer.spec)
    asked.begin(probe.examine(asked, backend), "V1")
    logits, targets = np.array([[0.5, -1.0, 2.0], [3.0, 0.0, 1.0]]), np.array([2, 1])
    exact_loss, exact_gradient = oracle.cross_entropy(logits, targets, reduction="none")
    arrays = backend.asarray(logits, "float64"), backend.asarray(targets, "int64")
    loss = backend.to_numpy(asked.loss(*arrays, reduction="none"))
    np.testing.assert_allclose(loss, exact_loss.high, rtol=1e-8)
    if asked.traits.gradient:
        d_logits = backend.to_numpy(asked.loss_and_grad(*arrays, reduction="none")[1])
        np.testing.assert_allclose(d_logits, exact_gradient.high, rtol=1e-12)


def test_adapters_import_nothing_before_they_are_called():
    packages = ("torch", "jax", "optax", "scipy", "sklearn", "keras", "liger_kernel", "triton", "tensorflow")
    packages = (*packages, "cut_cross_entropy", "tokamax", "transformers")
    program = f"""
import sys
from crossent_conformance import peers, subject
for peer in peers.PEERS:
    subject.load(peer.spec)
print(*[name for name in {packages} if name in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == []


def test_a_peer_that_needs_another_package_is_not_installed_without():
    for besides, version in (
        ((), np.__version__),
        (("no-such-package",), None),
        (("no-such", "mpmath"), np.__version__),
    ):
        assert Peer("theirs", "somewhere:else", "numpy", ("numpy",), "as it is", besides).version == version


def test_a_product_with_the_identity_is_for_finite_logits():
    found = subject.load("crossent_conformance.peers.torch:linear")
    backend = backends.load("torch")
    found.begin(probe.examine(found, backend), "S2")
    targets = backend.asarray(np.array([0]), "int64")
    assert float(found.loss(backend.asarray(np.zeros((1, 4)), "float64"), targets)) == pytest.approx(np.log(4))
    with pytest.raises(DoesNotApply, match="not finite"):
        found.loss(backend.asarray(np.array([[0.0, -np.inf]]), "float64"), targets)


def _peer(label, package="numpy"):
    return Peer(label, "somewhere:else", package, ("numpy",), "as it is")


def _document(*cells):
    made = [
        {
            "clause": clause,
            "backend": "numpy",
            "dtype": dtype,
            "held": held,
            "failed": failed,
            "severity": ("extreme" if dtype == "float64" else "wrong") if failed else None,
            "worst": worst,
        }
        for clause, dtype, held, failed, worst in cells
    ]
    return {
        "created": "2026-11-24T00:00:00",
        "seed": 0,
        "machine": {"python": "3.11", "system": "Linux", "cores": 2},
        "contract": {"V1": "…", "V2": "…", "S1": "…"},
        "subjects": [
            {
                "name": "theirs",
                "version": "1.2",
                "notes": [],
                "backends": {"numpy": {"version": "2.4", "device": "cpu"}},
                "cells": made,
            }
        ],
    }


def test_the_page_counts_what_fails_and_names_who_is_missing():
    good, bad, refused, absent = _peer("good"), _peer("bad"), _peer("refused"), _peer("absent", "no-such-package")
    documents = {
        "good": _document(("V1", "float64", 3, 0, 0.5), ("V1", "float32", 2, 0, 0.25), ("V2", "float64", 1, 0, None)),
        "bad": _document(("V1", "float64", 1, 2, "inf"), ("V1", "float32", 4, 1, 2e6), ("V2", "float64", 0, 1, None)),
        "refused": {"refused": "it crashed"},
    }
    made = page([good, bad, refused, absent], documents, [])
    assert "| [V1](specification.md) | holds | **wrong 3 of 8** |" in made
    assert "| [V2](specification.md) | holds | extreme 1 of 1 |" in made
    assert "S1" not in made.partition("## What holds")[2].partition("## By how much")[0]
    assert "| cases | 0 of 6 fail | 4 of 9 fail |" in made
    assert "| float64 | 0.50 | inf |" in made
    assert "| float32 | 0.25 | 2e+06 |" in made
    assert "refused (it crashed); absent (not installed)" in made


def test_an_unknown_column_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--only", "nobody"])
    assert stopped.value.code == 2
    assert "there are crossent, torch, torch nll" in capsys.readouterr().err
