"""The `crossent` command: arguments in, an exit code out. A user's mistake is one line on stderr and exit code 2."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import crossent
from crossent import machine
from crossent.train import command
from crossent.train.loop import Settings
from crossent_conformance import command as conformance
from crossent_conformance import parity


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of argparse's usage and message."""
        self.exit(2, f"{self.prog}: {message}\n")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="crossent", description="Cross-entropy, once: the same loss on every array library.")
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    info = commands.add_parser("info", help="the backends, devices, dtypes and engines of this machine")
    info.add_argument("--json", action="store_true", help="print them as one JSON object")

    train = commands.add_parser(
        "train", help="train a small language model with the same loss on every backend and compare the curves"
    )
    defaults = Settings()
    train.add_argument(
        "--text", type=Path, metavar="FILE", help="a UTF-8 text to learn from (default: Python's language reference)"
    )
    train.add_argument(
        "--backend", nargs="+", action="extend", metavar="NAME",
        help="backends to compare (default: all that can be used here); accepted: "
        + ", ".join(backend.name for backend in machine.BACKENDS.values() if backend.trains),
    )  # fmt: skip
    train.add_argument("--steps", type=_count, default=defaults.steps, metavar="N", help="default: %(default)s")
    train.add_argument("--seed", type=_seed, default=defaults.seed, metavar="N", help="default: %(default)s")
    train.add_argument(
        "--vocabulary", type=_count, default=defaults.vocabulary, metavar="V",
        help="the most tokens the vocabulary may have (default: %(default)s)",
    )  # fmt: skip
    train.add_argument(
        "--picture", type=Path, default=Path("loss.png"), metavar="FILE", help="the loss curves (default: %(default)s)"
    )
    train.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")

    conform = commands.add_parser("conform", help="test any cross-entropy against the contract, clause by clause")
    conformance.configure(conform)

    compare = commands.add_parser("parity", help="the same inputs on several backends, and on an earlier run's")
    parity.configure(compare)
    return parser


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 where what was asked to hold does not, 2 for a mistake of the user."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        if given.version:
            print(f"crossent {crossent.__version__}")
        elif given.command == "info":
            found = machine.info()
            print(json.dumps(found, indent=2) if given.json else machine.report(found))
        elif given.command == "train":
            settings = Settings(steps=given.steps, seed=given.seed, vocabulary=given.vocabulary)
            command.run(given.text, given.backend, settings, given.picture, given.json)
        elif given.command == "conform":
            return conformance.run(given)
        elif given.command == "parity":
            return parity.run(given)
        else:
            parser.error("no command given; accepted: info, train, conform, parity (see crossent --help)")
    except (machine.UsageError, conformance.UsageError) as error:
        print(f"crossent: {error}", file=sys.stderr)
        return 2
    return 0
