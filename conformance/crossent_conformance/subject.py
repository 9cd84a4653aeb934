"""How the suite sees an implementation: what may stand under test, and how it is named and found.

A subject is named `package.module:attribute` or `path/to/file.py:attribute`. The attribute is a function
`f(logits, targets, **options)` that gives the loss or `(loss, d_logits)`, or an object with such methods: an `Adapter`.
Options carry the contract's names. What an implementation cannot be asked raises `DoesNotApply`, and the case reads
"does not apply": it neither holds nor fails.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from crossent_conformance.adapter import UnderTest

DEFAULT = "crossent_conformance.subjects_crossent:subject"


class DoesNotApply(NotImplementedError):  # noqa: N818 - it is no error of anybody's
    """The implementation cannot be asked this; the argument says what it lacks."""

    def __init__(self, lacks: str, *, gradient: bool = False) -> None:
        """`gradient` says that it is the gradient that cannot be had, whatever the options."""
        super().__init__(lacks)
        self.gradient = gradient


class SubjectError(Exception):
    """There is no such subject, or it is none; the message is for who asked."""


class LossObject(Protocol):
    """A loss that remembers its last input."""

    def __call__(self, logits: Any, targets: Any, weights: Any = None) -> Any: ...

    def forward(self, logits: Any, targets: Any, weights: Any = None) -> Any: ...

    def backward(self, grad_output: Any = None) -> Any: ...


class Adapter:
    """What an implementation calls its options and leaves out, in terms of the contract.

    A subclass defines `loss`, with the options that there are as keyword arguments; and, where the implementation has
    them, `loss_and_grad`, `loss_object`, `perplexity`, `shift`, `threads` (a context manager that limits the threads),
    `portable` (one within which the code that serves every backend answers, where there is faster code besides),
    `drop_in` (a function with the signature of `torch.nn.functional.cross_entropy`) and `drop_in_module`.
    """

    name: str = ""
    package: str = ""
    """The distribution whose version reports print."""
    backends: tuple[str, ...] | None = None
    """The backends whose arrays it takes; None: those it does not refuse."""
    dtypes: tuple[str, ...] | None = None
    """The dtypes of logits that it takes; None: those it does not refuse."""
    flat: bool | None = None
    """Whether logits of shape (N, V) are all it takes; None: found by trying."""
    fixed: Mapping[str, Any] = {}
    """What it does where it has no option: {"reduction": "mean", "smoothing": "uniform"}."""

    names: Mapping[str, str | tuple[str, ...]] = {}
    """What its errors call the contract's arguments: {"logits": "input", "targets": "target"}."""

    loss: Callable[..., Any]
    """`loss(logits, targets, **options)` of logits (..., V) and targets (...), or (..., V) soft ones."""


def load(spec: str) -> UnderTest:
    """The subject of that name; SubjectError says what is wrong with it."""
    from crossent_conformance.adapter import UnderTest

    return UnderTest(_find(spec), spec)


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
    except Exception as error:
        raise SubjectError(f"{spec}: importing it raised {type(error).__name__}: {error}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise SubjectError(f"{spec}: there is no {part!r} in {path}")
        found = getattr(found, part)
    if isinstance(found, type):
        try:
            found = found()
        except Exception as error:
            raise SubjectError(f"{spec}: making one raised {type(error).__name__}: {error}") from error
    if not (callable(found) or hasattr(found, "loss") or hasattr(found, "loss_and_grad")):
        raise SubjectError(f"{spec} is {type(found).__name__}; accepted: a function, or an object with a method 'loss'")
    return found


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
