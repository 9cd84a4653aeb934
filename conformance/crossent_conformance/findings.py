"""The findings of docs/findings: scripts that show where a peer contradicts its own documentation.

A script's name begins with its package, as in `torch_ignored_row.py`. It exits with 0 while the finding reproduces and
with 1 once it has been mended; it runs in a process of its own, since some set the environment before an import.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from crossent_conformance.peers import PEERS, installed

LIMIT = 180
"""Seconds for one script; importing takes most of it."""


@dataclass(frozen=True)
class Finding:
    """One script."""

    script: Path

    @property
    def name(self) -> str:
        """As pages call it."""
        return self.script.stem

    @property
    def package(self) -> str:
        """The distribution that it is about: a peer's, whose name begins as that of the script."""
        return next(peer.package for peer in PEERS if peer.package.startswith(self.name.partition("_")[0]))

    @property
    def version(self) -> str | None:
        """The version of that which is installed; None where there is none."""
        return installed(self.package)

    def run(self) -> subprocess.CompletedProcess[str]:
        """Run it, and give what it printed and its exit code."""
        return subprocess.run(
            [sys.executable, str(self.script)],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )


def found(folder: Path) -> list[Finding]:
    """All findings of a folder."""
    return [Finding(script) for script in sorted(folder.glob("*.py"))]
