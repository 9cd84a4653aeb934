"""The site's signatures: options that a function takes by `Unpack` of a `TypedDict`, by name and with their defaults.

Parameters that a docstring describes together get the words each: all would have the first one's type and default.

Griffe's own extension would have the options described where they are spelt. Here the docstring of the function
describes them, as `help` prints it.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

from crossent.options import DEFAULTS

TOGETHER = re.compile(r"^([a-z]\w*(?:, \w+)+)\n((?:    .*\n)+)", re.MULTILINE)


class Options(griffe.Extension):
    """Replaces ``**options`` in a signature by what it stands for, and parameters of one description by single ones."""

    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        """A function has been read."""
        if func.docstring is not None:
            func.docstring.value = TOGETHER.sub(
                lambda found: "".join(f"{name}\n{found[2]}" for name in found[1].split(", ")), func.docstring.value
            )
        last = next(reversed(list(func.parameters)), None)
        if last is None or last.kind is not griffe.ParameterKind.var_keyword:
            return
        if not isinstance(last.annotation, griffe.ExprSubscript) or last.annotation.canonical_path != "typing.Unpack":
            return
        del func.parameters[last.name]
        for name, attribute in func.modules_collection[last.annotation.slice.canonical_path].attributes.items():
            default, keyword = repr(DEFAULTS.get(name)), griffe.ParameterKind.keyword_only
            func.parameters.add(griffe.Parameter(name, annotation=attribute.annotation, kind=keyword, default=default))
