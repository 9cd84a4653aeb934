"""The conformance suite: the contract of docs/specification.md, asked of any cross-entropy on every backend.

    crossent conform package.module:function --backend numpy torch       the product: a matrix, reports, an exit code
    pytest conformance --backend numpy --subject file.py:function    the same cases under pytest

The rooms: `subject` and `adapter` (what stands under test, and how it is asked), `backends` and `places` (array
libraries, and the matrix backend x dtype x mode), `oracle` and `units` (60-digit values, errors in the contract's
units), `clauses` (the tests), `worker` and `run` (who runs them, and outlives what they do), `results` and its
reports, among them `report_html`. A test knows an implementation only through its subject, an array library only
through its place; its fixtures are told in `clauses`.

Beside them: `parity` (backends compared with each other), `vectors` (the contract as files, for any language),
`reference` (a clean implementation, to test the suite with), `peers` (other people's) and their `scoreboard`. Of a room
that is a folder, other rooms know what its `__init__` exports.
"""

from crossent_conformance.subject import Adapter, DoesNotApply

__all__ = ["Adapter", "DoesNotApply"]
