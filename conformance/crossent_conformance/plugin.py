"""The suite as a pytest plugin: which backends, which subject, what was covered, how far off the worst result was.

Two modules register it, each with names of its own for the same options: `options` in a session that is the suite's,
`pytest_entry` in anybody's, where other tests are left alone.

The fixture `place` runs a test on every cell of the matrix backend x dtype x mode, narrowed by `@pytest.mark.places`;
the fixture `subject` is the implementation under test. For the package's own subject a case that does not apply, or
that asks nothing, is a failure: nothing of the contract may be left out silently.

A run with `-m "not extended"` is the quick tier: every test on every backend, in one dtype and mode there.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from crossent_conformance import adapter, backends, contract, evidence, known, places, probe, results, units
from crossent_conformance import subject as subjects
from crossent_conformance.escaped import escaped
from crossent_conformance.shards import Shards, Teams


@dataclass
class Session:
    """What the suite knows in a session of pytest."""

    subject: adapter.UnderTest
    """The implementation under test."""
    traits: dict[str, adapter.Traits] = field(default_factory=dict)
    """Of the implementation, by backend."""
    is_driven: bool = False
    """Whether a parent process drives the session, for its own reports (see `worker`)."""
    explains: str | None = None
    """The suspect, "" for none, of which a small failing input is looked for, which takes seconds."""
    teams: Teams | None = None
    """The processes that have shards of a vocabulary."""
    may_fail: list[known.Entry] = field(default_factory=list)
    """What is known to fail, or allowed to."""

    def traits_on(self, backend: backends.Backend) -> adapter.Traits:
        """The implementation's traits on the backend."""
        if backend.name not in self.traits:
            self.traits[backend.name] = probe.examine(self.subject, backend)
        return self.traits[backend.name]


FAILURE = pytest.StashKey[results.Failure]()
"""The failure of a test, where somebody asks what it is."""
SESSION = pytest.StashKey[Session]()
GUEST = pytest.StashKey[bool]()
"""Whether the session is somebody else's, with tests that the suite leaves alone."""
CLAUSES = Path(__file__).parent / "clauses"
MARKERS = (
    "clause(*names): the clauses that a test checks, where they are more than the one in its name",
    "places(dtypes=, modes=, backends=, sparse=, when=): the part of the conformance matrix that this test is for",
    "elsewhere: the test asks the subject in another process",
    "long: the test takes seconds of whatever implementation; crossent conform --quick leaves it out",
    "extended: left out by the quick tier, -m 'not extended'",
)
TIERS = {
    "": "all: every test in every dtype and mode, the whole emulator, all mutants, all variants of the kernels",
    "not extended": "quick: every test of the suite on every backend, in one dtype and mode there, which take turns",
    "extended": "extended: the dtypes and modes, emulator runs, mutants and variants that the quick tier leaves out",
}
"""What a run covers, by the expression that `-m` has."""


def pytest_configure(config):
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    if not config.pluginmanager.hasplugin("warnings"):
        config.addinivalue_line("markers", "filterwarnings(*filters): without effect under -p no:warnings")
    try:
        config.stash[SESSION] = Session(subjects.load(config.getoption("crossent_subject") or subjects.DEFAULT))
    except subjects.SubjectError as error:
        raise pytest.UsageError(escaped(f"the implementation under test: {error}")) from None
    given = config.getoption("crossent_known")
    home = subjects.home(config.stash[SESSION].subject.spec)
    file = Path(given) if given else None if home is None else known.beside(home)
    try:
        config.stash[SESSION].may_fail = known.entries(file if given or (file and file.is_file()) else None)
    except known.KnownError as error:
        raise pytest.UsageError(escaped(str(error))) from None
    if count := config.getoption("crossent_shards"):
        if count < 1:
            raise pytest.UsageError(f"{count} shards; accepted: a number from 1")
        config.stash[SESSION].teams = Teams(count)
    for clause in config.getoption("crossent_clause") or ():
        if clause not in contract.clauses():
            raise pytest.UsageError(f"no clause is called {clause!r}; there are {', '.join(contract.clauses())}")
    asked = config.getoption("crossent_backend") or []
    required = [name.strip() for name in os.environ.get("CROSSENT_REQUIRE_BACKENDS", "").split(",") if name.strip()]
    for name in dict.fromkeys([*asked, *required]):
        if name not in backends.BACKENDS:
            raise pytest.UsageError(f"no backend is called {name!r}; there are {', '.join(backends.BACKENDS)}")
        problem = backends.load(name)
        if isinstance(problem, str):
            raise pytest.UsageError(f"backend {name} is required, but {problem}")


def pytest_unconfigure(config):
    session = config.stash.get(SESSION, None)
    if session is not None and session.teams is not None:
        session.teams.end()


def _is_our_own(config):
    asked = config.getoption("crossent_subject") or subjects.DEFAULT
    return asked == subjects.DEFAULT and not config.stash[SESSION].is_driven


def _is_elses(node):
    """Whether a test is none of the suite's business."""
    return node.config.stash.get(GUEST, False) and not node.path.is_relative_to(CLAUSES)


def _selected(config):
    return backends.usable(config.getoption("crossent_backend") or backends.BACKENDS)


def pytest_report_header(config):
    subject = config.stash[SESSION].subject
    lines = [escaped(f"conformance of {subject.name} {subject.version or ''}".rstrip())]
    if _is_our_own(config):
        marks = config.getoption("markexpr")
        lines.insert(0, f"tier {TIERS.get(marks, f'by -m {marks!r}')}")
    selected = _selected(config)
    for backend in selected:
        modes = ", ".join(mode.value for mode in backend.modes)
        lines.append(f"  {backend.name} {backend.version} on {backend.device}: {', '.join(backend.dtypes)}; {modes}")
    names = {backend.name for backend in selected}
    for name in backends.BACKENDS:
        if name not in names:
            problem = backends.load(name)
            lines.append(f"  {name}: {problem if isinstance(problem, str) else 'not selected'}")
    return lines


def pytest_generate_tests(metafunc):
    if "place" not in metafunc.fixturenames or _is_elses(metafunc.definition):
        return
    marker = metafunc.definition.get_closest_marker("places")
    narrowed = {name: value for name, value in (marker.kwargs if marker else {}).items() if name != "when"}
    cells = places.places(_selected(metafunc.config), narrowed)
    if metafunc.definition.get_closest_marker("elsewhere"):  # another process knows nothing of this one's mode
        cells = [cell for cell in cells if cell.mode is not backends.Mode.PORTABLE]
    if cells:
        metafunc.parametrize("place", cells, ids=map(str, cells), indirect=True)
    else:
        metafunc.parametrize("place", [None], ids=["nowhere"], indirect=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """A case that is not among the selected backends or clauses, or that does not exist, is deselected.

    Of the cells of a test on a backend all but one are marked as extended, before pytest looks at marks.
    """
    clauses = config.getoption("crossent_clause")
    ours = [item for item in items if not _is_elses(item)]
    if config.stash.get(GUEST, False):
        if not ours:
            raise pytest.UsageError(
                "no test of the suite was collected; it needs pytest's own python_files and the like"
            )
        for item in ours:
            # The session's filters are for its own tests: no clause is about warnings.
            item.add_marker(pytest.mark.filterwarnings("ignore"))
    elsewhere = {item for item in ours if not _is_a_case(item) or (clauses and not _is_of(item, clauses))}
    if config.stash[SESSION].teams is None:
        elsewhere |= {item for item in ours if "shards" in getattr(item, "fixturenames", ())}
    if elsewhere:
        items[:] = [item for item in items if item not in elsewhere]
        config.hook.pytest_deselected(items=list(elsewhere))
    if config.stash.get(GUEST, False) and elsewhere.issuperset(ours):
        raise pytest.UsageError(
            "nothing that was asked of the suite applies: no case of these clauses on these backends"
        )
    cells = defaultdict(list)
    for item in items:
        if _place_of(item) is not None:
            cells[without_place(item)].append(item)
    for name, of_one_test in cells.items():
        first = places.one_of(name, of_one_test)
        for item in of_one_test:
            if item is not first:
                item.add_marker("extended")


def without_place(item):
    """The name of a case, with its backend alone of its place."""
    where = item.callspec.params["place"]
    return item.nodeid.replace(str(where), where.backend.name)


def _is_a_case(item):
    if not hasattr(item, "callspec") or "place" not in item.callspec.params:
        return True
    others = {name: value for name, value in item.callspec.params.items() if name != "place"}
    place = item.callspec.params["place"]
    marker = item.get_closest_marker("places")
    when = marker.kwargs.get("when") if marker else None
    return place is not None and (when is None or bool(when(place, **others)))


def _is_of(item, clauses):
    return _clause(item) in clauses


def _clause(item):
    """The clause of a test of the suite; the package's own tests, which may ask for a place too, are of none."""
    try:
        return contract.clause_of(item.originalname)
    except (AttributeError, ValueError):
        return ""


def _place_of(item):
    return item.callspec.params.get("place") if hasattr(item, "callspec") and not _is_elses(item) else None


def pytest_deselected(items):
    """Of what is left out, nothing is known; not of what is no case."""
    for item in items:
        if (where := _place_of(item)) is not None and _is_a_case(item):
            case = _as_case(item, where)
            for entry in item.config.stash[SESSION].may_fail:
                entry.left_out |= entry.names(case)


def _as_case(item, where):
    name = f"{item.path.name}::{item.name}"
    return results.Case(name, _clause(item), where.backend.name, where.dtype, where.mode.value, outcome="")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure that is known to be one is expected; the report says what it tells of the entries."""
    report = yield
    where, may_fail = _place_of(item), item.config.stash[SESSION].may_fail
    if call.when == "call" and where is not None and may_fail:
        case = _as_case(item, where)
        of = [(at, entry.left_out, report.outcome) for at, entry in enumerate(may_fail) if entry.names(case)]
        item.user_properties.append(("known", of))
        report.user_properties = list(item.user_properties)
        case.failure = item.stash.get(FAILURE, None)
        case.kind = case.failure.kind if case.failure else "raises"
        if report.failed and (reason := known.reason(may_fail, case)):
            report.outcome, report.wasxfail = "skipped", escaped(reason)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session, exitstatus):
    """A known failure that holds fails the session."""
    if exitstatus == pytest.ExitCode.OK and _begin_to_hold(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _begin_to_hold(config):
    """The known failures that hold, as the reports tell: those of all processes come to one."""
    found: dict[int, Counter[str]] = defaultdict(Counter)
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    for report in (report for of in terminal.stats.values() for report in of) if terminal is not None else ():
        for number, left_out, outcome in dict(getattr(report, "user_properties", ())).get("known", ()):
            found[number].update([outcome, *(["left out"] if left_out else [])])
    may_fail = config.stash[SESSION].may_fail
    return [
        may_fail[number]
        for number, seen in sorted(found.items())
        if may_fail[number].state(seen["passed"], seen["failed"], not seen["left out"]) == known.BEGINS
    ]


@pytest.fixture
def place(request):
    """One cell of the matrix; what its mode demands holds for the whole test."""
    with request.param.backend.context(request.param.mode):
        yield request.param


@pytest.fixture
def subject(request):
    """The implementation under test."""
    return request.config.stash[SESSION].subject


@pytest.fixture
def shards(request, place, subject):
    """The implementation under test in several processes, with a shard of the vocabulary each."""
    return Shards(place, subject, request.config.stash[SESSION].teams)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """What does not apply is skipped, a failing input made small, the worst error noted for the report."""
    where = _place_of(item)
    if where is None:
        return (yield)
    session = item.config.stash[SESSION]
    known, traits = session.subject, session.traits_on(where.backend)
    if where.dtype not in traits.dtypes:
        _does_not_apply(item, f"{where.dtype}: {traits.refusal or 'the subject does not take it'}")
    clause = _clause(item)
    known.begin(traits, clause)
    units.worst_seen.clear()
    evidence.forget()
    try:
        with known.portable() if where.mode is backends.Mode.PORTABLE else contextlib.nullcontext():
            result = yield
        if clause and not known.calls and item.get_closest_marker("elsewhere") is None:
            raise NotImplementedError("nothing was asked")
    except NotImplementedError as missing:
        _does_not_apply(item, str(missing) or "it raised NotImplementedError")
    except (Exception, SystemExit) as error:
        if session.is_driven or session.may_fail:
            from crossent_conformance import failures

            small = None if clause.startswith(contract.SHARDS) else session.explains
            told = failures.told(error, item.name, where, known, clause, small=small)
            item.stash[FAILURE] = told
            if session.is_driven:
                item.user_properties.append(("failure", told))
        raise
    finally:
        item.user_properties.append(("asked", (where.backend.name, clause)))
        if units.worst_seen:
            item.user_properties.append(("worst_error", (str(where), max(units.worst_seen))))
    return result


def _does_not_apply(item, reason):
    # What of shards a library has no way to have, its room of the suite says.
    if _is_our_own(item.config) and not _clause(item).startswith(contract.SHARDS):
        pytest.fail(f"a case of our own subject does not apply: {reason}", pytrace=False)
    pytest.skip(escaped(reason))


def pytest_terminal_summary(terminalreporter):
    for entry in _begin_to_hold(terminalreporter.config):
        line = f"the known failure {entry.where} begins to hold, and is to be taken out of its file: {entry.reason}"
        terminalreporter.line(escaped(line), red=True)
    worst: dict[str, tuple[float, str]] = {}
    asked: dict[str, set[str]] = {}
    for report in terminalreporter.getreports("passed"):
        for name, value in getattr(report, "user_properties", ()):
            if name == "worst_error":
                place, error = value
                key = place.rpartition("-")[0]
                worst[key] = max(worst.get(key, (0.0, "")), (error, report.nodeid.rpartition("::")[2]))
            elif name == "asked":
                backend, clause = value
                if clause:  # and no test of a package's own
                    asked.setdefault(backend, set()).add(clause)
    for report in terminalreporter.getreports("failed"):  # a clause passes when all its cases do
        for name, value in getattr(report, "user_properties", ()):
            if name == "asked":
                asked.setdefault(value[0], set()).discard(value[1])
    if asked:
        terminalreporter.section("clauses that passed")
        for backend, passed in sorted(asked.items()):
            wanted = terminalreporter.config.getoption("crossent_clause") or contract.clauses()
            others = [clause for clause in wanted if clause not in passed]
            beside = f"; not asked, or not passed: {', '.join(others)}" if others else ""
            terminalreporter.line(f"{backend:28} {len(passed)}{beside}")
    if worst:
        terminalreporter.section("worst error, as a fraction of what the contract allows")
        for key, (error, test) in sorted(worst.items()):
            terminalreporter.line(f"{key:28} {error:6.3f}  {test}")
