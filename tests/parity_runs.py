"""What the tests of `crossent parity` share: running it on a subject of `subjects/disagreeing.py`, its report."""

import argparse
import json
import os
from pathlib import Path
from unittest import mock

from crossent_conformance.parity import command

SUBJECTS = Path(__file__).parent / "subjects" / "disagreeing.py"
TWO = ("--backend", "numpy", "array-api-strict")


def parity_of(name, *arguments, backends=TWO):
    """Run the command on one of the subjects: the exit code, or the UsageError before it is told.

    With one engine, only the subject makes a difference.
    """
    parser = argparse.ArgumentParser()
    command.configure(parser)
    subject = () if name is None else ("--subject", f"{SUBJECTS}:{name}")
    with mock.patch.dict(os.environ, CROSSENT_ENGINE="array_api"):
        return command.run.__wrapped__(parser.parse_args([*subject, *backends, *map(str, arguments)]))


def edited(path, edit):
    """The JSON after a change."""
    data = json.loads(path.read_text(encoding="utf-8"))
    edit(data)
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def fails(capsys, code, *words):
    """The run failed, and its report has the words."""
    printed = capsys.readouterr().out
    assert code == 1
    for word in words:
        assert word in printed
    return printed
