"""The accuracy tables of docs/accuracy.md: `python -m crossent_conformance.accuracy`.

Loss and target gradient in float32 of a target that is ahead of seven equal logits: exactly, by the subject on every
backend that is installed, and by the peers, each with its relative error.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from crossent_conformance import backends, oracle, probe, subject, sweep
from crossent_conformance.adapter import UnderTest
from crossent_conformance.peers import PEERS

GAPS = (5, 10, 17, 20, 30, 80)
COMPARED = {"torch": "crossent_conformance.peers.torch:functional", "jax": "crossent_conformance.peers.optax:integer"}
"""The peers of the table, by the backend where each is asked."""


def measured(of: UnderTest, backend: backends.Backend) -> tuple[np.ndarray, np.ndarray]:
    """The losses and the gradients of the targets, by a subject on a backend."""
    of.begin(probe.examine(of, backend), "V1")
    place = sweep.place(backend, "float32")
    loss, d_logits = place.evaluate(of.loss_and_grad, *sweep.inputs(GAPS), reduction="none")
    return loss, d_logits[:, 0]


def implementations(under_test: UnderTest) -> list[tuple[str, UnderTest, backends.Backend]]:
    """What the table compares: the subject everywhere, then the peers that are installed."""
    usable = backends.usable()
    label = under_test.name.split()[0]
    rows = [(f"`{label}`, {backend.name}", under_test, backend) for backend in usable]
    installed = {peer.spec for peer in PEERS if peer.version is not None}
    for backend in usable:
        spec = COMPARED.get(backend.name)
        if spec in installed:
            peer = subject.load(spec)
            rows.append((f"`{peer.name}`", peer, backend))
    return [(name, of, backend) for name, of, backend in rows if of.backends is None or backend.name in of.backends]


def cell(value: float, exact: float) -> str:
    """A value with its relative error: digits where it has lost a few, percent where it has lost most."""
    error = abs(value - exact) / abs(exact)
    return f"{value:.3e} ({error:.0%})" if error >= 0.005 else f"{value:.3e} ({error:.0e})"


def table(title: str, exact: np.ndarray, rows: list[tuple[str, np.ndarray]]) -> str:
    """A Markdown table: one line per implementation, one column per gap."""
    lines = [
        f"| {title}, target ahead by | " + " | ".join(str(gap) for gap in GAPS) + " |",
        "|---|" + "---|" * len(GAPS),
        "| exact | " + " | ".join(f"{value:.3e}" for value in exact) + " |",
    ]
    for name, values in rows:
        cells = (cell(float(value), float(true)) for value, true in zip(values, exact, strict=True))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m crossent_conformance.accuracy", description=__doc__)
    parser.add_argument(
        "--subject", default=subject.DEFAULT, metavar="MODULE:ATTRIBUTE", help="the implementation to measure"
    )
    under_test = subject.load(parser.parse_args(arguments).subject)
    exact_loss, exact_gradient = oracle.cross_entropy(*sweep.inputs(GAPS), reduction="none")
    results = [(name, measured(of, backend)) for name, of, backend in implementations(under_test)]
    print(table("loss", exact_loss.high, [(name, loss) for name, (loss, _) in results]))
    print()
    print(table("target gradient", exact_gradient.high[:, 0], [(name, d) for name, (_, d) in results]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
