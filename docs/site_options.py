"""The site's signatures: options that a function takes by `Unpack` of a `TypedDict`, by name and with their defaults.

Griffe's own extension would have the options described where they are spelt. Here the docstring of the function
describes them, as `help` prints it.
"""

from __future__ import annotations

from typing import Any

import griffe

from crossent.options import DEFAULTS


class Options(griffe.Extension):
    """Replaces ``**options`` in a signature by what it stands for."""

    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        """A function has been read."""
        last = next(reversed(list(func.parameters)), None)
        if last is None or last.kind is not griffe.ParameterKind.var_keyword:
            return
        if not isinstance(last.annotation, griffe.ExprSubscript) or last.annotation.canonical_path != "typing.Unpack":
            return
        del func.parameters[last.name]
        for name, attribute in func.modules_collection[last.annotation.slice.canonical_path].attributes.items():
            default, keyword = repr(DEFAULTS.get(name)), griffe.ParameterKind.keyword_only
            func.parameters.add(griffe.Parameter(name, annotation=attribute.annotation, kind=keyword, default=default))
