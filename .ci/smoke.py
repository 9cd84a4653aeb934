"""Does the installed package work, away from its repository? A loss, its gradient, and both commands."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import crossent

SUBJECT = """
import crossent


def loss(logits, targets):
    return crossent.cross_entropy_and_grad(logits, targets)
"""


def main() -> None:
    """Run all of it in an empty folder."""
    repository = Path(__file__).resolve().parents[1]
    assert repository not in Path(crossent.__file__).resolve().parents, "that is the repository's own crossent"
    loss, d_logits = crossent.cross_entropy_and_grad(np.zeros((2, 4), dtype=np.float32), np.asarray([0, 3]))
    assert abs(float(loss) - np.log(4)) < 1e-6
    assert d_logits.shape == (2, 4)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "subject.py").write_text(SUBJECT, encoding="utf-8")
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        for words in (["info"], ["conform", "subject.py:loss", "--backend", "numpy", "--clause", "V3"]):
            subprocess.run([sys.executable, "-m", "crossent", *words], cwd=folder, env=environment, check=True)
    print(f"crossent {crossent.__version__} works on Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
