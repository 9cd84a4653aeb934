"""How an implementation is named and found: `package.module:attribute` or `path/to/file.py:attribute`.

The attribute is what `implementation` says that may stand under test.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from crossent_conformance.adapter import UnderTest, is_adapter
from crossent_conformance.implementation import Adapter, DoesNotApply, LossObject
from crossent_conformance.modules import UnreadableError

__all__ = ["Adapter", "DoesNotApply", "LossObject", "SubjectError", "load"]
DEFAULT = "crossent_conformance.subjects_crossent:subject"
MOST_NAMES = 12
"""So many of a module's own names are told where the one that was asked for is none."""


class SubjectError(Exception):
    """There is no such subject, or it is none; the message is for who asked."""


def load(spec: str) -> UnderTest:
    """The subject of that name; SubjectError says what is wrong with it."""
    found = _find(spec)
    try:
        return UnderTest(found() if isinstance(found, type) and is_adapter(found) else found, spec)
    except UnreadableError as error:
        raise SubjectError(f"{spec} {error}") from error
    except Exception as error:
        raise SubjectError(f"{spec}: making one raised {type(error).__name__}: {error}") from error


def home(spec: str) -> Path | None:
    """The file that the spec of a loaded subject names; None for a module that has none."""
    path = spec.rpartition(":")[0]
    file = path if path.endswith(".py") else getattr(sys.modules.get(path), "__file__", None)
    return None if file is None else Path(file)


def _find(spec: str) -> Any:
    path, separator, attribute = spec.rpartition(":")
    if not separator or not path or not attribute:
        raise SubjectError(f"a subject is MODULE:ATTRIBUTE or FILE.py:ATTRIBUTE, not {spec!r}")
    try:
        found = _file(Path(path)) if path.endswith(".py") else importlib.import_module(path)
    except SubjectError:
        raise
    except ModuleNotFoundError as error:
        raise SubjectError(f"{spec}: there is no module {error.name!r}") from error
    except (Exception, SystemExit) as error:
        raise SubjectError(f"{spec}: importing it raised {type(error).__name__}: {error}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise SubjectError(f"{spec}: there is no {part!r} in {path}{_own(found)}")
        found = getattr(found, part)
    return found


def _own(found: Any) -> str:
    """What a module has that was written in it, to be put behind the name of what it has not."""
    if not isinstance(found, ModuleType):
        return ""
    own = [name for name, value in vars(found).items() if getattr(value, "__module__", "") == found.__name__]
    own = [name for name in own if not name.startswith("_")]
    return f"; it has {', '.join(own[:MOST_NAMES])}" if own else ""


def _file(path: Path) -> Any:
    if not path.is_file():
        raise SubjectError(f"there is no file {path}")
    path = path.resolve()
    for module in list(sys.modules.values()):
        # What is imported under any name already is not imported again: its state would be there twice.
        if getattr(module, "__file__", None) and os.path.realpath(module.__file__ or "") == str(path):
            return module
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.append(folder)
    name = f"subject_{abs(hash(str(path))):x}_{path.stem}"
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
