"""The suite's switches: which backends, which subject, what was covered, how far off the worst result was.

The fixture `place` runs a test on every cell of the matrix backend x dtype x mode, narrowed by `@pytest.mark.places`.
"""

from __future__ import annotations

import os

import pytest

from xent_conformance import backends, places, units
from xent_conformance import subject as subjects


def pytest_addoption(parser):
    group = parser.getgroup("conformance", "conformance suite")
    group.addoption(
        "--backend", action="append", choices=list(backends.BACKENDS), help="a backend to test (repeatable)"
    )
    group.addoption(
        "--subject", default=subjects.DEFAULT, metavar="MODULE:ATTRIBUTE", help="the implementation under test"
    )


def pytest_configure(config):
    config.addinivalue_line(
        "markers",
        "places(dtypes=, modes=, backends=, sparse=): the part of the conformance matrix that this test is for",
    )
    try:
        _subject(config)
    except (ValueError, ImportError, AttributeError) as error:
        raise pytest.UsageError(f"--subject: {error}") from None
    asked = config.getoption("--backend", None) or []
    required = [name.strip() for name in os.environ.get("XENT_REQUIRE_BACKENDS", "").split(",") if name.strip()]
    for name in dict.fromkeys([*asked, *required]):
        if name not in backends.BACKENDS:
            raise pytest.UsageError(f"no backend is called {name!r}; there are {', '.join(backends.BACKENDS)}")
        problem = backends.load(name)
        if isinstance(problem, str):
            raise pytest.UsageError(f"backend {name} is required, but {problem}")


def _subject(config):
    return subjects.load(config.getoption("--subject", None) or subjects.DEFAULT)


def _selected(config):
    names = config.getoption("--backend", None) or list(backends.BACKENDS)
    loaded = [backends.load(name) for name in names]
    taken = _subject(config).backends
    return [backend for backend in loaded if not isinstance(backend, str) and (taken is None or backend.name in taken)]


def pytest_report_header(config):
    lines = [f"conformance of {_subject(config).name}"]
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
    if "place" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("places")
    cells = places.places(_selected(metafunc.config), marker.kwargs if marker else None)
    metafunc.parametrize("place", cells or [None], ids=[str(cell) for cell in cells] or ["nowhere"], indirect=True)


def pytest_collection_modifyitems(config, items):
    """A test whose places are not among the selected backends is deselected, never skipped."""
    elsewhere = [item for item in items if _place_of(item, default=0) is None]
    if elsewhere:
        items[:] = [item for item in items if item not in elsewhere]
        config.hook.pytest_deselected(items=elsewhere)


def _place_of(item, default=None):
    return item.callspec.params.get("place", default) if hasattr(item, "callspec") else default


@pytest.fixture
def place(request):
    """One cell of the matrix; what its mode demands holds for the whole test."""
    with request.param.backend.context(request.param.mode):
        yield request.param


@pytest.fixture(scope="session")
def subject(request):
    """The implementation under test."""
    return _subject(request.config)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """An option that a foreign subject lacks skips the test; the worst error goes into the report."""
    units.worst_seen.clear()
    try:
        return (yield)
    except NotImplementedError as missing:
        pytest.skip(f"the subject lacks it: {missing}")
    finally:
        if units.worst_seen and _place_of(item):
            item.user_properties.append(("worst_error", (str(_place_of(item)), max(units.worst_seen))))


def pytest_terminal_summary(terminalreporter):
    worst: dict[str, tuple[float, str]] = {}
    for report in terminalreporter.getreports("passed"):
        for name, value in getattr(report, "user_properties", ()):
            if name == "worst_error":
                place, error = value
                key = place.rpartition("-")[0]
                worst[key] = max(worst.get(key, (0.0, "")), (error, report.nodeid.rpartition("::")[2]))
    if worst:
        terminalreporter.section("worst error, as a fraction of what the contract allows")
        for key, (error, test) in sorted(worst.items()):
            terminalreporter.line(f"{key:28} {error:6.3f}  {test}")
