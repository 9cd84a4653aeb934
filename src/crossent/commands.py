"""The `crossent` command: arguments in, an exit code out. A user's mistake is one line on stderr and exit code 2.

`info`, `warmup` and `train` are its own. Others come from whatever is installed, as the conformance suite is: an entry
point of the group `crossent.commands` names a module with HELP, `configure(parser)` and `run(arguments)`, which returns
the exit code and tells mistakes itself. One that is not asked for is not imported.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import crossent
from crossent import info
from crossent.train.loop import Settings

GROUP = "crossent.commands"
OWN = ("info", "warmup", "train")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of argparse's usage and message."""
        self.exit(2, f"{self.prog}: {info.printable(message)}\n")


def _whole(text: str, least: int = 0) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


def _count(text: str) -> int:
    return _whole(text, least=1)


def _installed(asked: str | None) -> dict[str, Any]:
    """The modules of the other commands, or of the one asked for; in place of a broken one, its error."""
    found: dict[str, Any] = {}
    if asked in OWN:
        return found
    points = {point.name: point for point in metadata.entry_points(group=GROUP)}
    for name, point in sorted(points.items()):
        if asked in (None, name) or asked not in points:
            try:
                found[name] = point.load()
            except Exception as error:  # whatever is wrong with it, the others work
                found[name] = error
    return found


def _parser(installed: dict[str, Any]) -> argparse.ArgumentParser:
    parser = _Parser(prog="crossent", description="Cross-entropy, once: the same loss on every array library.")
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    of_machine = commands.add_parser("info", help="the backends, devices, dtypes and engines of this machine")
    of_machine.add_argument("--json", action="store_true", help="print them as one JSON object")

    what = "compile ahead what calls would compile, for containers and CI"
    more = "With --dtype alone: what losses with hard targets need, and where JAX is installed what its programs need."
    warmup = commands.add_parser("warmup", help=what, description=f"{what[0].upper()}{what[1:]}. {more}")
    warmup.add_argument(
        "--dtype", nargs="+", action="extend", metavar="NAME",
        help=f"dtypes of logits (default: all); accepted: {', '.join(info.DTYPES)}",
    )  # fmt: skip
    warmup.add_argument(
        "--all", action="store_true", dest="everything",
        help="soft targets, temperature and softcap, token statistics, entropies and divergences, and shards, too; "
        "left to a first call are soft targets and a teacher's logits of another dtype than the logits, and what a GPU "
        "needs",
    )  # fmt: skip

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
        + ", ".join(backend.name for backend in info.BACKENDS.values() if backend.trains),
    )  # fmt: skip
    train.add_argument("--steps", type=_count, default=defaults.steps, metavar="N", help="default: %(default)s")
    train.add_argument("--seed", type=_whole, default=defaults.seed, metavar="N", help="default: %(default)s")
    train.add_argument(
        "--vocabulary", type=_count, default=defaults.vocabulary, metavar="V",
        help="the most tokens the vocabulary may have (default: %(default)s)",
    )  # fmt: skip
    train.add_argument(
        "--picture", type=Path, default=Path("loss.png"), metavar="FILE", help="the loss curves (default: %(default)s)"
    )
    train.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    train.add_argument(
        "--linear", action="store_true",
        help="train without logits too (LinearCrossEntropyLoss), and compare curves and memory of the two ways",
    )  # fmt: skip

    for name, module in installed.items():
        if isinstance(module, Exception):
            commands.add_parser(name, help=f"cannot be used here: {_one_line(module)}", add_help=False)
        else:
            module.configure(commands.add_parser(name, help=module.HELP))
    return parser


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 where what was asked to hold does not, 2 for a mistake of the user."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    installed = _installed(next((word for word in words if not word.startswith("-")), None))
    parser = _parser(installed)
    given, rest = parser.parse_known_args(words)
    module = installed.get(given.command)
    if isinstance(module, Exception):
        parser.error(f"the command {given.command!r} cannot be used here: {_one_line(module)}")
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        if module is not None:
            return int(module.run(given))
        if given.version:
            print(f"crossent {crossent.__version__}")
        elif given.command == "info":
            found = info.info()
            print(json.dumps(found, indent=2) if given.json else info.report(found))
        elif given.command == "warmup":
            from crossent import warmup

            warmup.warm(given.dtype, given.everything)
        elif given.command == "train":
            missing = [name for name in ("rich", "matplotlib") if importlib.util.find_spec(name) is None]
            if missing:
                raise info.UsageError(f"crossent train needs what is not installed: pip install {' '.join(missing)}")
            from crossent.train import command

            settings = Settings(steps=given.steps, seed=given.seed, vocabulary=given.vocabulary)
            command.run(given.text, given.backend, settings, given.picture, given.json, given.linear)
        else:
            accepted = ", ".join([*OWN, *installed])
            parser.error(f"no command given; accepted: {accepted} (see crossent --help)")
    except info.UsageError as error:
        print(f"crossent: {info.printable(str(error))}", file=sys.stderr)
        return 2
    return 0
