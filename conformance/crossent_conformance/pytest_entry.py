"""What pytest loads in every session of an environment with `crossent`: five options, and nothing without them.

    pytest --crossent-conform my_loss.py:cross_entropy

adds the clauses to the tests of the session. Until it is asked, this module imports pytest and the standard library
alone, and its options have names that no other project has.
"""

from __future__ import annotations

import pytest

PLUGIN = "crossent_conformance.plugin"


def declare(group, subject, prefix, what, **of_backends):
    """The options of the suite, which mean the same under any name."""
    group.addoption(subject, dest="crossent_subject", metavar="SUBJECT", help=f"{what}; MODULE:ATTRIBUTE or FILE.py:…")
    for name, default, more in (
        ("backend", "all that are installed", {"metavar": "NAME", **of_backends}),
        ("clause", "all", {"metavar": "V1"}),
    ):
        said = f"a {name} to test it with (repeatable; default: {default})"
        group.addoption(f"{prefix}{name}", dest=f"crossent_{name}", action="append", help=said, **more)
    said = "its known failures, expected to fail (default: NAME.known.toml beside NAME.py of the implementation)"
    group.addoption(f"{prefix}known", dest="crossent_known", metavar="FILE", help=said)
    said = "how many processes have a shard of the vocabulary each, for clauses P1 to P4 (default: they are not asked)"
    group.addoption(f"{prefix}shards", dest="crossent_shards", type=int, default=0, metavar="N", help=said)


def pytest_addoption(parser):
    group = parser.getgroup("crossent", "conformance of a cross-entropy")
    what = "also test this implementation against crossent's contract"
    declare(group, "--crossent-conform", "--crossent-", what)


def pytest_configure(config):
    """Register the suite, if it is asked for, and not already there under its short options."""
    if config.pluginmanager.hasplugin(PLUGIN):
        return
    asked = config.getoption("crossent_subject")
    if asked is None:
        names = [name for name in ("backend", "clause", "known", "shards") if config.getoption(f"crossent_{name}")]
        if names:
            given = " and ".join(f"--crossent-{name}" for name in names)
            raise pytest.UsageError(f"{given} ask nothing without --crossent-conform")
        return
    if not asked:
        raise pytest.UsageError("--crossent-conform is empty; accepted: MODULE:ATTRIBUTE or FILE.py:ATTRIBUTE")
    path, _, attribute = asked.rpartition(":")
    below_root = config.rootpath / path
    if path.endswith(".py") and not (config.invocation_params.dir / path).is_file() and below_root.is_file():
        config.option.crossent_subject = f"{below_root}:{attribute}"
    from crossent_conformance import arguments, command

    try:
        arguments.check_installed(*command.PACKAGES)
    except arguments.UsageError as error:
        raise pytest.UsageError(str(error)) from None
    from crossent_conformance import plugin

    config.stash[plugin.GUEST] = True
    config.pluginmanager.register(plugin, PLUGIN)
    clauses = str(plugin.CLAUSES)
    if clauses not in config.args:  # as it is in a process of pytest-xdist
        config.args.append(clauses)
