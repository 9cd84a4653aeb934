"""A pytest session that a parent drives: it collects the clauses once and runs a case when it is told to.

The parent (`run`) speaks over a pipe: ("subject", spec), ("probe", backend), ("refused", (backend, Traits)),
("pace", (backend, Traits)), ("traits", {backend: Traits}), ("case", id), ("explain", (id, fault)) for a case with a
small input of its failure, ("curves", backend), None to end. Every message is answered by one. A case that hangs or
brings the interpreter down takes this process with it, and nothing else.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossent_conformance import plugin
    from crossent_conformance.witness import Witness

HERE = Path(__file__).parent


def main(pipe: Connection, settings: dict[str, Any], log: str, record: str) -> None:
    """Serve the parent until it says None or is gone; `log` is for what goes to stderr, `record` for the last call."""
    # Ctrl-C is the parent's affair, and what the implementation prints is nobody's.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # what the implementation starts itself is its own affair
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    errors = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nowhere = os.open(os.devnull, os.O_RDWR)
    sys.stdout.flush()
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    os.dup2(errors, 2)
    faulthandler.enable(2)
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = os.path.join(settings["folder"], "hypothesis")
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    os.environ["CROSSENT_CONFORMANCE_SEED"] = str(settings["seed"])
    os.environ["CROSSENT_CONFORMANCE_THOROUGH"] = "1" if settings["thorough"] else ""
    os.environ["CROSSENT_CONFORMANCE_QUICK"] = "1" if settings["quick"] else ""
    os.environ["CROSSENT_CONFORMANCE_TIME_LIMIT"] = str(settings["time_limit"])
    for folder in reversed(settings["path"]):
        if folder not in sys.path:
            sys.path.insert(0, folder)

    import pytest

    from crossent_conformance import backends

    os.environ.pop("CROSSENT_REQUIRE_BACKENDS", None)
    for name in settings["backends"]:
        if isinstance(problem := backends.load(name), str):
            pipe.send(("broken", f"backend {name} cannot be used here: {problem}"))
            return
    arguments = [
        str(HERE / "clauses"),
        f"--config-file={HERE / 'worker.ini'}",
        f"--rootdir={HERE}",
        "-pcrossent_conformance.options",
        *(f"--backend={name}" for name in settings["backends"]),
        *(f"--clause={clause}" for clause in settings["clauses"]),
        f"--shards={settings['shards']}",
    ]
    driver = Driver(pipe, settings["backends"] or tuple(backends.BACKENDS), record)
    code = pytest.main(arguments, plugins=[driver])
    if not driver.served:
        why = "\n".join([*driver.problems, Path(log).read_text(errors="replace")])[-2000:]
        pipe.send(("broken", f"pytest ended with exit code {int(code)}: {why}"))


class Driver:
    """The plugin that takes the loop over the cases from pytest and gives it to the parent."""

    def __init__(self, pipe: Connection, backends: tuple[str, ...], record: str) -> None:
        self.pipe = pipe
        self.record = record
        self.backends = backends
        self.served = False
        self.problems: list[str] = []

    def pytest_collectreport(self, report: Any) -> None:
        """Keep why a file could not be collected."""
        if report.failed:
            self.problems.append(str(report.longrepr))

    def pytest_internalerror(self, excrepr: Any) -> None:
        """Keep what went wrong in the suite itself."""
        self.problems.append(str(excrepr))

    def pytest_keyboard_interrupt(self, excinfo: Any) -> None:
        """Leave word of what ends this process: no Ctrl-C, which is the parent's affair."""
        print(f"Fatal Python error: the implementation raised {excinfo.typename}", file=sys.stderr, flush=True)

    def pytest_runtestloop(self, session: Any) -> bool:
        """Answer the parent."""
        from crossent_conformance import plugin
        from crossent_conformance.witness import Witness

        witness = Witness(self.record)
        if self.problems:
            raise session.Interrupted("the suite is broken")
        known = session.config.stash[plugin.SESSION]
        known.is_driven = True
        items = {item.nodeid: item for item in session.items if "place" in getattr(item, "fixturenames", ())}
        described = {name: _described(name) for name in self.backends}
        self.pipe.send(("ready", {"cases": [_told(item) for item in items.values()], "backends": described}))
        self.served = True
        while True:
            try:
                message = self.pipe.recv()
            except (EOFError, OSError):
                return True
            if message is None:
                return True
            what, argument = message
            if what in ("case", "explain"):
                name, known.explains = (argument, None) if what == "case" else argument
                self.pipe.send((what, self._case(items[name])))
            else:
                self.pipe.send(_answer(known, witness, what, argument))

    def _case(self, item: Any) -> dict[str, Any]:
        from _pytest.runner import runtestprotocol

        from crossent_conformance import results

        found: dict[str, Any] = {"outcome": "holds", "message": "", "worst": None, "failure": None, "kind": None}
        started = time.perf_counter()
        item._initrequest()  # what pytest itself does before a test that has run is run again
        for report in runtestprotocol(item, nextitem=None, log=False):
            told: dict[str, Any] = dict(report.user_properties)
            if "worst_error" in told:
                found["worst"] = told["worst_error"][1]
            if report.skipped:
                reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
                found |= {"outcome": "does not apply", "message": reason.removeprefix("Skipped: ")}
            elif report.failed:
                said = _words(report.longrepr)
                failure = told.get("failure") or results.Failure(
                    item.name, "raises", said, says=said.partition("\n")[0]
                )
                found |= {"outcome": "fails", "failure": failure, "kind": failure.kind, "message": failure.message}
        item.user_properties.clear()
        found["seconds"] = time.perf_counter() - started
        return found


def _told(item: Any) -> dict[str, Any]:
    from crossent_conformance import contract, plugin

    place = item.callspec.params["place"]
    name = item.nodeid.partition("::")[0].rpartition("/")[2] + "::" + item.name
    clause = contract.clause_of(item.originalname)
    return {
        "nodeid": item.nodeid,
        "id": name,
        "function": item.originalname,
        "clause": clause,
        "backend": place.backend.name,
        "dtype": place.dtype,
        "mode": place.mode.value,
        "test": plugin.without_place(item),
        "elsewhere": item.get_closest_marker("elsewhere") is not None,
        "long": any(item.get_closest_marker(name) is not None for name in ("elsewhere", "long")),
    }


def _words(shown: Any) -> str:
    """What pytest has to say of a failure, the error first."""
    crash = getattr(shown, "reprcrash", None)
    first = "" if crash is None else f'{crash.message}\n  File "{crash.path}", line {crash.lineno}\n'
    return first + str(shown)[-2000:]


def _answer(session: plugin.Session, witness: Witness, what: str, argument: Any) -> tuple[str, Any]:
    from crossent_conformance import backends, probe, subject, sweep

    try:
        if what == "subject":
            if session.teams is not None:
                session.teams.end()
            session.subject, session.traits = subject.load(argument), {}
            session.subject.witness = witness
            told = {name: getattr(session.subject, name) for name in ("name", "version", "file")}
            return "subject", {**told, "home": subject.home(argument)}
        under_test = session.subject
        witness.forget()
        if what == "probe":
            return "probe", probe.taken(under_test, backends.get(argument))
        if what == "refused":
            name, traits = argument
            return "refused", probe.refused(under_test, backends.get(name), traits)
        if what == "pace":
            name, traits = argument
            return "pace", probe.pace(under_test, backends.get(name), traits)
        if what == "traits":
            session.traits.update(argument)
            return "traits", None
        assert what == "curves", what
        name, dtypes = argument
        under_test.begin(session.traits_on(backends.get(name)), "V1")
        return "curves", sweep.curves(under_test, backends.get(name), dtypes)
    except subject.SubjectError as error:
        return "error", str(error)


def _described(name: str) -> dict[str, Any] | str:
    """What a report says of a backend, or why it cannot be used here."""
    from crossent_conformance import backends

    found = backends.load(name)
    if isinstance(found, str):
        return found
    return {
        "version": found.version,
        "device": found.device,
        "dtypes": list(found.dtypes),
        "modes": [mode.value for mode in found.modes],
        "notes": [],
    }
